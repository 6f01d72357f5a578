# SPDX-License-Identifier: Apache-2.0
"""Number of children of the open paths of a tree, and their distribution (TreePO, section 2)."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Budget(StrEnum):
    """Limit on the number of segments of the next level."""

    TRANSFER = "transfer"  # divergence for each path of the level; what stopped paths leave goes to the open ones
    LEVEL_TOKENS = "level_tokens"  # a number of tokens for each level of a prompt
    TOTAL_TOKENS = "total_tokens"  # like transfer, and the width follows from a number of response tokens per prompt


class Share(StrEnum):
    """Score that decides a path's share of its level's budget."""

    EVEN = "even"
    PATH_SUM = "path_sum"  # log-probability of the path
    PATH_MEAN = "path_mean"  # the same per token
    SEGMENT_SUM = "segment_sum"  # log-probability of the path's last segment
    SEGMENT_MEAN = "segment_mean"  # the same per token
    ENTROPY = "entropy"  # estimated entropy per token of the last segment


class Favor(StrEnum):
    """Which end of the scale gets more children."""

    HIGH = "high"
    LOW = "low"


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchingRules:
    """Branching of a tree.

    Attributes:
        budget: Limit on the number of segments of the next level.
        divergence: Lowest and highest number of children per path, drawn for every level (in a search by path, for
            every path).
        init_divergence: Lowest and highest number of children of the root, drawn for every prompt.
        max_divergence: Most children of a node below the root, None for no limit.
        level_tokens: With LEVEL_TOKENS, most tokens of the segments of one level.
        total_tokens: With TOTAL_TOKENS, most response tokens of all trajectories of a prompt.
        min_width: With TOTAL_TOKENS, fewest trajectories of a prompt.
        share: Score that decides a path's share.
        favor: Whether high or low values get more.
        temperature: Temperature of the softmax over the scores; above 0.
    """

    budget: Budget = Budget.TRANSFER
    divergence: tuple[int, int] = (2, 2)
    init_divergence: tuple[int, int] = (2, 2)
    max_divergence: int | None = None
    level_tokens: int | None = None
    total_tokens: int | None = None
    min_width: int | None = None
    share: Share = Share.EVEN
    favor: Favor = Favor.HIGH
    temperature: float = 1.0


def level_limit(rules: BranchingRules, *, level_size: int, segment_length: int, rng: random.Random) -> int:
    """Return how many segments the next level of a tree may have before width is taken into account.

    Args:
        rules: Of a search by level.
        level_size: Paths of the level that was just sampled, the ones that ended at it included: what those leave is
            thus transferred to the open ones.
        segment_length: Most tokens of a segment.
        rng: For the divergence of the level.
    """
    if rules.budget is Budget.LEVEL_TOKENS:
        assert rules.level_tokens is not None
        # Where single rows ask for conversations, whose segments are longer, the budget need not hold one.
        return max(1, rules.level_tokens // segment_length)
    return rng.randint(*rules.divergence) * level_size


def width_within(
    rules: BranchingRules, *, width: int, finished: int, finished_tokens: int, response_length: int
) -> int:
    """Return the number of trajectories of a prompt, as far as it is known.

    With TOTAL_TOKENS each trajectory that has not ended is counted with the tokens that it may still come to, so the
    number grows as trajectories turn out shorter, never shrinks, and the budget is never exceeded.

    Args:
        rules: With any other budget the answer is ``width``.
        width: Most trajectories of the prompt.
        finished: Trajectories that have ended.
        finished_tokens: Their response tokens in all, shared ones counted for each.
        response_length: Most tokens of a response.
    """
    if rules.budget is not Budget.TOTAL_TOKENS:
        return width
    assert rules.total_tokens is not None and rules.min_width is not None
    affordable = finished + max(0, rules.total_tokens - finished_tokens) // response_length
    return min(width, max(rules.min_width, affordable))


def reachable_leaves(rules: BranchingRules, levels_left: Sequence[int], *, segment_length: int) -> int:
    """Return an upper bound of the trajectories that branches can become by branching further.

    Args:
        rules: Of a search by level.
        levels_left: For each branch, the segments that may follow the one that it is to sample.
        segment_length: Most tokens of a segment.
    """
    if not levels_left:
        return 0
    if rules.budget is Budget.LEVEL_TOKENS:
        assert rules.level_tokens is not None
        bound = (rules.level_tokens // segment_length) * (max(levels_left) + 1)
    else:
        # The most come out if all but one path of each level end there, and what they leave goes to that one.
        most, levels = rules.divergence[1], max(levels_left)
        bound = len(levels_left) * sum(most**level for level in range(levels + 1)) - levels
    if rules.max_divergence is not None:
        bound = min(bound, sum(rules.max_divergence**left for left in levels_left))
    return max(bound, len(levels_left))


def share_weights(values: Sequence[float], rules: BranchingRules) -> list[float]:
    """Return the softmax of ``values``, upside down where low ones are favored."""
    sign = 1.0 if rules.favor is Favor.HIGH else -1.0
    return softmax_weights([sign * value / rules.temperature for value in values])


def softmax_weights(scores: Sequence[float]) -> list[float]:
    """Return weights in proportion to the softmax of ``scores``, the largest of them 1."""
    highest = max(scores)
    return [math.exp(score - highest) for score in scores]


def allocate(total: int, weights: Sequence[float], *, most: int | None, rng: random.Random) -> list[int]:
    """Allocate ``total`` children to open paths: one each, the rest in proportion to the weights.

    Whole parts are certain; the remainder is drawn so that each path's expected share is exact. A path that already has
    ``most`` leaves the rest to the others; children that no path may take are not allocated.

    Args:
        total: Children to give, at least one per path.
        weights: Not negative; equal ones share evenly.
        most: Most children of a path, None for no limit.
        rng: For the remainders.
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

    The numbers are laid end to end in a random order; each gets the marks, one apart from a random start, that fall on
    it.
    """
    order = list(range(len(exact)))
    rng.shuffle(order)
    shares, mark, position, given = [0] * len(exact), rng.random(), 0.0, 0
    for rank, path in enumerate(order):
        position += exact[path]
        # The last one takes what rounding errors of the sum would lose.
        count = total - given if rank == len(order) - 1 else min(total, max(0, math.ceil(position - mark))) - given
        shares[path] = count
        given += count
    return shares
