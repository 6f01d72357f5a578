# SPDX-License-Identifier: Apache-2.0
"""Our estimators and verl's unchanged estimators and objectives on trees, in real runs with evidence of each."""

import json
import math
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.formulas import check_step
from helpers.objectives import OBJECTIVES
from helpers.training_run import BATCH, RESPONSE, WIDTH, dumps, train

STEPS = 5
Metrics = dict[str, float]
# Scores of a step by prompt.
Groups = list[list[float]]


def groups_of(folder: Path, step: int) -> Groups:
    """Return the scores of the trained trajectories by prompt (verl's ``_log_rollout_data``)."""
    scores = defaultdict(list)
    for line in (folder / f"rollouts/{step}.jsonl").read_text().splitlines():
        row = json.loads(line)
        scores[row["uid"].split("_")[0]].append(row["score"])
    return list(scores.values())


def is_entropy_of(steps: list[Metrics], tokens: float) -> bool:
    """Return whether the logged entropy is a sum over about ``tokens`` tokens.

    verl aggregates the logged entropy like the loss (``PPOTrainer._compute_old_log_prob``), so it shows the mode. The
    tiny model's entropy per token is 0.06 before training, and its responses have 60 to 80 tokens.
    """
    return 0.02 < steps[0]["actor/entropy"] / tokens < 0.2


def check_kl_loss(steps: list[Metrics], groups: list[Groups]) -> None:
    # In the first step the actor equals the reference; later they differ, and this estimate (k3) is never negative.
    assert steps[0]["actor/kl_loss"] < 1e-5
    assert all(step["actor/kl_loss"] > 1e-5 for step in steps[1:])
    assert all(step["actor/kl_coef"] == 0.01 for step in steps)
    assert is_entropy_of(steps, tokens=steps[0]["response_length/mean"])


def check_dapo(steps: list[Metrics], groups: list[Groups]) -> None:
    assert sum(step.get("training/filter_groups/evicted_samples", 0) for step in steps) > 0
    for step, of_step in zip(steps, groups, strict=True):
        for scores in of_step:
            # The penalty is at most 0.5, from a score of 1 (right) or 0 (wrong).
            assert all(-0.5 <= score <= 0 or 0.5 <= score <= 1 for score in scores)
            assert {score > 0.25 for score in scores} == {False, True}
        assert any(score not in (0, 1) for scores in of_step for score in scores)
        # The longest response extends into the last 64 tokens.
        longest = step["response_length/max"]
        assert min(min(scores) for scores in of_step) >= -(longest - RESPONSE / 2) / (RESPONSE / 2) * 0.5 - 1e-6
    assert is_entropy_of(steps, tokens=1)
    # After the first update of a step, some probability ratios are beyond the clip range.
    assert sum(step["actor/pg_clipfrac"] for step in steps) > 0


def check_grpo(steps: list[Metrics], groups: list[Groups]) -> None:
    for step, of_step in zip(steps, groups, strict=True):
        # The prompt is the group, whatever the shape of the tree.
        advantages = [score - sum(scores) / WIDTH for scores in of_step for score in scores]
        assert step["critic/advantages/max"] == pytest.approx(max(advantages), abs=1e-5)
        assert step["critic/advantages/min"] == pytest.approx(min(advantages), abs=1e-5)
    assert is_entropy_of(steps, tokens=steps[0]["response_length/mean"] / 1000)


def check_kl_in_reward(steps: list[Metrics], groups: list[Groups]) -> None:
    assert all(step["actor/reward_kl_penalty_coeff"] == 0.05 for step in steps)
    assert abs(steps[0]["actor/reward_kl_penalty"]) < 1e-5
    # This estimate has either sign and may be near 0 in a single step.
    assert max(abs(step["actor/reward_kl_penalty"]) for step in steps[1:]) > 1e-5
    for step in steps[1:]:
        assert abs(step["critic/rewards/mean"] - step["critic/score/mean"]) > 1e-6


def check_reinforce_plus_plus_baseline(steps: list[Metrics], groups: list[Groups]) -> None:
    # whitened over the tokens of the batch
    assert all(abs(step["critic/advantages/mean"]) < 1e-4 for step in steps)
    assert all(step["critic/advantages/min"] < 0 < step["critic/advantages/max"] for step in steps)
    assert is_entropy_of(steps, tokens=1)


def check_critic(steps: list[Metrics], groups: list[Groups]) -> None:
    losses = [step["critic/vf_loss"] for step in steps]
    assert all(loss > 0 for loss in losses) and len(set(losses)) == STEPS
    assert all(step["critic/grad_norm"] > 0 and "critic/vf_explained_var" in step for step in steps)
    # Values differ between the tokens of a batch and approach the returns.
    assert all(step["critic/values/min"] < step["critic/values/max"] for step in steps)
    distance = [abs(step["critic/values/mean"] - step["critic/returns/mean"]) for step in steps]
    assert distance[-1] < distance[0]


# Estimator, normalization and shared-token weight of the runs whose numbers are all checked against the formulas.
OURS = {
    "treepo": ("treepo", "whiten", "per_trajectory"),
    "treepo_segment": ("treepo_segment", "std", "per_trajectory"),
    "treerl": ("treerl", "none", "once"),
    "treerpo": ("treerpo", "none", "per_trajectory"),
}
PROOFS: dict[str, Callable[[list[Metrics], list[Groups]], None]] = {
    "treepo-kl_loss": check_kl_loss,
    "treepo-dapo": check_dapo,
    "grpo-seq_mean_token_sum_norm": check_grpo,
    "rloo-kl_in_reward": check_kl_in_reward,
    "reinforce_plus_plus_baseline-seq_mean_token_mean": check_reinforce_plus_plus_baseline,
    "gae-critic": check_critic,
}
# Settings that make the effect of an objective visible. DAPO: four updates per step, of which all but the first can be
# clipped, and shared first segments, so that some trees have eight equal outcomes and are filtered out. Critic: scores
# far from a new critic's values. GRPO: a scale factor far from the length of a response.
EXTRA = {
    "treepo-dapo": (f"actor_rollout_ref.actor.ppo_mini_batch_size={BATCH // 4}", "treepo.init_divergence=1"),
    "gae-critic": tuple(
        f"+reward.custom_reward_function.reward_kwargs.{key}" for key in ("correct_score=10", "wrong_score=5")
    ),
    "grpo-seq_mean_token_sum_norm": ("actor_rollout_ref.actor.loss_scale_factor=1000",),
}


def test_each_run_has_a_proof():
    assert {*PROOFS, *OURS} == set(OBJECTIVES)


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_estimator_or_objective_trains_on_trees(name):
    with tempfile.TemporaryDirectory() as folder:
        steps = train(
            "run_treepo_qwen0.5b.sh",
            Path(folder),
            f"trainer.total_training_steps={STEPS}",
            "trainer.save_freq=-1",
            *dumps(Path(folder)),
            "actor_rollout_ref.actor.optim.lr=3e-4",
            "treepo.packed_training=false",  # packed training has tests of its own
            *OBJECTIVES[name],
            *EXTRA.get(name, ()),
        )
        groups = [groups_of(Path(folder), step) for step in range(1, STEPS + 1)]
        for step in steps if name in OURS else ():
            check_step(Path(folder), step, *OURS[name])
    assert [step["training/global_step"] for step in steps] == [1, 2, 3, 4, 5]
    for step, of_step in zip(steps, groups, strict=True):
        # train() asserts that every metric is finite
        assert {"actor/pg_loss", "critic/advantages/mean", "critic/returns/mean"} <= step.keys()
        assert step["actor/grad_norm"] > 0
        assert step["treepo/trajectories"] == BATCH * WIDTH
        assert [len(scores) for scores in of_step] == [WIDTH] * BATCH
        assert step["treepo/decoded_tokens"] < step["treepo/total_tokens"]
        assert math.isclose(sum(map(sum, of_step)) / (BATCH * WIDTH), step["critic/score/mean"], abs_tol=1e-5)
    if name in PROOFS:
        PROOFS[name](steps, groups)
