# SPDX-License-Identifier: Apache-2.0
"""Calls of the user's policies: errors name the class, its method, the prompt and the nodes.

An exit or a cancellation that a policy raises is an error like any other, or it would end the worker.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from recipe.treepo.search.user_errors import TooLate, awaited, awaited_within, is_from_user_code, on_one_line

Result = TypeVar("Result")


class PolicyError(RuntimeError):
    """A policy of the user raised an error or returned a wrong result.

    Attributes:
        policy: Name of the class.
        method: Name of the method.
    """

    def __init__(self, text: str, policy: str = "", method: str = "") -> None:
        super().__init__(text, policy, method)  # all, or the error could not be unpickled
        self.policy, self.method = policy, method

    def __str__(self) -> str:
        """Return the text."""
        return str(self.args[0])


@dataclass(frozen=True, slots=True)
class PolicyCall:
    """A call of a method of a policy.

    Attributes:
        policy: The policy.
        method: Name of its method.
        prompt: Name of the prompt, or of the batch.
        nodes: Returns the names of the nodes; the root has none.
    """

    policy: Any
    method: str
    prompt: str
    nodes: Callable[[], Sequence[str]]

    def result(self, call: Callable[[], Result]) -> Result:
        """Return the result of ``call``.

        Raises:
            PolicyError: if it raises an error.
        """
        try:
            return call()
        except BaseException as error:  # the user's class may raise anything
            if not is_from_user_code(error, _current_task()):
                raise
            raise self.failed(error) from error

    async def awaited_result(self, call: Callable[[], Awaitable[Result]], limit: float | None) -> Result:
        """Return the result of a coroutine.

        Args:
            limit: Maximum seconds, None for no limit.

        Raises:
            PolicyError: if it raises an error or takes too long.
        """

        def failure(error: BaseException) -> PolicyError:
            return (
                self._error(f"gave no result within {limit:g} s") if isinstance(error, TooLate) else self.failed(error)
            )

        found: Result = await awaited_within(limit, lambda: awaited(call()), failure)
        return found

    def failed(self, error: BaseException) -> PolicyError:
        """Return the error for a call that raised another."""
        return self._error(f"raised {on_one_line(error)}")

    def wrong(self, result: Any, rule: str) -> PolicyError:
        """Return the error for a result that violates a rule."""
        try:
            shown = f"{result!r:.80}"
        except Exception:  # the user's class may raise anything
            shown = f"a {type(result).__name__}"
        return self._error(f"returned {shown}: {rule}")

    def _error(self, text: str) -> PolicyError:
        name = type(self.policy).__name__
        return PolicyError(f"{name}.{self.method} {text} ({self._place})", name, self.method)

    @property
    def _place(self) -> str:
        names = self.nodes()
        if not names:
            return self.prompt
        more = ", ..." if len(names) > 4 else ""
        return f"{self.prompt}, node {', '.join(name or 'root' for name in names[:4])}{more}"


def plain(value: Any) -> Any:
    """Return a scalar of numpy or torch as a number or boolean of Python, anything else unchanged."""
    if isinstance(value, int):  # the usual case
        return value
    try:
        return value.item()
    except Exception:  # no scalar
        return value


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no event loop runs
        return None
