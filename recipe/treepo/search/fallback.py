# SPDX-License-Identifier: Apache-2.0
"""Choice of resume points for leftover width (TreePO, section 2.2, fallback)."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import cycle, islice

from recipe.treepo.search.branching import softmax_weights
from recipe.treepo.search.node import Node
from recipe.treepo.search.stopping import SELF_ENDED, FinishReason
from recipe.treepo.search.tree import Tree


class FallbackStart(StrEnum):
    """Time at which leftover width resumes from finished paths."""

    EARLY = "early"  # as soon as the open paths can no longer fill the width
    DRY = "dry"  # when no path of the prompt is open (as published)


class PathOrder(StrEnum):
    """Order in which finished paths are resumed."""

    RANDOM = "random"
    ANSWERED_FIRST = "answered_first"  # by finish reason, best first
    ANSWERED_FIRST_SOFT = "answered_first_soft"  # drawn without replacement, better reasons more likely (Gumbel top-k)
    LONGER_FIRST = "longer_first"


class PointRule(StrEnum):
    """Position on the path at which sampling resumes."""

    BOUNDARY = "boundary"  # a random segment boundary
    LEAST_LIKELY_TOKEN = "least_likely_token"  # before the token with the lowest log-probability
    LIKELY_BLOCK = "likely_block"  # before a block of tokens, drawn by softmax of its mean log-probability
    UNLIKELY_BLOCK = "unlikely_block"  # the same, favoring low log-probability
    ROOT = "root"  # the end of the prompt


# Rank of each reason for answered_first, and its weight for answered_first_soft.
REASON_RANK = {
    FinishReason.ANSWER: 6,
    FinishReason.EOS: 5,
    FinishReason.STOP: 4,
    FinishReason.INTERACTION: 4,
    FinishReason.LENGTH: 3,
    FinishReason.DEPTH: 2,
    FinishReason.TURNS: 2,
    FinishReason.REPETITION: 1,
    FinishReason.ERROR: 1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackRules:
    """Fallback of a tree.

    Attributes:
        start: Time at which fallback begins.
        order: Order in which finished paths are resumed.
        self_ended_only: Whether to skip paths that were cut or failed (length, depth, turns, repetition, error).
        min_segments: Minimum segments of a resumed path.
        point: Position on the path at which sampling resumes.
        window: Maximum segments of the path that are sampled again, None for no limit.
        block_length: Tokens of a block.
    """

    start: FallbackStart = FallbackStart.EARLY
    order: PathOrder = PathOrder.RANDOM
    self_ended_only: bool = False
    min_segments: int = 1
    point: PointRule = PointRule.BOUNDARY
    window: int | None = None
    block_length: int = 128


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Resume point of one path: response token ``offset`` of ``leaf``'s path, or the root if ``leaf`` is None."""

    leaf: int | None
    offset: int


def choose_resume_points(
    tree: Tree, leaves: Sequence[int], count: int, rules: FallbackRules, rng: random.Random
) -> list[ResumePoint]:
    """Choose ``count`` resume points.

    The finished paths are ordered and taken in turn, repeatedly if there are fewer than ``count``. The point on each is
    drawn independently. If no path is eligible, all resume at the root.

    Args:
        tree: Tree that holds the paths.
        leaves: Leaves of the finished paths, in a deterministic order.
        count: Number of missing trajectories.
        rules: Fallback rules.
        rng: Random generator for all draws.
    """
    eligible = [leaf for leaf in leaves if _may_be_chosen(tree.nodes[leaf], rules)]
    if not eligible:
        return [ResumePoint(None, 0)] * count
    ordered = _order(tree, eligible, rules.order, rng)
    return [ResumePoint(leaf, _resume_offset(tree, leaf, rules, rng)) for leaf in islice(cycle(ordered), count)]


def _may_be_chosen(leaf: Node, rules: FallbackRules) -> bool:
    if rules.self_ended_only and leaf.finish_reason not in SELF_ENDED:
        return False
    return leaf.depth >= rules.min_segments


def _order(tree: Tree, leaves: list[int], order: PathOrder, rng: random.Random) -> list[int]:
    shuffled = rng.sample(leaves, len(leaves))

    def rank(leaf: int) -> int:
        reason = tree.nodes[leaf].finish_reason
        assert reason is not None
        return REASON_RANK[reason]

    match order:
        case PathOrder.RANDOM:
            return shuffled
        case PathOrder.ANSWERED_FIRST:
            return sorted(shuffled, key=rank, reverse=True)
        case PathOrder.ANSWERED_FIRST_SOFT:
            return sorted(shuffled, key=lambda leaf: math.log(rank(leaf)) + _gumbel(rng), reverse=True)
        case PathOrder.LONGER_FIRST:
            return sorted(shuffled, key=lambda leaf: tree.nodes[leaf].end, reverse=True)


def _gumbel(rng: random.Random) -> float:
    """Draw from the standard Gumbel distribution.

    The maximum of log-weights plus such draws is a draw in proportion to the weights.
    """
    return -math.log(-math.log(1.0 - rng.random()) or math.ulp(0.0))


def _resume_offset(tree: Tree, leaf: int, rules: FallbackRules, rng: random.Random) -> int:
    """Draw the response token of a path at which sampling resumes; the tokens before it are kept."""
    if rules.point is PointRule.ROOT:
        return 0
    boundaries = _boundaries(tree, leaf, rules.window)
    if rules.point is PointRule.BOUNDARY:
        return rng.choice(boundaries)
    first, path = boundaries[0], tree.path(leaf)
    logprobs, generated = path.response_logprobs, [token for token, mask in enumerate(path.response_mask) if mask]
    if rules.point is PointRule.LEAST_LIKELY_TOKEN:
        return min((token for token in generated if token >= first), key=logprobs.__getitem__)
    blocks = [generated[start : start + rules.block_length] for start in range(0, len(generated), rules.block_length)]
    blocks = [block for block in blocks if block[0] >= first] or [[token for token in generated if token >= first]]
    sign = 1.0 if rules.point is PointRule.LIKELY_BLOCK else -1.0
    means = [sum(logprobs[token] for token in block) / len(block) for block in blocks]
    return rng.choices(blocks, softmax_weights([sign * mean for mean in means]))[0][0]


def _boundaries(tree: Tree, leaf: int, window: int | None) -> list[int]:
    """Return the offsets at which a path's segments begin, only those of the last ``window`` segments if set."""
    before_first = 0 if window is None else tree.nodes[leaf].depth - window
    return [node.offset for node in tree.path(leaf).segment_starts if node.depth > before_first]
