# SPDX-License-Identifier: Apache-2.0
"""An engine with known probabilities, which allow exact distributions of sampled responses."""

import math
import random
from collections.abc import Sequence

from recipe.treepo.search.engine import Segment

END = 2
PROMPT = [0]


class KnownModel:
    """Engine that samples the tokens 0, 1 and END, each dependent on the previous token.

    Args:
        seed: Seed of the tokens; equal seeds give equal tokens for every branch of a tree.
        end_rate: Probability of END at each position.
    """

    def __init__(self, seed: int, *, end_rate: float = 0.0) -> None:
        self.seed, self.end_rate = seed, end_rate

    def probabilities(self, before: int) -> tuple[float, float, float]:
        """Return the probabilities of the tokens 0, 1 and END after a token."""
        zero, goes_on = (0.8 if before == 0 else 0.4), 1 - self.end_rate
        return goes_on * zero, goes_on * (1 - zero), self.end_rate

    async def extend(self, input_ids: Sequence[int], *, max_tokens: int, branch: str) -> Segment:
        """See :class:`recipe.treepo.search.engine.SegmentEngine`."""
        rng = random.Random(f"{self.seed}/{branch}")
        last = input_ids[-1]
        tokens: list[int] = []
        logprobs: list[float] = []
        while len(tokens) < max_tokens and last != END:
            probabilities = self.probabilities(last)
            last = rng.choices((0, 1, END), probabilities)[0]
            tokens.append(last)
            logprobs.append(math.log(probabilities[last]))
        return Segment(tokens, logprobs)

    def responses(self, length: int, prefix: tuple[int, ...] = ()) -> dict[tuple[int, ...], float]:
        """Return all responses of up to ``length`` tokens after a prefix, with their probabilities."""
        if len(prefix) == length or prefix[-1:] == (END,):
            return {prefix: 1.0}
        found: dict[tuple[int, ...], float] = {}
        for token, probability in enumerate(self.probabilities((*PROMPT, *prefix)[-1])):
            if probability > 0:
                rest = self.responses(length, (*prefix, token))
                found |= {response: probability * share for response, share in rest.items()}
        return found
