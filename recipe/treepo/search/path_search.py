# SPDX-License-Identifier: Apache-2.0
"""Grow a tree path by path: for policies that look at one path only, so that no path waits for another."""

import asyncio
import random
from dataclasses import replace

from recipe.treepo.search.branching import allocate
from recipe.treepo.search.fallback import FallbackStart, choose_resume_points
from recipe.treepo.search.node import ROOT, Node
from recipe.treepo.search.path_sampler import Continuation, PathSampler

# How often a path is sampled again after it was abandoned, and after it was dropped as too short, counting the paths
# that it comes from; then its width is lost, and the short one is kept. A path's own history must decide, because the
# fate of others depends on the order in which requests finish.
MOST_REPETITIONS = 2


class PathSearch:
    """Branches each path as soon as its segment is sampled.

    Every path knows the number of trajectories that it shall become, so all decisions about it follow from its own
    tokens and name, in whatever order requests finish. When a path ends, the rest of its width falls back from that
    very path; with FallbackStart.DRY it waits until no path is open and then chooses among all.
    """

    def __init__(self, sampler: PathSampler, seed: int) -> None:
        self._sampler, self._seed = sampler, seed
        self._tree, self._shape = sampler.tree, sampler.shape
        self._rules = sampler.shape.branching
        self._left_over = 0

    async def run(self) -> None:
        """Grow the tree until it has all its leaves."""
        paths = self._branch(ROOT, self._shape.width, self._rules.init_divergence, most=None)
        while paths:
            async with asyncio.TaskGroup() as group:
                for path in paths:
                    group.create_task(self._grow(path, group))
            with self._sampler.busy():
                paths = self._fall_back(self._tree.leaves_by_name(), self._left_over, root_key=None)
                self._left_over = 0

    async def _grow(self, path: Continuation, group: asyncio.TaskGroup) -> None:
        alone = path.width == 1 or self._shape.never_branches
        may_drop = path.key.count("?") < MOST_REPETITIONS
        segments = self._shape.max_segments_per_request if alone else 1
        node = await self._sampler.extend(path, segments=segments, may_drop=may_drop)
        with self._sampler.busy():
            following = self._abandon(path) if node is None else self._follow(path, node)
        for child in following:
            group.create_task(self._grow(child, group))

    def _abandon(self, path: Continuation) -> list[Continuation]:
        if path.key.count("!") < MOST_REPETITIONS:
            return [replace(path, key=f"{path.key}!")]
        self._tree.counters.missing_trajectories += path.width
        return []

    def _follow(self, path: Continuation, node: Node) -> list[Continuation]:
        if node.dropped:
            # Again from the boundary before: a request that had stopped there would have repeated this segment only.
            return [Continuation(node.parent, f"{node.key}?", path.width)]
        if node.finish_reason is not None:
            return self._return_width(node, path.width - 1)
        if node.partial:
            # An engine may stop inside a segment for reasons of its own: the path first continues to the boundary.
            return self._sampler.new_children(node.index, [path.width])
        return self._branch(node.index, path.width, self._rules.divergence, most=self._rules.max_divergence)

    def _branch(self, parent: int, width: int, divergence: tuple[int, int], *, most: int | None) -> list[Continuation]:
        rng = self._rng(self._tree.nodes[parent].key)
        count = min(width, rng.randint(*divergence), most or width)
        return self._sampler.new_children(parent, allocate(width, [1.0] * count, most=None, rng=rng))

    def _return_width(self, leaf: Node, width: int) -> list[Continuation]:
        if self._shape.fallback.start is FallbackStart.DRY:
            self._left_over += width
            return []
        return self._fall_back([leaf.index], width, root_key=leaf.key)

    def _fall_back(self, leaves: list[int], width: int, *, root_key: str | None) -> list[Continuation]:
        if width == 0:
            return []
        rng = self._rng(f"{root_key}~" if root_key is not None else f"dry {len(leaves)}")
        points = choose_resume_points(self._tree, leaves, width, self._shape.fallback, rng)
        return self._sampler.resume(points, root_key=root_key)

    def _rng(self, name: str) -> random.Random:
        """Return the random numbers for one decision, which depend on its name and not on when it is taken."""
        return random.Random(f"{self._seed}/{name}")
