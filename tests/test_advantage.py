# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from verl.trainer.ppo.core_algos import get_adv_estimator_fn

from recipe.treepo.advantage import compute_treepo_advantage, subgroup_advantages, tree_batch
from recipe.treepo.settings import AdvantageSettings, Aggregation, Normalization

# 8 leaves of a binary tree of depth 3 (DESIGN.md's worked example): halves 1 and 2, pairs 3 to 6, leaves 7 to 14.
BINARY = [[1 + row // 4, 3 + row // 2, 7 + row] for row in range(8)]
REWARDS = np.array([-1.0, -1, -1, -1, -1, 1, 1, 1])


def test_plain_mean_of_the_worked_example():
    advantages = subgroup_advantages(REWARDS, ["p"] * 8, BINARY, Aggregation.MEAN)
    # Row 5: root -1 + 1/4 = -3/4, half -1 - 1/2 = -3/2, pair (-1, 1) -1 - 0 = -1; mean -13/12.
    # Row 6: 1 + 1/4, 1 - 1/2, 1 - 0 = 11/4 / 3. Rows 7, 8: 5/4, 1/2 and pair (1, 1) 0 = 7/4 / 3.
    expected = [-1 / 4] * 4 + [-13 / 12, 11 / 12, 7 / 12, 7 / 12]
    assert advantages == pytest.approx(expected, abs=1e-12)


def test_group_size_weights_of_the_worked_example():
    advantages = subgroup_advantages(REWARDS, ["p"] * 8, BINARY, Aggregation.GROUP_SIZE)
    # Weights 8, 4, 2 of 14. Row 1: (8 * -3/4) / 14 = -3/7. Row 5: (-6 - 6 - 2) / 14 = -1.
    # Row 6: (10 + 2 + 2) / 14 = 1. Rows 7, 8: (10 + 2 + 0) / 14 = 6/7.
    assert advantages == pytest.approx([-3 / 7] * 4 + [-1, 1, 6 / 7, 6 / 7], abs=1e-12)


def test_a_chain_that_does_not_branch_counts_once():
    # Both trajectories pass 1 -> 2 -> 3 before they part: one group of two, as if they parted at the root.
    chained = subgroup_advantages(np.array([0.0, 1.0]), ["p", "p"], [[1, 2, 3, 4], [1, 2, 3, 5]], Aggregation.MEAN)
    assert chained == pytest.approx([-0.5, 0.5])


def test_uneven_subtrees_average_over_their_own_groups_only():
    # Root {a, b, c}, mean 1/3. a and b share node 1 (mean 0), c is alone below the root.
    rewards = np.array([0.0, 0.0, 1.0])
    advantages = subgroup_advantages(rewards, ["p"] * 3, [[1, 2], [1, 3], [4]], Aggregation.MEAN)
    assert advantages == pytest.approx([(-1 / 3 + 0) / 2, (-1 / 3 + 0) / 2, 2 / 3])


def test_equal_rewards_give_no_advantage_and_a_lone_trajectory_its_raw_reward():
    assert subgroup_advantages(np.ones(8), ["p"] * 8, BINARY, Aggregation.MEAN) == pytest.approx([0.0] * 8)
    assert subgroup_advantages(np.array([0.7]), ["p"], [[1, 2]], Aggregation.MEAN) == pytest.approx([0.7])


def test_equal_node_numbers_of_two_prompts_are_different_nodes():
    rewards = np.array([0.0, 1.0, 1.0, 1.0])
    advantages = subgroup_advantages(rewards, ["p", "p", "q", "q"], [[1, 2], [1, 3]] * 2, Aggregation.MEAN)
    assert advantages == pytest.approx([-0.5, 0.5, 0.0, 0.0])


@st.composite
def forests(draw):
    """Random prompts with random trees: each row extends a random prefix of an earlier row of its prompt."""
    rows, next_node = [], {}
    for _ in range(draw(st.integers(1, 24))):
        prompt = draw(st.sampled_from("abc"))
        earlier = [path for name, path in rows if name == prompt]
        prefix = []
        if earlier:
            path = draw(st.sampled_from(earlier))
            prefix = path[: draw(st.integers(0, len(path)))]
        fresh = [next_node.get(prompt, 1) + i for i in range(draw(st.integers(0 if prefix else 1, 4)))]
        next_node[prompt] = next_node.get(prompt, 1) + len(fresh)
        rows.append((prompt, prefix + fresh))
    rewards = draw(st.lists(st.sampled_from([-1.0, 0.0, 0.25, 1.0]), min_size=len(rows), max_size=len(rows)))
    order = draw(st.permutations(range(len(rows))))
    return [rows[i][0] for i in order], [rows[i][1] for i in order], rewards


@settings(max_examples=300)
@given(forests(), st.sampled_from(list(Aggregation)))
def test_random_forests_agree_with_the_definition_on_sets(forest, aggregation):
    prompts, paths, rewards = forest
    ours = subgroup_advantages(np.array(rewards), prompts, paths, aggregation)
    for row, (prompt, path) in enumerate(zip(prompts, paths, strict=True)):
        groups = []
        for depth in range(len(path) + 1):
            members = frozenset(
                other for other, name in enumerate(prompts) if name == prompt and paths[other][:depth] == path[:depth]
            )
            if members not in groups and (depth == 0 or len(members) > 1):
                groups.append(members)
        total, weights = 0.0, 0.0
        for group in groups:
            mean = sum(rewards[member] for member in group) / len(group)
            baseline = 0.0 if len(group) == 1 and group is groups[0] else mean
            weight = len(group) if aggregation is Aggregation.GROUP_SIZE else 1
            total += weight * (rewards[row] - baseline)
            weights += weight
        assert ours[row] == pytest.approx(total / weights, abs=1e-12)


def outcome(rewards: list[float], lengths: list[int], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards at the last token of each row, and the mask of its tokens."""
    token_rewards, mask = torch.zeros(len(rewards), width), torch.zeros(len(rewards), width)
    for row, (reward, length) in enumerate(zip(rewards, lengths, strict=True)):
        token_rewards[row, length - 1] = reward
        mask[row, :length] = 1
    return token_rewards, mask


def run(rewards, mask, index, paths, **options) -> torch.Tensor:
    with tree_batch(paths, AdvantageSettings(**options)):
        advantages, returns = compute_treepo_advantage(token_level_rewards=rewards, response_mask=mask, index=index)
    assert returns is advantages
    return advantages


@settings(max_examples=50)
@given(st.integers(2, 20), st.integers(0, 10**6), st.booleans())
def test_depth_one_equals_verls_reinforce_plus_plus_baseline(rows, seed, with_paths):
    rng = np.random.default_rng(seed)
    index = np.array([str(name) for name in rng.integers(0, 4, rows)], dtype=object)
    rewards, mask = outcome(rng.normal(size=rows).tolist(), rng.integers(1, 9, rows).tolist(), 8)
    if mask.sum() < 2:
        return
    # One node of its own per trajectory, or none at all as for verl's plain samples.
    paths = [[row + 1] if with_paths else [] for row in range(rows)]
    theirs, _ = get_adv_estimator_fn("reinforce_plus_plus_baseline")(
        token_level_rewards=rewards, response_mask=mask, index=index
    )
    torch.testing.assert_close(run(rewards, mask, index, paths), theirs, atol=2e-5, rtol=1e-5)


def test_every_token_of_a_trajectory_gets_its_advantage_and_padding_none():
    rewards, mask = outcome([-1.0, 1.0, 1.0], [2, 3, 1], 4)
    index = np.array(["p", "p", "p"], dtype=object)
    advantages = run(rewards, mask, index, [[1, 2], [1, 3], [4]], normalization=Normalization.NONE)
    # Root mean 1/3; rows 0 and 1 share node 1 with mean 0: (-4/3 - 1) / 2, (2/3 + 1) / 2, 2/3.
    expected = torch.tensor([[-7 / 6] * 2 + [0, 0], [5 / 6] * 3 + [0], [2 / 3, 0, 0, 0]])
    torch.testing.assert_close(advantages, expected)


def test_whitening_gives_response_tokens_mean_zero_and_variance_one():
    rewards, mask = outcome(REWARDS.tolist(), [1, 2, 3, 4, 5, 6, 7, 8], 8)
    index = np.array(["p"] * 8, dtype=object)
    tokens = run(rewards, mask, index, BINARY)[mask.bool()]
    assert tokens.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert tokens.var().item() == pytest.approx(1.0, abs=1e-5)


def test_without_paths_of_exactly_this_batch_the_estimator_refuses():
    rewards, mask = outcome([1.0, 0.0], [1, 1], 1)
    index = np.array(["p", "p"], dtype=object)
    with pytest.raises(RuntimeError, match="trainer_mode=treepo_sync"):
        compute_treepo_advantage(token_level_rewards=rewards, response_mask=mask, index=index)
    with pytest.raises(RuntimeError, match="trainer_mode=treepo_sync"):
        run(rewards, mask, index, [[1]])


def test_importing_verl_registers_the_estimator_by_its_name():
    assert get_adv_estimator_fn("treepo") is compute_treepo_advantage
