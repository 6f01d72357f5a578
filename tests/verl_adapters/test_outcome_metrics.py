# SPDX-License-Identifier: Apache-2.0
"""Metrics of outcomes against hand-computed values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe.treepo.verl_adapters.outcome_metrics import OutcomeRow, outcome_metrics


def row(uid: str, path: list[tuple[int, int]], reward: float, advantages: list[float], **changes) -> OutcomeRow:
    values = np.array(advantages)
    standard = {"depths": list(range(1, len(path) + 1)), "mask": np.ones(len(values))}
    return OutcomeRow(uid=uid, path=path, reward=reward, advantages=values, **{**standard, **changes})


# Prompt a: 1 (4 tokens) -> 2 (2 tokens), 3 (2 tokens); separately 4 (6 tokens). Prompt b: equal rewards.
TREE_A = [
    row("a", [(1, 0), (2, 4)], 1.0, [0.5] * 4 + [2.0] * 2),
    row("a", [(1, 0), (3, 4)], 0.0, [-0.5] * 4 + [-1.0] * 2),
    row("a", [(4, 0)], 0.0, [-0.25] * 6),
]
TREE_B = [
    row("b", [(1, 0), (2, 3)], 1.0, [0.0] * 6),
    row("b", [(1, 0), (3, 3)], 1.0, [0.0] * 6),
]


def test_mixed_outcomes_are_counted_by_prompt_and_by_branch_point():
    metrics = outcome_metrics(TREE_A + TREE_B)
    assert metrics["treepo/mixed_prompts"] == 0.5
    # a: the two below node 1 differ; b: the two below its node 1 agree, also a group below the prompt
    assert metrics["treepo/mixed_subgroups"] == 0.5


def test_shared_tokens_make_trajectories_count_less():
    # a: 3 trajectories of 6 tokens; 2^2 x 4 + 2 + 2 + 6 = 26 shared pairs of tokens: 3 x 18 / 26
    assert outcome_metrics(TREE_A)["treepo/effective_trajectories"] == pytest.approx(54 / 26)
    # b: 2 x 12 / (2^2 x 3 + 3 + 3)
    assert outcome_metrics(TREE_B)["treepo/effective_trajectories"] == pytest.approx(24 / 18)
    assert outcome_metrics(TREE_A + TREE_B)["treepo/effective_trajectories"] == pytest.approx((54 / 26 + 24 / 18) / 2)


def test_independent_samples_count_in_full_and_equal_ones_once():
    alone = [row("a", [], reward, [0.1] * 5) for reward in (0.0, 1.0, 1.0)]
    assert outcome_metrics(alone) == {"treepo/mixed_prompts": 1.0, "treepo/effective_trajectories": 3.0}
    nearly_equal = [row("a", [(1, 0), (leaf, 999)], 0.0, [0.0] * 1_000) for leaf in (2, 3)]
    assert outcome_metrics(nearly_equal)["treepo/effective_trajectories"] == pytest.approx(1, abs=1e-3)


def test_rewards_count_where_a_path_ended_and_advantages_where_the_tokens_are():
    metrics = outcome_metrics(TREE_A)
    assert metrics["treepo/reward/depth_1"] == 0.0
    assert metrics["treepo/reward/depth_2"] == 0.5
    # 4 x 0.5 + 4 x 0.5 + 6 x 0.25 over 14 tokens
    assert metrics["treepo/advantage/depth_1"] == pytest.approx(5.5 / 14)
    assert metrics["treepo/advantage/depth_2"] == 1.5


def test_only_trained_tokens_have_an_advantage_and_pieces_of_a_segment_have_its_depth():
    # One segment in two pieces; the last two tokens are a tool's, and an empty reply ends the path.
    mask = np.array([1.0, 1.0, 1.0, 0.0, 0.0])
    path = [(1, 0), (2, 2), (3, 5)]
    metrics = outcome_metrics([row("a", path, 1.0, [1.0, 1.0, 4.0, 0.0, 0.0], depths=[1, 1, 1], mask=mask)])
    assert metrics["treepo/advantage/depth_1"] == 2.0
    assert "treepo/advantage/depth_2" not in metrics
    assert outcome_metrics([]) == {}


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.0, 1.0])), min_size=1, max_size=12))
def test_the_effective_number_is_between_one_and_the_number_of_trajectories(forks):
    # Each trajectory leaves a stem of 4 tokens at another token; the stem's nodes are 1 to 4, a token each.
    rows = [
        row("a", [*((token + 1, token) for token in range(fork)), (10 + rank, fork)], reward, [0.0] * 5)
        for rank, (fork, reward) in enumerate(forks)
    ]
    shared = sum(
        min(one, other) if i != j else 5 for i, (one, _) in enumerate(forks) for j, (other, _) in enumerate(forks)
    )
    expected = len(forks) * 5 * len(forks) / shared
    effective = outcome_metrics(rows)["treepo/effective_trajectories"]
    assert effective == pytest.approx(expected)
    assert 1 - 1e-9 <= effective <= len(forks) + 1e-9
