# SPDX-License-Identifier: Apache-2.0
"""Cost of a search, counted while it runs."""

from dataclasses import dataclass
from typing import TypeVar

Number = TypeVar("Number", int, float)


@dataclass(slots=True, kw_only=True)
class SearchCounters:
    """Cost of one search, counted while it runs.

    Attributes:
        engine_calls: Requests that the engine answered.
        failed_calls: Failed requests, including retries.
        abandoned_paths: Paths without a result: all retries of a request failed, or the interaction failed.
        dropped_paths: Paths that ended too short.
        pruned_paths: Paths that a policy gave up.
        decoded_tokens: Tokens that the engine sampled.
        overrun_tokens: Decoded tokens beyond the end of a path, which were cut off.
        computed_prompt_tokens: Input tokens of all answered requests that the engine computed; None if unknown.
        cached_prompt_tokens: Input tokens that the engine took from its prefix cache, by its own count; None if it did
            not count them in some request.
        missing_trajectories: Trajectories lost because their paths were abandoned repeatedly.
        fallbacks: Branches that resumed from a finished path or the root.
        steps: Steps of the interaction.
        failed_steps: Turns after which the interaction failed.
        interaction_seconds: Time that paths waited for the interaction, summed over paths.
        score_calls: Scores of paths.
        score_seconds: Time that paths waited for their scores, summed over paths.
        search_seconds: Wall time of the whole search.
        busy_seconds: Part of the wall time spent in the search's own code.
    """

    engine_calls: int = 0
    failed_calls: int = 0
    abandoned_paths: int = 0
    dropped_paths: int = 0
    pruned_paths: int = 0
    decoded_tokens: int = 0
    overrun_tokens: int = 0
    computed_prompt_tokens: int | None = 0
    cached_prompt_tokens: int | None = 0
    missing_trajectories: int = 0
    fallbacks: int = 0
    steps: int = 0
    failed_steps: int = 0
    interaction_seconds: float = 0.0
    score_calls: int = 0
    score_seconds: float = 0.0
    search_seconds: float = 0.0
    busy_seconds: float = 0.0

    def count_input(self, tokens: int, cached: int | None) -> None:
        """Count the input of an answered request, ``cached`` tokens of it from the prefix cache (None: unknown)."""
        computed = None if cached is None else tokens - cached
        self.computed_prompt_tokens = known_sum(self.computed_prompt_tokens, computed)
        self.cached_prompt_tokens = known_sum(self.cached_prompt_tokens, cached)


def known_sum(first: Number | None, second: Number | None) -> Number | None:
    """Return the sum of two numbers, None if one of them is unknown."""
    return None if first is None or second is None else first + second
