# SPDX-License-Identifier: Apache-2.0
"""The engine protocol of the search: continue a prefix."""

import math
import struct
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Segment:
    """Result of one engine call, or a node's part of it.

    Attributes:
        token_ids: Generated tokens, including an end token; an array in a tree (:func:`checked`).
        logprobs: Log-probability of each generated token at sampling time; in a tree an array of float32, the precision
            of engines and of verl's batch.
        cached_tokens: Input tokens of the call that the engine took from its prefix cache, None if it does not say.
        min_version: Oldest version of the policy's weights that generated some of the tokens, None if unknown.
        max_version: Newest such version.
        started: Start of the call in seconds since the epoch; set by the search.
        ended: End of the call, likewise.
    """

    token_ids: Sequence[int]
    logprobs: Sequence[float]
    cached_tokens: int | None = None
    min_version: int | None = None
    max_version: int | None = None
    started: float = field(default=0.0, compare=False)
    ended: float = field(default=0.0, compare=False)

    def part(self, start: int, end: int) -> "Segment":
        """Return tokens ``start`` to ``end`` (exclusive) with their log-probabilities; other fields stay the same."""
        if start == 0 and end >= len(self.token_ids):
            return self
        # dataclasses.replace takes four times as long.
        return Segment(
            self.token_ids[start:end],
            self.logprobs[start:end],
            self.cached_tokens,
            self.min_version,
            self.max_version,
            self.started,
            self.ended,
        )


class EngineError(RuntimeError):
    """A failed request. The text before the first colon is the kind of failure, without numbers and names."""


class SegmentEngine(Protocol):
    """Continues a prefix. The search depends on nothing else of verl, vLLM or a server."""

    async def extend(self, input_ids: Sequence[int], *, max_tokens: int, branch: str) -> Segment:
        """Sample 1 to ``max_tokens`` tokens after ``input_ids``.

        Any exception counts as a failed request, which the search may retry; so do a result that violates this
        contract (:func:`checked`) and a CancelledError without a cancellation by the search. Cancellation must
        leave no request running.

        Args:
            input_ids: Prompt tokens and every response token on the path, exactly as sampled. An array.
            max_tokens: Maximum tokens to sample, at least 1.
            branch: Name of the branch, unique in its tree and the same if the tree is searched again. Siblings have
                equal ``input_ids``: an engine with a seed per request needs the name to distinguish them. A retry has
                the name of the failed request.
        """
        ...


def tokens(token_ids: Iterable[int]) -> "array[int]":
    """Return tokens as an array of 4 bytes each; a list of Python integers takes 36.

    Raises:
        TypeError: if one is not an integer.
        OverflowError: if one is negative or beyond 32 bits.
    """
    return array("I", token_ids)


def checked(segment: Segment, max_tokens: int, *, started: float = 0.0, ended: float = 0.0) -> Segment:
    """Return an engine's result with arrays instead of lists, fit for a tree.

    Args:
        segment: Result of the request.
        max_tokens: Maximum tokens of the request.
        started: Start of the request in seconds since the epoch.
        ended: End of the request, likewise.

    Raises:
        EngineError: if the result has no token, more than ``max_tokens``, an entry that is not a token id, or not one
            finite log-probability per token. A sampled token never has a log-probability of -inf.
    """
    count = len(segment.token_ids)
    if count == 0:
        raise EngineError("the engine returned no token")
    if count > max_tokens:
        raise EngineError(f"the engine ignored max_tokens: it returned {count} tokens instead of at most {max_tokens}")
    if (numbers := len(segment.logprobs)) != count:
        raise EngineError(f"the engine returned a wrong number of log-probabilities: {numbers}, tokens: {count}")
    try:
        token_ids = tokens(segment.token_ids)
    except (TypeError, OverflowError) as error:
        bad = next(token for token in segment.token_ids if not _fits(token))
        text = f"the engine returned a token id that is not an integer of at least 0: {bad!r:.40}"
        raise EngineError(text) from error
    logprobs = _finite(segment.logprobs)
    if logprobs is None:
        place = next(place for place in range(count) if _finite(segment.logprobs[place : place + 1]) is None)
        text = f"{segment.logprobs[place]!r:.40} for token {place}"
        raise EngineError(f"the engine returned a log-probability that is not a finite number: {text}")
    return Segment(token_ids, logprobs, segment.cached_tokens, segment.min_version, segment.max_version, started, ended)


def _fits(token: int) -> bool:
    try:
        tokens([token])
    except (TypeError, OverflowError):
        return False
    return True


def _finite(numbers: Sequence[float]) -> "array[float] | None":
    """Return the numbers as float32, None if one is not a finite number."""
    try:
        values = array("f", struct.pack(f"{len(numbers)}f", *numbers))  # takes half the time of array("f", numbers)
    except (struct.error, OverflowError):  # None, a text, or an integer beyond floats
        return None
    # A finite sum has finite terms only, and finite float32 cannot add up to more than a float holds.
    return values if math.isfinite(sum(values)) else None
