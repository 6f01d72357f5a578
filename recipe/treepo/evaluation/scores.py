# SPDX-License-Identifier: Apache-2.0
"""What k of n scored trajectories of a problem are worth: mean@n, pass@k, maj@k, and bootstrap intervals; pure numpy.

All three are expectations over the subsets of k of the n trajectories, computed exactly, so that they do not depend on
the order of the trajectories. For independent samples they are unbiased estimates of what k samples give. The
trajectories of a tree are not independent: there they say what k leaves of such a tree give, not a tree of width k.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import comb

import numpy as np

OVERALL = "overall"  # the name under which the mean over the data sets goes


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over problems, with the bounds of its bootstrap interval."""

    value: float
    low: float
    high: float


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Return the chance that one of k trajectories, drawn from n without replacement, is correct.

    Chen et al. 2021 (arXiv 2107.03374, equation 1), in exact integers.
    """
    assert 0 <= correct <= n and 1 <= k <= n, f"{k} of {n} trajectories, {correct} of them correct"
    return 1 - comb(n - correct, k) / comb(n, k)


def majority_at_k(votes: Sequence[int | None], values: Sequence[float], k: int) -> float:
    """Return the expected value of the answer that most of k trajectories give, drawn from n without replacement.

    Ties are broken at random. Trajectories without an answer do not vote; where none of the k votes, the value is 0.

    Args:
        votes: For each trajectory the number of its answer, equal for equal answers; None without an answer.
        values: For each trajectory 1 if it is correct, else 0. An answer is worth the mean of its trajectories.
    """
    n = len(votes)
    assert len(values) == n and 1 <= k <= n, f"{k} of {n} trajectories with {len(values)} values"
    members: dict[int, list[float]] = {}
    for vote, value in zip(votes, values, strict=True):
        if vote is not None:
            members.setdefault(vote, []).append(value)
    sizes = Counter(len(own) for own in members.values())
    silent = n - sum(len(own) for own in members.values())
    total = Fraction(0)
    for own in members.values():
        if worth := Fraction(sum(own)) / len(own):
            total += worth * _winning_draws(len(own), sizes - Counter([len(own)]), silent, k)
    return float(total / comb(n, k))


def _winning_draws(own: int, rivals: Mapping[int, int], silent: int, k: int) -> Fraction:
    """Return in how many of the draws of k an answer of ``own`` trajectories wins; a tie of t answers counts 1/t.

    Args:
        rivals: Number of other answers by their number of trajectories.
        silent: Trajectories without an answer.
    """
    won = Fraction(0)
    for most in range(1, min(own, k) + 1):
        # ways[tied][drawn]: ways to draw from the rivals, `tied` of them exactly `most` times and no one more often.
        ways = {0: [1] + [0] * (k - most)}
        for size, number in rivals.items():
            if size == 1:
                ways = _with_single_rivals(ways, number, most)
            else:
                for _ in range(number):
                    ways = _with_rival(ways, size, most)
        for tied, drawn in ways.items():
            rest = sum(count * comb(silent, k - most - place) for place, count in enumerate(drawn))
            won += Fraction(comb(own, most) * rest, tied + 1)
    return won


def _with_rival(ways: Mapping[int, list[int]], size: int, most: int) -> dict[int, list[int]]:
    """Return the ways with one more rival of ``size`` trajectories, drawn at most ``most`` times."""
    return _extended(ways, [(times, int(times == most), comb(size, times)) for times in range(min(size, most) + 1)])


def _with_single_rivals(ways: Mapping[int, list[int]], number: int, most: int) -> dict[int, list[int]]:
    """Return the ways with ``number`` more rivals of one trajectory each: all different answers are the common case."""
    return _extended(ways, [(drawn, drawn * (most == 1), comb(number, drawn)) for drawn in range(number + 1)])


def _extended(ways: Mapping[int, list[int]], choices: Sequence[tuple[int, int, int]]) -> dict[int, list[int]]:
    """Return the ways after one of ``choices``, (trajectories drawn, rivals tied, number of ways), is taken."""
    room = len(next(iter(ways.values())))
    counts: dict[int, list[int]] = {}
    for tied, before in ways.items():
        for drawn, more_tied, factor in choices:
            if drawn >= room:
                break
            target = counts.setdefault(tied + more_tied, [0] * room)
            for place in range(room - drawn):
                if before[place]:
                    target[place + drawn] += before[place] * factor
    return counts


def bootstrap(
    values: Mapping[str, np.ndarray], *, resamples: int, confidence: float, seed: int
) -> dict[str, list[Interval]]:
    """Return means over problems with percentile intervals from resampled problems, per data set and overall.

    Problems are what is resampled, because the trajectories of one problem are not independent. Data sets keep their
    sizes. ``overall`` is the mean over the data sets, each of the same weight.

    Args:
        values: By name of the data set an array (problems, metrics) with what each problem is worth.
        resamples: Number of resamples, at least 1.
        confidence: Probability between the bounds, in (0, 1).
        seed: Of the resampling.

    Returns:
        By name of the data set, and under ``overall``, an interval for each metric.
    """
    random = np.random.default_rng(seed)
    means, draws = {}, {}
    for name, table in values.items():
        columns = np.ascontiguousarray(table.T)
        means[name] = columns.mean(1)
        # As counts of each problem in a resample: they take less memory than the problems themselves.
        counts = random.multinomial(len(table), np.full(len(table), 1 / len(table)), size=resamples)
        draws[name] = counts @ table / len(table)
    means[OVERALL] = np.mean([means[name] for name in values], axis=0)
    draws[OVERALL] = np.mean([draws[name] for name in values], axis=0)
    tail = (1 - confidence) / 2
    intervals = {}
    for name, mean in means.items():
        low, high = np.quantile(draws[name], [tail, 1 - tail], axis=0)
        intervals[name] = [Interval(*map(float, bounds)) for bounds in zip(mean, low, high, strict=True)]
    return intervals
