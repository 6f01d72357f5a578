# SPDX-License-Identifier: Apache-2.0
"""Advantage formulas on worked trees. `tests/verl_adapters/test_estimators.py` has random trees."""

from math import sqrt

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from helpers.example_counts import examples
from helpers.tree_oracle import forests
from recipe.treepo.advantages.credit import segment_credit, subgroup_advantages, treerl_credit, treerpo_credit
from recipe.treepo.advantages.forest import Forest, build_forest
from recipe.treepo.advantages.options import AdvantageOptions, Aggregation, ChainCounting

# 8 leaves of a binary tree of depth 3 (a worked example): halves 1 and 2, pairs 3 to 6, leaves 7 to 14.
BINARY = [[1 + row // 4, 3 + row // 2, 7 + row] for row in range(8)]
REWARDS = [-1.0, -1, -1, -1, -1, 1, 1, 1]


def forest_of(paths: list[list[int]], prompts: list[str] | None = None, *, merged: bool = True) -> Forest:
    """Build a forest from node numbers; the begins of its nodes are arbitrary."""
    with_begins = [[(node, depth) for depth, node in enumerate(path)] for path in paths]
    forest = build_forest(prompts or ["p"] * len(paths), with_begins)
    return forest.merge_chains() if merged else forest


def by_row(forest: Forest, rewards: list[float]) -> np.ndarray:
    """Sort the rewards of rows into the order of the forest's trajectories."""
    ordered = np.zeros(len(forest.node_TL))
    ordered[forest.trajectory_P] = rewards
    return ordered


def subgroup(paths, rewards, prompts=None, **options) -> np.ndarray:
    settings = AdvantageOptions(**options)
    forest = forest_of(paths, prompts, merged=settings.chains is ChainCounting.DISTINCT)
    return subgroup_advantages(forest, by_row(forest, rewards), settings)[forest.trajectory_P]


def credit(function, paths, rewards, *, merged: bool = True, **options) -> list[list[float]]:
    """Return the credits along each row's path, without the root."""
    forest = forest_of(paths, merged=merged)
    values = function(forest, by_row(forest, rewards), **options)
    return [
        values[trajectory, 1 : 1 + forest.length_T[trajectory]].tolist() for trajectory in forest.trajectory_P.tolist()
    ]


def segment(paths, rewards, *, merged: bool = True, **options) -> list[list[float]]:
    settings = AdvantageOptions(chains=ChainCounting.DISTINCT if merged else ChainCounting.PUBLISHED, **options)
    return credit(segment_credit, paths, rewards, merged=merged, options=settings)


def approximately(rows: list[list[float]]):
    return [pytest.approx(row, abs=1e-12) for row in rows]


# --- treepo ----------------------------------------------------------------------------------------------------


def test_plain_mean_of_the_worked_example():
    # Row 5: root -1 + 1/4 = -3/4, half -1 - 1/2 = -3/2, pair (-1, 1) -1 - 0 = -1; mean -13/12.
    # Row 6: 1 + 1/4, 1 - 1/2, 1 - 0 = 11/4 / 3. Rows 7, 8: 5/4, 1/2 and pair (1, 1) 0 = 7/4 / 3.
    expected = [-1 / 4] * 4 + [-13 / 12, 11 / 12, 7 / 12, 7 / 12]
    assert subgroup(BINARY, REWARDS) == pytest.approx(expected, abs=1e-12)


def test_group_size_weights_of_the_worked_example():
    # Weights 8, 4, 2 of 14. Row 1: (8 * -3/4) / 14 = -3/7. Row 5: (-6 - 6 - 2) / 14 = -1.
    # Row 6: (10 + 2 + 2) / 14 = 1. Rows 7, 8: (10 + 2 + 0) / 14 = 6/7.
    expected = [-3 / 7] * 4 + [-1, 1, 6 / 7, 6 / 7]
    assert subgroup(BINARY, REWARDS, aggregation=Aggregation.GROUP_SIZE) == pytest.approx(expected, abs=1e-12)


def test_without_the_root_group_only_sub_trees_compare():
    # Row 1: half 0, pair 0. Row 5: (-3/2 - 1) / 2. Row 6: (1/2 + 1) / 2. Rows 7, 8: (1/2 + 0) / 2.
    expected = [0] * 4 + [-5 / 4, 3 / 4, 1 / 4, 1 / 4]
    assert subgroup(BINARY, REWARDS, root_group=False) == pytest.approx(expected, abs=1e-12)


def test_without_groups_of_equal_rewards_they_do_not_dilute_the_others():
    # Rows 1 to 4: the root only. Row 5, 6 as before. Rows 7, 8: root 5/4 and half 1/2, their pair is equal.
    expected = [-3 / 4] * 4 + [-13 / 12, 11 / 12, 7 / 8, 7 / 8]
    assert subgroup(BINARY, REWARDS, equal_groups=False) == pytest.approx(expected, abs=1e-12)


def test_the_root_group_counts_also_where_all_rewards_are_equal():
    assert subgroup(BINARY, [1.0] * 8, equal_groups=False) == pytest.approx([0.0] * 8)


def test_a_chain_counts_once_or_as_published_once_per_segment():
    # Root {a, b, c} with mean 1/3; a and b pass 1 -> 2 -> 3 (mean 1/2) before they part, c is alone.
    paths, rewards = [[1, 2, 3, 4], [1, 2, 3, 5], [6]], [0.0, 1.0, 0.0]
    # a: (-1/3 - 1/2) / 2; b: (2/3 + 1/2) / 2; c: -1/3
    assert subgroup(paths, rewards) == pytest.approx([-5 / 12, 7 / 12, -1 / 3])
    # a: (-1/3 - 3 * 1/2) / 4; b: (2/3 + 3 * 1/2) / 4
    published = subgroup(paths, rewards, chains=ChainCounting.PUBLISHED)
    assert published == pytest.approx([-11 / 24, 13 / 24, -1 / 3])


def test_a_trunk_that_all_trajectories_pass_is_the_root_group_and_counts_once():
    # Both pass 1 -> 2 before they part: as if they parted at the root. As published: three times the same.
    for chains in ChainCounting:
        assert subgroup([[1, 2, 4], [1, 2, 5]], [0.0, 1.0], chains=chains) == pytest.approx([-0.5, 0.5])
    # Without the root group, no group is left. As published, the trunk is left.
    assert subgroup([[1, 2, 4], [1, 2, 5]], [0.0, 1.0], root_group=False) == pytest.approx([0.0, 0.0])
    published = subgroup([[1, 2, 4], [1, 2, 5]], [0.0, 1.0], root_group=False, chains=ChainCounting.PUBLISHED)
    assert published == pytest.approx([-0.5, 0.5])


def test_uneven_subtrees_average_over_their_own_groups_only():
    # Root {a, b, c}, mean 1/3. a and b share node 1 (mean 0), c is alone below the root.
    advantages = subgroup([[1, 2], [1, 3], [4]], [0.0, 0.0, 1.0])
    assert advantages == pytest.approx([(-1 / 3 + 0) / 2, (-1 / 3 + 0) / 2, 2 / 3])


def test_equal_node_numbers_of_two_prompts_are_different_nodes():
    advantages = subgroup([[1, 2], [1, 3]] * 2, [0.0, 1.0, 1.0, 1.0], ["p", "p", "q", "q"])
    assert advantages == pytest.approx([-0.5, 0.5, 0.0, 0.0])


def test_a_repeated_row_is_the_same_trajectory_and_does_not_shift_the_mean():
    advantages = subgroup([[1], [2], [2], [2]], [0.0, 1.0, 1.0, 1.0])
    assert advantages == pytest.approx([-0.5, 0.5, 0.5, 0.5])


def test_rows_without_a_path_are_trajectories_of_their_own_also_beside_a_tree():
    # Four trajectories with mean 1/2; the first two share node 1 (mean 1/2).
    advantages = subgroup([[1, 2], [1, 3], [], []], [0.0, 1.0, 1.0, 0.0])
    assert advantages == pytest.approx([-0.5, 0.5, 0.5, -0.5])


def test_a_trajectory_that_ends_where_others_go_on_is_a_damaged_tree():
    with pytest.raises(AssertionError, match="others pass"):
        forest_of([[1], [1, 2]])


# --- treepo_segment --------------------------------------------------------------------------------------------


def test_segment_credit_of_the_worked_example():
    # Leaves (group-size weights): -3/7 x 4, -1, 1, 6/7, 6/7. Pairs: -3/7, -3/7, 0, 6/7. Halves: -3/7, 3/7. Root: 0.
    left = [[-3 / 7, 0, 0]] * 4  # inside the left half all agree
    right = [
        [3 / 7, 0 - 3 / 7, -1 - 0],
        [3 / 7, 0 - 3 / 7, 1 - 0],
        [3 / 7, 6 / 7 - 3 / 7, 0],  # inside this pair both agree
        [3 / 7, 6 / 7 - 3 / 7, 0],
    ]
    assert segment(BINARY, REWARDS) == approximately(left + right)


def test_decay_lessens_the_parents_value_by_the_distance_from_the_parent_to_the_end():
    # eta = 1/2; the parent of a pair is 2 nodes from the end: 1/4 of 3/7; the parent of a leaf 1: 1/2 of 0.
    rows = segment(BINARY, REWARDS, parent_decay=0.5)
    assert rows[4] == pytest.approx([3 / 7, 0 - 1 / 4 * 3 / 7, -1], abs=1e-12)
    assert rows[6] == pytest.approx([3 / 7, 6 / 7 - 1 / 4 * 3 / 7, 0], abs=1e-12)
    assert rows[0] == pytest.approx([-3 / 7, 0, 0], abs=1e-12)


def test_no_credit_inside_an_uneven_sub_tree_whose_leaves_agree():
    # Root {a, b, c, d}; s (node 1) holds a and t (node 2) holds b and c: all wrong, at different depths; d is right.
    # Values by group size: a (4 * -1/4 + 3 * 0) / 7 = -1/7; b, c (4 * -1/4) / 9 = -1/9; d 3/4.
    rows = segment([[1, 3], [1, 2, 4], [1, 2, 5], [6]], [0.0, 0.0, 0.0, 1.0])
    s = (-1 / 7 - 1 / 9) / 2
    root = (s + 3 / 4) / 2
    assert rows == approximately([[s - root, 0], [s - root, 0, 0], [s - root, 0, 0], [3 / 4 - root]])


def test_the_credits_of_a_nodes_children_sum_to_zero():
    # Root with mean over children, not 0: (s + 3/4) / 2 above, so the two children of the root get +-(3/4 - s) / 2.
    rows = segment([[1, 3], [1, 2, 4], [1, 2, 5], [6]], [0.0, 0.0, 0.0, 1.0])
    assert rows[0][0] == pytest.approx(-rows[3][0])


def test_a_chain_shares_one_credit_and_published_only_its_first_segment():
    # a passes 1 -> 2, b 3 -> 4 -> 5; leaves -1/2 and 1/2, root 0.
    paths, rewards = [[1, 2], [3, 4, 5]], [0.0, 1.0]
    assert segment(paths, rewards) == approximately([[-1 / 2], [1 / 2]])
    # Published: two groups of one for a, three for b. a: (2 * -1/2) / (2 + 2); b: (2 * 1/2) / (2 + 3).
    assert segment(paths, rewards, merged=False) == approximately([[-1 / 4, 0], [1 / 5, 0, 0]])


def test_published_segment_credit_counts_groups_of_one_and_gives_the_root_the_value_0():
    # a: (2 * 1) / (2 + 3) = 2/5; b: (2 * -1) / (2 + 1) = -2/3. Their mean is not 0, the root's value is.
    paths, rewards = [[1, 2, 3], [4]], [1.0, -1.0]
    assert segment(paths, rewards, merged=False) == approximately([[2 / 5, 0, 0], [-2 / 3]])
    assert segment(paths, rewards) == approximately([[1], [-1]])
    # Groups of one are groups of equal rewards.
    rows = segment(paths, rewards, merged=False, equal_groups=False)
    assert rows == approximately([[1, 0, 0], [-1]])


def test_published_segment_credit_of_a_lone_trajectory_is_0():
    assert segment([[1, 2]], [0.7], merged=False) == approximately([[0, 0]])
    assert subgroup([[1, 2]], [0.7], chains=ChainCounting.PUBLISHED) == pytest.approx([0.7])


def published_segment_credit(paths: list[list[int]], rewards: list[float], decay: float) -> list[list[float]]:
    """Second implementation: a node is the tuple of node numbers from the root, its group all paths with this start."""

    def group(prefix: tuple[int, ...]) -> list[int]:
        return [row for row, path in enumerate(paths) if tuple(path[: len(prefix)]) == prefix]

    def value(prefix: tuple[int, ...]) -> float:
        if not prefix:
            return 0.0
        children = {tuple(paths[row][: len(prefix) + 1]) for row in group(prefix)} - {prefix}
        if children:
            return sum(map(value, children)) / len(children)
        (leaf,) = group(prefix)
        starts = [group(prefix[:depth]) for depth in range(len(prefix) + 1)]
        gains = [len(start) * rewards[leaf] - sum(rewards[row] for row in start) for start in starts]
        return sum(gains) / sum(map(len, starts))

    credits = []
    for path in paths:
        nodes = [tuple(path[:depth]) for depth in range(len(path) + 1)]
        credits.append([])
        for left, (above, node) in enumerate(zip(nodes, nodes[1:], strict=False)):
            varies = len(group(above)) == 1 == len(paths) or len({rewards[row] for row in group(above)}) > 1
            credits[-1].append(varies * (value(node) - decay ** (len(path) - left) * value(above)))
    return credits


@examples(short=50, long=200)
@given(forests(), st.sampled_from([1.0, 0.5]))
def test_published_segment_credit_of_random_trees(forest, decay):
    prompts, paths, rewards, _ = forest
    rows = {
        tuple(node for node, _ in path): reward
        for prompt, path, reward in zip(prompts, paths, rewards, strict=True)
        if path and prompt == prompts[0]
    }
    assume(rows)
    numbers, own = [list(path) for path in rows], list(rows.values())
    expected = published_segment_credit(numbers, own, decay)
    assert segment(numbers, own, merged=False, parent_decay=decay) == approximately(expected)


def test_a_trunk_gets_no_segment_credit():
    assert segment([[1, 2], [1, 3]], [0.0, 1.0]) == approximately([[0, -1 / 2], [0, 1 / 2]])


def test_a_prompt_with_one_trajectory_keeps_its_raw_reward_with_every_estimator():
    assert subgroup([[1, 2]], [0.7]) == pytest.approx([0.7])
    assert segment([[1, 2]], [0.7], parent_decay=0.5) == approximately([[0.7]])
    # ((0.7 - 0) + (0.7 - 0)) / 1
    assert credit(treerl_credit, [[1, 2]], [0.7]) == approximately([[1.4]])
    assert credit(treerpo_credit, [[1, 2]], [0.7]) == [pytest.approx([0.7], abs=1e-6)]


def test_equal_rewards_give_no_credit_with_any_estimator():
    assert subgroup(BINARY, [0.3] * 8) == pytest.approx([0.0] * 8)
    none = approximately([[0.0, 0.0, 0.0]] * 8)
    assert segment(BINARY, [0.3] * 8, parent_decay=0.5) == none
    assert credit(treerl_credit, BINARY, [0.3] * 8) == none
    assert credit(treerpo_credit, BINARY, [0.3] * 8) == none


# --- treerl ----------------------------------------------------------------------------------------------------


def test_treerl_credit_of_the_worked_example():
    # V: root -1/4; halves -1, 1/2; pairs -1, -1, 0, 1; leaves the rewards.
    half_1, half_2 = (2 * -1 + 1 / 4 + 1 / 4) / sqrt(4), (2 * 1 / 2 + 1 / 4 + 1 / 4) / sqrt(4)
    pair_3, pair_5, pair_6 = (
        (-2 + 1 / 4 + 1) / sqrt(2),
        (0 + 1 / 4 - 1 / 2) / sqrt(2),
        (2 + 1 / 4 - 1 / 2) / sqrt(2),
    )
    rows = credit(treerl_credit, BINARY, REWARDS)
    assert rows[0] == pytest.approx([half_1, pair_3, -2 + 1 / 4 + 1])
    assert rows[4] == pytest.approx([half_2, pair_5, -2 + 1 / 4 - 0])
    assert rows[5] == pytest.approx([half_2, pair_5, 2 + 1 / 4 - 0])
    assert rows[7] == pytest.approx([half_2, pair_6, 2 + 1 / 4 - 1])


# --- treerpo ---------------------------------------------------------------------------------------------------


def test_treerpo_credit_of_the_worked_example():
    # r: halves -1, 1/2 (mean -1/4); pairs below the second 0, 1 (mean 1/2); its first pair's leaves -1, 1 (mean 0).
    rows = credit(treerpo_credit, BINARY, REWARDS, divide_by_std=False)
    assert rows[0] == pytest.approx([-3 / 4, 0, 0], abs=1e-12)
    assert rows[4] == pytest.approx([3 / 4, -1 / 2, -1], abs=1e-12)
    assert rows[5] == pytest.approx([3 / 4, -1 / 2, 1], abs=1e-12)
    assert rows[6] == pytest.approx([3 / 4, 1 / 2, 0], abs=1e-12)
    # Of two siblings each is half their difference d from the mean, and their standard deviation is d / sqrt(2).
    rows = credit(treerpo_credit, BINARY, REWARDS)
    assert rows[4] == pytest.approx([sqrt(1 / 2), -sqrt(1 / 2), -sqrt(1 / 2)], abs=1e-5)
    assert rows[0] == pytest.approx([-sqrt(1 / 2), 0, 0], abs=1e-5)


def test_treerpo_expects_the_mean_over_children_not_over_leaves():
    # Node 1 holds a (reward 1) and node 2 with b, c, d (0, 0, 1): r = (1 + 1/3) / 2 = 2/3; e alone has 0.
    rows = credit(
        treerpo_credit, [[1, 3], [1, 2, 4], [1, 2, 5], [1, 2, 6], [7]], [1.0, 0, 0, 1, 0], divide_by_std=False
    )
    assert rows[0] == pytest.approx([2 / 3 - 1 / 3, 1 - 2 / 3])
    assert rows[1] == pytest.approx([1 / 3, 1 / 3 - 2 / 3, 0 - 1 / 3])
    assert rows[4] == pytest.approx([0 - 1 / 3])


def test_the_arrays_of_a_forest_are_read_only():
    forest = build_forest(["a"] * 2, [[(1, 0)], [(2, 0), (3, 4)]])
    for one in (forest, forest.merge_chains()):
        for array in (one.node_TL, one.begin_TL, one.trajectory_P):
            with pytest.raises(ValueError, match="read-only"):
                array[array < 0] = 0
