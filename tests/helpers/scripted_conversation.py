# SPDX-License-Identifier: Apache-2.0
"""Interactions and a chat template without a model, for unit tests of conversations."""

import asyncio
import copy
import random
from typing import Any

from helpers.scripted_engine import EOS, ScriptedEngine, decode
from recipe.treepo.interaction import ConversationRules, Interaction, Reply
from recipe.treepo.policies import Policies
from recipe.treepo.search import SearchShape, grow_tree
from recipe.treepo.search.branching import BranchingRules
from recipe.treepo.search.conversation import ConversationStart
from recipe.treepo.search.stopping import FinishReason, StoppingRules
from recipe.treepo.search.tree import Tree

PROMPT = [1000, 1001, 1002]
QUESTION = [{"role": "user", "content": "q"}]
# Closes turns that the model did not. The scripted engine never returns it, so smaller tokens are the model's.
CLOSING = 258
ROLES = ("user", "tool", "system")
REQUIRED = (FinishReason.LENGTH, FinishReason.DEPTH)


def encode(messages: list[dict[str, Any]]) -> list[int]:
    """Convert messages to tokens that the scripted engine never returns."""
    return [
        token
        for message in messages
        for token in [300 + ROLES.index(message["role"]), *(400 + byte for byte in message["content"].encode())]
    ]


AGAIN = encode([{"role": "user", "content": "again"}])  # 6 tokens


class Turns(ScriptedEngine):
    """Engine of scripted turns: each request continues after the turns in its input."""

    def __init__(self, *turns: list[int], **rest) -> None:
        super().__init__(**rest)
        self.turns = turns

    def _tokens(self, input_ids, max_tokens, branch):
        number = sum(token in range(300, 303) for token in input_ids)
        return self.turns[min(number, len(self.turns) - 1)][:max_tokens]


TURN = [97, 98, EOS[0]]


def sizes(**more):
    return {"depth": 3, "width": 2, "segment_length": 100, "response_length": 200, "init_divergence": (1, 1), **more}


class FakeTokens:
    """Chat template that encodes messages as bytes.

    Args:
        takes_back: Number of last tokens of a closed turn that it replaces, as the beginning of the next message.
        jitter: Seed of its random delays.
        closes: Whether a turn must have an end.
    """

    def __init__(self, *, takes_back: int = 0, jitter: int = 0, closes: bool = True) -> None:
        self.takes_back, self.jitter, self.closes = takes_back, random.Random(jitter), closes

    async def append(self, messages, updated, token_ids, tools):
        for _ in range(self.jitter.randrange(4)):
            await asyncio.sleep(0)
        assert updated[: len(messages)] == messages
        assert token_ids[-1] in (*EOS, CLOSING) or not self.closes
        return token_ids[: len(token_ids) - self.takes_back] + encode(updated[len(messages) :])


class Recorded(Interaction):
    """Interaction that records every call and checks the states: each matches its path, and is closed once.

    A state is a list of the texts of its path after the prompt, both turns and additions. It is changed in place.

    Args:
        copies: ``deepcopy`` (the default of interactions), ``snapshot`` of an environment that keeps states by number,
            or ``replay`` of the messages.
        jitter: Seed of the random delays of calls.
    """

    def __init__(self, *, copies: str = "deepcopy", jitter: int = 0) -> None:
        self.copies, self.jitter = copies, random.Random(jitter)
        self.contexts: dict[tuple[str, str], Any] = {}
        self.outcomes: dict[tuple[str, str], Any] = {}
        self.open: list[Any] = []
        self.closed = self.running = 0
        self.snapshots: dict[int, list[str]] = {}
        self.faults: list[str] = []
        self.returned: list[Any] = []

    def decide_finished(self, context) -> str | None:
        return None

    def decide_step(self, context) -> Any:
        return [{"role": "user", "content": "again"}]

    async def start(self, sample):
        await self._wait()
        return self._opened([])

    async def check_finished(self, context):
        self._take_down("check_finished", context, context.messages[1:-1])
        self._seen(context.state).append(context.text)
        await self._wait()
        return self._outcome("check_finished", context, self.decide_finished)

    async def step(self, context):
        self._take_down("step", context, context.messages[1:])
        await self._wait()
        answer = self._outcome("step", context, self.decide_step)
        messages = answer.messages if isinstance(answer, Reply) else answer
        if isinstance(messages, list):
            self._seen(context.state).extend(message["content"] for message in messages)
            # Changes of earlier return values, or of the context, must have no effect.
            for old in self.returned:
                old[0]["content"] = "changed"
            self.returned.append(messages)
        context.messages[0]["content"] = "changed"
        context.messages.append({"role": "user", "content": "changed"})
        context.token_ids.clear()
        return answer

    async def copy_state(self, state, messages):
        seen = [message["content"] for message in messages[1:]]
        self._expect(any(held is state for held in self.open), "a copy of a closed state")
        self._expect(self._seen(state) == seen, f"a copy of {self._seen(state)} after {seen}")
        messages[0]["content"] = "changed"
        messages.clear()
        await self._wait()
        if self.copies == "deepcopy":
            copied = await super().copy_state(state, messages)
            self.open.append(copied)
            return copied
        return self._opened(seen if self.copies == "replay" else list(self._seen(state)))

    async def close_state(self, state):
        number = next((number for number, held in enumerate(self.open) if held is state), None)
        if number is None:
            self.faults.append("a state was closed twice, or was never open")
        else:
            del self.open[number]
            self.closed += 1

    async def _wait(self) -> None:
        self.running += 1
        try:
            for _ in range(self.jitter.randrange(4)):
                await asyncio.sleep(0)
        finally:
            self.running -= 1

    def _opened(self, seen: list[str]) -> Any:
        state: Any = seen
        if self.copies == "snapshot":
            # Separate objects, so that each has an identity.
            state = Snapshot(len(self.snapshots))
            self.snapshots[state.number] = seen
        self.open.append(state)
        return state

    def _seen(self, state: Any) -> list[str]:
        return self.snapshots[state.number] if isinstance(state, Snapshot) else state

    def _take_down(self, method: str, context: Any, messages: list[dict[str, Any]]) -> None:
        seen = [message["content"] for message in messages]
        self._expect(any(held is context.state for held in self.open), f"{method} at {context.node}: a closed state")
        self._expect(self._seen(context.state) == seen, f"{method} at {context.node}: {context.state} after {seen}")
        self._expect((method, context.node) not in self.contexts, f"{method} was asked twice at {context.node}")
        self.contexts[method, context.node] = Taken(context)

    def _outcome(self, method: str, context: Any, decide: Any) -> Any:
        key = method, context.node
        try:
            outcome = decide(context)
        except Exception as error:
            self.outcomes[key] = error
            raise
        self.outcomes[key] = copy.deepcopy(outcome)
        return outcome

    def _expect(self, holds: bool, fault: str) -> None:
        if not holds:
            self.faults.append(fault)


class Snapshot:
    def __init__(self, number: int) -> None:
        self.number = number


class Taken:
    """Copy of a context at the time of the call."""

    def __init__(self, context: Any) -> None:
        self.messages, self.token_ids = copy.deepcopy(context.messages), list(context.token_ids)
        self.draw = random.Random()
        self.draw.setstate(context.rng.getstate())
        self.draw = self.draw.random()
        for name in ("text", "response", "turn", "turns_left", "tokens_left", "cut_off", "depth", "node", "validate"):
            setattr(self, name, getattr(context, name))
        self.sample = dict(context.sample)


class Chancy(Recorded):
    """Interaction with random ends, failures and replies, which depend on the turn only.

    Args:
        end_rate: Probability that the conversation ends, in either way.
        fail_rate: Probability that a call fails.
        goes_on: Whether the conversation continues after a turn that was cut off.
    """

    def __init__(self, *, end_rate: float = 0.0, fail_rate: float = 0.0, goes_on: bool = True, **rest) -> None:
        super().__init__(**rest)
        self.end_rate, self.fail_rate, self.goes_on = end_rate, fail_rate, goes_on

    def decide_finished(self, context):
        self._fail(context)
        if context.rng.random() < self.end_rate / 2:
            return context.rng.choice(["won", "lost"])
        return "cut_off" if context.cut_off and not self.goes_on else None

    def decide_step(self, context):
        self._fail(context)
        if context.rng.random() < self.end_rate / 2:
            return None
        messages = [
            {"role": context.rng.choice(ROLES), "content": "".join(context.rng.choices("xyz", k=context.rng.choice(k)))}
            for k in [range(4)] * context.rng.choice([1, 1, 2])
        ]
        plain = context.rng.random() < 0.5
        return messages if plain else Reply(messages=messages, info={"at": context.node})

    def _fail(self, context):
        if context.rng.random() < self.fail_rate:
            raise context.rng.choice([ValueError, TimeoutError, KeyError])("no luck")


def talk(engine: ScriptedEngine, interaction: Interaction, **options) -> Tree:
    """Grow a tree of conversations; see ``start_talk``."""
    return asyncio.run(start_talk(engine, interaction, **options))


async def start_talk(
    engine: ScriptedEngine,
    interaction: Interaction,
    *,
    tokens: Any = None,
    rules: ConversationRules | None = None,
    sample: dict[str, Any] | None = None,
    messages: list[dict[str, Any]] | None = None,
    seed: int = 0,
    end_token_id: int | None = CLOSING,
    **numbers,
) -> Tree:
    """Grow a tree; options that belong to no other argument are fields of the branching rules."""
    start = ConversationStart(
        interaction=interaction,
        rules=rules or ConversationRules(),
        messages=copy.deepcopy(QUESTION) if messages is None else messages,
        sample=sample or {},
        name="prompt 7",
        validate=False,
        tokens=tokens or FakeTokens(),
        end_token_id=end_token_id,
    )

    def taken(*names: str) -> dict[str, Any]:
        return {name: numbers.pop(name) for name in names if name in numbers}

    stopping = StoppingRules(
        order=numbers.pop("order", (FinishReason.EOS, *REQUIRED)),
        eos_token_ids=frozenset(EOS),
        decode=decode,
        **taken("response_length", "depth", "answer_needs_eos", "stop_strings", "repetition", "min_length"),
    )
    policies = numbers.pop("policies", Policies())
    shape = taken("width", "segment_length", "search", "fallback", "max_segments_per_request", "cache_block", "retries")
    divergence = numbers.pop("divergence", 2)
    numbers.setdefault("init_divergence", (2, 2))
    spread = divergence if isinstance(divergence, tuple) else (divergence, divergence)
    shape = SearchShape(**shape, branching=BranchingRules(divergence=spread, **numbers), retry_seconds=0.0)
    own = {"conversation": start, "policies": policies}
    return await grow_tree(PROMPT, engine=engine, shape=shape, stopping=stopping, seed=seed, **own)
