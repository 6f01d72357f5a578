# SPDX-License-Identifier: Apache-2.0
"""Rules of branching, and the shares of a level's budget (TreePO, section 2.2).

The shares are classes that satisfy :class:`recipe.treepo.policies.Branching`. The budgets are in ``budgets.py``.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from recipe.treepo.policies import PathView, PolicyContext


class Budget(StrEnum):
    """Limit on the number of segments of the next level."""

    TRANSFER = "transfer"  # divergence per path of the level; the share of stopped paths goes to the open ones
    LEVEL_TOKENS = "level_tokens"  # a limit on the tokens of each level of a prompt
    TOTAL_TOKENS = "total_tokens"  # like transfer; the width follows from a limit on response tokens per prompt


class Share(StrEnum):
    """Score that decides a path's share of its level's budget."""

    EVEN = "even"
    PATH_SUM = "path_sum"  # log-probability of the path
    PATH_MEAN = "path_mean"  # the same per token
    SEGMENT_SUM = "segment_sum"  # log-probability of the path's last segment
    SEGMENT_MEAN = "segment_mean"  # the same per token
    ENTROPY = "entropy"  # estimated entropy per token of the last segment
    SCORE = "score"  # score by treepo.score


class Favor(StrEnum):
    """End of the score scale that gets more children."""

    HIGH = "high"
    LOW = "low"


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchingRules:
    """Branching of a tree.

    Attributes:
        budget: Limit on the number of segments of the next level.
        divergence: Lowest and highest number of children per path, drawn for every level (in a search by path, for
            every path).
        init_divergence: Lowest and highest number of children of the root, drawn for every prompt. None for half of the
            width, rounded up.
        max_divergence: Maximum children of a node below the root, None for no limit.
        level_tokens: With LEVEL_TOKENS, maximum tokens of the segments of one level.
        total_tokens: With TOTAL_TOKENS, maximum response tokens of all trajectories of a prompt.
        min_width: With TOTAL_TOKENS, minimum trajectories of a prompt.
        share: Score that decides a path's share.
        favor: End of the score scale that gets more children.
        temperature: Temperature of the softmax over the scores; above 0.
    """

    budget: Budget = Budget.TRANSFER
    divergence: tuple[int, int] = (2, 2)
    init_divergence: tuple[int, int] | None = None
    max_divergence: int | None = None
    level_tokens: int | None = None
    total_tokens: int | None = None
    min_width: int | None = None
    share: Share = Share.EVEN
    favor: Favor = Favor.HIGH
    temperature: float = 1.0

    def root_children(self, width: int) -> tuple[int, int]:
        """Return the lowest and highest number of children of the root for a tree of this width."""
        half = -(-width // 2)
        return self.init_divergence or (half, half)


class EvenBranching:
    """Equal shares."""

    def __init__(self, rules: BranchingRules) -> None:
        self._rules = rules

    def children(self, paths: Sequence[PathView], room: int, context: PolicyContext) -> list[int]:
        """See :class:`recipe.treepo.policies.Branching`; every path has at least one child."""
        return allocate(room, self._weights(paths), most=self._rules.max_divergence, rng=context.rng)

    def _weights(self, paths: Sequence[PathView]) -> list[float]:
        return [1.0] * len(paths)


class ScoredBranching(EvenBranching):
    """Shares by a softmax of scores at the rules' temperature; of negated scores if low ones are favored."""

    def value(self, path: PathView) -> float:
        """Return the score of a path."""
        raise NotImplementedError

    def _weights(self, paths: Sequence[PathView]) -> list[float]:
        sign = 1.0 if self._rules.favor is Favor.HIGH else -1.0
        return softmax_weights([sign * self.value(path) / self._rules.temperature for path in paths])


class PathSum(ScoredBranching):
    """Log-probability of the path."""

    def value(self, path: PathView) -> float:
        """Return the sum over all tokens; those of replies have 0."""
        return sum(path.logprobs)


class PathMean(ScoredBranching):
    """Log-probability per token of the path that the model generated."""

    def value(self, path: PathView) -> float:
        """Return the mean over the generated tokens."""
        return sum(path.logprobs) / sum(path.response_mask)


class SegmentSum(ScoredBranching):
    """Log-probability of the last segment."""

    def value(self, path: PathView) -> float:
        """Return the sum over the segment."""
        return sum(path.segment_logprobs)


class SegmentMean(ScoredBranching):
    """Log-probability per token of the last segment."""

    def value(self, path: PathView) -> float:
        """Return the mean over the segment."""
        return sum(path.segment_logprobs) / len(path.segment_logprobs)


class SegmentEntropy(SegmentMean):
    """Estimated entropy per token of the last segment.

    The mean of -log p over sampled tokens is an unbiased estimate of the mean entropy; servers return the
    log-probability of the sampled token only.
    """

    def value(self, path: PathView) -> float:
        """Return the estimate."""
        return -super().value(path)


def score_of(path: PathView) -> float:
    """Return the score of a path by ``treepo.score``."""
    assert path.score is not None, f"path {path.name} has no score"
    return path.score


class GivenScore(ScoredBranching):
    """Score by ``treepo.score``."""

    def value(self, path: PathView) -> float:
        """Return the score."""
        return score_of(path)


BRANCHINGS: Mapping[Share, type[EvenBranching]] = {
    Share.EVEN: EvenBranching,
    Share.PATH_SUM: PathSum,
    Share.PATH_MEAN: PathMean,
    Share.SEGMENT_SUM: SegmentSum,
    Share.SEGMENT_MEAN: SegmentMean,
    Share.ENTROPY: SegmentEntropy,
    Share.SCORE: GivenScore,
}


def softmax_weights(scores: Sequence[float]) -> list[float]:
    """Return weights proportional to the softmax of ``scores``, scaled to a maximum of 1."""
    highest = max(scores)
    return [math.exp(score - highest) for score in scores]


def allocate(total: int, weights: Sequence[float], *, most: int | None, rng: random.Random) -> list[int]:
    """Allocate ``total`` children to open paths: one each, the rest in proportion to the weights.

    The integer part of a share is certain. The remainder is drawn so that each path's expected share is exact. A path
    with ``most`` children leaves the rest to the others. If all paths have ``most``, the rest is not allocated.

    Args:
        total: Number of children, at least one per path.
        weights: Nonnegative weights; equal weights share evenly.
        most: Maximum children of a path, None for no limit.
        rng: Random generator for the remainders.
    """
    assert total >= len(weights) > 0, f"{total} children are too few for {len(weights)} open paths"
    shares = [1] * len(weights)
    rest = total - len(weights)
    while rest > 0:
        takers = [path for path, share in enumerate(shares) if most is None or share < most]
        if not takers:
            break
        scale = sum(weights[path] for path in takers)
        exact = [rest * weights[path] / scale if scale > 0 else rest / len(takers) for path in takers]
        for path, extra in zip(takers, _round_at_random(exact, rest, rng), strict=True):
            taken = extra if most is None else min(extra, most - shares[path])
            shares[path] += taken
            rest -= taken
    return shares


def _round_at_random(exact: Sequence[float], total: int, rng: random.Random) -> list[int]:
    """Randomly round to integers with the same sum; each expected value stays exact (systematic sampling).

    The numbers are laid end to end in a random order and marked at a distance of one from a random start. Each number
    becomes its count of marks.
    """
    order = list(range(len(exact)))
    rng.shuffle(order)
    shares, mark, position, given = [0] * len(exact), rng.random(), 0.0, 0
    for rank, path in enumerate(order):
        position += exact[path]
        # The last number absorbs the floating-point error of the sum.
        count = total - given if rank == len(order) - 1 else min(total, max(0, math.ceil(position - mark))) - given
        shares[path] = count
        given += count
    return shares
