# SPDX-License-Identifier: Apache-2.0
"""Calls of a user's interaction: threads, time limits, states to close, and error texts."""

import asyncio
import contextvars
import inspect
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from recipe.treepo.interaction import Interaction, InteractionError, Message
from recipe.treepo.search.counters import SearchCounters
from recipe.treepo.search.surrogates import without_surrogates
from recipe.treepo.search.user_errors import TooLate, awaited, awaited_within, contained, named

logger = logging.getLogger(__name__)

# For the plain functions of all prompts in a process. verl tokenizes in the event loop's own few threads, and a
# function that hangs would block one forever.
_THREADS = ThreadPoolExecutor(max_workers=64, thread_name_prefix="interaction")

# Maximum characters of an error text. With on_error=end, each failed trajectory carries it.
MOST_REASON = 2000
# Maximum wait for abandoned threads at the end of a search if treepo.interaction.timeout_seconds is null.
MOST_WAIT_SECONDS = 60.0


class InteractionCalls:
    """Calls the methods of one prompt's interaction, and closes every state that they return."""

    def __init__(
        self, interaction: Interaction, *, prompt_name: str, timeout_seconds: float | None, counters: SearchCounters
    ) -> None:
        """Prepare calls.

        Args:
            interaction: The user's interaction.
            prompt_name: Name of the prompt for error texts.
            timeout_seconds: Maximum seconds of one call, None for no limit.
            counters: Counters of the search, to which calls add their time.
        """
        self._interaction, self._prompt_name = interaction, prompt_name
        self._timeout_seconds, self._counters = timeout_seconds, counters
        self._states: list[Any] = []  # open states
        self._late: list[asyncio.Future[Any]] = []  # abandoned threads that may still return a state
        self._warned = False

    async def call(self, method: str, key: str, *arguments: Any) -> Any:
        """Call a method and return its result.

        Args:
            key: Name of the node that the call concerns.

        Raises:
            InteractionError: if the method raises or takes too long; the message names class, prompt and node.
        """

        async def answer() -> Any:
            function = getattr(self._interaction, method)
            if inspect.iscoroutinefunction(function):
                return await awaited(function(*arguments))
            result = await self._in_thread(method, function, *arguments)
            return await awaited(result) if inspect.isawaitable(result) else result

        def failure(error: BaseException) -> InteractionError:
            return self.failure(method, key, str(error) if isinstance(error, TooLate) else error)

        started = time.perf_counter()
        try:
            return await awaited_within(self._timeout_seconds, answer, failure)
        finally:
            self._counters.interaction_seconds += time.perf_counter() - started

    async def start(self, *arguments: Any) -> Any:
        """Return the state of a new conversation."""
        state = await self.call("start", "the root", *arguments)
        self._states.append(state)
        return state

    @asynccontextmanager
    async def copied(
        self, state: Any, messages: list[Message], key: str, *, is_kept: Callable[[Any], bool]
    ) -> AsyncIterator[Any]:
        """Copy a state; close the copy afterwards unless it is kept.

        Args:
            messages: Conversation that led to the state; the interaction may modify it.
            key: Name of the node that gets the copy.
            is_kept: Function that returns whether the copy is still needed.
        """
        copy = await self.call("copy_state", key, state, messages)
        self._states.append(copy)
        try:
            yield copy
        finally:
            if not is_kept(copy):
                await self._close_state(copy)

    async def close(self) -> None:
        """Close every state, even if closing one fails."""
        if self._late:
            limit = self._timeout_seconds or MOST_WAIT_SECONDS
            done, running = await asyncio.wait(self._late, timeout=limit)
            self._states += [work.result() for work in done if not work.cancelled() and work.exception() is None]
            for work in running:
                work.cancel()
                self.warn(self.failure("copy_state", "the end", f"a thread still runs after {limit:g} s"))
        await asyncio.gather(*map(self._close_state, self._states))

    def failure(self, method: str, key: str, reason: str | BaseException) -> InteractionError:
        """Return an error that names class, method, prompt, node and reason."""
        text = without_surrogates(reason if isinstance(reason, str) else named(reason), self.source(method))
        text = text if len(text) <= MOST_REASON else f"{text[:MOST_REASON]}..."
        return InteractionError(f"{self.source(method)} failed for {self._prompt_name} at node {key}: {text}")

    def source(self, method: str) -> str:
        """Return class and method, for messages."""
        return f"{type(self._interaction).__qualname__}.{method}"

    def warn(self, error: InteractionError) -> None:
        """Log a failure: the first of a prompt as a warning, later ones at debug level."""
        logger.log(logging.DEBUG if self._warned else logging.WARNING, "%s", error)
        self._warned = True

    async def _close_state(self, state: Any) -> None:
        number = next(number for number, held in enumerate(self._states) if held is state)
        del self._states[number]
        try:
            await self.call("close_state", "the end", state)
        except InteractionError as error:
            self.warn(error)

    async def _in_thread(self, method: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a plain function off the event loop; keep track of a state that it returns too late."""
        call = partial(contextvars.copy_context().run, contained, function, *arguments)
        work = asyncio.get_running_loop().run_in_executor(_THREADS, call)
        if method not in ("start", "copy_state"):
            return await work
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            # The thread continues, and a state that it returns must be closed.
            self._late.append(work)
            raise
