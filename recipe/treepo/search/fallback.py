# SPDX-License-Identifier: Apache-2.0
"""Choice of resume points for leftover width (TreePO, section 2.2, fallback).

The orders and the points are a class each; :class:`RuledFallback` joins them.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import cycle, islice

from recipe.treepo.policies import PathView, PolicyContext, Resume
from recipe.treepo.search.branching import score_of, softmax_weights
from recipe.treepo.search.stopping import SELF_ENDED, FinishReason


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
    HIGHER_SCORE_FIRST = "higher_score_first"  # by treepo.score
    LOWER_SCORE_FIRST = "lower_score_first"


SCORE_ORDERS = frozenset({PathOrder.HIGHER_SCORE_FIRST, PathOrder.LOWER_SCORE_FIRST})


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
    FinishReason.CUSTOM: 4,
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


class RandomOrder:
    """Finished paths in a random order."""

    def order(self, paths: Sequence[PathView], rng: random.Random) -> list[PathView]:
        """Return the paths in the order in which they are resumed."""
        return rng.sample(paths, len(paths))


class AnsweredFirst(RandomOrder):
    """Paths by their finish reasons, best first."""

    def order(self, paths: Sequence[PathView], rng: random.Random) -> list[PathView]:
        """See :class:`RandomOrder`."""
        return sorted(super().order(paths, rng), key=rank, reverse=True)


class AnsweredFirstSoft(RandomOrder):
    """Paths drawn without replacement, better reasons more likely (Gumbel top-k)."""

    def order(self, paths: Sequence[PathView], rng: random.Random) -> list[PathView]:
        """See :class:`RandomOrder`."""
        shuffled = super().order(paths, rng)
        return sorted(shuffled, key=lambda path: math.log(rank(path)) + _gumbel(rng), reverse=True)


class LongerFirst(RandomOrder):
    """Paths by length, longest first."""

    def order(self, paths: Sequence[PathView], rng: random.Random) -> list[PathView]:
        """See :class:`RandomOrder`."""
        return sorted(super().order(paths, rng), key=lambda path: path.length, reverse=True)


class HigherScoreFirst(RandomOrder):
    """Paths by their score (``treepo.score``), highest first."""

    sign = -1.0

    def order(self, paths: Sequence[PathView], rng: random.Random) -> list[PathView]:
        """See :class:`RandomOrder`."""
        return sorted(super().order(paths, rng), key=lambda path: self.sign * score_of(path))


class LowerScoreFirst(HigherScoreFirst):
    """Paths by their score, lowest first."""

    sign = 1.0


ORDERS: Mapping[PathOrder, type[RandomOrder]] = {
    PathOrder.RANDOM: RandomOrder,
    PathOrder.ANSWERED_FIRST: AnsweredFirst,
    PathOrder.ANSWERED_FIRST_SOFT: AnsweredFirstSoft,
    PathOrder.LONGER_FIRST: LongerFirst,
    PathOrder.HIGHER_SCORE_FIRST: HigherScoreFirst,
    PathOrder.LOWER_SCORE_FIRST: LowerScoreFirst,
}


def rank(path: PathView) -> int:
    """Return the rank of a path's finish reason."""
    assert path.finish_reason is not None
    return REASON_RANK[FinishReason(path.finish_reason)]


def _gumbel(rng: random.Random) -> float:
    """Draw from the standard Gumbel distribution.

    The maximum of log-weights plus such draws is a draw in proportion to the weights.
    """
    return -math.log(-math.log(1.0 - rng.random()) or math.ulp(0.0))


class BoundaryPoint:
    """A random segment boundary."""

    def __init__(self, rules: FallbackRules) -> None:
        self._window, self._block_length = rules.window, rules.block_length

    def token(self, path: PathView, rng: random.Random) -> int:
        """Return the response token at which sampling resumes; the tokens before it are kept."""
        return rng.choice(self._boundaries(path))

    def _boundaries(self, path: PathView) -> Sequence[int]:
        """Return the boundaries at which the last segments begin, as many as may be sampled again."""
        return path.boundaries if self._window is None else path.boundaries[-self._window :]

    def _generated(self, path: PathView) -> list[int]:
        """Return the generated tokens of the segments that may be sampled again."""
        first = self._boundaries(path)[0]
        return [token for token, mask in enumerate(path.response_mask) if mask and token >= first]


class LeastLikelyToken(BoundaryPoint):
    """Before the token with the lowest log-probability."""

    def token(self, path: PathView, rng: random.Random) -> int:
        """See :class:`BoundaryPoint`."""
        return min(self._generated(path), key=path.logprobs.__getitem__)


class LikelyBlock(BoundaryPoint):
    """Before a block of tokens, drawn by a softmax of its mean log-probability."""

    sign = 1.0

    def token(self, path: PathView, rng: random.Random) -> int:
        """See :class:`BoundaryPoint`."""
        logprobs, generated = path.logprobs, [token for token, mask in enumerate(path.response_mask) if mask]
        first, size = self._boundaries(path)[0], self._block_length
        blocks = [generated[start : start + size] for start in range(0, len(generated), size)]
        blocks = [block for block in blocks if block[0] >= first] or [self._generated(path)]
        means = [sum(logprobs[token] for token in block) / len(block) for block in blocks]
        return rng.choices(blocks, softmax_weights([self.sign * mean for mean in means]))[0][0]


class UnlikelyBlock(LikelyBlock):
    """The same, favoring low log-probability."""

    sign = -1.0


class RootPoint(BoundaryPoint):
    """The end of the prompt."""

    def token(self, path: PathView, rng: random.Random) -> int:
        """See :class:`BoundaryPoint`."""
        return 0


POINTS: Mapping[PointRule, type[BoundaryPoint]] = {
    PointRule.BOUNDARY: BoundaryPoint,
    PointRule.LEAST_LIKELY_TOKEN: LeastLikelyToken,
    PointRule.LIKELY_BLOCK: LikelyBlock,
    PointRule.UNLIKELY_BLOCK: UnlikelyBlock,
    PointRule.ROOT: RootPoint,
}


class RuledFallback:
    """Fallback by an order of the finished paths and a rule for the point; satisfies ``policies.Fallback``."""

    def __init__(self, rules: FallbackRules) -> None:
        self._rules, self._order, self._point = rules, ORDERS[rules.order](), POINTS[rules.point](rules)

    def resume(self, paths: Sequence[PathView], count: int, context: PolicyContext) -> list[Resume]:
        """Choose ``count`` resume points; see :class:`recipe.treepo.policies.Fallback`.

        The finished paths are ordered and taken in turn, repeatedly if there are fewer than ``count``. The point on
        each is drawn independently. If no path is eligible, all resume at the root.
        """
        eligible = [path for path in paths if self._may_be_chosen(path)]
        if not eligible:
            return [Resume(None, 0)] * count
        rng = context.rng
        return [
            Resume(path, self._point.token(path, rng))
            for path in islice(cycle(self._order.order(eligible, rng)), count)
        ]

    def _may_be_chosen(self, path: PathView) -> bool:
        if self._rules.self_ended_only and path.finish_reason not in SELF_ENDED:
            return False
        return path.depth >= self._rules.min_segments
