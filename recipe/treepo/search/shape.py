# SPDX-License-Identifier: Apache-2.0
"""The shape of a search: its width, its segments, and the policies that it follows."""

from dataclasses import dataclass, field
from enum import StrEnum

from recipe.treepo.search.branching import BranchingRules
from recipe.treepo.search.fallback import FallbackRules


class SearchKind(StrEnum):
    """When the paths of a tree wait for each other."""

    BY_LEVEL = "by_level"  # the paths of a level do: policies compare them and move width between them
    BY_PATH = "by_path"  # none does: each path branches by itself


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchShape:
    """How a tree grows.

    Attributes:
        width: Trajectories wanted for the prompt; the most, where the budget is a number of response tokens.
        segment_length: Most tokens of a segment; see ``cache_block``.
        search: When paths wait for each other.
        branching: How the tree branches.
        fallback: How it falls back.
        max_segments_per_request: Most segments of one request where nothing can branch, None for no limit.
        cache_block: Tokens of a block of the engine's prefix cache, with which segments are to end; None for segments
            of equal length. For responses of one turn.
        retries: Repeats of a failed request before its path is abandoned.
        retry_seconds: Pause before the first repetition; it doubles each time.
    """

    width: int
    segment_length: int
    search: SearchKind = SearchKind.BY_LEVEL
    branching: BranchingRules = field(default_factory=BranchingRules)
    fallback: FallbackRules = field(default_factory=FallbackRules)
    max_segments_per_request: int | None = None
    cache_block: int | None = None
    retries: int = 0
    retry_seconds: float = 0.5

    @property
    def never_branches(self) -> bool:
        """Whether every path below the root has one child, whatever comes."""
        rules = self.branching
        return rules.max_divergence == 1 or (self.search is SearchKind.BY_PATH and rules.divergence[1] == 1)

    @property
    def longest_segment(self) -> int:
        """Most tokens of a segment, wherever its boundaries are moved to."""
        block = self.cache_block or 1
        # Where blocks fill segments, all boundaries are moved alike, by half a block at most.
        return self.segment_length + (block // 2 if self.segment_length % block == 0 else block - 1)
