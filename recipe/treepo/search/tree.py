# SPDX-License-Identifier: Apache-2.0
"""The tree that a search grows.

A *segment* is the unit by which a path grows: about ``segment_length`` tokens. A path may branch at the *boundaries* of
its segments. A *node* is a segment, or the piece of one on either side of a resume point. Node 0, the root, is the
prompt and has no response tokens. A *path* runs from the root to a node. A *leaf* is the last node of an ended path;
its path is a *trajectory*.

Every token is stored once, in the node that added it. In a conversation, each reply between turns is a node of its own,
which does not count as a segment.
"""

from array import array
from collections.abc import Callable
from math import isfinite

from recipe.treepo.answers.boxes import BOX
from recipe.treepo.interaction import Reply
from recipe.treepo.search.counters import SearchCounters
from recipe.treepo.search.engine import Segment, tokens
from recipe.treepo.search.incremental_text import IncrementalText
from recipe.treepo.search.node import ROOT, Node, name_order
from recipe.treepo.search.paths import Path
from recipe.treepo.search.stopping import FinishReason


class Tree:
    """A prompt and the response segments sampled after it.

    Attributes:
        prompt_ids: Tokens of the prompt.
        prompt: The same as an array.
        nodes: All nodes by number.
        leaves: Numbers of the leaves.
        counters: Cost of the search so far.
        decode: Decoder of text without special tokens, None without one.
        keeps_text: Whether the nodes have the whole text of their turns.
        finds_boxes: Whether the nodes know if a box is open.
    """

    def __init__(
        self,
        prompt_ids: list[int],
        text: IncrementalText | None = None,
        *,
        keeps_text: bool = True,
        decode: Callable[[list[int]], str] | None = None,
    ) -> None:
        """Make a tree that holds only a prompt.

        Args:
            text: Decoder for the text of the nodes, None if no stopping rule reads text.
            keeps_text: Whether nodes keep their whole text; otherwise it is decoded again when it is read.
            decode: Decoder for the text that policies read, if ``text`` is None.
        """
        self.prompt_ids = list(prompt_ids)
        self.prompt = tokens(prompt_ids)
        self.nodes = [Node(index=ROOT, parent=-1, key="", depth=0, offset=0, segment=Segment(tokens([]), []))]
        self.leaves: list[int] = []
        self.counters = SearchCounters()
        self._text, self.keeps_text, self.finds_boxes = text, keeps_text and text is not None, text is not None
        self.decode = decode if text is None else text.decode

    def token_ids(self, node: int) -> "array[int]":
        """Return the tokens of the prompt and of the path to ``node``."""
        return self.path(node).all_tokens

    def path(self, node: int, *, siblings: bool = False) -> Path:
        """Return the path from the root to ``node``; see :class:`Path`."""
        return Path(self, self.nodes[node], siblings=siblings)

    def node_of(self, leaf: int, token: int) -> Node:
        """Return the node with a response token of the path to ``leaf``."""
        node = self.nodes[leaf]
        while node.offset > token:
            node = self.nodes[node.parent]
        assert token < node.end, f"response token {token} is not on the path to node {leaf}"
        return node

    # --- growing -----------------------------------------------------------------------------------------------------

    def add(self, parent: int, segment: Segment, *, key: str, partial: bool = False) -> Node:
        """Attach a segment, or a piece of one, below ``parent`` and return its node."""
        above = self.nodes[parent]
        depth = above.depth if above.partial else above.depth + 1
        node = self._attach(
            Node(
                index=len(self.nodes),
                parent=parent,
                key=key,
                depth=depth,
                offset=above.end,
                segment=segment,
                partial=partial,
            )
        )
        self._set_text(node)
        return node

    def add_reply(self, parent: int, token_ids: list[int], reply: Reply, *, key: str) -> Node:
        """Attach a reply of the interaction below ``parent``, at the end of a turn, and return its node."""
        above = self.nodes[parent]
        assert above.turn_over, f"no turn ends at node {parent}"
        return self._attach(
            Node(
                index=len(self.nodes),
                parent=parent,
                key=key,
                depth=above.depth,
                offset=above.end,
                segment=Segment(tokens(token_ids), []),
                reply=reply,
            )
        )

    def trim(self, node: int, length: int) -> None:
        """Remove the tokens of ``node`` after the first ``length``, before other tokens follow them."""
        trimmed = self.nodes[node]
        children = [self.nodes[child] for child in trimmed.children]
        assert not any(child.segment.token_ids for child in children), f"node {node} is followed by tokens"
        assert 0 < length, f"trimming would leave node {node} empty"
        trimmed.segment = trimmed.segment.part(0, length)
        self._set_text(trimmed)
        for child in children:
            child.offset = trimmed.end

    def end_turn(self, node: int) -> None:
        """End the current turn and the current segment at ``node``."""
        self.nodes[node].partial, self.nodes[node].turn_over = False, True

    def finish(self, node: int, reason: FinishReason, *, detail: str = "", dropped: bool = False) -> None:
        """End the path at ``node``, which becomes a leaf unless ``dropped``."""
        ended = self.nodes[node]
        assert ended.finish_reason is None, f"node {node} has ended already"
        assert not ended.children, f"node {node} has children and cannot be a leaf"
        ended.finish_reason, ended.finish_detail, ended.dropped = reason, detail, dropped
        if not dropped:
            self.leaves.append(node)

    def split(self, leaf: int, offset: int) -> int:
        """Return the node on the path to ``leaf`` that ends at response token ``offset``; split one if none does.

        The lower piece keeps the number, so that references from children, leaves and requests stay valid. The upper
        piece is new. Its name depends only on the original name and the offset, not on earlier splits.
        """
        node = self.node_of(leaf, offset)
        if node.offset == offset:
            return node.parent
        above, cut = self.nodes[node.parent], offset - node.offset
        upper = Node(
            index=len(self.nodes),
            parent=above.index,
            key=f"{node.key.partition('@')[0]}@{offset}",
            depth=node.depth,
            offset=node.offset,
            segment=node.segment.part(0, cut),
            partial=True,
            children=[node.index],
        )
        self.nodes.append(upper)
        above.children[above.children.index(node.index)] = upper.index
        node.parent, node.offset = upper.index, offset
        node.segment = node.segment.part(cut, len(node.segment.token_ids))
        for piece in (upper, node):
            self._set_text(piece)
        return upper.index

    def renumber(self) -> None:
        """Number the nodes depth first, siblings by name: equal trees get equal numbers in any order of growth."""
        order, stack = [], [ROOT]
        while stack:
            node = self.nodes[stack.pop()]
            if len(node.children) > 1:
                node.children.sort(key=lambda child: name_order(self.nodes[child].key))
            order.append(node)
            stack.extend(reversed(node.children))
        number = {node.index: rank for rank, node in enumerate(order)}
        for node in order:
            node.parent = number.get(node.parent, -1)
            node.children = [number[child] for child in node.children]
        self.leaves = sorted(number[leaf] for leaf in self.leaves)
        for rank, node in enumerate(order):
            node.index = rank
        self.nodes = order

    def leaves_by_name(self) -> list[int]:
        """Return the leaves in an order that does not depend on their time of ending."""
        return sorted(self.leaves, key=lambda leaf: name_order(self.nodes[leaf].key))

    def _attach(self, node: Node) -> Node:
        above = self.nodes[node.parent]
        assert above.finish_reason is None, f"node {above.index} ended ({above.finish_reason}) and cannot have children"
        self.nodes.append(node)
        above.children.append(node.index)
        return node

    def _set_text(self, node: Node) -> None:
        if self._text is None:
            return
        above = self.path(node.parent)
        text = self._text.added_by(node.segment.token_ids, above.last_turn_ids)
        most = len(BOX) - 1  # characters that the next node needs to find a box
        node.opens_box = above.opens_box or BOX in above.last_turn_text(most) + text
        node.text = text if self.keeps_text else text[-most:]

    # --- invariants --------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Assert the invariants of the structure; cheap enough to run after every step of a test.

        - Depths and offsets follow from the parents.
        - Names are unique.
        - Every generated token has one finite log-probability.
        - A node has ended if and only if it has a reason; then it has no children.
        - No generated node is empty.
        - A reply follows the end of a turn.
        """
        root = self.nodes[ROOT]
        assert (root.parent, root.depth, root.offset, root.end) == (-1, 0, 0, 0), "damaged root"
        assert len({node.key for node in self.nodes}) == len(self.nodes), "a name was given twice"
        leaves = set(self.leaves)
        assert len(leaves) == len(self.leaves)
        for index, node in enumerate(self.nodes):
            assert node.index == index
            assert len(node.segment.logprobs) == (len(node.segment.token_ids) if node.is_generated else 0)
            assert all(map(isfinite, node.segment.logprobs))
            assert (node.finish_reason is not None and not node.dropped) == (index in leaves)
            assert not (node.finish_reason and node.children), f"node {index} has ended and has children"
            assert all(self.nodes[child].parent == index for child in node.children)
            if index != ROOT:
                self._check_below(node, self.nodes[node.parent])

    @staticmethod
    def _check_below(node: Node, above: Node) -> None:
        assert node.index in above.children
        assert node.offset == above.end
        if node.is_generated:
            assert node.depth == above.depth + (not above.partial)
            assert node.segment.token_ids, f"node {node.index} adds no token"
        else:
            assert above.turn_over and not above.partial and above.is_generated
            assert node.depth == above.depth
            assert node.segment.token_ids or node.finish_reason, f"node {node.index} adds nothing and goes on"
