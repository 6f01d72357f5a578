# SPDX-License-Identifier: Apache-2.0
"""An engine whose probabilities are known: what tree policies do to them can be computed and measured."""

import math
import random
from collections.abc import Sequence

from recipe.treepo.search.engine import Segment

END = 2
PROMPT = [0]


class KnownModel:
    """Writes tokens 0, 1 and, with ``end_rate``, the end token 2; the next token depends on the one before.

    Args:
        seed: Of the tokens; with the same seed every branch of a tree is the same again.
        end_rate: Probability of the end token at each position.
    """

    def __init__(self, seed: int, *, end_rate: float = 0.0) -> None:
        self.seed, self.end_rate = seed, end_rate

    def probabilities(self, before: int) -> list[float]:
        """Return the probabilities of the tokens 0, 1 and 2 after a token."""
        again = 0.8 if before == 0 else 0.6
        ones = (1 - again) if before == 0 else again
        return [(1 - self.end_rate) * (1 - ones), (1 - self.end_rate) * ones, self.end_rate]

    async def extend(self, input_ids: list[int], *, max_tokens: int, branch: str) -> Segment:
        """See :class:`recipe.treepo.search.engine.SegmentEngine`."""
        rng = random.Random(f"{self.seed}/{branch}")
        last, tokens, logprobs = input_ids[-1], [], []
        while len(tokens) < max_tokens and last != END:
            probabilities = self.probabilities(last)
            last = rng.choices((0, 1, END), probabilities)[0]
            tokens.append(last)
            logprobs.append(math.log(probabilities[last]))
        return Segment(tokens, logprobs)

    def responses(self, length: int, prefix: Sequence[int] = ()) -> dict[tuple[int, ...], float]:
        """Return all responses of at most ``length`` tokens with their probabilities."""
        if len(prefix) == length or (prefix and prefix[-1] == END):
            return {tuple(prefix): 1.0}
        found = {}
        for token, probability in enumerate(self.probabilities(prefix[-1] if prefix else PROMPT[-1])):
            if probability > 0:
                rest = self.responses(length, [*prefix, token])
                found |= {response: probability * share for response, share in rest.items()}
        return found
