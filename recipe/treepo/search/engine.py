# SPDX-License-Identifier: Apache-2.0
"""The engine protocol of the search: continue a prefix."""

from dataclasses import dataclass, field, replace
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Segment:
    """The result of one engine call, or the part of it that a node holds.

    Attributes:
        token_ids: Generated tokens, an end token included.
        logprobs: Log-probability of each generated token when it was sampled.
        cached_tokens: How many of the call's input tokens the engine took from its prefix cache.
        min_version: Oldest version of the policy's weights that generated some of the tokens, None if unknown.
        max_version: Newest such version.
        started: When the call began, in seconds since the epoch; set by the search.
        ended: When it was answered.
    """

    token_ids: list[int]
    logprobs: list[float]
    cached_tokens: int = 0
    min_version: int | None = None
    max_version: int | None = None
    started: float = field(default=0.0, compare=False)
    ended: float = field(default=0.0, compare=False)

    def part(self, start: int, end: int) -> "Segment":
        """Return the tokens from ``start`` to before ``end`` with their log-probabilities, all else the same."""
        return replace(self, token_ids=self.token_ids[start:end], logprobs=self.logprobs[start:end])


class SegmentEngine(Protocol):
    """Continues a prefix. The search depends on nothing else of verl, vLLM or a server."""

    async def extend(self, input_ids: list[int], *, max_tokens: int, branch: str) -> Segment:
        """Sample 1 to ``max_tokens`` tokens after ``input_ids``.

        Any exception counts as a failed request, which the search may repeat. When it is cancelled, no request may
        be left running.

        Args:
            input_ids: Prompt tokens and every response token on the path, exactly as sampled.
            max_tokens: At least 1.
            branch: Name of the branch, unique in its tree, and the same whenever the same tree is searched again:
                siblings have equal ``input_ids``, and an engine that is seeded per request must tell them apart by
                it. A repeated request has the name of the failed one.
        """
        ...
