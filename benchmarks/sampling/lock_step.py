# SPDX-License-Identifier: Apache-2.0
"""Grow trees that wait for each other before each level, as in the released code of TreePO; for comparison only."""

import asyncio
from typing import Any

from recipe.treepo.search import grow_tree
from recipe.treepo.search.tree import Tree


class LockStep:
    """Barrier for searches, each of which leaves it at its end."""

    def __init__(self, searches: int) -> None:
        self._searches, self._waiting = searches, 0
        self._level = asyncio.Event()

    async def next_level(self) -> None:
        """Wait until all searches that have not left wait here."""
        level = self._level
        self._waiting += 1
        self._begin_if_all_wait()
        try:
            await level.wait()
        except asyncio.CancelledError:
            if not level.is_set():
                self._waiting -= 1
            raise

    def leave(self) -> None:
        """Remove one search, which must not be waiting."""
        self._searches -= 1
        self._begin_if_all_wait()

    def _begin_if_all_wait(self) -> None:
        if self._waiting == self._searches:
            self._waiting = 0
            self._level.set()
            self._level = asyncio.Event()


async def grow_in_lock_step(prompt_ids: list[int], *, lock_step: LockStep | None, **search: Any) -> Tree:
    """Grow a tree that waits before each level for all trees with the same ``lock_step``; with None it never waits."""
    if lock_step is None:
        return await grow_tree(prompt_ids, **search)
    try:
        return await grow_tree(prompt_ids, before_level=lock_step.next_level, **search)
    finally:
        lock_step.leave()
