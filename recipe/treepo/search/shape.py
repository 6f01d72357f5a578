# SPDX-License-Identifier: Apache-2.0
"""Shape of a search: width, segments and policies."""

from dataclasses import dataclass, field
from enum import StrEnum

from recipe.treepo.search.branching import BranchingRules
from recipe.treepo.search.fallback import FallbackRules


class SearchKind(StrEnum):
    """Whether the paths of a level wait for each other."""

    BY_LEVEL = "by_level"  # paths of a level wait for each other: policies compare them and move width
    BY_PATH = "by_path"  # no path waits: each branches by itself


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchShape:
    """Shape of a search: width, segments and policies.

    Attributes:
        width: Trajectories of the prompt; a maximum if the budget limits response tokens.
        segment_length: Tokens of a segment; ``cache_block`` shifts the boundaries.
        search: Whether the paths of a level wait for each other.
        branching: Branching rules.
        fallback: Fallback rules.
        max_segments_per_request: Maximum segments of one request when nothing can branch, None for no limit.
        cache_block: Tokens of a block of the engine's prefix cache, to which boundaries are aligned; None for segments
            of equal length. Not available in conversations.
        retries: Retries of a failed request before its path is abandoned.
        retry_seconds: Pause before the first retry; it doubles each time.
        prune_below: Score below which an open path is pruned, None for no limit.
        prune_above: Score above which an open path is pruned, likewise.
        score_timeout_seconds: Maximum seconds of a score, None for no limit.
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
    prune_below: float | None = None
    prune_above: float | None = None
    score_timeout_seconds: float | None = None

    @property
    def never_branches(self) -> bool:
        """Whether every path below the root always has one child."""
        rules = self.branching
        return rules.max_divergence == 1 or (self.search is SearchKind.BY_PATH and rules.divergence[1] == 1)

    @property
    def longest_segment(self) -> int:
        """Maximum tokens of a segment after its boundaries are shifted."""
        block = self.cache_block or 1
        # If segments are whole blocks, all boundaries shift by the same amount, at most half a block.
        return self.segment_length + (block // 2 if self.segment_length % block == 0 else block - 1)
