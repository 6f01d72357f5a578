# SPDX-License-Identifier: Apache-2.0
"""The tree that a search grows: nodes, paths, statistics, invariants.

Words: a *segment* is what a path is continued by, ``segment_length`` tokens or about as many, and the boundaries of a
path's segments are where it may branch; a *node* is a segment, or a piece of one where a path resumed inside it; node
0, the root, is the prompt and has no response tokens; a *path* runs from the root to a node; a *leaf* is a node whose
path has ended, and its path is a *trajectory*. Every token is stored once, in the node that added it. In a conversation
what is added between the model's turns is a node of its own, which counts as no segment.
"""

from collections import Counter
from typing import Any

from recipe.treepo.interaction import Reply
from recipe.treepo.search.engine import Segment
from recipe.treepo.search.node import ROOT, Node, TreeCounters, name_order
from recipe.treepo.search.stopping import FinishReason


class Tree:
    """A prompt and the response segments that were sampled after it."""

    def __init__(self, prompt_ids: list[int]) -> None:
        self.prompt_ids = list(prompt_ids)
        self.nodes = [Node(index=ROOT, parent=-1, key="", depth=0, offset=0, segment=Segment([], []))]
        self.leaves: list[int] = []
        self.counters = TreeCounters()

    # --- growing ---------------------------------------------------------------------------------------------------

    def add(self, parent: int, segment: Segment, *, key: str, text: str = "", partial: bool = False) -> Node:
        """Attach a segment, or a piece of one, below ``parent`` and return its node."""
        above = self.nodes[parent]
        depth = above.depth if above.partial else above.depth + 1
        return self._attach(
            Node(
                index=len(self.nodes),
                parent=parent,
                key=key,
                depth=depth,
                offset=above.end,
                segment=segment,
                text=text,
                partial=partial,
            )
        )

    def add_reply(self, parent: int, token_ids: list[int], reply: Reply, *, key: str) -> Node:
        """Attach what an interaction added below ``parent``, where a turn ends, and return its node."""
        above = self.nodes[parent]
        assert above.turn_over, f"no turn ends at node {parent}"
        return self._attach(
            Node(
                index=len(self.nodes),
                parent=parent,
                key=key,
                depth=above.depth,
                offset=above.end,
                segment=Segment(token_ids, []),
                reply=reply,
            )
        )

    def _attach(self, node: Node) -> Node:
        above = self.nodes[node.parent]
        assert above.finish_reason is None, f"node {above.index} ended ({above.finish_reason}) and cannot have children"
        self.nodes.append(node)
        above.children.append(node.index)
        return node

    def trim(self, node: int, length: int) -> None:
        """Take the tokens of ``node`` after the first ``length`` away, before other tokens follow them."""
        trimmed = self.nodes[node]
        children = [self.nodes[child] for child in trimmed.children]
        assert not any(child.segment.token_ids for child in children), f"node {node} is followed by tokens"
        assert 0 < length, f"nothing would be left of node {node}"
        trimmed.segment = trimmed.segment.part(0, length)
        for child in children:
            child.offset = trimmed.end

    def finish(self, node: int, reason: FinishReason, *, detail: str = "", dropped: bool = False) -> None:
        """End the path at ``node``: a leaf, or nothing if it is ``dropped``."""
        ended = self.nodes[node]
        assert ended.finish_reason is None, f"node {node} has ended already"
        assert not ended.children, f"node {node} has children and cannot be a leaf"
        ended.finish_reason, ended.finish_detail, ended.dropped = reason, detail, dropped
        if not dropped:
            self.leaves.append(node)

    def node_ending_at(self, leaf: int, offset: int) -> int:
        """Return the node on the path to ``leaf`` that ends at response token ``offset``; split one if none does.

        The piece below keeps the number, so that children, leaves and requests that refer to it stay right; the
        piece above is new. Its name depends on the original name and the offset only, not on what was split before.
        """
        node = self.nodes[leaf]
        while node.offset > offset:
            node = self.nodes[node.parent]
        if node.offset == offset:
            return node.parent
        assert offset < node.end, f"response token {offset} is not on the path to node {leaf}"
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
        return upper.index

    def renumber(self) -> None:
        """Number the nodes depth first, siblings by name: the same tree has the same numbers however it was grown."""
        order, stack = [], [ROOT]
        while stack:
            node = self.nodes[stack.pop()]
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
        """Return the leaves in an order that does not depend on when they ended."""
        return sorted(self.leaves, key=lambda leaf: name_order(self.nodes[leaf].key))

    # --- reading ---------------------------------------------------------------------------------------------------

    def path(self, node: int) -> list[int]:
        """Return the numbers of the nodes from the root to ``node``, both included."""
        path = []
        while node >= 0:
            path.append(node)
            node = self.nodes[node].parent
        return path[::-1]

    def response_ids(self, node: int) -> list[int]:
        """Return the response tokens on the path to ``node``."""
        tokens: list[int] = []
        for index in self.path(node):
            tokens.extend(self.nodes[index].segment.token_ids)
        return tokens

    def response_mask(self, node: int) -> list[int]:
        """Return 1 for each response token on the path to ``node`` that the model wrote, 0 for each that was added."""
        mask: list[int] = []
        for index in self.path(node):
            on_path = self.nodes[index]
            mask.extend([int(on_path.reply is None)] * len(on_path.segment.token_ids))
        return mask

    def response_logprobs(self, node: int) -> list[float]:
        """Return the log-probability of each response token on the path to ``node``; 0.0 where the mask is 0."""
        logprobs: list[float] = []
        for index in self.path(node):
            on_path = self.nodes[index]
            added = on_path.reply is not None
            logprobs.extend([0.0] * len(on_path.segment.token_ids) if added else on_path.segment.logprobs)
        return logprobs

    def written_logprobs(self, node: int) -> list[float]:
        """Return the log-probability of each response token on the path to ``node`` that the model wrote."""
        logprobs: list[float] = []
        for index in self.path(node):
            logprobs.extend(self.nodes[index].segment.logprobs)
        return logprobs

    def segment_logprobs(self, node: int) -> list[float]:
        """Return the log-probabilities of the last segment of the path to ``node``, all pieces of it."""
        last = self.written(node)
        logprobs = list(last.segment.logprobs)
        while (last := self.nodes[last.parent]).partial:
            logprobs[:0] = last.segment.logprobs
        return logprobs

    def written(self, node: int) -> Node:
        """Return ``node``, or the one before it that the model wrote if an interaction added it."""
        found = self.nodes[node]
        while found.reply is not None:
            found = self.nodes[found.parent]
        return found

    def turn(self, node: int) -> list[int]:
        """Return the numbers of the nodes of the turn that ``node`` is part of, up to it.

        Without a conversation the response is one turn. After what an interaction added, a new one begins: of its node
        the turn is empty.
        """
        nodes: list[int] = []
        while node != ROOT and self.nodes[node].reply is None:
            nodes.append(node)
            node = self.nodes[node].parent
        return nodes[::-1]

    def turn_start(self, node: int) -> int:
        """Return the response token at which the turn that ``node`` is part of begins."""
        turn = self.turn(node)
        return self.nodes[turn[0]].offset if turn else self.nodes[node].end

    def turn_text(self, node: int) -> str:
        """Return the text of that turn up to ``node``, empty where no stopping rule reads text."""
        return "".join(self.nodes[index].text for index in self.turn(node))

    def replies(self, node: int) -> list[Reply]:
        """Return what the interaction added on the path to ``node``."""
        replies = [self.nodes[index].reply for index in self.path(node)]
        return [reply for reply in replies if reply is not None and reply.messages]

    def tree_path(self, leaf: int) -> list[tuple[int, int]]:
        """Return (node number, response token offset at which it begins) below the root, root side first.

        What an interaction added is not listed: it is no segment, and an advantage has nothing to compare there. Only
        where it is the leaf, which tells the trajectory from others.
        """
        return [
            (index, self.nodes[index].offset)
            for index in self.path(leaf)[1:]
            if index == leaf or self.nodes[index].reply is None
        ]

    def trajectory_fields(self, leaf: int, statistics: dict[str, Any]) -> dict[str, Any]:
        """Return what trainer and reward function get to know of the tree; ``statistics`` are those of the tree."""
        return {
            "tree_path": self.tree_path(leaf),
            "tree_finish_reason": str(self.nodes[leaf].finish_reason),
            "tree_finish_detail": self.nodes[leaf].finish_detail,
            "tree_turns": [{"messages": reply.messages, **reply.info} for reply in self.replies(leaf)],
            "tree_statistics": statistics,
        }

    def versions(self, leaf: int) -> tuple[int | None, int | None]:
        """Return the oldest and newest weight version on the path, (None, None) if the engine told none."""
        segments = [self.nodes[index].segment for index in self.path(leaf)[1:]]
        lows = [segment.min_version for segment in segments if segment.min_version is not None]
        highs = [segment.max_version for segment in segments if segment.max_version is not None]
        return (min(lows) if lows else None), (max(highs) if highs else None)

    def statistics(self) -> dict[str, Any]:
        """Return numbers about the finished tree for metrics; lengths in tokens, times in seconds.

        ``unique_tokens`` are those of the trajectories; what was dropped or left without a leaf is not among them.
        """
        kept = {index for leaf in self.leaves for index in self.path(leaf)}
        # What was added between a turn and what follows it is no branching of its own.
        children = Counter(self.written(node.parent).index for node in self.nodes[1:] if node.reply is None)
        leaves = [self.nodes[leaf] for leaf in self.leaves]
        reasons = Counter(leaf.finish_reason for leaf in leaves)
        counters = self.counters
        return {
            "engine_calls": counters.engine_calls,
            "failed_calls": counters.failed_calls,
            "given_up_paths": counters.given_up_paths,
            "dropped_paths": counters.dropped_paths,
            "decoded_tokens": counters.decoded_tokens,
            "overrun_tokens": counters.overrun_tokens,
            "computed_prompt_tokens": counters.prompt_tokens - counters.cached_tokens,
            "cached_prompt_tokens": counters.cached_tokens,
            "missing_trajectories": counters.missing_trajectories,
            "fallbacks": counters.fallbacks,
            "steps": counters.steps,
            "failed_steps": counters.failed_steps,
            "interaction_seconds": counters.interaction_seconds,
            "search_seconds": counters.search_seconds,
            "busy_seconds": counters.busy_seconds,
            "unique_tokens": sum(len(self.nodes[index].segment.token_ids) for index in kept),
            "total_tokens": sum(leaf.end for leaf in leaves),
            "trajectories": len(leaves),
            "depth_sum": sum(leaf.depth for leaf in leaves),
            "depth_max": max((leaf.depth for leaf in leaves), default=0),
            "children": children.total(),
            "parents": len(children),
            **{f"finish_{reason}": reasons[reason] for reason in FinishReason},
            # What an error says is no word or two.
            "finish_details": Counter(
                leaf.finish_detail
                for leaf in leaves
                if leaf.finish_detail and leaf.finish_reason is not FinishReason.ERROR
            ),
        }

    def check(self) -> None:
        """Assert the invariants of the structure; cheap enough to run after every step of a test.

        Depths and offsets follow from the parents; names are unique; every token that the model wrote has one
        log-probability; a node has ended exactly if it has a reason, and then it has no children; no node that the
        model wrote is empty; what an interaction added follows the end of a turn.
        """
        root = self.nodes[ROOT]
        assert (root.parent, root.depth, root.offset, root.segment.token_ids) == (-1, 0, 0, []), "damaged root"
        assert len({node.key for node in self.nodes}) == len(self.nodes), "a name was given twice"
        leaves = set(self.leaves)
        assert len(leaves) == len(self.leaves)
        for index, node in enumerate(self.nodes):
            assert node.index == index
            assert len(node.segment.logprobs) == (0 if node.reply else len(node.segment.token_ids))
            assert (node.finish_reason is not None and not node.dropped) == (index in leaves)
            assert not (node.finish_reason and node.children), f"node {index} has ended and has children"
            assert all(self.nodes[child].parent == index for child in node.children)
            if index != ROOT:
                above = self.nodes[node.parent]
                assert index in above.children
                assert node.offset == above.end
                if node.reply is None:
                    assert node.depth == above.depth + (not above.partial)
                    assert node.segment.token_ids, f"node {index} adds no token"
                else:
                    assert above.turn_over and not above.partial and above.reply is None
                    assert node.depth == above.depth
                    assert node.segment.token_ids or node.finish_reason, f"node {index} adds nothing and goes on"
