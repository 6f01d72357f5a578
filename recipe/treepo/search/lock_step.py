# SPDX-License-Identifier: Apache-2.0
"""Let the trees of several prompts wait for each other before each level, as the released code of TreePO does.

No run needs this: it is what the benchmarks compare a search with in which no prompt waits for another.
"""

import asyncio


class LockStep:
    """A barrier for searches that leave it when they have ended."""

    def __init__(self, searches: int) -> None:
        self._searches, self._waiting = searches, 0
        self._level = asyncio.Event()

    async def next_level(self) -> None:
        """Wait until every search that has not left waits here, too."""
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
        """End the part of one search, which must not be waiting."""
        self._searches -= 1
        self._begin_if_all_wait()

    def _begin_if_all_wait(self) -> None:
        if self._waiting == self._searches:
            self._waiting = 0
            self._level.set()
            self._level = asyncio.Event()
