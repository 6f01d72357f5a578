# SPDX-License-Identifier: Apache-2.0
"""Grow a tree path by path: for policies that look at one path only, so that no path waits for another."""

import asyncio
import random
from dataclasses import replace

from recipe.treepo.search.branching import share_out
from recipe.treepo.search.fallback import FallbackStart, choose_resumptions
from recipe.treepo.search.node import ROOT, Node
from recipe.treepo.search.path_sampler import Branch, PathSampler

# How often a branch is sampled anew after it was given up, and after it was dropped as too short, those that it comes
# from counted: then its width is lost, and the short one kept. A path's own history has to decide, because what becomes
# of others depends on the order in which requests finish.
MOST_REPETITIONS = 2


class PathSearch:
    """Branches each path as soon as its segment is there.

    Every branch is told how many trajectories it is to become, so that all decisions about it follow from its own path
    and name, in whatever order the requests of the tree finish. Width that a path leaves when it ends falls back from
    that very path, or, with FallbackStart.DRY, waits until no path is open and then may choose among all.
    """

    def __init__(self, sampler: PathSampler, seed: int) -> None:
        self._sampler, self._seed = sampler, seed
        self._tree, self._shape = sampler.tree, sampler.shape
        self._rules = sampler.shape.branching
        self._left_over = 0

    async def run(self) -> None:
        """Grow the tree until it has all its leaves."""
        branches = self._branch(ROOT, self._shape.width, self._rules.init_divergence, most=None)
        while branches:
            async with asyncio.TaskGroup() as group:
                for branch in branches:
                    group.create_task(self._grow(branch, group))
            with self._sampler.busy():
                branches = self._fall_back(self._tree.leaves_by_name(), self._left_over, root_key=None)
                self._left_over = 0

    async def _grow(self, branch: Branch, group: asyncio.TaskGroup) -> None:
        alone = branch.width == 1 or self._shape.never_branches
        may_drop = branch.key.count("?") < MOST_REPETITIONS
        segments = self._shape.max_segments_per_request if alone else 1
        node = await self._sampler.extend(branch, segments=segments, may_drop=may_drop)
        with self._sampler.busy():
            following = self._give_up(branch) if node is None else self._follow(branch, node)
        for child in following:
            group.create_task(self._grow(child, group))

    def _give_up(self, branch: Branch) -> list[Branch]:
        if branch.key.count("!") < MOST_REPETITIONS:
            return [replace(branch, key=f"{branch.key}!")]
        self._tree.counters.missing_trajectories += branch.width
        return []

    def _follow(self, branch: Branch, node: Node) -> list[Branch]:
        if node.dropped:
            # Its last segment only, from the boundary before: what a request that stopped there would have repeated.
            return [Branch(node.parent, f"{node.key}?", branch.width)]
        if node.finish_reason is not None:
            return self._return_width(node, branch.width - 1)
        if node.partial:
            # An engine may stop inside a segment for reasons of its own: the path first goes on to the boundary.
            return self._sampler.children(node.index, [branch.width])
        return self._branch(node.index, branch.width, self._rules.divergence, most=self._rules.max_divergence)

    def _branch(self, parent: int, width: int, divergence: tuple[int, int], *, most: int | None) -> list[Branch]:
        rng = self._rng(self._tree.nodes[parent].key)
        count = min(width, rng.randint(*divergence), most or width)
        return self._sampler.children(parent, share_out(width, [1.0] * count, most=None, rng=rng))

    def _return_width(self, leaf: Node, width: int) -> list[Branch]:
        if self._shape.fallback.start is FallbackStart.DRY:
            self._left_over += width
            return []
        return self._fall_back([leaf.index], width, root_key=leaf.key)

    def _fall_back(self, leaves: list[int], width: int, *, root_key: str | None) -> list[Branch]:
        if width == 0:
            return []
        rng = self._rng(f"{root_key}~" if root_key is not None else f"dry {len(leaves)}")
        resumptions = choose_resumptions(self._tree, leaves, width, self._shape.fallback, rng)
        return self._sampler.resume(resumptions, root_key=root_key)

    def _rng(self, name: str) -> random.Random:
        """Return the random numbers for one decision, which depend on its name and not on when it is taken."""
        return random.Random(f"{self._seed}/{name}")
