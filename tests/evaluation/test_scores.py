# SPDX-License-Identifier: Apache-2.0
"""mean@n, pass@k, maj@k and their intervals against manual calculation and enumeration of all subsets."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.example_counts import examples
from recipe.treepo.evaluation.scores import Interval, bootstrap, majority_at_k, pass_at_k
from recipe.treepo.evaluation.votes import count_votes


@pytest.mark.parametrize(
    ("n", "correct", "k", "expected"),
    [
        (4, 1, 1, 0.25),
        (4, 1, 2, 0.5),  # 3 of the 6 pairs include the correct one
        (4, 2, 2, 5 / 6),  # only one pair includes none
        (4, 3, 2, 1.0),  # no pair has two wrong ones
        (5, 0, 3, 0.0),
        (5, 5, 1, 1.0),
        (8, 1, 8, 1.0),
    ],
)
def test_pass_at_k_by_hand(n, correct, k, expected):
    assert pass_at_k(n, correct, k) == pytest.approx(expected, abs=1e-15)


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_one(correct, data):
    k = data.draw(st.integers(1, len(correct)))
    subsets = list(combinations(correct, k))
    assert pass_at_k(len(correct), sum(correct), k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


@pytest.mark.parametrize(
    ("votes", "values", "k", "expected"),
    [
        # A, A, B with A correct: pairs AA, AB, AB: 1 + 1/2 + 1/2 of 3
        ([0, 0, 1], [1, 1, 0], 2, 2 / 3),
        ([0, 0, 1], [1, 1, 0], 3, 1.0),
        ([0, 0, 1], [1, 1, 0], 1, 2 / 3),
        # the correct one loses to two equal ones, and ties with two different ones
        ([0, 1, 1], [1, 0, 0], 3, 0.0),
        ([0, 1, 2], [1, 0, 0], 3, 1 / 3),
        # without answers: pairs (-, 0) x 2 and (-, -): 1, 1, 0
        ([None, None, 0], [0, 0, 1], 2, 2 / 3),
        ([None, None], [0, 0], 2, 0.0),
        # one answer with different scores (for its format) counts with their mean
        ([0, 0], [1, 0], 2, 0.5),
        ([3], [1], 1, 1.0),
    ],
)
def test_majority_by_hand(votes, values, k, expected):
    assert majority_at_k(votes, values, k) == pytest.approx(expected, abs=1e-15)


def majority_by_enumeration(votes, values, k):
    worth = {}
    for vote in {vote for vote in votes if vote is not None}:
        own = [value for other, value in zip(votes, values, strict=True) if other == vote]
        worth[vote] = sum(own) / len(own)
    results = []
    for chosen in combinations(range(len(votes)), k):
        cast = [votes[place] for place in chosen if votes[place] is not None]
        most = max((cast.count(vote) for vote in cast), default=0)
        winners = [vote for vote in set(cast) if cast.count(vote) == most]
        results.append(sum(worth[vote] for vote in winners) / len(winners) if winners else 0.0)
    return sum(results) / len(results)


@examples(short=300, long=1000)
@given(
    st.lists(st.tuples(st.sampled_from([None, 0, 1, 2, 3]), st.sampled_from([0.0, 1.0])), min_size=1, max_size=9),
    st.data(),
)
def test_majority_agrees_with_all_subsets(trajectories, data):
    votes, values = map(list, zip(*trajectories, strict=True))
    k = data.draw(st.integers(1, len(votes)))
    assert majority_at_k(votes, values, k) == pytest.approx(majority_by_enumeration(votes, values, k), abs=1e-12)


def test_majority_of_64_takes_no_enumeration():
    # 24 for the right answer, 20 for a wrong one, 20 different ones: at k = n the right one wins for certain
    votes = [0] * 24 + [1] * 20 + list(range(2, 22))
    values = [1.0] * 24 + [0.0] * 40
    assert majority_at_k(votes, values, 64) == 1.0
    assert majority_at_k(votes, values, 1) == pytest.approx(24 / 64)
    assert 24 / 64 < majority_at_k(votes, values, 32) < 1.0


def test_large_numbers_are_exact_and_quick():
    # all answers different, one right: it is in a draw of k with probability k/n, and then wins with probability 1/k
    n = 600
    for k in (1, 64, n):
        assert majority_at_k(range(n), [1.0] + [0.0] * (n - 1), k) == pytest.approx(1 / n, rel=1e-12)
    # more than floats can hold: comb(1200, 600) is above 1e308
    votes = [0] * 700 + [1] * 500
    assert majority_at_k(votes, [1.0] * 700 + [0.0] * 500, 600) == pytest.approx(1.0, abs=1e-6)


def test_a_constant_has_an_interval_without_width():
    (interval,) = bootstrap({"a": np.full((10, 1), 0.1)}, resamples=200, confidence=0.95, seed=0)["a"]
    assert interval.low == pytest.approx(0.1) and interval.high == pytest.approx(0.1)


def test_bootstrap_means_are_exact_and_intervals_hold_them():
    values = {"a": np.array([[1.0, 0.0], [0.0, 0.0]]), "b": np.array([[1.0, 0.5]] * 3)}
    found = bootstrap(values, resamples=500, confidence=0.9, seed=0)
    # no spread within b; in a the mean of two draws from {0, 1} is 0, 1/2 or 1 with probabilities 1/4, 1/2, 1/4
    assert found["b"] == [Interval(1.0, 1.0, 1.0), Interval(0.5, 0.5, 0.5)]
    assert found["a"] == [Interval(0.5, 0.0, 1.0), Interval(0.0, 0.0, 0.0)]
    # unweighted mean over the sets
    assert found["overall"] == [Interval(0.75, 0.5, 1.0), Interval(0.25, 0.25, 0.25)]


def test_bootstrap_intervals_are_those_of_the_binomial():
    # The mean of 100 draws from half ones, half zeros: standard deviation 0.05, so 95 % lie within 0.098 of 1/2.
    values = {"a": np.repeat([[0.0], [1.0]], 50, axis=0)}
    (interval,) = bootstrap(values, resamples=20_000, confidence=0.95, seed=1)["a"]
    assert interval.value == 0.5
    assert interval.low == pytest.approx(0.4, abs=0.011) and interval.high == pytest.approx(0.6, abs=0.011)


def test_answers_vote_together_by_text_then_by_meaning_and_right_ones_always():
    compared = []

    def same(first, second):
        compared.append((first, second))
        return {first, second} == {"1/2", "0.5"}

    answers = ["7", None, " 7 ", "1/2", "0.5", "seven", "", "$8$", "8"]
    correct = [False, False, False, False, False, True, False, True, False]
    #           7     -     7     1/2   = 1/2  right  -   right  wrong 8 although the right one reads 8
    assert count_votes(answers, correct, same) == [0, None, 0, 1, 1, 2, None, 2, 3]
    assert compared == [("7", "1/2"), ("7", "0.5"), ("1/2", "0.5"), ("7", "8"), ("1/2", "8")]


def test_long_answers_are_not_normalized():
    long = "x " * 5_000
    assert count_votes([long, long, long + "y"], [False] * 3, lambda first, second: False) == [0, 0, 1]
