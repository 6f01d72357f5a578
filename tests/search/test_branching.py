# SPDX-License-Identifier: Apache-2.0
import math
import random
from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe.treepo.search.branching import (
    BranchingRules,
    Budget,
    Favor,
    GivenScore,
    allocate,
    level_limit,
    reachable_leaves,
    width_within,
)


def test_stopped_paths_count_in_the_limit_of_the_next_level():
    # Each of the 5 paths of the level, ended or open, has 3 children.
    rules = BranchingRules(divergence=(3, 3))
    assert level_limit(rules, level_size=5, segment_length=16, rng=random.Random(0)) == 15
    rules = BranchingRules(budget=Budget.LEVEL_TOKENS, level_tokens=100)
    assert level_limit(rules, level_size=5, segment_length=16, rng=random.Random(0)) == 6
    rules, rng = BranchingRules(divergence=(1, 3)), random.Random(0)
    drawn = Counter(level_limit(rules, level_size=5, segment_length=16, rng=rng) for _ in range(3000))
    assert set(drawn) == {5, 10, 15}
    assert min(drawn.values()) > 870  # 1000 each; 5 sigma = 130


@pytest.mark.parametrize(
    ("finished", "finished_tokens", "width"),
    # 100 tokens pay for 10 responses of 10 tokens; minimum 2, maximum 12.
    [(0, 0, 10), (3, 30, 10), (3, 12, 3 + 8), (5, 7, 12), (9, 95, 9)],
)
def test_a_token_budget_pays_for_whole_responses_of_those_that_have_not_ended(finished, finished_tokens, width):
    rules = BranchingRules(budget=Budget.TOTAL_TOKENS, total_tokens=100, min_width=2)
    number = width_within(rules, width=12, finished=finished, finished_tokens=finished_tokens, response_length=10)
    assert number == width
    assert width_within(BranchingRules(), width=12, finished=0, finished_tokens=0, response_length=10) == 12


def test_the_least_width_is_kept_whatever_the_budget_pays_for():
    rules = BranchingRules(budget=Budget.TOTAL_TOKENS, total_tokens=40, min_width=4)
    assert width_within(rules, width=12, finished=1, finished_tokens=10, response_length=10) == 4


def test_reachable_leaves_are_bounded_by_levels_and_divergence():
    # Three branches; the first may branch twice more. Two end, and the third gets 3 * 2 children. Five of these end,
    # and the sixth gets 6 * 2: 2 + 5 + 12.
    assert reachable_leaves(BranchingRules(), [2, 1, 0], segment_length=4) == 19
    assert reachable_leaves(BranchingRules(divergence=(1, 1)), [3, 3], segment_length=4) == 1 + 1 + 1 + 2
    assert reachable_leaves(BranchingRules(), [0, 0], segment_length=4) == 2
    # With two children each at most: 4 + 2 + 1.
    assert reachable_leaves(BranchingRules(max_divergence=2), [2, 1, 0], segment_length=4) == 7
    # Two segments a level, three levels to come: 6.
    rules = BranchingRules(budget=Budget.LEVEL_TOKENS, level_tokens=8)
    assert reachable_leaves(rules, [2, 1], segment_length=4) == 6
    assert reachable_leaves(BranchingRules(), [], segment_length=4) == 0


def test_weights_are_the_softmax_of_the_values():
    paths = [SimpleNamespace(score=value) for value in (-1.0, -2.0, -1.5)]
    high = GivenScore(BranchingRules(temperature=0.5))._weights(paths)
    assert [weight / sum(high) for weight in high] == pytest.approx(
        [1 / (1 + math.exp(-2) + math.exp(-1)), math.exp(-2) / (1 + math.exp(-2) + math.exp(-1)), 0.2447284710547977]
    )
    low = GivenScore(BranchingRules(temperature=0.5, favor=Favor.LOW))._weights(paths)
    assert low == pytest.approx([math.exp(-2), 1.0, math.exp(-1)])
    far = [SimpleNamespace(score=-9000.0), SimpleNamespace(score=-1.0)]
    assert GivenScore(BranchingRules())._weights(far) == [0.0, 1.0]


def test_remainders_go_to_paths_drawn_at_random():
    rng = random.Random(0)
    shares = Counter(tuple(allocate(8, [1.0] * 3, most=None, rng=rng)) for _ in range(3000))
    # 8 = 2 + 3 + 3: each path gets the small share about 1000 times; 5 sigma = 130
    assert set(shares) == {(2, 3, 3), (3, 2, 3), (3, 3, 2)}
    assert all(870 < count < 1130 for count in shares.values())
    # Each pair of four paths gets the two leftover children about 500 times; 5 sigma = 102
    shares = Counter(tuple(allocate(6, [1.0] * 4, most=None, rng=rng)) for _ in range(3000))
    assert len(shares) == 6
    assert all(398 < count < 602 for count in shares.values())


def test_expected_shares_are_the_exact_ones():
    # One child each; the 5 others in proportion 4 : 3 : 1, that is 2.5, 1.875 and 0.625.
    rng, sums = random.Random(1), [0, 0, 0]
    for _ in range(8000):
        shares = allocate(8, [4.0, 3.0, 1.0], most=None, rng=rng)
        assert shares[0] in (3, 4) and shares[1] in (2, 3) and shares[2] in (1, 2)
        sums = [total + share for total, share in zip(sums, shares, strict=True)]
    # 5 sigma of a mean of draws from two neighboring integers: 5 * 0.5 / sqrt(8000) = 0.028
    assert [total / 8000 for total in sums] == pytest.approx([3.5, 2.875, 1.625], abs=0.028)


@given(
    st.lists(st.floats(0, 5), min_size=1, max_size=9),
    st.integers(0, 30),
    st.one_of(st.none(), st.integers(1, 6)),
    st.integers(0, 99),
)
def test_shares_add_up_and_leave_nobody_out_or_above_the_limit(weights, extra, most, seed):
    total = len(weights) + extra
    shares = allocate(total, weights, most=most, rng=random.Random(seed))
    assert min(shares) >= 1
    if most is None:
        assert sum(shares) == total
    else:
        assert max(shares) <= most
        assert sum(shares) == min(total, most * len(weights))
