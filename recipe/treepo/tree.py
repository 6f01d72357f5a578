# SPDX-License-Identifier: Apache-2.0
"""The tree that a search grows: nodes, paths, counters, invariants.

Words: a *segment* is what one engine call generated; a *node* is a segment at its place in the tree; node 0, the
root, is the prompt and has no response tokens; a *path* runs from the root to a node; a *leaf* is a node whose path
has ended, and its path is a *trajectory*. Every token is stored once, in the node that added it.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from recipe.treepo.engine import Segment
from recipe.treepo.stopping import FinishReason

ROOT = 0


@dataclass(slots=True)
class Node:
    """One exact span of response tokens.

    Attributes:
        index: Number in the tree; the root is 0, others count up in the order in which they were started.
        parent: Number of the parent, -1 for the root.
        depth: Segments on the path from the root to here, this one included; 0 for the root.
        offset: Response tokens on the path before this node.
        segment: Tokens and log-probabilities that this node adds; empty for the root.
        finish_reason: Why the path ends here, None while it does not.
        children: Numbers of the children.
    """

    index: int
    parent: int
    depth: int
    offset: int
    segment: Segment
    finish_reason: FinishReason | None = None
    children: list[int] = field(default_factory=list)


@dataclass(slots=True)
class TreeCounters:
    """What one search cost.

    Attributes:
        engine_calls: Requests that the engine answered.
        decoded_tokens: Tokens that the engine sampled.
        prompt_tokens: Input tokens of all requests, cached ones included.
        cached_tokens: Input tokens that the engine took from its prefix cache, by its own count.
        fallbacks: Branches that were started from an earlier point of a finished path.
        search_seconds: Wall time of the whole search.
        engine_seconds: The part of it that was spent waiting for the engine.
    """

    engine_calls: int = 0
    decoded_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    fallbacks: int = 0
    search_seconds: float = 0.0
    engine_seconds: float = 0.0


class Tree:
    """A prompt and the response segments that were sampled after it."""

    def __init__(self, prompt_ids: list[int]) -> None:
        self.prompt_ids = list(prompt_ids)
        self.nodes = [Node(index=ROOT, parent=-1, depth=0, offset=0, segment=Segment([], []))]
        self.leaves: list[int] = []
        self.counters = TreeCounters()

    def add(self, parent: int, segment: Segment) -> Node:
        """Attach a segment below ``parent`` and return its node."""
        above = self.nodes[parent]
        assert above.finish_reason is None, f"node {parent} ended ({above.finish_reason}) and cannot have children"
        node = Node(
            index=len(self.nodes),
            parent=parent,
            depth=above.depth + 1,
            offset=above.offset + len(above.segment.token_ids),
            segment=segment,
        )
        self.nodes.append(node)
        above.children.append(node.index)
        return node

    def finish(self, node: int, reason: FinishReason) -> None:
        """Make ``node`` a leaf."""
        assert self.nodes[node].finish_reason is None, f"node {node} has ended already"
        assert not self.nodes[node].children, f"node {node} has children and cannot be a leaf"
        self.nodes[node].finish_reason = reason
        self.leaves.append(node)

    def path(self, node: int) -> list[int]:
        """Return the numbers of the nodes from the root to ``node``, both included."""
        path = []
        while node >= 0:
            path.append(node)
            node = self.nodes[node].parent
        return path[::-1]

    def response_ids(self, node: int) -> list[int]:
        """Return the response tokens on the path to ``node``."""
        return [token for index in self.path(node) for token in self.nodes[index].segment.token_ids]

    def response_logprobs(self, node: int) -> list[float]:
        """Return the log-probability of each response token on the path to ``node``."""
        return [logprob for index in self.path(node) for logprob in self.nodes[index].segment.logprobs]

    def input_ids(self, node: int) -> list[int]:
        """Return what the engine has to be given to continue ``node``: prompt and response so far."""
        return self.prompt_ids + self.response_ids(node)

    def tree_path(self, leaf: int) -> list[tuple[int, int]]:
        """Return (node number, response token offset at which it begins) below the root, root side first."""
        return [(index, self.nodes[index].offset) for index in self.path(leaf)[1:]]

    def versions(self, leaf: int) -> tuple[int | None, int | None]:
        """Return the oldest and newest weight version on the path, (None, None) if the engine told none."""
        segments = [self.nodes[index].segment for index in self.path(leaf)[1:]]
        lows = [segment.min_version for segment in segments if segment.min_version is not None]
        highs = [segment.max_version for segment in segments if segment.max_version is not None]
        return (min(lows) if lows else None), (max(highs) if highs else None)

    def statistics(self) -> dict[str, Any]:
        """Return numbers about the finished tree for metrics; lengths in tokens, times in seconds."""
        parents = [node for node in self.nodes if node.children]
        leaves = [self.nodes[leaf] for leaf in self.leaves]
        reasons = Counter(leaf.finish_reason for leaf in leaves)
        counters = self.counters
        return {
            "engine_calls": counters.engine_calls,
            "decoded_tokens": counters.decoded_tokens,
            "computed_prompt_tokens": counters.prompt_tokens - counters.cached_tokens,
            "cached_prompt_tokens": counters.cached_tokens,
            "fallbacks": counters.fallbacks,
            "search_seconds": counters.search_seconds,
            "engine_seconds": counters.engine_seconds,
            "unique_tokens": sum(len(node.segment.token_ids) for node in self.nodes),
            "total_tokens": sum(leaf.offset + len(leaf.segment.token_ids) for leaf in leaves),
            "trajectories": len(leaves),
            "depth_sum": sum(leaf.depth for leaf in leaves),
            "depth_max": max((leaf.depth for leaf in leaves), default=0),
            "children": sum(len(node.children) for node in parents),
            "parents": len(parents),
            **{f"finish_{reason}": reasons[reason] for reason in FinishReason},
        }

    def check(self) -> None:
        """Assert the invariants of the structure; cheap enough to run after every step of a test.

        Node numbers, depths and offsets follow from the parents; every token has one log-probability; a node is a
        leaf exactly if it has a reason, and a leaf has no children; no node but the root is empty.
        """
        root = self.nodes[ROOT]
        assert (root.parent, root.depth, root.offset, root.segment.token_ids) == (-1, 0, 0, []), "damaged root"
        for index, node in enumerate(self.nodes):
            assert node.index == index
            assert len(node.segment.token_ids) == len(node.segment.logprobs)
            assert (node.finish_reason is not None) == (index in self.leaves)
            assert not (node.finish_reason and node.children), f"leaf {index} has children"
            assert all(self.nodes[child].parent == index for child in node.children)
            if index != ROOT:
                above = self.nodes[node.parent]
                assert node.parent < index and index in above.children
                assert node.depth == above.depth + 1
                assert node.offset == above.offset + len(above.segment.token_ids)
                assert node.segment.token_ids, f"node {index} adds no token"
        assert len(set(self.leaves)) == len(self.leaves)
