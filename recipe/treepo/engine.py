# SPDX-License-Identifier: Apache-2.0
"""What the search asks of an inference engine: continue this prefix by one segment."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Segment:
    """What one engine call returned.

    Attributes:
        token_ids: Generated tokens, 1 to ``max_tokens`` of them, an end token included.
        logprobs: Log-probability of each generated token when it was sampled.
        cached_tokens: How many of the call's input tokens the engine took from its prefix cache.
        min_version: Oldest version of the policy's weights that generated some of the tokens, None if unknown.
        max_version: Newest such version.
    """

    token_ids: list[int]
    logprobs: list[float]
    cached_tokens: int = 0
    min_version: int | None = None
    max_version: int | None = None


class SegmentEngine(Protocol):
    """Continues a prefix. The search knows no more of verl, vLLM or a server than this."""

    async def extend(self, input_ids: list[int], *, max_tokens: int, node: int) -> Segment:
        """Sample at most ``max_tokens`` tokens after ``input_ids``.

        Args:
            input_ids: Prompt tokens and every response token on the path, exactly as sampled.
            max_tokens: At least 1.
            node: Number of the node to be made, unique in its tree: siblings have equal ``input_ids``, and an
                engine that is seeded per request must tell them apart by it.
        """
        ...
