# SPDX-License-Identifier: Apache-2.0
"""What a tree is made of: nodes with their names, and the counters of one search."""

import re
from dataclasses import dataclass, field

from recipe.treepo.interaction import Reply
from recipe.treepo.search.engine import Segment
from recipe.treepo.search.stopping import FinishReason

ROOT = 0


@dataclass(slots=True)
class Node:
    """One exact span of response tokens.

    Attributes:
        index: Number in the tree; the root is 0. Final only once the search has ended (:meth:`Tree.renumber`).
        parent: Number of the parent, -1 for the root.
        key: Name of the node, unique in the tree and the same whenever the same tree is grown again:
            ``0.2`` is the third child of the first child of the root, ``0.2~1`` the second path that fell back from
            there, ``0.2^1`` the second that starts at the root because ``0.2`` left width, ``0.2@37`` the piece of
            ``0.2`` that ends where another path resumed, at response token 37, ``0.2!`` and ``0.2?`` what was sampled
            instead of ``0.2`` after it was given up or dropped, ``0.2+`` what an interaction added after ``0.2``, or
            before it where every branch takes its own step.
        depth: Segments on the path from the root to here, the one that this node belongs to included; 0 for the root.
        offset: Response tokens on the path before this node.
        segment: Tokens and log-probabilities that this node adds; empty for the root. What an interaction added has no
            log-probabilities.
        reply: What an interaction added, None for what the model wrote.
        text: What the node adds to the text of the response; empty where no stopping rule reads text.
        partial: Whether the node ends inside its segment, so that children go on with the same segment.
        turn_over: Whether a turn of a conversation ends here.
        finish_reason: Why the path ends here, None while it does not.
        finish_detail: What the interaction said about it.
        dropped: Whether the path was given up, as too short or because the interaction failed; it ended, but is no
            trajectory.
        children: Numbers of the children.
        branches: Names given out below this node so far.
    """

    index: int
    parent: int
    key: str
    depth: int
    offset: int
    segment: Segment
    reply: Reply | None = None
    text: str = ""
    partial: bool = False
    turn_over: bool = False
    finish_reason: FinishReason | None = None
    finish_detail: str = ""
    dropped: bool = False
    children: list[int] = field(default_factory=list)
    branches: int = 0

    @property
    def end(self) -> int:
        """Response tokens on the path, those of this node included."""
        return self.offset + len(self.segment.token_ids)

    def new_child_key(self) -> str:
        """Name one more child."""
        self.branches += 1
        return f"{self.key}.{self.branches - 1}" if self.key else str(self.branches - 1)

    def new_fallback_key(self) -> str:
        """Name one more path that falls back from here."""
        self.branches += 1
        return f"{self.key}~{self.branches - 1}"


@dataclass(slots=True)
class TreeCounters:
    """What one search cost.

    Attributes:
        engine_calls: Requests that the engine answered.
        failed_calls: Requests that failed, each repetition counted.
        given_up_paths: Paths that were given up because a request failed as often as it may, or the interaction failed.
        dropped_paths: Paths that ended too short.
        decoded_tokens: Tokens that the engine sampled.
        overrun_tokens: The part of them that lay beyond the end of a path and was cut off.
        prompt_tokens: Input tokens of all answered requests, cached ones included.
        cached_tokens: Input tokens that the engine took from its prefix cache, by its own count.
        missing_trajectories: Trajectories that could not be had, because their paths were given up again and again.
        fallbacks: Branches that were started because width was left over.
        steps: Steps that the interaction took.
        failed_steps: Turns after which the interaction failed.
        interaction_seconds: Time that paths spent waiting for the interaction, added up.
        search_seconds: Wall time of the whole search.
        busy_seconds: The part of it in which the search itself worked.
    """

    engine_calls: int = 0
    failed_calls: int = 0
    given_up_paths: int = 0
    dropped_paths: int = 0
    decoded_tokens: int = 0
    overrun_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    missing_trajectories: int = 0
    fallbacks: int = 0
    steps: int = 0
    failed_steps: int = 0
    interaction_seconds: float = 0.0
    search_seconds: float = 0.0
    busy_seconds: float = 0.0


def name_order(key: str) -> tuple[list[int], str]:
    """Return what names are sorted by: their numbers as numbers, so that the tenth child comes after the second."""
    return [int(number) for number in re.findall(r"\d+", key)], key
