# SPDX-License-Identifier: Apache-2.0
"""Growth level by level: policies compare the paths of a level and move width between them."""

import asyncio
import random
from collections.abc import Awaitable, Callable

from recipe.treepo.search.budgets import budget_of
from recipe.treepo.search.fallback import FallbackStart
from recipe.treepo.search.node import ROOT, Node
from recipe.treepo.search.path_sampler import Continuation, PathSampler


class LevelSearch:
    """Samples all paths of a level at once, then decides about the next level.

    A level is the set of segments sampled together; paths that fell back may be at other depths of the tree. Once
    nothing can branch any more, each path runs to its end without waiting. With ``before_level``, paths still stop at
    each level.
    """

    def __init__(
        self, sampler: PathSampler, seed: int, before_level: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self._sampler, self._rng, self._before_level = sampler, random.Random(seed), before_level
        # Separate generator: request lengths change the number of levels, and must not change other draws.
        self._divergence_rng = random.Random(f"{seed}/divergence")
        self._tree, self._shape, self._decisions = sampler.tree, sampler.shape, sampler.decisions
        self._rules = sampler.shape.branching
        self._budget = budget_of(self._rules, sampler.shape.longest_segment)

    async def run(self) -> None:
        """Grow the tree until it has all its leaves."""
        children = min(self._width, self._rng.randint(*self._rules.root_children(self._width)))
        paths = self._sampler.new_children(ROOT, [1] * children)
        while paths:
            if self._before_level is not None:
                await self._before_level()
            run_out, may_drop = self._nothing_can_branch(paths), self._may_drop
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(
                        self._sampler.run_out(path, may_drop=may_drop)
                        if run_out
                        else self._sampler.extend(path, segments=1, may_drop=may_drop)
                    )
                    for path in paths
                ]
            level = [node for task in tasks if (node := task.result()) is not None]
            with self._sampler.busy:
                paths = self._next_level(level, level_size=len(paths))
        self._tree.counters.missing_trajectories = self._missing

    # --- state -------------------------------------------------------------------------------------------------------

    @property
    def _missing(self) -> int:
        """Number of lost trajectories. Width of abandoned paths goes to other paths, but only ``width`` times."""
        return max(0, self._tree.counters.abandoned_paths - self._shape.width)

    @property
    def _width(self) -> int:
        """Number of trajectories of the tree, as known so far."""
        width = self._budget.trajectories(
            self._shape.width,
            finished=len(self._tree.leaves),
            finished_tokens=sum(self._tree.nodes[leaf].end for leaf in self._tree.leaves),
            response_length=self._sampler.stopping.response_length,
        )
        return width - self._missing

    @property
    def _may_drop(self) -> bool:
        """Whether paths may still be dropped. The limit ends the search if all responses are too short."""
        return self._tree.counters.dropped_paths < self._shape.width

    @property
    def _most_pruned(self) -> int:
        """Number of paths that may still be pruned. The limit ends the search if a policy prunes all."""
        return max(0, self._shape.width - self._tree.counters.pruned_paths) if self._decisions.prunes else 0

    def _nothing_can_branch(self, paths: list[Continuation]) -> bool:
        """Return whether no decision is due until the paths end: the width is used up for good, or nothing branches."""
        if self._before_level is not None or self._most_pruned > 0:
            return False
        if self._decisions.never_branches and self._shape.fallback.start is FallbackStart.DRY:
            return True
        used_up = len(self._tree.leaves) + len(paths) + self._missing == self._shape.width
        return used_up and not (self._may_drop and any(map(self._sampler.can_be_dropped, paths)))

    # --- the next level ----------------------------------------------------------------------------------------------

    def _next_level(self, level: list[Node], *, level_size: int) -> list[Continuation]:
        wanted = self._width - len(self._tree.leaves)
        if wanted <= 0:
            return []
        limit = self._budget.segments(level_size, self._divergence_rng)
        open_paths = [node for node in level if node.finish_reason is None]
        # An engine may stop inside a segment for its own reasons: such a path first continues to the boundary.
        at_boundary = [node for node in open_paths if not node.partial and not self._prune(node)]
        paths = [path for node in open_paths if node.partial for path in self._sampler.new_children(node.index, [1])]
        if at_boundary:
            most = wanted if self._chooses_freely else min(wanted, limit)
            paths += self._branch(at_boundary, max(len(at_boundary), most - len(paths)))
        room = limit if self._budget.is_strict else wanted
        width = min(self._left_over(paths, wanted), max(0, room - len(paths)))
        return paths + self._fall_back(width)

    @property
    def _chooses_freely(self) -> bool:
        """Whether the user's policy may give the next level all the width that is left."""
        return self._decisions.owns_branching and not self._budget.is_strict

    def _prune(self, node: Node) -> bool:
        """Prune an open path if its score says so; return whether it did."""
        if pruned := self._most_pruned > 0 and self._decisions.is_hopeless(node):
            self._decisions.prune(node)
        return pruned

    def _fall_back(self, width: int) -> list[Continuation]:
        if width == 0:
            return []
        context = self._decisions.context(lambda: self._rng)
        return self._sampler.resume(self._decisions.resume_points(self._tree.leaves_by_name(), width, context))

    def _branch(self, open_paths: list[Node], room: int) -> list[Continuation]:
        """Give the open paths up to ``room`` children."""
        context = self._decisions.context(lambda: self._rng)
        counts = self._decisions.children(open_paths, room, context, most_pruned=self._most_pruned)
        for node, count in zip(open_paths, counts, strict=True):
            if count == 0:
                self._decisions.prune(node)
        return [
            path
            for node, count in zip(open_paths, counts, strict=True)
            for path in self._sampler.new_children(node.index, [1] * count)
        ]

    def _left_over(self, paths: list[Continuation], wanted: int) -> int:
        """Return the width that the paths cannot fill and that has to fall back now."""
        if not paths:
            return wanted
        # The user's policy may give any path all children.
        waits = self._shape.fallback.start is FallbackStart.DRY or self._decisions.owns_branching
        if waits or not self._tree.leaves:
            return 0
        nodes, depth = self._tree.nodes, self._sampler.stopping.depth
        levels_left = [depth - nodes[path.parent].depth - (not nodes[path.parent].partial) for path in paths]
        return max(0, wanted - self._budget.reachable_leaves(levels_left))
