# SPDX-License-Identifier: Apache-2.0
"""Inputs of estimator and logger from the trainers, with stubs for TransferQueue and verl's own steps."""

import gzip
import inspect
import json
from collections.abc import Callable
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transfer_queue as tq
from omegaconf import DictConfig, OmegaConf
from tensordict import TensorDict
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.utils.tracking import Tracking

from helpers.composition import composed
from helpers.paths import ROOT
from recipe.treepo.advantages import batch as advantage
from recipe.treepo.settings.schema import PACKED_VENDOR, TREEPO_TRAINERS
from recipe.treepo.settings.values import ConfigError
from recipe.treepo.verl_adapters import trainer
from recipe.treepo.verl_adapters.reward_errors import RewardError
from recipe.treepo.verl_adapters.trainer import TreePOTrainer
from recipe.treepo.verl_adapters.tree_dump import DUMP_FIELD

# Rows in a possible order after verl's balancing: two of prompt a, a plain row of b, and a padding row.
EXTRA = {
    "a_1_0": {"tree_path": [(1, 0), (3, 4)], "tree_depths": [1, 2], "tree_versions": [2, 4], "tree_statistics": None},
    "b_0_0": {"num_cached_tokens": 2, "min_global_steps": 3},
    "a_0_0": {
        "tree_path": [(1, 0), (2, 4)],
        "tree_depths": [1, 2],
        "tree_versions": [2, None],
        "tree_statistics": None,
    },
    "pad_0_0": {"tree_path": [(1, 0), (3, 4)], "tree_versions": [2, 4], "tree_statistics": None},
}

# Tensors of the rows, by name and row.
FIELDS = {
    "advantages": {
        "a_1_0": [1.0, 1.0, 1.0, 1.0, 3.0],
        "b_0_0": [0.0] * 5,
        "a_0_0": [-1.0, -1.0, -1.0, -1.0, -2.0],
        "pad_0_0": [9.0] * 5,
    },
    "response_mask": {key: [1.0] * 5 for key in EXTRA},
    "rm_scores": {"a_1_0": [0.0] * 4 + [1.0], "b_0_0": [0.0] * 5, "a_0_0": [0.0] * 5, "pad_0_0": [9.0] * 5},
}


@pytest.fixture
def batch(monkeypatch):
    def kv_batch_get(keys, partition_id, select_fields):
        assert partition_id == "train"
        if select_fields != ["extra_fields"]:
            return {name: torch.nested.nested_tensor([FIELDS[name][key] for key in keys]) for name in select_fields}
        return {"extra_fields": np.array([EXTRA[key] for key in keys], dtype=object)}

    monkeypatch.setattr(trainer.tq, "kv_batch_get", kv_batch_get)
    tags = [{"prompt_len": 7, "response_len": 5, "is_padding": key.startswith("pad")} for key in EXTRA]
    return tq.KVBatchMeta(keys=list(EXTRA), tags=tags, partition_id="train")


@cache
def base_config() -> DictConfig:
    # treepo_separate_async makes 4 updates per step, and its rollouts have their own machines.
    separate = ["actor.ppo_mini_batch_size=4", "rollout.nnodes=1", "rollout.checkpoint_engine.backend=nccl"]
    own = [f"actor_rollout_ref.{key}" for key in (f"model.path={ROOT}/tiny/model", *separate)]
    return composed("platform=cpu", "preset=tiny", *own)


def trainer_of(mode: str, **treepo: Any) -> TreePOTrainer:
    """Return a trainer of a mode with settings of the recipe, before it starts anything."""
    config = base_config().copy()
    config.trainer.v1.trainer_mode = mode
    config.treepo = OmegaConf.create({**OmegaConf.to_container(config.treepo), **treepo})
    return get_trainer_cls(mode)(config)


def draws(instance: TreePOTrainer, prompts: int, n: int) -> None:
    """Set the size of a batch: each update of a step takes this many prompts."""
    instance.config.data.train_batch_size = prompts * instance.parameter_sync_step
    instance.config.actor_rollout_ref.rollout.n = n


@pytest.fixture(params=TREEPO_TRAINERS)
def make_trainer(request) -> Callable[..., TreePOTrainer]:
    """Function from settings to a trainer, for each mode."""
    return partial(trainer_of, request.param)


def test_each_of_verls_trainers_has_one_of_ours():
    for ours, verls in TREEPO_TRAINERS.items():
        assert get_trainer_cls(ours).verl_mode == verls
        # our class precedes verl's class of the same mode
        assert get_trainer_cls(ours).__mro__[1:3] == (TreePOTrainer, get_trainer_cls(verls))


@pytest.mark.parametrize("mode", TREEPO_TRAINERS.values())
@pytest.mark.parametrize("step", ["_compute_advantage", "_compute_metrics"])
def test_ours_take_the_arguments_that_verl_gives_its_own(step, mode):
    ours, verls = (inspect.signature(getattr(cls, step)).parameters for cls in (TreePOTrainer, get_trainer_cls(mode)))
    assert list(ours) == list(verls)


def test_the_estimator_sees_each_rows_own_path_and_none_for_plain_and_padding_rows(make_trainer, batch, monkeypatch):
    seen = []

    def compute(self, batch, metrics):
        seen.append(advantage.current_batch.get())
        return batch

    monkeypatch.setattr(PPOTrainer, "_compute_advantage", compute)
    instance = make_trainer()
    assert instance._compute_advantage(batch, {}) is batch
    assert seen[0].paths_P == [[(1, 0), (3, 4)], [], [(1, 0), (2, 4)], []]
    assert seen[0].settings is instance.treepo.advantage
    assert advantage.current_batch.get() is None


def test_each_local_update_of_a_step_has_the_paths_of_its_own_rows(make_trainer, batch, monkeypatch):
    seen = []
    monkeypatch.setattr(
        PPOTrainer,
        "_compute_advantage",
        lambda self, batch, metrics: seen.append(advantage.current_batch.get()) or batch,
    )
    for keys in (["a_0_0", "a_1_0"], ["pad_0_0", "b_0_0"]):
        make_trainer()._compute_advantage(batch.select_keys(keys), {})
    assert [update.paths_P for update in seen] == [[[(1, 0), (2, 4)], [(1, 0), (3, 4)]], [[], []]]


def nested(rows: list[list[float]]) -> torch.Tensor:
    return torch.nested.as_nested_tensor([torch.tensor(row) for row in rows], layout=torch.jagged)


@pytest.fixture
def stored(batch, monkeypatch) -> list[list[float]]:
    """Loss weights stored by the trainer; ``stored.correction`` may hold weights of verl's rollout correction."""

    class Stored(list):
        correction = None

    stored, extra_fields = Stored(), trainer.tq.kv_batch_get
    masks = [[1] * 5, [1, 1, 0, 1], [1] * 6, [0]]

    def kv_batch_get(keys, partition_id, select_fields):
        if select_fields == ["extra_fields"]:
            return extra_fields(keys, partition_id, select_fields)
        assert select_fields == ["response_mask", "rollout_is_weights"]
        fields = {"response_mask": nested(masks)}
        if stored.correction is not None:
            fields["rollout_is_weights"] = nested(stored.correction)
        return TensorDict(fields, batch_size=len(keys))

    def kv_batch_put(keys, partition_id, fields):
        assert list(fields.keys()) == ["rollout_is_weights"] and partition_id == "train"
        stored[:] = [row.tolist() for row in fields["rollout_is_weights"].unbind()]
        return batch

    monkeypatch.setattr(trainer.tq, "kv_batch_get", kv_batch_get)
    monkeypatch.setattr(trainer.tq, "kv_batch_put", kv_batch_put)
    monkeypatch.setattr(PPOTrainer, "_compute_advantage", lambda self, batch, metrics: batch)
    return stored


def test_shared_tokens_are_weighted_where_verls_loss_looks_for_it(make_trainer, batch, stored):
    assert make_trainer(shared_token_weight="once")._compute_advantage(batch, {}) is batch
    # Both rows of prompt a contain node 1 (tokens 0 to 3); the padding row has lost its path.
    assert stored == [[0.5] * 4 + [1], [1] * 4, [0.5] * 4 + [1] * 2, [1]]


def test_weights_of_verls_rollout_correction_are_kept_and_multiplied(make_trainer, batch, stored):
    stored.correction = [[3.0] * 5, [2.0] * 4, [1.0] * 6, [1.0]]
    make_trainer(shared_token_weight="once")._compute_advantage(batch, {})
    assert stored == [[1.5] * 4 + [3], [2] * 4, [0.5] * 4 + [1] * 2, [1]]


def test_stale_tokens_are_weighted_by_the_steps_since_their_weights(make_trainer, batch, stored):
    # Weights of version 4 sample for step 5: node 1 is two steps old, the plain sample of prompt b one.
    instance, metrics = make_trainer(stale_tokens={"policy": "decay", "max_age": 0, "decay": 0.5}), {}
    instance.global_steps = 5
    instance._compute_advantage(batch, metrics)
    assert stored == [[0.25] * 4 + [1], [0.5] * 4, [0.25] * 4 + [1] * 2, [1]]
    # 4 + 3 + 4 of 5 + 3 + 6 trained tokens
    assert metrics == {"treepo/stale_tokens": pytest.approx(11 / 14)}
    instance = make_trainer(shared_token_weight="once", stale_tokens={"policy": "mask"})
    instance.global_steps = 5
    instance._compute_advantage(batch, {})
    assert stored == [[0.0] * 4 + [1], [1] * 4, [0.0] * 4 + [1] * 2, [1]]


def test_by_default_no_weights_are_stored(make_trainer, batch, stored):
    make_trainer()._compute_advantage(batch, {})
    assert stored == []


def test_the_metrics_leave_padding_rows_out(make_trainer, batch, monkeypatch):
    called = []
    monkeypatch.setattr(PPOTrainer, "_compute_metrics", lambda self, *args, **kwargs: called.append((args, kwargs)))
    metrics = {}
    make_trainer()._compute_metrics(batch, metrics, {}, global_steps=1, epoch=0)
    # Three real rows without statistics count as plain samples: 3 calls, 15 tokens, and 21 prompt tokens, of which only
    # one row counts the cached ones.
    assert metrics["treepo/engine_calls"] == 3
    assert metrics["treepo/decoded_tokens"] == 15
    assert "treepo/computed_prompt_tokens" not in metrics
    assert called == [((batch, metrics, {}), {"global_steps": 1, "epoch": 0})]
    # Prompt a has both outcomes, b one trajectory. a: 2 x 10 / (2^2 x 4 + 1 + 1); b: 1.
    assert metrics["treepo/mixed_prompts"] == 0.5
    assert metrics["treepo/effective_trajectories"] == pytest.approx((20 / 18 + 1) / 2)
    assert (metrics["treepo/advantage/depth_1"], metrics["treepo/advantage/depth_2"]) == (1.0, 2.5)
    assert metrics["treepo/reward/depth_2"] == 0.5


def test_the_credit_of_dumped_trajectories_is_written(make_trainer, batch, monkeypatch, tmp_path):
    monkeypatch.setattr(PPOTrainer, "_compute_advantage", lambda self, batch, metrics: batch)
    dumped = {"writer": "worker-1", "failures": 2}
    monkeypatch.setitem(EXTRA, "a_1_0", {**EXTRA["a_1_0"], DUMP_FIELD: dumped})
    monkeypatch.setitem(EXTRA, "pad_0_0", {**EXTRA["pad_0_0"], DUMP_FIELD: dumped})
    for tag in batch.tags:
        tag["global_steps"] = 4
    instance = make_trainer(dump={"dir": str(tmp_path)})
    instance._compute_advantage(batch, {})
    [file] = tmp_path.glob("train_000004/trainer-*.jsonl.gz")
    [line] = [json.loads(line) for line in gzip.open(file)]
    assert (line["uid"], line["leaf"], line["reward"]) == ("a", 3, 1.0)
    assert line["advantages"] == [[1, 1.0], [3, 3.0]]
    monkeypatch.setattr(PPOTrainer, "_compute_metrics", lambda self, *args, **kwargs: None)
    metrics: dict[str, Any] = {}
    instance._compute_metrics(batch, metrics, {}, global_steps=4, epoch=0)
    assert metrics["treepo/dump_failures"] == 2


def test_a_validation_logs_pictures_and_no_constants(make_trainer, monkeypatch):
    validated = {"val-core/sums/acc/mean@4": 0.5, "val-aux/sums/reward_crash/best@4/std": 0.0}
    monkeypatch.setattr(PPOTrainer, "_validate", lambda self: validated)
    instance, logged = make_trainer(), []
    monkeypatch.setattr(instance.pictures, "log", lambda *arguments: logged.append(arguments))
    instance.logger, instance.global_steps = "loggers", 7
    assert instance._validate() == {"val-core/sums/acc/mean@4": 0.5}
    assert logged == [("loggers", 7)]


def test_verl_sees_its_own_mode_and_the_replay_buffer_our_poll_interval(make_trainer):
    instance = make_trainer(poll_interval=0.5)
    assert instance.config.trainer.v1.trainer_mode == instance.trainer_mode == instance.verl_mode
    assert instance.replay_buffer.poll_interval == 0.5


def test_trajectories_are_progress_for_the_watchdog_and_other_samplers_are_left_alone(make_trainer, monkeypatch):
    instance, seen = make_trainer(poll_interval=0.01), []
    monkeypatch.setattr(instance.watchdog, "progress", lambda source, state: seen.append((source, state)))
    instance.replay_buffer.partitions["train"] = {"p_0_0": {}, "p_1_0": {}}
    instance.replay_buffer.finished_keys["train"] = {"p"}
    assert instance.replay_buffer._wait_for_next_poll("train", 1e18) == 1e18
    assert seen == [("trajectories", [2, 0, 1, 0])]
    own = SimpleNamespace()
    monkeypatch.setattr(PPOTrainer, "_build_replay_buffer", lambda self: own)
    assert instance._build_replay_buffer() is own and not hasattr(own, "_wait_for_next_poll")


def test_a_checkpoint_that_cannot_be_written_is_one_sentence(make_trainer, monkeypatch):
    class RayTaskError(Exception):
        cause = OSError(28, "No space left on device")

    def save(self):
        raise RayTaskError("long text")

    monkeypatch.setattr(PPOTrainer, "_save_checkpoint", save)
    instance = make_trainer()
    instance.global_steps, instance.config.trainer.default_local_dir = 3, "run/checkpoints"
    says = (
        r"trainer.default_local_dir=run/checkpoints: the checkpoint of step 3 cannot be written \('OSError: .*No space"
    )
    with pytest.raises(trainer.CheckpointError, match=says):
        instance._save_checkpoint()


def test_trackers_on_a_full_disk_do_not_end_the_run(make_trainer, monkeypatch):
    class Full:
        def log(self, data, step):
            raise OSError(28, "No space left on device")

    instance = make_trainer()
    monkeypatch.setattr(get_trainer_cls(instance.verl_mode), "on_train_begin", lambda self: None)
    instance.logger = SimpleNamespace(logger={"file": Full()})
    with pytest.raises(OSError, match="No space"):
        Tracking.log(instance.logger, {}, 1)
    instance.on_train_begin()
    Tracking.log(instance.logger, {}, 1)


def test_wrong_settings_stop_before_verls_trainer_is_made(make_trainer, monkeypatch):
    started = []
    monkeypatch.setattr(PPOTrainer, "__init__", lambda self, config: started.append(config))
    with pytest.raises(ConfigError, match=r"treepo\.depth=0"):
        make_trainer(depth=0)
    assert started == []


# --- rewards that are not finite --------------------------------------------------------------------------------------


@pytest.fixture
def judged(monkeypatch):
    """Batch of two prompts with four trajectories each, and the keys removed from TransferQueue."""
    rewards = {f"p_{row}_0": value for row, value in enumerate([0.0, 1.0, 1.0, 0.0])}
    rewards |= {f"q_{row}_0": value for row, value in enumerate([float("nan"), 1.0, 1.0, 0.0])}
    removed: list[str] = []
    reasons = {"q_0_0": {"reward_error": "raised ValueError: no number"}}

    def kv_batch_get(keys, partition_id, select_fields):
        fields = {
            "rm_scores": torch.nested.nested_tensor([[0.0, rewards[key]] for key in keys], layout=torch.jagged),
            "responses": torch.nested.nested_tensor([[20, 21] for _ in keys], layout=torch.jagged),
            "raw_prompt": [[{"role": "system", "content": "s"}, {"role": "user", "content": "How many?"}]] * len(keys),
            "extra_fields": np.array([{"reward_extra_info": reasons.get(key)} for key in keys], dtype=object),
        }
        return {name: fields[name] for name in select_fields}

    monkeypatch.setattr(trainer.tq, "kv_batch_get", kv_batch_get)
    monkeypatch.setattr(trainer.tq, "kv_clear", lambda keys, partition_id: removed.extend(keys))
    monkeypatch.setattr(PPOTrainer, "_balance_batch", lambda self, batch, *_: batch)
    tags = [{"seq_len": row} for row in range(8)]
    batch = tq.KVBatchMeta(keys=list(rewards), tags=tags, partition_id="train", extra_info={"temperature": 1.0})
    return batch, rewards, removed


@pytest.mark.parametrize(
    ("policy", "lost"),
    [("fail_trajectory", ["q_0_0"]), ("fail_prompt", ["q_0_0", "q_1_0", "q_2_0", "q_3_0"])],
)
def test_failed_rewards_leave_the_batch_before_it_is_padded(policy, lost, make_trainer, judged, monkeypatch, caplog):
    batch, rewards, removed = judged
    instance = make_trainer(reward_errors={"policy": policy})
    draws(instance, prompts=2, n=4)
    instance.tokenizer = SimpleNamespace(decode=lambda ids, skip_special_tokens: f"{ids.tolist()}")
    metrics: dict[str, Any] = {}
    balanced = instance._balance_batch(batch, metrics)
    assert balanced.keys == [key for key in rewards if key not in lost] and removed == lost
    assert metrics == {"treepo/trained_trajectories": 8 - len(lost)}
    assert [tag["seq_len"] for tag in balanced.tags] == [row for row, key in enumerate(rewards) if key not in lost]
    assert (balanced.partition_id, balanced.extra_info) == ("train", {"temperature": 1.0})
    [record] = [record.getMessage() for record in caplog.records if "reward_errors" in record.getMessage()]
    assert f"policy={policy}: 1 of 8 rewards" in record and "prompt q 'How many?', response '[20, 21]'" in record
    assert (
        "reward function compute_score of pkg://recipe.treepo.reward raised ValueError: no number for prompt" in record
    )
    assert instance.reward_errors.metrics() == {
        "treepo/reward_errors": 1.0,
        "treepo/removed_trajectories": float(len(lost)),
    }


def test_finite_rewards_leave_the_batch_as_it_is(make_trainer, judged):
    batch, rewards, removed = judged
    rewards["q_0_0"] = -1e30
    assert make_trainer()._balance_batch(batch, {}) is batch and removed == []


def test_a_run_may_end_at_the_first_failed_reward(make_trainer, judged):
    batch, _, removed = judged
    instance = make_trainer(reward_errors={"policy": "fail_run"})
    instance.tokenizer = SimpleNamespace(decode=lambda ids, skip_special_tokens: "6")
    with pytest.raises(RewardError, match="policy=fail_run: 1 of 8 rewards .* prompt q 'How many.', response '6'"):
        instance._balance_batch(batch, {})
    assert removed == []


@pytest.mark.parametrize(("n", "is_told"), [(4, False), (5, True)])
def test_a_batch_with_too_few_trajectories_is_told(n, is_told, make_trainer, judged, caplog):
    batch, rewards, _ = judged
    rewards["q_0_0"] = 0.0
    instance = make_trainer(missing_trajectories={"max_share": 0.1})
    draws(instance, prompts=2, n=n)
    metrics: dict[str, Any] = {}
    instance._balance_batch(batch, metrics)
    assert metrics == {"treepo/trained_trajectories": 8, **({"treepo/lost_trajectories": 2} if is_told else {})}
    says = f"treepo.missing_trajectories.max_share=0.1: a batch has 8 of {2 * n} trajectories."
    assert (says in caplog.text) is is_told


def test_a_validation_names_failed_rewards_and_counts_them_as_wrong(make_trainer, monkeypatch, caplog, tmp_path):
    instance = make_trainer()
    instance.config.trainer.log_val_generations, instance.global_steps = 0, 3
    instance._init_dump_executor()
    scores, infos = [1.0, float("nan")], {"reward": [1.0, float("nan")], "acc": [1.0, float("nan")]}
    instance._maybe_log_val_generations(["How many?"] * 2, ["6", "7"], scores)
    instance._dump_generations(["How many?"] * 2, ["6", "7"], ["6", "6"], scores, infos, str(tmp_path))
    instance._shutdown_dump_executor()
    lines = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "3.jsonl").read_text().splitlines()]
    assert [(line["score"], line["acc"]) for line in lines] == [(1.0, 1.0), (None, None)]
    found = instance._val_metrics_update(["d"] * 2, ["u"] * 2, infos, [2, 2], expected_acc_counts={("d", "u"): 2})
    assert found["val-core/d/acc/mean@2"] == 0.5 and found["val-aux/reward_errors"] == 1.0
    assert "1 of 2 rewards failed" in caplog.text
    assert "returned nan for validation prompt 'How many?', response '7'" in caplog.text
    assert all(np.isfinite(value) for value in found.values())


# --- batches for packed training --------------------------------------------------------------------------------------


def test_a_packed_run_whose_workers_would_find_verls_engines_stops(monkeypatch):
    monkeypatch.delenv("VERL_ENGINE_VENDOR", raising=False)
    with pytest.raises(ConfigError, match=r"VERL_ENGINE_VENDOR.*must select the packed engines"):
        trainer_of("treepo_sync", packed_training=True)


@pytest.mark.parametrize("packed", [True, False])
def test_packed_training_keeps_prompts_together_after_verls_balancing(packed, make_trainer, monkeypatch):
    monkeypatch.setenv("VERL_ENGINE_VENDOR", PACKED_VENDOR)
    instance = make_trainer(packed_training=packed)
    draws(instance, prompts=2, n=2)
    instance.actor_rollout_wg = SimpleNamespace(_dispatch_info={"actor": [0, 0, 1, 1]})
    keys = ["a_0_0", "b_0_0", "a_1_0", "pad_0_0", "pad_0_1", "b_1_0"]
    tags = [
        {"seq_len": n, "is_padding": key.startswith("pad")} for key, n in zip(keys, (1, 2, 3, 1, 1, 4), strict=True)
    ]
    batch = tq.KVBatchMeta(keys=keys, tags=tags, partition_id="train")
    monkeypatch.setattr(PPOTrainer, "_balance_batch", lambda self, batch, metrics, *_: batch)
    monkeypatch.setattr(
        trainer.tq, "kv_batch_get", lambda keys, **_: {"rm_scores": torch.nested.nested_tensor([[0.0]] * len(keys))}
    )
    metrics: dict = {}
    balanced = instance._balance_batch(batch, metrics)
    assert metrics.pop("treepo/trained_trajectories") == len(keys)
    if packed:
        # Padding rows go to either rank, although they have the same prompt id.
        assert balanced.keys == ["b_0_0", "b_1_0", "pad_0_1", "a_0_0", "a_1_0", "pad_0_0"]
        assert (metrics["global_seqlen/balanced_min"], metrics["global_seqlen/balanced_max"]) == (5, 7)
    else:
        assert (balanced.keys, metrics) == (keys, {})
