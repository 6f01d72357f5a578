# SPDX-License-Identifier: Apache-2.0
"""Tools whose faults fail a path and nothing else: exits, results that are not text, lone surrogates.

An exit is SystemExit or another exception that is not an ``Exception``.
verl catches every ``Exception`` of a tool. SystemExit and KeyboardInterrupt would leave the task and end the event loop
of the worker, which then never answers again.
"""

import asyncio
import copy
import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from verl.tools.function_tool import FunctionTool
from verl.tools.schemas import ToolResponse

from recipe.treepo.search.surrogates import without_surrogates
from recipe.treepo.search.user_errors import UserCodeError, awaited, contained, is_from_user_code, named


class ToolExit(BaseException):
    """Carrier of an exception that fails the path. verl's own tool agent fails the trajectory with it.

    Attributes:
        error: The exception.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(named(error))
        self.error = error


def contained_tool(tool: Any) -> Any:
    """Return a tool that raises ToolExit instead of other exits, and whose texts can be encoded.

    Function tools also raise an error for StopIteration, and for a result that is not text.
    """
    if isinstance(tool, FunctionTool):
        return replace(tool, fn=partial(_await if tool.is_async else _call, tool.name, tool.fn))
    own = copy.copy(tool)
    for name in ("create", "execute", "release"):
        setattr(own, name, partial(_await, tool.name, getattr(tool, name)))
    return own


def _call(tool: str, function: Callable[..., Any], /, **arguments: Any) -> Any:
    try:
        return contained(lambda: _checked(function(**arguments), tool))
    except UserCodeError as carried:
        raise _exit(carried.error) from carried
    except Exception as error:
        _raise_if_unreadable(error)
        raise


async def _await(tool: str, function: Callable[..., Any], /, *arguments: Any, **named_arguments: Any) -> Any:
    try:
        return _checked(await awaited(function(*arguments, **named_arguments)), tool)
    except UserCodeError as carried:
        raise _exit(carried.error) from carried
    except Exception as error:
        _raise_if_unreadable(error)
        raise
    except BaseException as error:
        if not is_from_user_code(error, asyncio.current_task()):
            raise
        raise _exit(error) from error


def _exit(error: BaseException) -> ToolExit:
    return error if isinstance(error, ToolExit) else ToolExit(error)


def _raise_if_unreadable(error: Exception) -> None:
    """Raise another exception if the text of this one, which verl shows to the model, raises."""
    try:
        str(error)
    except BaseException:
        raise RuntimeError(named(error)) from error


def _checked(result: Any, tool: str) -> Any:
    """Return the result of a tool's function or method, without lone surrogates.

    Raises:
        TypeError: for a generator or coroutine. verl would show the model its place in memory.
    """
    if inspect.isgenerator(result) or inspect.isasyncgen(result) or inspect.isawaitable(result):
        raise TypeError(f"returned a {type(result).__name__}; a tool must return its text")
    if isinstance(result, tuple):
        return tuple(_checked(part, tool) for part in result)
    if isinstance(result, ToolResponse):
        return result.model_copy(update={"text": without_surrogates(result.text, f"tool {tool}")})
    return without_surrogates(result, f"tool {tool}")
