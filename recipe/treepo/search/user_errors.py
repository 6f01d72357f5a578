# SPDX-License-Identifier: Apache-2.0
"""Exceptions of user code (interactions and tools), as opposed to a cancelled or interrupted run.

SystemExit and KeyboardInterrupt that leave a task end its event loop, and with it the worker.
"""

import asyncio
import contextlib
import inspect
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from typing import Any

_IN_USER_CODE = ContextVar("in_user_code", default=False)


class UserCodeError(Exception):
    """Carrier of an exception of user code that ends a path and must not end the run, such as SystemExit.

    Attributes:
        error: The exception.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(named(error))
        self.error = error


class TooLate(TimeoutError):
    """User code gave no result within its limit."""


def named(error: BaseException) -> str:
    """Return the type and the text of an exception; the text may come from the user's ``__str__``."""
    try:
        return f"{type(error).__name__}: {error}"
    except KeyboardInterrupt:
        raise
    except BaseException:  # the user's text may also exit
        return type(error).__name__


def on_one_line(error: BaseException) -> str:
    """Return :func:`named` without line breaks."""
    return " ".join(named(error).split())


def remote_cause(error: BaseException) -> BaseException:
    """Return the error of the remote process that an error of Ray carries, or the error itself."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error


def contained(function: Callable[..., Any], /, *arguments: Any, **named_arguments: Any) -> Any:
    """Call a plain function in a thread, where neither Ctrl-C nor a cancellation can raise.

    Raises:
        UserCodeError: instead of an exception that is not an ``Exception``. The event loop would take SystemExit,
            KeyboardInterrupt and CancelledError for its own.
        RuntimeError: instead of StopIteration, which a future cannot carry: it would never finish.
    """
    try:
        return function(*arguments, **named_arguments)
    except StopIteration as error:
        raise RuntimeError("StopIteration") from error
    except Exception:
        raise
    except BaseException as error:
        raise UserCodeError(error) from error


async def awaited(result: Awaitable[Any]) -> Any:
    """Await user code and contain exits in the tasks that it starts.

    Two cases are not contained: callbacks of the event loop (``call_soon``), and user code that cancels the current
    task. Only a task for each call could tell the latter from a cancelled search. It would change the order of seeded
    searches.

    Raises:
        UserCodeError: instead of SystemExit and KeyboardInterrupt in a task that the user code started and awaits.
    """
    loop = asyncio.get_running_loop()
    if not isinstance(factory := loop.get_task_factory(), _TaskFactory):
        loop.set_task_factory(_TaskFactory(factory))
    token = _IN_USER_CODE.set(True)
    try:
        return await result
    except ExceptionGroup as group:  # of a TaskGroup
        error: Exception = group
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, UserCodeError):
            raise error from group
        raise
    finally:
        with contextlib.suppress(ValueError):  # the coroutine was closed from outside its task
            _IN_USER_CODE.reset(token)


async def awaited_within(
    limit: float | None, call: Callable[[], Awaitable[Any]], failure: Callable[[BaseException], Exception]
) -> Any:
    """Await user code for a limited time; see :func:`awaited`.

    A cancellation from outside and Ctrl-C pass through.

    Args:
        limit: Maximum seconds, None for no limit.
        call: Starts the user code.
        failure: Makes the error that is raised in place of the user's, or of :class:`TooLate`.
    """
    started, task = time.perf_counter(), asyncio.current_task()
    try:
        async with asyncio.timeout(limit):
            return await call()
    except UserCodeError as carried:
        raise failure(carried.error) from carried
    except BaseException as error:  # user code may raise anything
        if isinstance(error, TimeoutError) and limit is not None and time.perf_counter() - started >= limit:
            raise failure(TooLate(f"no answer within {limit:g} s")) from error
        if not is_from_user_code(error, task):
            raise
        raise failure(error) from error


class _TaskFactory:
    """Task factory of an event loop that contains exits in tasks which user code starts.

    It stays installed on the loop. Outside of user code it only calls the factory before it.
    """

    def __init__(self, inner: Callable[..., Any] | None) -> None:
        self._inner = inner

    def __call__(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
        is_own = _IN_USER_CODE.get() and inspect.iscoroutine(coroutine)
        inside = _contained_task(coroutine) if is_own else coroutine
        make = self._inner or (lambda loop, inside, **options: asyncio.Task(inside, loop=loop, **options))
        task = make(loop, inside, **options)
        if is_own:  # a task that is cancelled before it starts never awaits the coroutine
            task.add_done_callback(lambda _: coroutine.close())
        return task


async def _contained_task(coroutine: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await coroutine
    except (SystemExit, KeyboardInterrupt) as error:
        if not is_from_user_code(error, asyncio.current_task()):
            raise
        raise UserCodeError(error) from error


def is_from_user_code(error: BaseException, task: asyncio.Task[Any] | None) -> bool:
    """Return whether an awaited coroutine of the user raised ``error`` itself.

    False for a cancellation of ``task``, for Ctrl-C, and if the coroutine was closed.

    Args:
        task: Task that awaits the coroutine.
    """
    match error:
        case asyncio.CancelledError():
            return task is not None and not task.cancelling()
        case KeyboardInterrupt():
            # Signals reach only the main thread. asyncio.run replaces Python's handler, and Ctrl-C then cancels first.
            is_main = threading.current_thread() is threading.main_thread()
            interrupts = is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
            return not interrupts and not (task is not None and task.cancelling())
        case GeneratorExit():
            try:
                return asyncio.current_task() is task
            except RuntimeError:  # no event loop runs: the coroutine was closed from outside
                return False
    return True
