# SPDX-License-Identifier: Apache-2.0
import math
import random
from collections import Counter

import pytest

from recipe.treepo.policies import Policies, PolicyContext
from recipe.treepo.search.decisions import Decisions
from recipe.treepo.search.engine import Segment
from recipe.treepo.search.fallback import FallbackRules, PathOrder, PointRule, ResumePoint
from recipe.treepo.search.node import ROOT
from recipe.treepo.search.shape import SearchShape
from recipe.treepo.search.stopping import FinishReason
from recipe.treepo.search.tree import Tree


def tree_with(*paths: tuple[list[float], int, FinishReason]) -> tuple[Tree, list[int]]:
    """Build paths from the root, each from log-probabilities, tokens per segment, and its finish reason."""
    tree = Tree([1])
    for number, (logprobs, segment, reason) in enumerate(paths):
        parent, key = ROOT, str(number)
        for start in range(0, len(logprobs), segment):
            piece = logprobs[start : start + segment]
            parent = tree.add(parent, Segment([7] * len(piece), piece), key=key).index
            key += ".0"
        tree.finish(parent, reason)
    return tree, list(tree.leaves)


def choose(tree, leaves, count, *, seed=0, **rules) -> list[ResumePoint]:
    shape = SearchShape(width=1, segment_length=1, fallback=FallbackRules(**rules))
    decisions = Decisions(tree, shape, Policies(), PolicyContext(), seed)
    return decisions.resume_points(leaves, count, decisions.context(lambda: random.Random(seed)))


def draws(tree, leaves, count=4000, **rules) -> Counter:
    """Count the first resume points of ``count`` independent draws."""
    return Counter(choose(tree, leaves, 1, seed=seed, **rules)[0] for seed in range(count))


def test_boundaries_of_a_path_are_equally_likely_and_its_end_is_none():
    tree, (leaf,) = tree_with(([-1.0] * 10, 4, FinishReason.EOS))
    drawn = draws(tree, [leaf])
    assert set(drawn) == {ResumePoint(leaf, 0), ResumePoint(leaf, 4), ResumePoint(leaf, 8)}
    assert min(drawn.values()) > 1333 - 150  # 5 sigma = 149


def test_a_window_bounds_the_segments_that_are_given_up():
    tree, (leaf,) = tree_with(([-1.0] * 10, 4, FinishReason.EOS))
    assert set(draws(tree, [leaf], window=1)) == {ResumePoint(leaf, 8)}
    assert set(draws(tree, [leaf], window=2)) == {ResumePoint(leaf, 4), ResumePoint(leaf, 8)}
    assert set(draws(tree, [leaf], window=9)) == set(draws(tree, [leaf]))


def test_a_split_in_a_segment_is_not_a_boundary():
    tree, (leaf,) = tree_with(([-1.0] * 8, 4, FinishReason.EOS))
    tree.split(leaf, 6)
    assert {drawn.offset for drawn in draws(tree, [leaf])} == {0, 4}
    assert {drawn.offset for drawn in draws(tree, [leaf], window=1)} == {4}


def test_the_least_likely_token_is_sampled_again_unless_it_is_outside_the_window():
    tree, (leaf,) = tree_with(([-1.0, -3.0, -0.5, -1.0, -1.0, -2.0], 2, FinishReason.EOS))
    rules = {"point": PointRule.LEAST_LIKELY_TOKEN}
    assert choose(tree, [leaf], 2, **rules) == [ResumePoint(leaf, 1)] * 2
    assert choose(tree, [leaf], 1, window=2, **rules) == [ResumePoint(leaf, 5)]


def test_blocks_are_drawn_by_their_mean_log_probability_either_way():
    # Blocks of 2 begin at 0, 2 and 4 with means -1, -2 and -4 (the last is one token only).
    tree, (leaf,) = tree_with(([-0.5, -1.5, -3.0, -1.0, -4.0], 3, FinishReason.EOS))
    for point, sign in ((PointRule.LIKELY_BLOCK, 1), (PointRule.UNLIKELY_BLOCK, -1)):
        drawn = draws(tree, [leaf], point=point, block_length=2)
        weights = [math.exp(sign * mean) for mean in (-1.0, -2.0, -4.0)]
        for start, weight in zip((0, 2, 4), weights, strict=True):
            expected = 4000 * weight / sum(weights)
            assert abs(drawn[ResumePoint(leaf, start)] - expected) < 5 * math.sqrt(expected) + 5
    # With a window of one segment (it begins at 3) only the block at 4 begins inside it.
    drawn = draws(tree, [leaf], count=50, point=PointRule.LIKELY_BLOCK, block_length=2, window=1)
    assert set(drawn) == {ResumePoint(leaf, 4)}
    drawn = draws(tree, [leaf], count=50, point=PointRule.LIKELY_BLOCK, block_length=9, window=1)
    assert set(drawn) == {ResumePoint(leaf, 3)}


def test_the_root_can_be_the_point():
    tree, (leaf,) = tree_with(([-1.0] * 8, 4, FinishReason.EOS))
    assert choose(tree, [leaf], 3, point=PointRule.ROOT) == [ResumePoint(leaf, 0)] * 3


@pytest.fixture
def four():
    """Paths that ended by a length of 12, an answer of 4, an end token of 8 and a repetition of 16 tokens."""
    return tree_with(
        ([-1.0] * 12, 4, FinishReason.LENGTH),
        ([-1.0] * 4, 4, FinishReason.ANSWER),
        ([-1.0] * 8, 4, FinishReason.EOS),
        ([-1.0] * 16, 4, FinishReason.REPETITION),
    )


def order_of(four, count=4, **rules) -> list[int]:
    tree, leaves = four
    return [leaves.index(drawn.leaf) if drawn.leaf else None for drawn in choose(tree, leaves, count, **rules)]


def test_paths_are_taken_in_turn_and_over_again(four):
    for seed in range(20):
        order = order_of(four, 9, seed=seed)
        assert sorted(order[:4]) == [0, 1, 2, 3]
        assert order[4:] == [*order[:4], order[0]]
    assert len({tuple(order_of(four, seed=seed)) for seed in range(200)}) == 24


def test_the_best_reason_comes_first_and_the_longest_path(four):
    assert order_of(four, order=PathOrder.ANSWERED_FIRST) == [1, 2, 0, 3]
    assert order_of(four, order=PathOrder.LONGER_FIRST) == [3, 0, 2, 1]


def test_softly_better_reasons_are_more_likely_to_come_first(four):
    tree, leaves = four
    drawn = Counter(choose(tree, leaves, 1, seed=s, order=PathOrder.ANSWERED_FIRST_SOFT)[0].leaf for s in range(6000))
    # Weights: answer 6, eos 5, length 3, repetition 1; 15 in all.
    for leaf, weight in zip(leaves, (3, 6, 5, 1), strict=True):
        assert abs(drawn[leaf] - 400 * weight) < 5 * math.sqrt(400 * weight)


def test_paths_that_were_cut_and_short_ones_can_be_left_out(four):
    assert set(order_of(four, self_ended_only=True)) == {1, 2}
    assert set(order_of(four, min_segments=3)) == {0, 3}
    assert order_of(four, 2, self_ended_only=True, min_segments=3) == [None, None]
