# SPDX-License-Identifier: Apache-2.0
"""verl's V1 trainer, which hands tree paths to the advantage estimator and logs what the trees cost.

Registered under the name that ``trainer.v1.trainer_mode`` chooses. verl's own trainer works with tree rollouts too,
without these metrics and without the estimator ``treepo``.
"""

from typing import Any

import transfer_queue as tq
from omegaconf import DictConfig, open_dict
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

from recipe.treepo.advantage import tree_batch
from recipe.treepo.metrics import sampling_metrics
from recipe.treepo.settings import TREEPO_TRAINER, validate


@register_trainer(TREEPO_TRAINER)
class TreePOTrainer(PPOTrainerSync):
    """verl's synchronous trainer with tree paths and tree metrics."""

    def __init__(self, config: DictConfig) -> None:
        self.treepo = validate(config, check_files=False)
        # verl compares the mode with its own names (which replay buffer, which loader), so it sees the one we extend.
        with open_dict(config):
            config.trainer.v1.trainer_mode = "sync"
        super().__init__(config)

    def _compute_advantage(self, batch: tq.KVBatchMeta, metrics: dict) -> tq.KVBatchMeta:
        fields = self._extra_fields(batch)
        padding = [tag.get("is_padding", False) for tag in batch.tags]
        # Rows that verl pads a batch with are copies of a real row's fields with a prompt id of their own.
        paths = [
            [] if is_padding else [node for node, _ in extra.get("tree_path", [])]
            for extra, is_padding in zip(fields, padding, strict=True)
        ]
        with tree_batch(paths, self.treepo.advantage):
            return super()._compute_advantage(batch, metrics)

    def _compute_metrics(
        self, batch: tq.KVBatchMeta, metrics: dict, timing_raw: dict, global_steps: int, epoch: int
    ) -> None:
        super()._compute_metrics(batch, metrics, timing_raw, global_steps=global_steps, epoch=epoch)
        rows = [
            (key.rsplit("_", 2)[0], tag["prompt_len"], tag["response_len"], extra)
            for key, tag, extra in zip(batch.keys, batch.tags, self._extra_fields(batch), strict=True)
            if not tag.get("is_padding", False)
        ]
        metrics.update(sampling_metrics(rows))

    @staticmethod
    def _extra_fields(batch: tq.KVBatchMeta) -> list[dict[str, Any]]:
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["extra_fields"])
        return data.pop("extra_fields").tolist()
