# SPDX-License-Identifier: Apache-2.0
"""Budgets: limits on the segments of a level, or on the trajectories of a prompt, in a search by level.

TreePO (section 2.2) has the first; the others are this recipe's.
"""

import random
from collections.abc import Mapping, Sequence

from recipe.treepo.search.branching import BranchingRules, Budget


class Transfer:
    """``divergence`` segments per path of the level; the share of stopped paths goes to the open ones."""

    # Whether the limit also holds for paths that fall back, and for the children that the user's policy gives.
    is_strict = False

    def __init__(self, rules: BranchingRules, segment_length: int) -> None:
        """Make the budget of one tree.

        Args:
            rules: Rules of branching.
            segment_length: Maximum tokens of a segment.
        """
        self._rules, self._segment_length = rules, segment_length

    def segments(self, level_size: int, rng: random.Random) -> int:
        """Return the maximum number of segments of the next level, before the width limits it.

        Args:
            level_size: Number of paths of the level that was just sampled. Ended paths count, so their share goes to
                the open ones.
            rng: Random generator for the level's divergence.
        """
        return rng.randint(*self._rules.divergence) * level_size

    def reachable_leaves(self, levels_left: Sequence[int]) -> int:
        """Return an upper bound of the trajectories that branches can become by branching further.

        Args:
            levels_left: For each branch, the number of segments that may follow its next one.
        """
        if not levels_left:
            return 0
        bound = self._reachable_segments(levels_left)
        if self._rules.max_divergence is not None:
            leaves: int = sum(self._rules.max_divergence**left for left in levels_left)
            bound = min(bound, leaves)
        return max(bound, len(levels_left))

    def _reachable_segments(self, levels_left: Sequence[int]) -> int:
        # Worst case: all but one path of each level end there, and their share goes to that one.
        most, levels = self._rules.divergence[1], max(levels_left)
        segments: int = sum(most**level for level in range(levels + 1))
        return len(levels_left) * segments - levels

    def fewest(self, width: int) -> int:
        """Return the minimum number of trajectories of a prompt."""
        return width

    def trajectories(self, width: int, *, finished: int, finished_tokens: int, response_length: int) -> int:
        """Return the number of trajectories of a prompt, as known so far.

        Args:
            width: Maximum trajectories of the prompt.
            finished: Number of ended trajectories.
            finished_tokens: Sum of their response tokens; shared tokens count once per trajectory.
            response_length: Maximum tokens of a response.
        """
        return width


class LevelTokens(Transfer):
    """A limit on the tokens of each level of a prompt."""

    is_strict = True

    def segments(self, level_size: int, rng: random.Random) -> int:
        """Return as many segments as the limit holds, at least one."""
        # Single rows may be conversations, whose longer segments can exceed the budget.
        return max(1, self._most_segments)

    @property
    def _most_segments(self) -> int:
        assert self._rules.level_tokens is not None
        return self._rules.level_tokens // self._segment_length

    def _reachable_segments(self, levels_left: Sequence[int]) -> int:
        return self._most_segments * (max(levels_left) + 1)


class TotalTokens(Transfer):
    """A limit on the response tokens of all trajectories of a prompt; levels are limited as by :class:`Transfer`.

    The limit is never exceeded if it holds ``min_width`` full responses.
    """

    def fewest(self, width: int) -> int:
        """Return ``min_width``."""
        assert self._rules.min_width is not None
        return min(width, self._rules.min_width)

    def trajectories(self, width: int, *, finished: int, finished_tokens: int, response_length: int) -> int:
        """Return the number that the limit holds if each unfinished trajectory has ``response_length`` tokens.

        It grows when trajectories turn out shorter, and never shrinks.
        """
        assert self._rules.total_tokens is not None
        affordable = finished + max(0, self._rules.total_tokens - finished_tokens) // response_length
        return min(width, max(self.fewest(width), affordable))


BUDGETS: Mapping[Budget, type[Transfer]] = {
    Budget.TRANSFER: Transfer,
    Budget.LEVEL_TOKENS: LevelTokens,
    Budget.TOTAL_TOKENS: TotalTokens,
}


def budget_of(rules: BranchingRules, segment_length: int) -> Transfer:
    """Return the budget that the rules name; ``segment_length``: maximum tokens of a segment."""
    return BUDGETS[rules.budget](rules, segment_length)
