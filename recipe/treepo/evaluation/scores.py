# SPDX-License-Identifier: Apache-2.0
"""Compute mean@n, pass@k and maj@k of a problem's trajectories, and bootstrap intervals; NumPy only.

The scores are exact expectations over all subsets of k of the n trajectories, so the order of trajectories has no
effect. For independent samples they are unbiased estimates for k samples. Trajectories of a tree are dependent: their
scores describe k leaves of such a tree, not a tree of width k.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import comb

import numpy as np

OVERALL = "overall"  # name of the mean over the data sets


@dataclass(frozen=True, slots=True)
class Interval:
    """Mean over problems, with the bounds of its bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Return the probability that k trajectories, drawn from n without replacement, include a correct one.

    Chen et al. 2021 (arXiv 2107.03374, equation 1), in exact integers.
    """
    assert 0 <= correct <= n and 1 <= k <= n, f"{k} of {n} trajectories, {correct} of them correct"
    return 1 - comb(n - correct, k) / comb(n, k)


def majority_at_k(votes: Sequence[int | None], values: Sequence[float], k: int) -> float:
    """Return the expected value of the majority answer of k trajectories, drawn from n without replacement.

    Ties are broken at random. Trajectories without an answer do not vote; without any vote the value is 0.

    Args:
        votes: Answer index of each trajectory, equal for equal answers; None without an answer.
        values: 1 for each correct trajectory, else 0. The value of an answer is the mean over its trajectories.
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
    """Count the draws of k in which an answer with ``own`` trajectories wins; a tie of t answers counts 1/t.

    Args:
        rivals: Number of other answers, by number of trajectories.
        silent: Number of trajectories without an answer.
    """
    won = Fraction(0)
    for most in range(1, min(own, k) + 1):
        # ways[tied][drawn]: ways to draw `drawn` of the rivals' trajectories, `tied` rivals `most` times and none more.
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
    """Add one rival with ``size`` trajectories, drawn at most ``most`` times."""
    return _extended(ways, [(times, int(times == most), comb(size, times)) for times in range(min(size, most) + 1)])


def _with_single_rivals(ways: Mapping[int, list[int]], number: int, most: int) -> dict[int, list[int]]:
    """Add ``number`` rivals with one trajectory each in one pass, because such rivals are common."""
    return _extended(ways, [(drawn, drawn * (most == 1), comb(number, drawn)) for drawn in range(number + 1)])


def _extended(ways: Mapping[int, list[int]], choices: Sequence[tuple[int, int, int]]) -> dict[int, list[int]]:
    """Combine the ways with ``choices`` of (trajectories drawn, rivals tied, number of ways)."""
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
    """Return means over problems with bootstrap percentile intervals, per data set and overall.

    The bootstrap resamples problems, because trajectories of one problem are dependent. Data sets keep their sizes.
    ``overall`` is the unweighted mean over the data sets.

    Args:
        values: Metrics of each problem, an array (problems, metrics) per data set name.
        resamples: Number of resamples, at least 1.
        confidence: Probability between the bounds, in (0, 1).
        seed: Seed of the resampling.

    Returns:
        One interval per metric, by data set name and under ``overall``.
    """
    random = np.random.default_rng(seed)
    means, draws = {}, {}
    for name, table in values.items():
        columns = np.ascontiguousarray(table.T)
        means[name] = columns.mean(1)
        # Counts of each problem per resample take less memory than the resampled problems.
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
