# SPDX-License-Identifier: Apache-2.0
"""Calls of the user's policies: errors name the class, its method, the prompt and the nodes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

Result = TypeVar("Result")


class PolicyError(RuntimeError):
    """A policy of the user raised an error or returned a wrong result."""


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
        except Exception as error:  # the user's class may raise anything
            raise self.failed(error) from error

    def failed(self, error: Exception) -> PolicyError:
        """Return the error for a call that raised another."""
        return PolicyError(
            f"{self._name} raised {' '.join(f'{type(error).__name__}: {error}'.split())} ({self._place})"
        )

    def wrong(self, result: Any, rule: str) -> PolicyError:
        """Return the error for a result that violates a rule."""
        return PolicyError(f"{self._name} returned {result!r:.80}: {rule} ({self._place})")

    @property
    def _name(self) -> str:
        return f"{type(self.policy).__name__}.{self.method}"

    @property
    def _place(self) -> str:
        names = self.nodes()
        if not names:
            return self.prompt
        more = ", ..." if len(names) > 4 else ""
        return f"{self.prompt}, node {', '.join(name or 'root' for name in names[:4])}{more}"
