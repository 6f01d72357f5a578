# SPDX-License-Identifier: Apache-2.0
"""Grow a tree node by node: for policies that look at one path only, so that no path waits for another."""

import asyncio
import random

from recipe.treepo.branching import share_out
from recipe.treepo.fallback import FallbackStart, choose_resumptions
from recipe.treepo.sampling import Branch, PathSampler
from recipe.treepo.tree import ROOT, Node, name_order

# How often in a row what a path returned may be dropped as too short again; after that a short one is kept.
MOST_DROPS = 2


class NodeSearch:
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
        self._rounds = 0

    async def run(self) -> None:
        """Grow the tree until it has all its leaves."""
        branches = self._branch(ROOT, self._shape.width, self._rules.init_divergence, most=None)
        while branches:
            async with asyncio.TaskGroup() as group:
                for branch in branches:
                    group.create_task(self._grow(branch, group))
            with self._sampler.busy():
                leaves = sorted(self._tree.leaves, key=lambda leaf: name_order(self._tree.nodes[leaf].key))
                branches = self._fall_back(leaves, self._left_over, root_key=None)
                self._left_over = 0
                self._rounds += 1

    async def _grow(self, branch: Branch, group: asyncio.TaskGroup) -> None:
        alone = branch.width == 1 or self._rules.divergence[1] == 1 or self._rules.max_divergence == 1
        answer = await self._sampler.request(branch, segments=self._shape.run_on if alone else 1)
        with self._sampler.busy():
            if answer is None:
                following = self._return_width([], branch.width, branch.key)
            else:
                # A model that only writes short responses must not be asked for ever; what decides is the path's own
                # history, not what has become of others.
                may_drop = self._rounds + branch.key.count("!") < MOST_DROPS
                following = self._follow(self._sampler.attach(branch, answer, may_drop=may_drop), branch.width)
        for child in following:
            group.create_task(self._grow(child, group))

    def _follow(self, node: Node, width: int) -> list[Branch]:
        if node.finish_reason is None:
            return self._branch(node.index, width, self._rules.divergence, most=self._rules.max_divergence)
        if node.dropped:
            return self._return_width([], width, node.key)
        return self._return_width([node.index], width - 1, node.key)

    def _branch(self, parent: int, width: int, divergence: tuple[int, int], *, most: int | None) -> list[Branch]:
        rng = self._rng(self._tree.nodes[parent].key)
        count = min(width, rng.randint(*divergence), most or width)
        return self._sampler.children(parent, share_out(width, [1.0] * count, most=None, rng=rng))

    def _return_width(self, leaves: list[int], width: int, key: str) -> list[Branch]:
        if self._shape.fallback.start is FallbackStart.DRY:
            self._left_over += width
            return []
        return self._fall_back(leaves, width, root_key=key)

    def _fall_back(self, leaves: list[int], width: int, *, root_key: str | None) -> list[Branch]:
        rng = self._rng(f"{root_key}~" if root_key is not None else f"round {self._rounds}")
        resumptions = choose_resumptions(self._tree, leaves, width, self._shape.fallback, rng)
        return self._sampler.resume(resumptions, root_key=root_key)

    def _rng(self, name: str) -> random.Random:
        """Return the random numbers for one decision, which depend on its name and not on when it is taken."""
        return random.Random(f"{self._seed}/{name}")
