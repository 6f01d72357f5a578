# SPDX-License-Identifier: Apache-2.0
import asyncio
import copy
import random
import threading
import time

import pytest

from helpers.scripted_conversation import (
    PROMPT,
    QUESTION,
    TURN,
    Chancy,
    Recorded,
    Turns,
    sizes,
    start_talk,
    talk,
)
from helpers.scripted_engine import EOS, ScriptedEngine
from recipe.treepo.interaction import ConversationRules, Interaction, OnError, Steps
from recipe.treepo.search import SearchError, SearchKind, interaction_calls
from recipe.treepo.search.engine import Segment
from recipe.treepo.search.fallback import FallbackRules, FallbackStart, PointRule

# --- states ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocked", ["start", "check_finished", "step", "copy_state"])
@pytest.mark.parametrize("search", list(SearchKind))
def test_a_cancelled_search_closes_every_state_and_leaves_nothing_running(search, blocked):
    class Blocked(Recorded):
        waiting = 0

        async def _wait(self):
            await super()._wait()
            # Block in the second call of a kind, while other paths are in different places.
            caller = self.kind
            if caller == blocked and len(self.open) >= (0 if blocked == "start" else 2):
                self.waiting += 1
                self.running += 1
                try:
                    await asyncio.Event().wait()
                finally:
                    self.running -= 1

        def __getattribute__(self, name):
            if name in ("start", "check_finished", "step", "copy_state"):
                object.__setattr__(self, "kind", name)
            return object.__getattribute__(self, name)

    async def cancelled():
        interaction, engine = Blocked(), Turns(TURN)
        before = asyncio.all_tasks()
        task = asyncio.create_task(
            start_talk(engine, interaction, **sizes(width=4, init_divergence=(2, 2), search=search))
        )
        for _ in range(200):
            await asyncio.sleep(0)
        assert interaction.waiting > 0
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return interaction, engine, asyncio.all_tasks() - before

    interaction, engine, left = asyncio.run(cancelled())
    assert (interaction.open, interaction.faults, left) == ([], [], set())
    assert interaction.running == engine.running == 0
    assert interaction.closed > 0 or blocked == "start"


@pytest.mark.parametrize("method", ["start", "copy_state"])
@pytest.mark.parametrize("cancel", [True, False])
def test_a_state_that_a_thread_returns_too_late_is_closed(method, cancel):
    states, closed = [], []
    asked, answer = threading.Event(), threading.Event()

    class Late(Interaction):
        def start(self, sample):
            return self._state("start")

        def copy_state(self, state, messages):
            return self._state("copy_state")

        def close_state(self, state):
            closed.append(state)

        def _state(self, name):
            if name == method:
                asked.set()
                answer.wait(30.0)
            states.append(object())
            return states[-1]

    async def grown():
        rules = ConversationRules(on_error=OnError.FAIL, timeout_seconds=60.0 if cancel else 2.0)
        task = asyncio.create_task(start_talk(Turns(TURN), Late(), rules=rules, **sizes()))
        assert await asyncio.to_thread(asked.wait, 30.0)
        if cancel:
            task.cancel()
        asyncio.get_running_loop().call_later(0.1 if cancel else 2.5, answer.set)
        with pytest.raises(asyncio.CancelledError if cancel else SearchError):
            await task

    asyncio.run(grown())
    assert len(states) == (1 if method == "start" else 2)
    assert sorted(map(id, closed)) == sorted(map(id, states))


def test_a_thread_that_never_ends_is_not_waited_for_without_end(monkeypatch, caplog):
    monkeypatch.setattr(interaction_calls, "MOST_WAIT_SECONDS", 0.05)
    asked, release = threading.Event(), threading.Event()

    class Hangs(Interaction):
        def copy_state(self, state, messages):
            asked.set()
            release.wait(60.0)

    async def cancelled():
        task = asyncio.create_task(start_talk(Turns(TURN), Hangs(), **sizes()))
        assert await asyncio.to_thread(asked.wait, 30.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, timeout=20.0)
        release.set()

    asyncio.run(cancelled())
    assert "Hangs.copy_state failed for prompt 7 at node the end: a thread still runs after 0.05 s" in caplog.text


@pytest.mark.parametrize("copies", ["deepcopy", "snapshot", "replay"])
@pytest.mark.parametrize("steps", Steps)
def test_every_path_has_the_state_of_its_turns_also_after_a_fallback(steps, copies):
    # Each path ends after two turns; its leftover width resumes at the start of its second or first turn.
    class Numbered(Recorded):
        def decide_step(self, context):
            if context.turn == 2:
                return None
            return [{"role": "user", "content": context.node}]

    interaction = Numbered(copies=copies)
    tree = talk(
        Turns([97, 98, EOS[0]]), interaction, rules=ConversationRules(steps=steps),
        **sizes(width=6, depth=5, max_divergence=1, fallback=FallbackRules(point=PointRule.BOUNDARY), seed=3),
    )  # fmt: skip
    assert interaction.faults == [] and interaction.open == []
    assert tree.counters.fallbacks == 5
    # There are as many replies as steps with a reply.
    names = {node.reply.messages[0]["content"] for node in tree.nodes if node.reply and node.reply.messages}
    added = [node for node in tree.nodes if node.reply and node.reply.messages]
    assert len(names) == len(added) == tree.counters.steps - len(tree.leaves)


@pytest.mark.parametrize("steps", Steps)
@pytest.mark.parametrize("point", PointRule)
@pytest.mark.parametrize("window", [None, 1])
def test_no_path_resumes_inside_a_reply(point, window, steps):
    # Replies precede the least likely tokens; all resume points are in or before the model's turns.
    rounds = 0
    for seed in range(20):
        interaction = Chancy(end_rate=0.4)
        tree = talk(
            ScriptedEngine(seed=seed, end_rate=0.2), interaction, rules=ConversationRules(steps=steps), seed=seed,
            **sizes(
                width=8, depth=4, segment_length=4,
                fallback=FallbackRules(point=point, window=window, block_length=2, start=FallbackStart.DRY),
            ),
        )  # fmt: skip
        rounds += tree.counters.fallbacks
        assert interaction.faults == []
        for node in tree.nodes[1:]:
            assert node.reply is None or "@" not in node.key
            above = tree.nodes[node.parent]
            if "~" in node.key.rpartition(".")[2] and steps is Steps.PER_BRANCH and node.reply is None:
                # A path resumes after a reply only if its own step returned the reply.
                assert above.reply is None or above.key == f"{node.key}+"
    assert rounds > 0


def test_a_resumed_turn_steps_again_only_with_a_step_per_branch():
    def grown(steps):
        class Twice(Recorded):
            def decide_step(self, context):
                return None if context.turn == 2 else super().decide_step(context)

        # The second turn begins with the least likely token, so the path resumes before that turn.
        class Unlikely(Turns):
            async def extend(self, input_ids, *, max_tokens, branch):
                answer = await super().extend(input_ids, max_tokens=max_tokens, branch=branch)
                later = len(input_ids) > len(PROMPT)
                return Segment(answer.token_ids, [-9.0 if later else -0.1, *[-0.2] * (len(answer.token_ids) - 1)])

        interaction = Twice()
        tree = talk(
            Unlikely(TURN), interaction, rules=ConversationRules(steps=steps),
            **sizes(max_divergence=1, fallback=FallbackRules(point=PointRule.LEAST_LIKELY_TOKEN)),
        )  # fmt: skip
        firsts = [
            name for (method, name), taken in interaction.contexts.items() if method == "step" and taken.turn == 1
        ]
        return tree, firsts

    tree, firsts = grown(Steps.SHARED)
    assert firsts == ["0"] and tree.counters.fallbacks == 1
    assert {node.parent for node in tree.nodes if node.depth == 2} == {2}
    tree, firsts = grown(Steps.PER_BRANCH)
    # Its name contains the path from which it fell back: the end of the branch that ended.
    assert firsts == ["0.0", "0.0.0+~0"] and tree.counters.fallbacks == 1
    assert len({node.parent for node in tree.nodes if node.depth == 2 and node.reply is None}) == 2


@pytest.mark.parametrize("fails", [True, False])
def test_the_state_of_a_path_is_closed_when_the_path_ends_and_not_with_the_tree(fails):
    opened = []

    class Ends(Recorded):
        def decide_finished(self, context):
            opened.append(len(self.open))
            if fails:
                raise ValueError("no luck")
            return "won"

    # The first path ends at once; its leftover width falls back: 5 more paths, each from the state of the root.
    talk(Turns(TURN), Ends(), rules=ConversationRules(on_error=OnError.END), **sizes(width=6))
    assert opened[0] == 2
    assert max(opened) <= 1 + 5


@pytest.mark.parametrize("steps", Steps)
@pytest.mark.parametrize("search", list(SearchKind))
def test_plain_functions_in_threads_make_the_same_tree(search, steps):
    def grown():
        faults = []

        class Plain(Interaction):
            def start(self, sample):
                return []

            def check_finished(self, context):
                time.sleep(random.random() / 500)
                context.state.append(context.text)
                return "won" if context.rng.random() < 0.2 else None

            def step(self, context):
                time.sleep(random.random() / 500)
                if context.state != [message["content"] for message in context.messages[1:]]:
                    faults.append(context.node)
                context.state.append(context.node)
                return [{"role": "tool", "content": context.node}]

            def copy_state(self, state, messages):
                time.sleep(random.random() / 500)
                return list(state)

        tree = talk(
            ScriptedEngine(end_rate=0.2), Plain(), rules=ConversationRules(steps=steps),
            **sizes(width=8, depth=5, search=search, init_divergence=(2, 2)),
        )  # fmt: skip
        assert faults == []
        return [(node.key, node.parent, node.segment, node.reply, node.finish_reason) for node in tree.nodes]

    assert grown() == grown()


def test_rows_are_read_only_and_changed_copies_change_nothing():
    sample = {"data_source": "x"}
    messages = copy.deepcopy(QUESTION)
    seen = []

    class Writes(Recorded):
        def decide_step(self, context):
            with pytest.raises(TypeError):
                context.sample["data_source"] = "y"
            seen.append((dict(context.sample), context.messages[0]))
            messages[0]["content"] = "changed"
            return super().decide_step(context)

    interaction = Writes()
    talk(Turns(TURN), interaction, sample=sample, messages=messages, **sizes())
    assert sample == {"data_source": "x"} and interaction.faults == []
    assert {taken.messages[0]["content"] for taken in interaction.contexts.values()} == {"q"}
    assert all(row == {"data_source": "x"} for row, _ in seen)
