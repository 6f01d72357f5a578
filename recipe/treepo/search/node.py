# SPDX-License-Identifier: Apache-2.0
"""Nodes of a tree and their names."""

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
        index: Number in the tree; the root is 0. Final once the search has ended (:meth:`Tree.renumber`).
        parent: Number of the parent, -1 for the root.
        key: Name of the node, unique in the tree and the same if the tree is grown again:
            ``0.2`` is the third child of the first child of the root;
            ``0.2~1`` is the second path that fell back from ``0.2``;
            ``0.2^1`` is the second path that restarts at the root with leftover width of ``0.2``;
            ``0.2@37`` is the piece of ``0.2`` before a resume point at response token 37;
            ``0.2!`` and ``0.2?`` are replacements of ``0.2`` after it was abandoned or dropped;
            ``0.2+`` is the reply after ``0.2``, or before it if each branch takes its own step.
        depth: Segments on the path from the root, including this node's; 0 for the root.
        offset: Response tokens on the path before this node.
        segment: Tokens and log-probabilities that this node adds; empty for the root. Replies have no
            log-probabilities.
        reply: Reply of the interaction, None for generated tokens.
        text: Text that the node adds to the response, or the end of it; see :class:`Tree`.
        opens_box: Whether the text of the turn up to here opens a box.
        partial: Whether the node ends inside its segment. Its children then continue the same segment.
        turn_over: Whether a turn of a conversation ends here.
        finish_reason: Reason why the path ends here, None if it does not.
        finish_detail: The interaction's own word for the reason, or the error text.
        dropped: Whether the path ended without becoming a trajectory: too short, pruned, or the interaction failed.
        score: Score of the path up to here by ``treepo.score``, None without one.
        children: Numbers of the children.
        branches: Number of branch names assigned below this node so far.
    """

    index: int
    parent: int
    key: str
    depth: int
    offset: int
    segment: Segment
    reply: Reply | None = None
    text: str = ""
    opens_box: bool = False
    partial: bool = False
    turn_over: bool = False
    finish_reason: FinishReason | None = None
    finish_detail: str = ""
    dropped: bool = False
    score: float | None = None
    children: list[int] = field(default_factory=list)
    branches: int = 0

    @property
    def is_generated(self) -> bool:
        """Whether the model generated the tokens; False for a reply."""
        return self.reply is None

    @property
    def end(self) -> int:
        """Response tokens on the path, including those of this node."""
        return self.offset + len(self.segment.token_ids)

    def new_child_key(self) -> str:
        """Return a name for one more child."""
        self.branches += 1
        return f"{self.key}.{self.branches - 1}" if self.key else str(self.branches - 1)

    def new_fallback_key(self) -> str:
        """Return a name for one more path that falls back from here."""
        self.branches += 1
        return f"{self.key}~{self.branches - 1}"


def name_order(key: str) -> tuple[list[int], str]:
    """Return a sort key that compares the numbers in names as numbers: the tenth child follows the second."""
    return [int(number) for number in re.findall(r"\d+", key)], key
