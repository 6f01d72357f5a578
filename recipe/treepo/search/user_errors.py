# SPDX-License-Identifier: Apache-2.0
"""Exceptions of user code (interactions and tools), as opposed to a cancelled or interrupted run."""

import asyncio
import signal
import threading
from collections.abc import Callable
from typing import Any


class UserCodeError(Exception):
    """Carrier of an exception of user code that ends a path and must not end the run, such as SystemExit.

    Attributes:
        error: The exception.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(named(error))
        self.error = error


def named(error: BaseException) -> str:
    """Return the type and the text of an exception; the text may come from the user's ``__str__``."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__


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
