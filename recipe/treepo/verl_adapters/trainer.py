# SPDX-License-Identifier: Apache-2.0
"""verl's V1 trainers with tree paths for the advantage estimator, and with metrics of the trees.

Each trainer of verl has a counterpart here, selected by ``trainer.v1.trainer_mode``. verl's own trainers also work with
tree rollouts, but without these metrics, our estimators, ``treepo.shared_token_weight``, and batches that keep prompts
together for packed training.
"""

import os
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import torch
import transfer_queue as tq
from omegaconf import DictConfig, open_dict
from tensordict import TensorDict
from verl.experimental.agent_loop import AgentLoopManager
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.trainer.ppo.v1.trainer_base import PPOTrainer, register_trainer
from verl.trainer.ppo.v1.trainer_colocate_async import PPOTrainerColocateAsync
from verl.trainer.ppo.v1.trainer_separate_async import PPOTrainerSeparateAsync
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils.seqlen_balancing import log_seqlen_unbalance
from verl.workers.utils.padding import response_to_nested

from recipe.treepo.advantages.batch import tree_batch
from recipe.treepo.advantages.forest import TreePath
from recipe.treepo.search.user_errors import named, remote_cause
from recipe.treepo.settings.schema import PACKED_VENDOR, Phase, SharedTokenWeight, StalePolicy
from recipe.treepo.settings.training_rules import reward_name
from recipe.treepo.settings.validate import validate
from recipe.treepo.settings.values import ConfigError, ConfigProblem
from recipe.treepo.verl_adapters.batching import parts_by_prompt
from recipe.treepo.verl_adapters.constant_metrics import constant_metrics, without_constants
from recipe.treepo.verl_adapters.estimators import shared_token_weights, stale_token_weights
from recipe.treepo.verl_adapters.metrics import sampling_metrics
from recipe.treepo.verl_adapters.outcome_metrics import OutcomeRow, outcome_metrics
from recipe.treepo.verl_adapters.reward_errors import (
    REASON,
    RewardErrors,
    check_missing,
    excerpt,
    is_failed,
    usable_infos,
    without_failed,
)
from recipe.treepo.verl_adapters.trackers import SteadyTracker
from recipe.treepo.verl_adapters.tree_dump import DUMP_FIELD, CreditDump, CreditRow
from recipe.treepo.verl_adapters.tree_pictures import TreePictures
from recipe.treepo.verl_adapters.user_code import own_credit
from recipe.treepo.verl_adapters.watchdog import Watchdog, actors_of


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written. The message is for the user."""


class TreePOTrainer(PPOTrainer):
    """TreePO version of a trainer of verl; precedes that trainer among the base classes.

    Attributes:
        verl_mode: verl's name of that trainer.
        validated: Prompts and responses of the last validation, for messages.
    """

    verl_mode: str
    validated: tuple[list[str], list[str]]

    def __init__(self, config: DictConfig) -> None:
        self.treepo = validate(config, check_files=False)
        self.credit = own_credit(self.treepo.advantage)
        self.credit_dump, self.pictures = CreditDump(self.treepo.dump.dir), TreePictures(self.treepo.dump)
        self.reward_errors = RewardErrors(self.treepo.reward_errors, reward_name(config))
        self.watchdog = Watchdog(self.treepo.watchdog, partial(actors_of, self))
        if self.treepo.packed_training and os.environ.get("VERL_ENGINE_VENDOR") != PACKED_VENDOR:
            key = "ray_kwargs.ray_init.runtime_env.env_vars.VERL_ENGINE_VENDOR"
            rule = "must select the packed engines in verl's workers, because treepo.packed_training=true"
            remedy = f"Start with recipe.treepo.main_treepo while Ray is not running, or use +{key}={PACKED_VENDOR}."
            raise ConfigError([ConfigProblem("engine_vendor", key, os.environ.get("VERL_ENGINE_VENDOR"), rule, remedy)])
        # verl compares the mode with its own names to choose replay buffer, data loader and configuration group, so
        # it gets the name of the trainer that we extend.
        with open_dict(config):
            config.trainer.v1.trainer_mode = self.verl_mode
        super().__init__(config)

    def _build_replay_buffer(self) -> ReplayBuffer:
        buffer = super()._build_replay_buffer()
        buffer.poll_interval = self.treepo.poll_interval  # verl has no key for it
        if not isinstance(buffer, ReplayBuffer):  # a user's sampler
            return buffer
        wait = buffer._wait_for_next_poll

        def watched(partition_id: str, last_debug_time: float) -> float:
            groups = (buffer.partitions, buffer.running_keys, buffer.finished_keys, buffer.failure_keys)
            self.watchdog.progress("trajectories", [len(group[partition_id]) for group in groups])
            return float(wait(partition_id, last_debug_time))

        buffer._wait_for_next_poll = watched
        return buffer

    # --- phases, for the watchdog --------------------------------------------------------------------------------

    def init(self) -> None:
        with self.watchdog.guard():
            super().init()

    def fit(self, agent_loop_manager: AgentLoopManager) -> None:
        with self.watchdog.guard():
            super().fit(agent_loop_manager)

    def on_init_end(self) -> None:
        self.watchdog.enter(Phase.WEIGHTS)
        super().on_init_end()

    def on_train_begin(self) -> None:
        super().on_train_begin()
        trackers = self.logger.logger
        self.logger.logger = {name: SteadyTracker(name, tracker) for name, tracker in trackers.items()}

    def on_sample_begin(self) -> None:
        super().on_sample_begin()
        self.watchdog.enter(Phase.ROLLOUT)

    def on_sample_end(self) -> None:
        self.watchdog.check()  # a batch with the failures of a dead engine is not trained on
        self.watchdog.enter(Phase.TRAINING)
        super().on_sample_end()

    def on_step_end(self) -> None:
        self.watchdog.enter(Phase.WEIGHTS)
        super().on_step_end()
        self.watchdog.enter(Phase.TRAINING)

    def _save_checkpoint(self) -> None:
        self.watchdog.enter(Phase.CHECKPOINT)
        try:
            super()._save_checkpoint()
        except Exception as error:
            raise CheckpointError(
                f"trainer.default_local_dir={self.config.trainer.default_local_dir}: the checkpoint of step "
                f"{self.global_steps} cannot be written ({excerpt(named(remote_cause(error)))}). "
                "Make room, or use another folder; earlier checkpoints are kept."
            ) from error
        self.watchdog.enter(Phase.TRAINING)

    # --- batches -------------------------------------------------------------------------------------------------

    def _balance_batch(
        self,
        batch: tq.KVBatchMeta,
        metrics: dict[str, Any],
        logging_prefix: str = "global_seqlen",
        keep_minibatch: bool = False,
    ) -> tq.KVBatchMeta:
        # verl pads the batch here, after all rewards are known and before anything is computed from them.
        drawn, sampled = self._drawn_trajectories(), len(batch)
        batch = self._without_reward_errors(batch)
        check_missing(self.treepo.missing_trajectories, len(batch), drawn)
        metrics["treepo/trained_trajectories"] = float(len(batch))
        if sampled < drawn:
            metrics["treepo/lost_trajectories"] = float(drawn - sampled)
        batch = super()._balance_batch(batch, metrics, logging_prefix, keep_minibatch)
        if self.treepo.packed_training:
            # verl has spread the rows of a prompt over the ranks; rows on the same rank share computation.
            ranks = max(self.actor_rollout_wg._dispatch_info["actor"]) + 1
            lengths = [tag["seq_len"] for tag in batch.tags]
            # verl's padding rows belong to no prompt and fill the ranks up.
            paddings = [tag.get("is_padding", False) for tag in batch.tags]
            prompts = [
                f"padding {row}" if padding else prompt
                for row, (prompt, padding) in enumerate(zip(_prompt_ids(batch), paddings, strict=True))
            ]
            parts = parts_by_prompt(prompts, lengths, ranks)
            metrics.update(log_seqlen_unbalance(seqlen_list=lengths, partitions=parts, prefix=logging_prefix))
            batch.reorder([row for part in parts for row in part])
        return batch

    def _without_reward_errors(self, batch: tq.KVBatchMeta) -> tq.KVBatchMeta:
        """Remove trajectories as ``treepo.reward_errors`` says, from the batch and from TransferQueue."""
        [scores] = _columns(batch.keys, batch.partition_id, ["rm_scores"])
        rewards = [float(row.sum()) for row in scores]
        rows = self.reward_errors.removed(
            _prompt_ids(batch), rewards, partial(self._describe, batch), partial(self._reasons, batch)
        )
        if not rows:
            return batch
        tq.kv_clear(keys=[batch.keys[row] for row in sorted(rows)], partition_id=batch.partition_id)
        return batch.select_keys([key for row, key in enumerate(batch.keys) if row not in rows])

    def _drawn_trajectories(self) -> int:
        """Return the number of trajectories in a batch from which none is missing."""
        prompts: int = self.config.data.train_batch_size // self.parameter_sync_step
        n: int = self.config.actor_rollout_ref.rollout.n
        return prompts * n

    def _reasons(self, batch: tq.KVBatchMeta, rows: list[int]) -> list[str | None]:
        """Return why the rewards of rows failed, None where only the reward is known."""
        fields = self._extra_fields(batch.select_keys([batch.keys[row] for row in rows]))
        return [(extra.get("reward_extra_info") or {}).get(REASON) for extra in fields]

    def _describe(self, batch: tq.KVBatchMeta, row: int) -> str:
        """Return prompt and response of a row for messages."""
        fields = ["raw_prompt", "responses"]
        data = tq.kv_batch_get(keys=[batch.keys[row]], partition_id=batch.partition_id, select_fields=fields)
        prompt = str(list(data["raw_prompt"])[0][-1]["content"])
        response = self.tokenizer.decode(data["responses"][0], skip_special_tokens=True)
        return f"prompt {_prompt_ids(batch)[row]} {excerpt(prompt)}, response {excerpt(response)}"

    def _compute_advantage(self, batch: tq.KVBatchMeta, metrics: dict[str, Any]) -> tq.KVBatchMeta:
        # verl's padding rows copy the fields of a real row, but have their own prompt id.
        extra_fields = self._extra_fields(batch)
        paths = [
            [] if tag.get("is_padding", False) else extra.get("tree_path", [])
            for extra, tag in zip(extra_fields, batch.tags, strict=True)
        ]
        with tree_batch(paths, self.treepo.advantage, self.credit):
            batch = super()._compute_advantage(batch, metrics)
        if self.treepo.weights_tokens:
            batch = self._weight_tokens(batch, paths, extra_fields, metrics)
        self._dump_credit(batch, extra_fields)
        return batch

    def _dump_credit(self, batch: tq.KVBatchMeta, extra_fields: list[dict[str, Any]]) -> None:
        """Write rewards and advantages of trajectories with a dumped tree."""
        rows = [
            row
            for row, (extra, tag) in enumerate(zip(extra_fields, batch.tags, strict=True))
            if extra.get(DUMP_FIELD) and not tag.get("is_padding", False)
        ]
        if not rows:
            return
        uids, columns = _prompt_ids(batch), _credit_columns([batch.keys[row] for row in rows], batch.partition_id)
        self.credit_dump.write(
            CreditRow(
                uid=uids[row],
                step=int(batch.tags[row]["global_steps"]),
                reward=float(rewards.sum()),
                advantages=advantages.tolist(),
                mask=mask.tolist(),
                extra=extra_fields[row],
            )
            for row, advantages, mask, rewards in zip(rows, *columns, strict=True)
        )

    def _weight_tokens(
        self,
        batch: tq.KVBatchMeta,
        paths: list[TreePath],
        extra_fields: list[dict[str, Any]],
        metrics: dict[str, Any],
    ) -> tq.KVBatchMeta:
        """Store the weights of shared and of stale tokens in the field that verl's ``ppo_loss`` reads as such.

        Only verl's rollout correction also writes this field, ``rollout_is_weights``. Its values, if any, are
        multiplied by these weights.
        """
        data = tq.kv_batch_get(
            keys=batch.keys,
            partition_id=batch.partition_id,
            select_fields=["response_mask", "rollout_is_weights"],
        )
        mask = data["response_mask"]
        padded = data.to_padded_tensor()
        prompts, length = _prompt_ids(batch), padded["response_mask"].shape[1]
        weights = torch.ones(padded["response_mask"].shape)
        if self.treepo.stale_tokens.policy is not StalePolicy.KEEP:
            ages = list(map(self._ages, paths, extra_fields))
            weights = stale_token_weights(prompts, paths, ages, self.treepo.stale_tokens, length)
            stale = (weights < 1) & (padded["response_mask"] > 0)
            metrics["treepo/stale_tokens"] = float(stale.sum() / mask.values().sum())
        if self.treepo.shared_token_weight is SharedTokenWeight.ONCE:
            weights = weights * shared_token_weights(prompts, paths, length)
        if "rollout_is_weights" in padded:
            weights = weights * padded["rollout_is_weights"]
        fields = TensorDict({"rollout_is_weights": response_to_nested(weights, mask)}, batch_size=len(batch))
        return tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)

    def _ages(self, path: TreePath, extra: dict[str, Any]) -> list[int]:
        """Return the age of each node of a trajectory in training steps, 0 where the engine tells no version."""
        # Weights of version v have trained v steps; those of version global_steps - 1 sample for this step.
        newest = self.global_steps - 1
        versions = extra["tree_versions"] if path else [extra.get("min_global_steps")]
        return [0 if version is None else max(0, newest - version) for version in versions]

    def _compute_metrics(
        self, batch: tq.KVBatchMeta, metrics: dict[str, Any], timing_raw: dict[str, Any], global_steps: int, epoch: int
    ) -> None:
        super()._compute_metrics(batch, metrics, timing_raw, global_steps=global_steps, epoch=epoch)
        extra_fields = self._extra_fields(batch)
        rows = [
            (prompt_id, tag["prompt_len"], tag["response_len"], extra)
            for prompt_id, tag, extra in zip(_prompt_ids(batch), batch.tags, extra_fields, strict=True)
            if not tag.get("is_padding", False)
        ]
        metrics.update(sampling_metrics(rows))
        metrics.update(outcome_metrics(self._outcome_rows(batch, extra_fields)))
        metrics.update(self.reward_errors.metrics())
        if self.credit_dump.failures:
            metrics["treepo/dump_failures"] = float(self.credit_dump.failures)
        changing = without_constants(metrics, self._is_constant)
        metrics.clear()
        metrics.update(changing)

    def _validate(self) -> dict[str, float]:
        self.watchdog.enter(Phase.VALIDATION)
        metrics: dict[str, float] = super()._validate()
        self.watchdog.check()
        self.watchdog.enter(Phase.TRAINING)
        self.pictures.log(self.logger, self.global_steps)
        return without_constants(metrics, self._is_constant)

    def _maybe_log_val_generations(self, inputs: list[str], outputs: list[str], scores: list[float]) -> None:
        self.validated = inputs, outputs
        super()._maybe_log_val_generations(inputs, outputs, scores)

    def _dump_generations(
        self,
        inputs: list[str],
        outputs: list[str],
        gts: list[Any],
        scores: list[float],
        reward_extra_infos_dict: dict[str, list[Any]],
        dump_path: str,
    ) -> None:
        # JSON has no NaN.
        infos = {name: without_failed(values) for name, values in reward_extra_infos_dict.items()}
        super()._dump_generations(inputs, outputs, gts, without_failed(scores), infos, dump_path)

    def _val_metrics_update(
        self,
        data_sources: list[str],
        sample_uids: list[str],
        reward_extra_infos_dict: dict[str, list[Any]],
        sample_turns: list[int],
        expected_acc_counts: dict[tuple[str, str], int] | None = None,
    ) -> dict[str, float]:
        inputs, outputs = self.validated
        reasons = reward_extra_infos_dict.get(REASON, [None] * len(inputs))
        self.reward_errors.check(
            reward_extra_infos_dict["reward"],
            lambda row: f"validation prompt {excerpt(inputs[row])}, response {excerpt(outputs[row])}",
            lambda rows: [reasons[row] for row in rows],
        )
        infos = usable_infos(reward_extra_infos_dict)
        metrics: dict[str, float] = super()._val_metrics_update(
            data_sources, sample_uids, infos, sample_turns, expected_acc_counts=expected_acc_counts
        )
        if failed := sum(map(is_failed, reward_extra_infos_dict["reward"])):
            metrics["val-aux/reward_errors"] = float(failed)
        return metrics

    @cached_property
    def _is_constant(self) -> Callable[[str], bool]:
        return constant_metrics(self.config, self.treepo, trainer=self.verl_mode)

    @staticmethod
    def _outcome_rows(batch: tq.KVBatchMeta, extra_fields: list[dict[str, Any]]) -> list[OutcomeRow]:
        columns = _credit_columns(batch.keys, batch.partition_id)
        rows = zip(_prompt_ids(batch), batch.tags, extra_fields, *columns, strict=True)
        return [
            OutcomeRow(
                uid=uid,
                path=extra.get("tree_path", []),
                depths=extra.get("tree_depths", []),
                reward=float(scores.sum()),
                advantages=advantages.double().numpy(force=True),
                mask=mask.double().numpy(force=True),
            )
            for uid, tag, extra, advantages, mask, scores in rows
            if not tag.get("is_padding", False)
        ]

    @staticmethod
    def _extra_fields(batch: tq.KVBatchMeta) -> list[dict[str, Any]]:
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["extra_fields"])
        fields: list[dict[str, Any]] = data.pop("extra_fields").tolist()
        return fields


def _prompt_ids(batch: tq.KVBatchMeta) -> list[str]:
    """Return verl's uid of each row; keys are ``{uid}_{session}_{index}``."""
    return [key.rsplit("_", 2)[0] for key in batch.keys]


def _credit_columns(keys: list[str], partition_id: str) -> list[tuple[torch.Tensor, ...]]:
    """Return advantages, response mask and scores of rows, each as one tensor per row."""
    return _columns(keys, partition_id, ["advantages", "response_mask", "rm_scores"])


def _columns(keys: list[str], partition_id: str, fields: list[str]) -> list[tuple[torch.Tensor, ...]]:
    data = tq.kv_batch_get(keys=keys, partition_id=partition_id, select_fields=fields)
    return [data[field].unbind() for field in fields]


@register_trainer("treepo_sync")
class TreePOTrainerSync(TreePOTrainer, PPOTrainerSync):
    """Trainer that alternates rollout and training on the same devices."""

    verl_mode = "sync"


@register_trainer("treepo_colocate_async")
class TreePOTrainerColocateAsync(TreePOTrainer, PPOTrainerColocateAsync):
    """Like ``treepo_sync``, but training interrupts unfinished rollouts, which continue with the new weights."""

    verl_mode = "colocate_async"


@register_trainer("treepo_separate_async")
class TreePOTrainerSeparateAsync(TreePOTrainer, PPOTrainerSeparateAsync):
    """Trainer that runs rollout and training at the same time on different devices."""

    verl_mode = "separate_async"
