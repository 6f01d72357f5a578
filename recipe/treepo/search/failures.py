# SPDX-License-Identifier: Apache-2.0
"""Failures of one prompt, counted by kind: requests, and calls of the interaction."""

import logging
from collections import Counter

from recipe.treepo.search.engine import EngineError
from recipe.treepo.search.user_errors import named, remote_cause

logger = logging.getLogger(__name__)
_WARNED: set[str] = set()  # kinds of failed requests with a warning in this process

# Maximum characters of a reason. Errors of remote calls carry whole tracebacks.
MOST_CHARACTERS = 300


class SearchError(RuntimeError):
    """A prompt got no trajectory. Its cause is the first failure of the most frequent kind."""


class Failures:
    """Failed requests and failures of the interaction of one prompt."""

    def __init__(self) -> None:
        self._first: dict[str, BaseException] = {}
        self._requests: Counter[str] = Counter()
        self._interactions: Counter[str] = Counter()

    def add_request(self, error: BaseException) -> None:
        """Count a failed request; warn of the first of its kind in this process."""
        kind = kind_of(error)
        self._first.setdefault(kind, error)
        self._requests[kind] += 1
        if kind not in _WARNED:
            _WARNED.add(kind)
            logger.warning(
                "a request failed and counts in treepo/failed_calls, like further ones of this kind, without another "
                "warning: %s",
                reason_of(error),
            )

    def add_interaction(self, error: BaseException) -> None:
        """Count a failure of the interaction, which has its own warning."""
        kind = kind_of(error)
        self._first.setdefault(kind, error)
        self._interactions[kind] += 1

    def no_trajectory(self, engine_calls: int) -> SearchError:
        """Return the error of a prompt without a trajectory: counts, and the most frequent reason of each source.

        Args:
            engine_calls: Number of requests with a result.
        """
        failed, parts = self._requests.total(), []
        if failed:
            [(kind, alike)] = self._requests.most_common(1)
            count = f"{failed} of {failed + engine_calls} requests failed, {'all' if alike == failed else alike} alike"
            parts.append(f"{count}: {reason_of(self._first[kind])}")
        if self._interactions:
            [(kind, _)] = self._interactions.most_common(1)
            count = f"{self._interactions.total()} calls of the interaction failed"
            parts.append(f"{count}: {reason_of(self._first[kind])}")
        error = SearchError(f"the prompt got no trajectory: {'; '.join(parts)}")
        kinds = (self._requests + self._interactions).most_common(1)
        error.__cause__ = self._first[kinds[0][0]] if kinds else None
        return error


def kind_of(error: BaseException) -> str:
    """Return the kind of a failure, equal for failures that differ only in numbers and names."""
    if isinstance(error, EngineError):
        return str(error).partition(":")[0]
    name, cause = type(error).__name__, error.__cause__
    return name if cause is None else f"{name} from {type(cause).__name__}"  # of the user's code, for an interaction


def reason_of(error: BaseException) -> str:
    """Return type and text of an error on one line. For an error of Ray, those of the remote cause."""
    text = str(error) if isinstance(error, EngineError) else named(remote_cause(error))
    line = text.strip().partition("\n")[0]
    return line if len(line) <= MOST_CHARACTERS else f"{line[:MOST_CHARACTERS]}..."
