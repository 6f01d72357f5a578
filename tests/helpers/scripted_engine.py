# SPDX-License-Identifier: Apache-2.0
"""An engine without a model, for unit tests of the search. A token below 256 is a byte of text."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence

from recipe.treepo.search.engine import Segment

EOS = (256, 257)


def decode(token_ids: list[int]) -> str:
    """Return the text of byte tokens; end tokens are special and leave no text."""
    return bytes(token for token in token_ids if token < 256).decode("latin-1")


# Kinds of failures: errors, and results that violate the engine protocol.
FAULTS = ("error", "cancelled", "empty", "long", "nan", "inf", "-inf", "no logprob", "negative", "float", "text")


def faulty(fault: str, max_tokens: int) -> Segment:
    """Fail as `fault` says, with a result that has no other fault."""
    count = max_tokens + 1 if fault == "long" else max_tokens
    tokens: list = [97] * count
    logprobs: list = [-0.5] * count
    match fault:
        case "error":
            raise ConnectionError("the engine went away")
        case "cancelled":
            raise asyncio.CancelledError
        case "empty":
            return Segment([], [])
        case "nan" | "inf" | "-inf":
            logprobs[-1] = float(fault)
        case "no logprob":
            del logprobs[0]
        case "negative":
            tokens[-1] = -1
        case "float":
            tokens[-1] = 97.0
        case "text":
            logprobs[-1] = "-0.5"
    return Segment(tokens, logprobs)


class ScriptedEngine:
    """Engine of random text with random ends; the text depends only on seed, input and branch.

    A sole child (``0.1.0`` after ``0.1``) continues with the tokens that one request over both would return.

    Args:
        seed: Seed of the text.
        end_rate: Probability of an end token at each position.
        repeat_rate: Probability that a token repeats the previous one.
        fail_rate: Probability that an attempt of a request fails.
        fault: Kind of the failures; None draws one of `FAULTS` for `fail_rate`, and raises errors for `broken`.
        script: Texts; if set, a response is a prefix of one of them, chosen by the last number in the branch's name.
        jitter: Seed of the order in which concurrent requests finish, without effect on their results.
        broken: Names of branches whose requests always fail, or True for all.
        blocked: Names of branches whose requests do not return before `release` is set.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        end_rate: float = 0.0,
        repeat_rate: float = 0.0,
        fail_rate: float = 0.0,
        fault: str | None = None,
        script: list[list[int]] | None = None,
        jitter: int = 0,
        broken: set[str] | bool = False,
        blocked: frozenset[str] = frozenset(),
    ) -> None:
        self.seed, self.end_rate, self.repeat_rate, self.fail_rate = seed, end_rate, repeat_rate, fail_rate
        self.script, self.broken, self.blocked, self.fault = script, broken, blocked, fault
        self.jitter = random.Random(jitter)
        self.release = asyncio.Event()
        self.calls: dict[str, tuple[list[int], int, list[int]]] = {}
        self.attempts: Counter[str] = Counter()
        self.prompt_length = 0
        self.running = self.most_running = self.cancelled = 0

    async def extend(self, input_ids: Sequence[int], *, max_tokens: int, branch: str) -> Segment:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        self.attempts[branch] += 1
        try:
            for _ in range(1 + self.jitter.randrange(5)):
                await asyncio.sleep(0)
            if branch in self.blocked:
                await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        return self._answer(input_ids, max_tokens, branch)

    def _answer(self, input_ids: list[int], max_tokens: int, branch: str) -> Segment:
        chance = random.Random(repr((self.seed, branch, self.attempts[branch]))).random()
        if self.broken is True or (self.broken and branch in self.broken):
            return faulty(self.fault or "error", max_tokens)
        if chance < self.fail_rate:
            return faulty(self.fault or FAULTS[int(chance / self.fail_rate * len(FAULTS))], max_tokens)
        tokens = self._tokens(input_ids, max_tokens, branch)
        assert branch not in self.calls, f"two responses for branch {branch}"
        self.calls[branch] = (list(input_ids), max_tokens, tokens)
        places = range(len(input_ids), len(input_ids) + len(tokens))
        logprobs = [-random.Random(repr((token, place))).random() for token, place in zip(tokens, places, strict=True)]
        return Segment(tokens, logprobs, cached_tokens=len(input_ids) // 4, min_version=len(input_ids), max_version=900)

    def _tokens(self, input_ids: list[int], max_tokens: int, branch: str) -> list[int]:
        if self.script is not None:
            text = self.script[int(branch.rstrip("?!").split(".")[-1].split("~")[-1]) % len(self.script)]
            start = len(input_ids) - self.prompt_length
            return (text[start:] or [EOS[0]])[:max_tokens]
        while branch.endswith(".0"):
            branch = branch.removesuffix(".0")
        tokens = list(input_ids)
        while len(tokens) < len(input_ids) + max_tokens:
            rng = random.Random(repr((self.seed, branch, tokens)))
            if rng.random() < self.end_rate:
                tokens.append(rng.choice(EOS))
                break
            again = rng.random() < self.repeat_rate and tokens[-1] < 256
            tokens.append(tokens[-1] if again else rng.choice(b"ab{}\\boxed"))
        return tokens[len(input_ids) :]
