# SPDX-License-Identifier: Apache-2.0
"""An engine without a model, for unit tests of the search. A token below 256 is a byte of text."""

import asyncio
import random

from recipe.treepo.engine import Segment

EOS = (256, 257)


def decode(token_ids: list[int]) -> str:
    """Return the text of byte tokens; end tokens are special and leave no text."""
    return bytes(token for token in token_ids if token < 256).decode("latin-1")


class ScriptedEngine:
    """Writes random text that ends now and then; what it answers depends on its seed, the input and the node only.

    Args:
        seed: Of the text.
        end_rate: Chance of an end token at each position.
        script: If given, the response is a prefix of one of these texts, drawn by the node's number.
        jitter: Seed of the order in which concurrent requests finish; does not change what they return.
        fail_at: Number of the call that raises, counted from 1.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        end_rate: float = 0.0,
        script: list[list[int]] | None = None,
        jitter: int = 0,
        fail_at: int | None = None,
    ) -> None:
        self.seed, self.end_rate, self.script, self.fail_at = seed, end_rate, script, fail_at
        self.jitter = random.Random(jitter)
        self.calls: dict[int, tuple[list[int], int, list[int]]] = {}
        self.prompt_length = 0
        self.running = self.most_running = self.cancelled = 0

    async def extend(self, input_ids: list[int], *, max_tokens: int, node: int) -> Segment:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            for _ in range(self.jitter.randrange(5)):
                await asyncio.sleep(0)
            if self.fail_at is not None and len(self.calls) + 1 >= self.fail_at:
                raise ConnectionError("the engine went away")
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        tokens = self._tokens(input_ids, max_tokens, node)
        assert node not in self.calls, f"two calls for node {node}"
        self.calls[node] = (list(input_ids), max_tokens, tokens)
        logprobs = [-(position + 1) / 8 for position in range(len(tokens))]
        return Segment(tokens, logprobs, cached_tokens=len(input_ids) // 4, min_version=node, max_version=node + 1)

    def _tokens(self, input_ids: list[int], max_tokens: int, node: int) -> list[int]:
        rng = random.Random(repr((self.seed, input_ids, node)))
        if self.script is not None:
            text = self.script[node % len(self.script)]
            start = len(input_ids) - self.prompt_length
            return (text[start:] or [EOS[0]])[:max_tokens]
        tokens = []
        while len(tokens) < max_tokens:
            if rng.random() < self.end_rate:
                return [*tokens, rng.choice(EOS)]
            tokens.append(rng.choice(b"ab{}\\boxed"))
        return tokens
