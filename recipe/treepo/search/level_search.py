# SPDX-License-Identifier: Apache-2.0
"""Grow a tree level by level: for policies that compare the paths of a level or transfer width between them."""

import asyncio
import random
from collections.abc import Awaitable, Callable

from recipe.treepo.search.branching import (
    Budget,
    Share,
    level_limit,
    reachable_leaves,
    share_out,
    share_weights,
    width_within,
)
from recipe.treepo.search.fallback import FallbackStart, choose_resumptions
from recipe.treepo.search.node import ROOT, Node
from recipe.treepo.search.path_sampler import Branch, PathSampler


class LevelSearch:
    """Samples all branches of a level at once, then decides about the next.

    A level is what is sampled together; paths that fell back may be deeper or less deep in the tree than the others.
    Once nothing can branch any more, each path runs on to its end, waiting for no other. With ``before_level``, a hook
    awaited before each level, it stops at each level.
    """

    def __init__(self, sampler: PathSampler, seed: int, before_level: Callable[[], Awaitable[None]] | None) -> None:
        self._sampler, self._rng, self._before_level = sampler, random.Random(seed), before_level
        # Its own, because the number of levels depends on where requests stop, and nothing else may.
        self._divergence_rng = random.Random(f"{seed}/divergence")
        self._tree, self._shape = sampler.tree, sampler.shape
        self._rules = sampler.shape.branching

    async def run(self) -> None:
        """Grow the tree until it has all its leaves."""
        children = min(self._width(), self._rng.randint(*self._rules.init_divergence))
        branches = self._sampler.children(ROOT, [1] * children)
        while branches:
            if self._before_level is not None:
                await self._before_level()
            run_out, may_drop = self._nothing_can_branch(branches), self._may_drop()
            async with asyncio.TaskGroup() as group:
                paths = [
                    group.create_task(
                        self._sampler.run_out(branch, may_drop=may_drop)
                        if run_out
                        else self._sampler.extend(branch, segments=1, may_drop=may_drop)
                    )
                    for branch in branches
                ]
            level = [node for path in paths if (node := path.result()) is not None]
            with self._sampler.busy():
                branches = self._next_level(level, level_size=len(branches))

    def _width(self) -> int:
        """Return how many trajectories the tree is to have, as far as is known."""
        counters = self._tree.counters
        # Width of given-up paths goes to others, but not for ever.
        counters.missing_trajectories = max(0, counters.given_up_paths - self._shape.width)
        width = width_within(
            self._rules,
            width=self._shape.width,
            finished=len(self._tree.leaves),
            finished_tokens=sum(self._tree.nodes[leaf].end for leaf in self._tree.leaves),
            response_length=self._sampler.stopping.response_length,
        )
        return width - counters.missing_trajectories

    def _may_drop(self) -> bool:
        # A model that only writes short responses must not be asked for ever.
        return self._tree.counters.dropped_paths < self._shape.width

    def _nothing_can_branch(self, branches: list[Branch]) -> bool:
        """Tell whether no decision is due until the branches end: the width is used up for good, or none ever is."""
        if self._before_level is not None:
            return False
        if self._shape.never_branches and self._shape.fallback.start is FallbackStart.DRY:
            return True
        missing = self._tree.counters.missing_trajectories
        used_up = len(self._tree.leaves) + len(branches) + missing == self._shape.width
        return used_up and not (self._may_drop() and any(map(self._sampler.can_be_dropped, branches)))

    def _next_level(self, level: list[Node], *, level_size: int) -> list[Branch]:
        missing = self._width() - len(self._tree.leaves)
        if missing <= 0:
            return []
        limit = level_limit(
            self._rules, level_size=level_size, segment_length=self._shape.longest_segment, rng=self._divergence_rng
        )
        open_paths = [node for node in level if node.finish_reason is None]
        # An engine may stop inside a segment for reasons of its own: such a path first goes on to the boundary.
        at_boundary = [node for node in open_paths if not node.partial]
        branches = [b for node in open_paths if node.partial for b in self._sampler.children(node.index, [1])]
        if at_boundary:
            branches += self._branch(at_boundary, max(len(at_boundary), min(missing, limit) - len(branches)))
        room = limit if self._rules.budget is Budget.LEVEL_TOKENS else missing
        width = min(self._left_over(branches, missing), max(0, room - len(branches)))
        return branches + self._fall_back(width)

    def _fall_back(self, width: int) -> list[Branch]:
        if width == 0:
            return []
        leaves = self._tree.leaves_by_name()
        return self._sampler.resume(choose_resumptions(self._tree, leaves, width, self._shape.fallback, self._rng))

    def _branch(self, open_paths: list[Node], total: int) -> list[Branch]:
        """Share ``total`` children out among the open paths."""
        weights = [1.0] * len(open_paths)
        if self._rules.share is not Share.EVEN:
            weights = share_weights([self._value(node) for node in open_paths], self._rules)
        shares = share_out(total, weights, most=self._rules.max_divergence, rng=self._rng)
        return [
            branch
            for node, share in zip(open_paths, shares, strict=True)
            for branch in self._sampler.children(node.index, [1] * share)
        ]

    def _value(self, node: Node) -> float:
        """Return what the share of a path follows."""
        share = self._rules.share
        whole_path = share in (Share.PATH_SUM, Share.PATH_MEAN)
        logprobs = self._tree.written_logprobs(node.index) if whole_path else self._tree.segment_logprobs(node.index)
        if share in (Share.PATH_SUM, Share.SEGMENT_SUM):
            return sum(logprobs)
        mean = sum(logprobs) / len(logprobs)
        # The mean of -log p over sampled tokens estimates the mean entropy without bias; servers tell no more than
        # the log-probability of the sampled token.
        return -mean if share is Share.ENTROPY else mean

    def _left_over(self, branches: list[Branch], missing: int) -> int:
        """Return the width that the branches cannot fill and that has to fall back now."""
        if not branches:
            return missing
        if self._shape.fallback.start is FallbackStart.DRY or not self._tree.leaves:
            return 0
        nodes, depth = self._tree.nodes, self._sampler.stopping.depth
        levels_left = [depth - nodes[b.parent].depth - (not nodes[b.parent].partial) for b in branches]
        return max(0, missing - reachable_leaves(self._rules, levels_left, segment_length=self._shape.longest_segment))
