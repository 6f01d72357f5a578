# SPDX-License-Identifier: Apache-2.0
"""The engine protocol of the search: continue a prefix."""

import math
from dataclasses import dataclass, field, replace
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Segment:
    """Result of one engine call, or a node's part of it.

    Attributes:
        token_ids: Generated tokens, including an end token.
        logprobs: Log-probability of each generated token at sampling time.
        cached_tokens: Input tokens of the call that the engine took from its prefix cache, None if it does not say.
        min_version: Oldest version of the policy's weights that generated some of the tokens, None if unknown.
        max_version: Newest such version.
        started: Start of the call in seconds since the epoch; set by the search.
        ended: End of the call, likewise.
    """

    token_ids: list[int]
    logprobs: list[float]
    cached_tokens: int | None = None
    min_version: int | None = None
    max_version: int | None = None
    started: float = field(default=0.0, compare=False)
    ended: float = field(default=0.0, compare=False)

    def part(self, start: int, end: int) -> "Segment":
        """Return tokens ``start`` to ``end`` (exclusive) with their log-probabilities; other fields stay the same."""
        return replace(self, token_ids=self.token_ids[start:end], logprobs=self.logprobs[start:end])


class EngineError(RuntimeError):
    """A failed request. The text before the first colon is the kind of failure, without numbers and names."""


class SegmentEngine(Protocol):
    """Continues a prefix. The search depends on nothing else of verl, vLLM or a server."""

    async def extend(self, input_ids: list[int], *, max_tokens: int, branch: str) -> Segment:
        """Sample 1 to ``max_tokens`` tokens after ``input_ids``.

        Any exception counts as a failed request, which the search may retry; so do a result that violates this
        contract (:func:`check_segment`) and a CancelledError without a cancellation by the search. Cancellation must
        leave no request running.

        Args:
            input_ids: Prompt tokens and every response token on the path, exactly as sampled.
            max_tokens: Maximum tokens to sample, at least 1.
            branch: Name of the branch, unique in its tree and the same if the tree is searched again. Siblings have
                equal ``input_ids``: an engine with a seed per request needs the name to distinguish them. A retry has
                the name of the failed request.
        """
        ...


def check_segment(segment: Segment, max_tokens: int) -> None:
    """Check an engine's result before it becomes part of a tree.

    Args:
        segment: Result of the request.
        max_tokens: Maximum tokens of the request.

    Raises:
        EngineError: if the result has no token, more than ``max_tokens``, an entry that is not a token id, or not one
            finite log-probability per token. A sampled token never has a log-probability of -inf.
    """
    token_ids, logprobs = segment.token_ids, segment.logprobs
    count = len(token_ids)
    if count == 0:
        raise EngineError("the engine returned no token")
    if count > max_tokens:
        raise EngineError(f"the engine ignored max_tokens: it returned {count} tokens instead of at most {max_tokens}")
    if len(logprobs) != count:
        raise EngineError(f"the engine returned a wrong number of log-probabilities: {len(logprobs)}, tokens: {count}")
    # Sets and maps instead of loops: this runs on every generated token.
    if set(map(type, token_ids)) != {int} or min(token_ids) < 0:
        bad = next(token for token in token_ids if type(token) is not int or token < 0)
        raise EngineError(f"the engine returned a token id that is not an integer of at least 0: {bad!r:.40}")
    if not _are_finite(logprobs):
        place = next(place for place in range(count) if not _are_finite(logprobs[place : place + 1]))
        text = f"{logprobs[place]!r:.40} for token {place}"
        raise EngineError(f"the engine returned a log-probability that is not a finite number: {text}")


def _are_finite(numbers: list[float]) -> bool:
    try:
        # A finite sum has finite terms only. The terms decide if the sum is too large for a float.
        return math.isfinite(sum(numbers)) or all(map(math.isfinite, numbers))
    except (TypeError, OverflowError):  # None, a text, or an integer beyond floats
        return False
