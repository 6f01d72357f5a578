# SPDX-License-Identifier: Apache-2.0
import math
import random
from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe.treepo.search.branching import BranchingRules, Favor, GivenScore, allocate


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
