# SPDX-License-Identifier: Apache-2.0
"""Read-only views of the paths of a tree."""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Protocol

from recipe.treepo.answers.boxes import BOX
from recipe.treepo.interaction import Reply
from recipe.treepo.search.engine import tokens
from recipe.treepo.search.node import Node, name_order


class PathSource(Protocol):
    """What a path needs of its tree.

    Attributes:
        nodes: All nodes by number.
        prompt: Tokens of the prompt.
        decode: Decoder of text without special tokens, None if nothing reads text.
        keeps_text: Whether the nodes have the whole text.
        finds_boxes: Whether the nodes know if a box is open.
    """

    nodes: list[Node]
    prompt: "array[int]"
    decode: Callable[[list[int]], str] | None
    keeps_text: bool
    finds_boxes: bool


class Path:
    """Nodes from the root to one node, valid until the tree changes; walked only as far as needed.

    Policies see it as a :class:`recipe.treepo.policies.PathView`.

    Attributes:
        last: The node at which the path ends.
    """

    def __init__(self, source: PathSource, last: Node, *, siblings: bool = False) -> None:
        """Make the path to ``last``.

        Args:
            siblings: Whether :attr:`siblings` shows them.
        """
        self._source, self._all_nodes, self.last, self._has_siblings = source, source.nodes, last, siblings

    def __repr__(self) -> str:
        """Return the name of the last node."""
        return f"<path {self.last.key or 'root'}>"

    @cached_property
    def nodes(self) -> list[Node]:
        """The nodes, root first."""
        return [*self._upwards()][::-1]

    def _upwards(self) -> Iterator[Node]:
        node = self.last
        yield node
        while node.parent >= 0:
            node = self._all_nodes[node.parent]
            yield node

    @property
    def response_ids(self) -> list[int]:
        """Response tokens, (end of the path,)."""
        return self.token_ids.tolist()

    @property
    def all_tokens(self) -> "array[int]":
        """Tokens of the prompt and of the response as a new array."""
        return _tokens(self.nodes, self._source.prompt)

    @property
    def last_token(self) -> int | None:
        """Last token of the current turn, None if it has none."""
        last = self.last
        return last.segment.token_ids[-1] if last.parent >= 0 and last.is_generated else None

    @property
    def opens_box(self) -> bool:
        """Whether the text of the current turn opens a box."""
        if not self._source.finds_boxes:
            return BOX in self.turn_text
        return self.last.is_generated and self.last.opens_box

    @property
    def response_mask(self) -> list[int]:
        """For each response token 1 if the model generated it, 0 if a reply added it."""
        mask: list[int] = []
        for node in self.nodes:
            mask += [int(node.is_generated)] * len(node.segment.token_ids)
        return mask

    @property
    def logprobs(self) -> list[float]:
        """Log-probability of each response token; 0.0 for tokens with mask 0."""
        logprobs: list[float] = []
        for node in self.nodes:
            logprobs += node.segment.logprobs if node.is_generated else [0.0] * len(node.segment.token_ids)
        return logprobs

    @property
    def last_generated(self) -> Node:
        """The last node that the model generated, the root if there is none."""
        return next(node for node in self._upwards() if node.is_generated)

    @property
    def segment_logprobs(self) -> list[float]:
        """Log-probabilities of the last generated segment, with all of its pieces."""
        pieces: list[Sequence[float]] = []
        for node in self._upwards():
            if pieces and not node.partial:
                break
            if node.is_generated:
                pieces.append(node.segment.logprobs)
        return [logprob for piece in reversed(pieces) for logprob in piece]

    @property
    def begun_segment_tokens(self) -> int:
        """Tokens of the last segment if the path ends inside it, else 0."""
        tokens = 0
        for node in self._upwards():
            if not node.partial:
                break
            tokens += len(node.segment.token_ids)
        return tokens

    # --- for policies ------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Name of the last node."""
        return self.last.key

    @property
    def text(self) -> str:
        """Text of the response without special tokens; empty without a decoder."""
        return "" if self._source.decode is None else self._source.decode(self.response_ids)

    @property
    def token_ids(self) -> "array[int]":
        """Response tokens as an array, (end of the path,)."""
        return _tokens(self.nodes)

    @property
    def length(self) -> int:
        """Tokens of the response."""
        return self.last.end

    @property
    def depth(self) -> int:
        """Segments of the path; the last may be incomplete."""
        return self.last.depth

    @property
    def complete_segments(self) -> int:
        """Complete segments of the path."""
        return self.last.depth - self.last.partial

    @property
    def boundaries(self) -> list[int]:
        """Response tokens at which the segments begin."""
        pairs = zip(self.nodes, self.nodes[1:], strict=False)
        return [node.offset for above, node in pairs if node.is_generated and not above.partial]

    @property
    def siblings(self) -> list["Path"]:
        """Paths to the other children of the parent by name; see ``PathView``."""
        if self.last.parent < 0 or not self._has_siblings:
            return []
        nodes = [self._all_nodes[child] for child in self._all_nodes[self.last.parent].children]
        others = sorted((node for node in nodes if node is not self.last), key=lambda node: name_order(node.key))
        return [Path(self._source, node, siblings=True) for node in others]

    @property
    def finish_reason(self) -> str | None:
        """Reason why the path ended, None for an open path."""
        return self.last.finish_reason

    @property
    def score(self) -> float | None:
        """Score of the path, None without one."""
        return self.last.score

    # --- conversations -----------------------------------------------------------------------------------------------

    @cached_property
    def turn(self) -> list[Node]:
        """Nodes of the current turn; without a conversation, the whole response.

        A reply ends a turn: after a reply the current turn is empty.
        """
        return [*self._turn_upwards()][::-1]

    def _turn_upwards(self) -> Iterator[Node]:
        for node in self._upwards():
            if not node.is_generated or node.parent < 0:
                return
            yield node

    @property
    def turn_start(self) -> int:
        """Number of response tokens before the current turn."""
        turn = self.turn
        return turn[0].offset if turn else self.last.end

    @property
    def turn_ids(self) -> "array[int]":
        """Tokens of the current turn."""
        return _tokens(self.turn)

    @property
    def ids_before_turn(self) -> "array[int]":
        """Tokens before the current turn, with those of the prompt."""
        return self.all_tokens[: len(self._source.prompt) + self.turn_start]

    def last_turn_ids(self, count: int) -> "array[int]":
        """Return the last tokens of the current turn by number, all if there are fewer."""
        if self.last.is_generated and len(self.last.segment.token_ids) >= count:  # the usual case; the root is empty
            return tokens(self.last.segment.token_ids[-count:])
        nodes, found = [], 0
        for node in self._turn_upwards():
            nodes.append(node)
            found += len(node.segment.token_ids)
            if found >= count:
                break
        return _tokens(nodes[::-1])[-count:]

    def last_turn_text(self, count: int) -> str:
        """Return the last characters of the current turn by number, all if there are fewer."""
        text = ""
        for node in self._turn_upwards():
            text = node.text + text
            if len(text) >= count:
                break
        return text[-count:]

    @property
    def turn_text(self) -> str:
        """Text of the current turn; empty without a decoder."""
        if self._source.decode is not None and not self._source.keeps_text:
            return self._source.decode(self.turn_ids.tolist())
        return "".join(node.text for node in self.turn)

    @property
    def replies(self) -> list[Reply]:
        """Replies of the interaction that have messages."""
        return [node.reply for node in self.nodes if node.reply is not None and node.reply.messages]

    # --- training ----------------------------------------------------------------------------------------------------

    @property
    def spans(self) -> list[tuple[int, int]]:
        """(node number, response token at which the node begins) for each node below the root, from the root down.

        Replies are left out: they are not segments, and an advantage has nothing to compare there. The last node is
        always included, because it identifies the trajectory.
        """
        below = self.nodes[1:]
        return [(node.index, node.offset) for node in below if node.is_generated or node is self.last]

    @property
    def versions(self) -> tuple[int | None, int | None]:
        """Oldest and newest weight version on the path, (None, None) if the engine reports none."""
        lows = [node.segment.min_version for node in self.nodes if node.segment.min_version is not None]
        highs = [node.segment.max_version for node in self.nodes if node.segment.max_version is not None]
        return min(lows, default=None), max(highs, default=None)


class LivePath(Path):
    """A path that stays valid while others are sampled, which may split its nodes: it is walked anew each time."""

    @property
    def nodes(self) -> list[Node]:
        """The nodes, root first."""
        return [*self._upwards()][::-1]

    @property
    def turn(self) -> list[Node]:
        """Nodes of the current turn."""
        return [*self._turn_upwards()][::-1]


def _tokens(nodes: Iterable[Node], before: "Sequence[int]" = ()) -> "array[int]":
    token_ids = tokens(before)
    for node in nodes:
        token_ids.extend(node.segment.token_ids)
    return token_ids
