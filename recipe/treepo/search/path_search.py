# SPDX-License-Identifier: Apache-2.0
"""Growth path by path, for policies that look at one path only: no path waits for another."""

import asyncio
import random
from dataclasses import replace

from recipe.treepo.search.branching import allocate
from recipe.treepo.search.fallback import FallbackStart
from recipe.treepo.search.node import ROOT, Node
from recipe.treepo.search.path_sampler import Continuation, PathSampler

# Maximum replacements of an abandoned path, of a path dropped as too short, and of a pruned one, including those of its
# ancestors. After that, the abandoned path's width is lost, and the others are kept. The limit counts a path's own
# history only: the history of other paths depends on the order in which requests finish.
MOST_REPETITIONS = 2


class PathSearch:
    """Branches each path as soon as its segment is sampled.

    Each path knows how many trajectories it should become. Decisions about it therefore depend only on its own tokens
    and name, not on the order in which requests finish. When a path ends, the rest of its width falls back from that
    path. With FallbackStart.DRY, the width waits until no path is open and then falls back from any of them.
    """

    def __init__(self, sampler: PathSampler, seed: int) -> None:
        self._sampler, self._seed = sampler, seed
        self._tree, self._shape, self._decisions = sampler.tree, sampler.shape, sampler.decisions
        self._rules = sampler.shape.branching
        self._left_over = 0

    async def run(self) -> None:
        """Grow the tree until it has all its leaves."""
        width = self._shape.width
        rng = self._rng("")
        count = min(width, rng.randint(*self._rules.root_children(width)))
        paths = self._sampler.new_children(ROOT, allocate(width, [1.0] * count, most=None, rng=rng))
        while paths:
            async with asyncio.TaskGroup() as group:
                for path in paths:
                    group.create_task(self._grow(path, group))
            with self._sampler.busy:
                paths = self._fall_back(self._tree.leaves_by_name(), self._left_over, root_key=None)
                self._left_over = 0

    async def _grow(self, path: Continuation, group: asyncio.TaskGroup) -> None:
        """Continue a path until it ends; its other children get tasks of their own."""
        following = [path]
        while following:
            path, *others = following
            for other in others:
                group.create_task(self._grow(other, group))
            alone = (path.width == 1 or self._decisions.never_branches) and not self._may_prune(path.key)
            may_drop = path.key.count("?") < MOST_REPETITIONS
            segments = self._shape.max_segments_per_request if alone else 1
            node = await self._sampler.extend(path, segments=segments, may_drop=may_drop)
            with self._sampler.busy:
                following = self._abandon(path) if node is None else self._follow(path, node)

    def _abandon(self, path: Continuation) -> list[Continuation]:
        if path.key.count("!") < MOST_REPETITIONS:
            return [replace(path, key=f"{path.key}!")]
        self._tree.counters.missing_trajectories += path.width
        return []

    def _follow(self, path: Continuation, node: Node) -> list[Continuation]:
        if node.dropped:
            # Resample the last segment only, as if requests stopped at each boundary.
            return [Continuation(node.parent, f"{node.key}?", path.width)]
        if node.finish_reason is not None:
            return self._return_width(node, path.width - 1)
        if node.partial:
            # An engine may stop inside a segment for its own reasons: the path first continues to the boundary.
            return self._sampler.new_children(node.index, [path.width])
        if self._may_prune(node.key) and self._decisions.is_hopeless(node):
            return self._prune(node, path.width)
        return self._branch(node, path.width)

    def _branch(self, node: Node, width: int) -> list[Continuation]:
        if width == 1 and not self._may_prune(node.key):
            return self._sampler.new_children(node.index, [1])
        rng = self._rng(node.key)
        room = width if self._decisions.owns_branching else min(width, rng.randint(*self._rules.divergence))
        context, may_prune = self._decisions.named_context(f"children {node.key}"), self._may_prune(node.key)
        (count,) = self._decisions.children([node], room, context, most_pruned=int(may_prune))
        if count == 0:
            return self._prune(node, width)
        return self._sampler.new_children(node.index, allocate(width, [1.0] * count, most=None, rng=rng))

    def _may_prune(self, key: str) -> bool:
        return self._decisions.prunes and key.count("^") < MOST_REPETITIONS

    def _prune(self, node: Node, width: int) -> list[Continuation]:
        # At once even with FallbackStart.DRY: the names of its restarts carry the history that limits pruning.
        self._decisions.prune(node)
        return self._fall_back([], width, root_key=node.key)

    def _return_width(self, leaf: Node, width: int) -> list[Continuation]:
        if self._shape.fallback.start is FallbackStart.DRY:
            self._left_over += width
            return []
        return self._fall_back([leaf.index], width, root_key=leaf.key)

    def _fall_back(self, leaves: list[int], width: int, *, root_key: str | None) -> list[Continuation]:
        if width == 0:
            return []
        name = f"{root_key}~" if root_key is not None else f"dry {len(leaves)}"
        points = self._decisions.resume_points(leaves, width, self._decisions.named_context(name))
        return self._sampler.resume(points, root_key=root_key)

    def _rng(self, name: str) -> random.Random:
        """Return the random generator for one decision, which depends on the decision's name and not on its time."""
        return random.Random(f"{self._seed}/{name}")
