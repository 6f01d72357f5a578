# SPDX-License-Identifier: Apache-2.0
"""What the trainer hands to the estimator and the logger, with TransferQueue and verl's own steps replaced."""

from types import SimpleNamespace

import numpy as np
import pytest
from omegaconf import OmegaConf
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

from recipe.treepo import advantage, trainer
from recipe.treepo.settings import ConfigError, TreePOSettings
from recipe.treepo.trainer import TreePOTrainer

# Rows in an order that verl's balancing could give: two of prompt a, a plain one of b, and a row that verl adds.
EXTRA = {
    "a_1_0": {"tree_path": [(1, 0), (3, 4)], "tree_statistics": None},
    "b_0_0": {"num_cached_tokens": 2},
    "a_0_0": {"tree_path": [(1, 0), (2, 4)], "tree_statistics": None},
    "pad_0_0": {"tree_path": [(1, 0), (3, 4)], "tree_statistics": None},
}


@pytest.fixture
def batch(monkeypatch):
    def kv_batch_get(keys, partition_id, select_fields):
        assert select_fields == ["extra_fields"] and partition_id == "train"
        return {"extra_fields": np.array([EXTRA[key] for key in keys], dtype=object)}

    monkeypatch.setattr(trainer.tq, "kv_batch_get", kv_batch_get)
    tags = [{"prompt_len": 7, "response_len": 5, "is_padding": key.startswith("pad")} for key in EXTRA]
    return SimpleNamespace(keys=list(EXTRA), tags=tags, partition_id="train")


def test_the_estimator_sees_each_rows_own_path_and_none_for_plain_and_padding_rows(batch, monkeypatch):
    seen = []
    monkeypatch.setattr(
        PPOTrainerSync, "_compute_advantage", lambda self, batch, metrics: seen.append(advantage._tree_batch.get())
    )
    instance = object.__new__(TreePOTrainer)
    instance.treepo = TreePOSettings()
    instance._compute_advantage(batch, {})
    assert seen[0].node_paths_P == [[1, 3], [], [1, 2], []]
    assert seen[0].settings is instance.treepo.advantage
    assert advantage._tree_batch.get() is None


def test_the_metrics_leave_padding_rows_out(batch, monkeypatch):
    monkeypatch.setattr(PPOTrainerSync, "_compute_metrics", lambda self, *args, **kwargs: None)
    metrics = {}
    object.__new__(TreePOTrainer)._compute_metrics(batch, metrics, {}, global_steps=1, epoch=0)
    # Three real rows, here without tree numbers, count as plain samples: 3 calls, 15 tokens, 21 - 2 of the prompts.
    assert metrics["treepo/engine_calls"] == 3
    assert metrics["treepo/decoded_tokens"] == 15
    assert metrics["treepo/computed_prompt_tokens"] == 19


def test_verl_sees_its_own_trainer_mode_and_a_wrong_configuration_stops_before_anything_starts(monkeypatch):
    config = OmegaConf.create(
        {
            "treepo": {"sampler": "plain"},
            "algorithm": {"adv_estimator": "treepo"},
            "trainer": {"use_v1": True, "v1": {"trainer_mode": "treepo_sync"}},
        }
    )
    started = []
    monkeypatch.setattr(PPOTrainerSync, "__init__", lambda self, config: started.append(config))
    TreePOTrainer(config)
    assert started[0].trainer.v1.trainer_mode == "sync"
    config.treepo.depth = 0
    with pytest.raises(ConfigError, match=r"treepo\.depth=0"):
        TreePOTrainer(config)
    assert len(started) == 1
