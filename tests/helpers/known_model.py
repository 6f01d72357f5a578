# SPDX-License-Identifier: Apache-2.0
"""An engine with known probabilities, which allow exact distributions of sampled responses."""

import math
import random
from collections.abc import Sequence
from itertools import product

from recipe.treepo.search.engine import Segment

END = 2  # never sampled
PROMPT = [0]


class KnownModel:
    """Engine that samples the tokens 0 and 1, each dependent on the previous token.

    Args:
        seed: Seed of the tokens; equal seeds give equal tokens for every branch of a tree.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def probabilities(self, before: int) -> tuple[float, float]:
        """Return the probabilities of the tokens 0 and 1 after a token."""
        return (0.8, 0.2) if before == 0 else (0.4, 0.6)

    async def extend(self, input_ids: Sequence[int], *, max_tokens: int, branch: str) -> Segment:
        """See :class:`recipe.treepo.search.engine.SegmentEngine`."""
        rng = random.Random(f"{self.seed}/{branch}")
        last, tokens, logprobs = input_ids[-1], [], []
        for _ in range(max_tokens):
            probabilities = self.probabilities(last)
            last = rng.choices((0, 1), probabilities)[0]
            tokens.append(last)
            logprobs.append(math.log(probabilities[last]))
        return Segment(tokens, logprobs)

    def responses(self, length: int) -> dict[tuple[int, ...], float]:
        """Return all responses of ``length`` tokens with their probabilities."""
        return {
            tokens: math.prod(
                self.probabilities(before)[token] for before, token in zip((PROMPT[-1], *tokens), tokens, strict=False)
            )
            for tokens in product((0, 1), repeat=length)
        }
