# SPDX-License-Identifier: Apache-2.0
"""Summarize the samples of a run: accuracies with intervals, and sampling costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from recipe.treepo.evaluation.records import ProblemResult
from recipe.treepo.evaluation.scores import OVERALL, Interval, bootstrap, majority_at_k, pass_at_k
from recipe.treepo.search.statistics import TreeStatistics

# Fields of TreeStatistics that a report sums over the problems.
COSTS = (
    *("engine_calls", "failed_calls", "decoded_tokens", "overrun_tokens", "computed_prompt_tokens"),
    *("cached_prompt_tokens", "unique_tokens", "total_tokens", "trajectories", "fallbacks"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Results of a run on one data set, or overall.

    Attributes:
        problems: Number of problems.
        mean: Mean accuracy of a trajectory, which does not depend on k.
        passed, majority: pass@k and maj@k, by k.
        costs: Sums over the problems, by name, without those that the engine did not count; ``seconds`` with at least
            one problem in flight, and ``trajectories_per_second``.
        reward_errors: Number of trajectories without a finite score and accuracy, which count as wrong.
    """

    problems: int
    mean: Interval
    passed: dict[int, Interval]
    majority: dict[int, Interval]
    costs: dict[str, float]
    reward_errors: int


def summarize(
    results: Sequence[ProblemResult],
    *,
    n: int,
    ks: Sequence[int],
    sources: Sequence[str],
    resamples: int,
    confidence: float,
    seed: int = 0,
) -> dict[str, Summary]:
    """Return a summary per data set with results, and ``overall`` if all data sets have results.

    Args:
        n: Number of trajectories per problem.
        ks: Values of k for pass@k and maj@k; those above n are ignored.
        sources: Data set names, in the order of the report.
        resamples, confidence, seed: Arguments of :func:`recipe.treepo.evaluation.scores.bootstrap`.
    """
    ks = [k for k in ks if k <= n]
    by_source: dict[str, list[ProblemResult]] = {source: [] for source in sources}
    # Results come in order of completion; the bootstrap must not depend on it.
    for result in sorted(results, key=lambda result: result.row):
        by_source[result.data_source].append(result)
    complete = all(by_source.values())
    by_source = {source: own for source, own in by_source.items() if own}
    values = {source: np.array([_worth(result, n, ks) for result in own]) for source, own in by_source.items()}
    intervals = bootstrap(values, resamples=resamples, confidence=confidence, seed=seed)
    summaries = {}
    for source, (mean, *rest) in intervals.items():
        if source == OVERALL and not complete:
            continue  # a mean over fewer data sets is not comparable with those of other runs
        own = results if source == OVERALL else by_source[source]
        summaries[source] = Summary(
            problems=len(own),
            mean=mean,
            passed=dict(zip(ks, rest[: len(ks)], strict=True)),
            majority=dict(zip(ks, rest[len(ks) :], strict=True)),
            costs=costs_of(own),
            reward_errors=sum(len(errors_of(result)) for result in own),
        )
    return summaries


def errors_of(result: ProblemResult) -> list[str]:
    """Return the values of a problem's trajectories that are not finite, one text per trajectory."""
    return [one.reward_error for one in result.trajectories if one.reward_error is not None]


def _worth(result: ProblemResult, n: int, ks: Sequence[int]) -> list[float]:
    """Return mean@n, pass@k for each k, and maj@k for each k."""
    assert len(result.trajectories) == n, f"{len(result.trajectories)} trajectories instead of {n}"
    votes = [trajectory.vote for trajectory in result.trajectories]
    right = [trajectory.correct for trajectory in result.trajectories]
    return [
        fmean(trajectory.acc for trajectory in result.trajectories),
        *(pass_at_k(n, sum(right), k) for k in ks),
        *(majority_at_k(votes, right, k) for k in ks),
    ]


def costs_of(results: Sequence[ProblemResult]) -> dict[str, float]:
    """Return the known sums of :data:`COSTS`, the seconds and the trajectories per second."""
    total = TreeStatistics.total(result.statistics for result in results)
    sums = {name: number for name in COSTS if (number := getattr(total, name)) is not None}
    seconds = covered([(result.started, result.ended) for result in results])
    return {**sums, "seconds": seconds, "trajectories_per_second": total.trajectories / seconds if seconds else 0.0}


def covered(spans: Sequence[tuple[float, float]]) -> float:
    """Return the length of the union of (start, end) spans, so that pauses between sessions do not count."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Point of a scaling curve: accuracy with k trajectories per problem, and their decoded tokens."""

    k: int
    decoded_tokens: float
    mean: Interval
    passed: Interval
    majority: Interval


def scaling_points(runs: Mapping[int, Summary], *, plain: bool) -> list[Point]:
    """Return the scaling curve of an arm on one data set, with decoded tokens per problem.

    A tree of width k differs from k leaves of a wider tree, so trees give one point per n. For independent samples, the
    largest run gives all points: k of n samples take k/n of its tokens.

    Args:
        runs: Summaries of the arm's runs, by n.
        plain: Whether the samples are independent.
    """
    if plain:
        n = max(runs)
        chosen = [(k, runs[n], k / n) for k in runs[n].passed]
    else:
        chosen = [(n, summary, 1.0) for n, summary in sorted(runs.items())]
    return [
        Point(
            k=k,
            decoded_tokens=share * summary.costs["decoded_tokens"] / summary.problems,
            mean=summary.mean,
            passed=summary.passed[k],
            majority=summary.majority[k],
        )
        for k, summary, share in chosen
    ]
