# SPDX-License-Identifier: Apache-2.0
"""A barrier that makes trees wait for each other before each level, as in TreePO's released code."""

import asyncio


class LockStep:
    """A barrier for a number of searches; a search leaves it when it has ended.

    Each search calls :func:`recipe.treepo.search.grow_tree` with ``before_level=lock_step.next_level``, and
    :meth:`leave` afterwards, even if it failed.
    """

    def __init__(self, searches: int) -> None:
        self._searches, self._waiting = searches, 0
        self._level = asyncio.Event()

    async def next_level(self) -> None:
        """Wait until every search that has not left waits here."""
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
