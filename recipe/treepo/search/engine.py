# SPDX-License-Identifier: Apache-2.0
"""The engine protocol of the search: continue a prefix."""

from dataclasses import dataclass, field, replace
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Segment:
    """Result of one engine call, or a node's part of it.

    Attributes:
        token_ids: Generated tokens, including an end token.
        logprobs: Log-probability of each generated token at sampling time.
        cached_tokens: Input tokens of the call that the engine took from its prefix cache.
        min_version: Oldest version of the policy's weights that generated some of the tokens, None if unknown.
        max_version: Newest such version.
        started: Start of the call in seconds since the epoch; set by the search.
        ended: End of the call, likewise.
    """

    token_ids: list[int]
    logprobs: list[float]
    cached_tokens: int = 0
    min_version: int | None = None
    max_version: int | None = None
    started: float = field(default=0.0, compare=False)
    ended: float = field(default=0.0, compare=False)

    def part(self, start: int, end: int) -> "Segment":
        """Return tokens ``start`` to ``end`` (exclusive) with their log-probabilities; other fields stay the same."""
        return replace(self, token_ids=self.token_ids[start:end], logprobs=self.logprobs[start:end])


class SegmentEngine(Protocol):
    """Continues a prefix. The search depends on nothing else of verl, vLLM or a server."""

    async def extend(self, input_ids: list[int], *, max_tokens: int, branch: str) -> Segment:
        """Sample 1 to ``max_tokens`` tokens after ``input_ids``.

        Any exception counts as a failed request, which the search may retry. Cancellation must leave no request
        running.

        Args:
            input_ids: Prompt tokens and every response token on the path, exactly as sampled.
            max_tokens: Maximum tokens to sample, at least 1.
            branch: Name of the branch, unique in its tree and the same if the tree is searched again. Siblings have
                equal ``input_ids``: an engine with a seed per request needs the name to distinguish them. A retry has
                the name of the failed request.
        """
        ...
