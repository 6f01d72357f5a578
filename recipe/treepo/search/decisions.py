# SPDX-License-Identifier: Apache-2.0
"""Decisions of a search by its policies, built in or the user's, with a check of each result."""

import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from recipe.treepo.policies import Policies, PolicyContext
from recipe.treepo.search.branching import BRANCHINGS
from recipe.treepo.search.fallback import FallbackStart, ResumePoint, RuledFallback
from recipe.treepo.search.node import Node
from recipe.treepo.search.paths import LivePath
from recipe.treepo.search.policy_calls import PolicyCall, plain
from recipe.treepo.search.shape import SearchKind, SearchShape
from recipe.treepo.search.stopping import FinishReason
from recipe.treepo.search.tree import Tree


class Decisions:
    """Decisions about one tree.

    Attributes:
        scores: Whether paths have scores.
        owns_branching: Whether the user's policy decides about children.
        prunes: Whether open paths may be pruned, by their scores or by the user's policy.
        never_branches: Whether every path below the root always has one child.
    """

    def __init__(self, tree: Tree, shape: SearchShape, policies: Policies, context: PolicyContext, seed: int) -> None:
        self._tree, self._shape, self._policies = tree, shape, policies
        self._context, self._seed, self._by_level = context, seed, shape.search is SearchKind.BY_LEVEL
        self._branching = policies.branching or BRANCHINGS[shape.branching.share](shape.branching)
        self._fallback = policies.fallback or RuledFallback(shape.fallback)
        self.scores, self.owns_branching = policies.scorer is not None, policies.branching is not None
        self.prunes = self.owns_branching or shape.prune_below is not None or shape.prune_above is not None
        self.never_branches = shape.never_branches and not self.owns_branching

    def context(self, make_rng: Callable[[], random.Random]) -> PolicyContext:
        """Return the context of one decision."""
        return replace(self._context, make_rng=make_rng)

    def named_context(self, name: str) -> PolicyContext:
        """Return the context of a decision with a generator of its own, which depends on the decision's name only."""
        return self.context(lambda: random.Random(f"{self._seed}/{name}"))

    def stopping_context(self, node: Node) -> PolicyContext:
        """Return the context for the rules that may end the path at a node."""
        own = self._policies.stopping_rule is not None
        return self.named_context(f"stopping {node.key}") if own else self._context

    # --- branching ---------------------------------------------------------------------------------------------------

    def children(self, nodes: Sequence[Node], room: int, context: PolicyContext, *, most_pruned: int) -> list[int]:
        """Return the number of children of each open path; 0 prunes it.

        Args:
            nodes: Ends of the open paths.
            room: Maximum sum of the numbers.
            context: Context of the decision.
            most_pruned: Number of paths that may still be pruned. Without a limit a search might never end.

        Raises:
            PolicyError: if the user's class fails or returns a wrong result.
        """
        paths = tuple(self._tree.path(node.index, siblings=self._by_level) for node in nodes)
        call = PolicyCall(self._branching, "children", context.prompt, lambda: [node.key for node in nodes])
        counts = call.result(lambda: [plain(count) for count in self._branching.children(paths, room, context)])
        if len(counts) != len(nodes) or not all(_is_whole(count) and count >= 0 for count in counts):
            raise call.wrong(counts, f"must be {len(nodes)} whole numbers of at least 0")
        if sum(counts) > room:
            raise call.wrong(counts, f"{sum(counts)} children, but room for {room}")
        for number in [number for number, count in enumerate(counts) if count == 0][most_pruned:]:
            if sum(counts) >= room:
                counts[counts.index(max(counts))] -= 1
            counts[number] = 1
        return counts

    def is_hopeless(self, node: Node) -> bool:
        """Return whether the score of an open path is beyond the thresholds."""
        below, above = self._shape.prune_below, self._shape.prune_above
        if node.score is None:
            return False
        return (below is not None and node.score < below) or (above is not None and node.score > above)

    def prune(self, node: Node) -> None:
        """End a path that becomes no trajectory."""
        self._tree.finish(node.index, FinishReason.PRUNED, dropped=True)
        self._tree.counters.pruned_paths += 1

    # --- fallback ----------------------------------------------------------------------------------------------------

    def resume_points(self, leaves: Sequence[int], count: int, context: PolicyContext) -> list[ResumePoint]:
        """Return ``count`` resume points.

        Raises:
            PolicyError: if the user's class fails or returns a wrong result.
        """
        complete = self._by_level or self._shape.fallback.start is FallbackStart.DRY
        paths = tuple(self._tree.path(leaf, siblings=complete) for leaf in leaves)
        call = PolicyCall(self._fallback, "resume", context.prompt, lambda: [path.name for path in paths] or [""])
        found = call.result(lambda: list(self._fallback.resume(paths, count, context)))
        if len(found) != count:
            raise call.wrong(found, f"must be {count} points")
        leaf_of = {path.name: leaf for path, leaf in zip(paths, leaves, strict=True)}
        return [self._resume_point(point, leaf_of, call) for point in found]

    def _resume_point(self, point: Any, leaf_of: dict[str, int], call: PolicyCall) -> ResumePoint:
        try:
            path, token = point
            token = plain(token)
            if path is None and token == 0:
                return ResumePoint(None, 0)
            name, leaf = path.name, leaf_of[path.name]
        except (TypeError, ValueError, AttributeError, KeyError):
            raise call.wrong(point, "must be a Resume of one of the paths, or Resume(None, 0)") from None
        own, end = replace(call, nodes=lambda: [name]), self._tree.nodes[leaf].end
        if not _is_whole(token) or not 0 <= token < end:
            raise own.wrong(token, f"the token must be from 0 to {end - 1}")
        if not self._tree.node_of(leaf, token).is_generated:
            raise own.wrong(token, "a reply has this token; it must be one that the model generated")
        return ResumePoint(leaf, token)

    # --- scores ------------------------------------------------------------------------------------------------------

    async def score(self, node: Node) -> None:
        """Score the path to a node.

        Raises:
            PolicyError: if the user's class fails, or the score is not a finite number.
        """
        scorer, context = self._policies.scorer, self.named_context(f"score {node.key}")
        assert scorer is not None
        call, started = PolicyCall(scorer, "score", context.prompt, lambda: [node.key]), time.perf_counter()
        path, limit = LivePath(self._tree, node), self._shape.score_timeout_seconds
        score = plain(await call.awaited_result(lambda: scorer.score(path, context), limit))
        if isinstance(score, bool) or not isinstance(score, int | float) or not abs(score) <= sys.float_info.max:
            raise call.wrong(score, "must be a finite number")
        node.score = float(score)
        self._tree.counters.score_calls += 1
        self._tree.counters.score_seconds += time.perf_counter() - started


def _is_whole(value: Any) -> bool:
    """Return whether a policy's number is a whole one; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)
