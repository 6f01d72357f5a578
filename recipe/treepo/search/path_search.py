# SPDX-License-Identifier: Apache-2.0
"""Growth path by path, for policies that look at one path only: no path waits for another."""

import asyncio
import random
from dataclasses import replace

from recipe.treepo.search.branching import allocate
from recipe.treepo.search.fallback import FallbackStart, choose_resume_points
from recipe.treepo.search.node import ROOT, Node
from recipe.treepo.search.path_sampler import Continuation, PathSampler

# Maximum replacements of an abandoned path, and of a path dropped as too short, including those of its ancestors. After
# that, the abandoned path's width is lost and the short path is kept. The limit counts a path's own history only: the
# history of other paths depends on the order in which requests finish.
MOST_REPETITIONS = 2


class PathSearch:
    """Branches each path as soon as its segment is sampled.

    Each path knows how many trajectories it should become. Decisions about it therefore depend only on its own tokens
    and name, not on the order in which requests finish. When a path ends, the rest of its width falls back from that
    path. With FallbackStart.DRY, the width waits until no path is open and then falls back from any of them.
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
            alone = path.width == 1 or self._shape.never_branches
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
        return self._branch(node.index, path.width, self._rules.divergence, most=self._rules.max_divergence)

    def _branch(self, parent: int, width: int, divergence: tuple[int, int], *, most: int | None) -> list[Continuation]:
        if width == 1:
            return self._sampler.new_children(parent, [1])
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
        """Return the random generator for one decision, which depends on the decision's name and not on its time."""
        return random.Random(f"{self._seed}/{name}")
