# SPDX-License-Identifier: Apache-2.0
import asyncio
import json
import logging
import os
import re
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.scripted_conversation import (
    TURN,
    FakeTokens,
    Recorded,
    Turns,
    sizes,
    start_talk,
    talk,
)
from recipe.treepo.interaction import ConversationRules, Interaction, OnError, Reply, Steps
from recipe.treepo.search import SearchError, SearchKind, surrogates
from recipe.treepo.search.stopping import FinishReason
from recipe.treepo.search.user_errors import is_from_user_code

# --- failures -------------------------------------------------------------------------------------------------------


class Failing(Recorded):
    """Fails in one method at the given nodes."""

    def __init__(self, method: str, nodes: set[str]) -> None:
        super().__init__()
        self.method, self.nodes = method, nodes

    def decide_finished(self, context):
        return self._fail("check_finished", context)

    def decide_step(self, context):
        self._fail("step", context)
        return super().decide_step(context)

    def _fail(self, method, context):
        if method == self.method and context.node in self.nodes:
            raise ValueError("no luck")


@pytest.mark.parametrize("method", ["check_finished", "step"])
@pytest.mark.parametrize("search", list(SearchKind))
def test_dropped_failures_give_their_width_to_others_and_warn_once(search, method, caplog):
    caplog.set_level(logging.DEBUG, logger="recipe.treepo.search.interaction_calls")
    interaction = Failing(method, {"0", "1"})
    tree = talk(Turns(TURN), interaction, **sizes(width=4, init_divergence=(3, 3), search=search))
    assert len(tree.leaves) == 4 and FinishReason.ERROR not in {tree.nodes[leaf].finish_reason for leaf in tree.leaves}
    assert {node.key for node in tree.nodes if node.dropped} == {"0", "1"}
    assert {node.finish_reason for node in tree.nodes if node.dropped} == {FinishReason.ERROR}
    assert (tree.counters.failed_steps, tree.counters.abandoned_paths) == (2, 2)
    records = [(record.levelname, record.getMessage()) for record in caplog.records if "failed" in record.getMessage()]
    assert [level for level, _ in records] == ["WARNING", "DEBUG"]
    assert records[0][1] == f"Failing.{method} failed for prompt 7 at node 0: ValueError: no luck"
    assert interaction.open == [] and interaction.faults == []


@pytest.mark.parametrize("steps", Steps)
def test_paths_ended_by_failures_are_trajectories_that_name_them(steps):
    name = "0" if steps is Steps.SHARED else "0.0"
    tree = talk(
        Turns(TURN), Failing("step", {name}), rules=ConversationRules(on_error=OnError.END, steps=steps),
        **sizes(width=2, init_divergence=(2, 2)),
    )  # fmt: skip
    (ended,) = (tree.nodes[leaf] for leaf in tree.leaves if tree.nodes[leaf].finish_reason is FinishReason.ERROR)
    assert ended.finish_detail == f"Failing.step failed for prompt 7 at node {name}: ValueError: no luck"
    assert tree.path(ended.index).response_ids == TURN
    assert len(tree.leaves) == 2 and (tree.counters.failed_steps, tree.counters.abandoned_paths) == (1, 0)


@pytest.mark.parametrize("search", list(SearchKind))
def test_a_failed_search_names_the_failures(search):
    interaction = Failing("step", {"1"})
    with pytest.raises(SearchError, match="^Failing.step failed for prompt 7 at node 1: ValueError: no luck$"):
        talk(
            Turns(TURN), interaction, rules=ConversationRules(on_error=OnError.FAIL),
            **sizes(init_divergence=(2, 2), search=search),
        )  # fmt: skip
    assert interaction.open == [] and interaction.closed >= 3


@pytest.mark.parametrize("search", list(SearchKind))
def test_where_every_path_is_dropped_the_search_fails_and_names_the_last_failure(search):
    class Never(Recorded):
        def decide_step(self, context):
            raise ValueError("no luck")

    with pytest.raises(SearchError, match="the prompt got no trajectory.*Never.step failed for prompt 7 at node"):
        talk(Turns(TURN), Never(), **sizes(search=search))


@pytest.mark.parametrize("on_error", OnError)
def test_without_a_first_state_there_is_no_search(on_error):
    class NoStart(Interaction):
        def start(self, sample):
            raise OSError("no room")

    with pytest.raises(SearchError, match=r"NoStart\.start failed for prompt 7 at node the root: OSError: no room$"):
        talk(Turns(TURN), NoStart(), rules=ConversationRules(on_error=on_error), **sizes())


def test_a_long_message_is_cut_off():
    class Long(Interaction):
        def step(self, context):
            raise ValueError("x" * 5000)

    rules = ConversationRules(on_error=OnError.END)
    tree = talk(Turns(TURN), Long(), rules=rules, **sizes(width=1))
    (detail,) = (tree.nodes[leaf].finish_detail for leaf in tree.leaves)
    assert detail.endswith("xxx...") and len(detail) < 2200


def test_states_are_closed_side_by_side():
    class Slow(Interaction):
        async def start(self, sample):
            return [1]

        async def step(self, context):
            return [{"role": "user", "content": "x"}]

        async def close_state(self, state):
            self.waiting = getattr(self, "waiting", 0) + 1
            self.most = max(getattr(self, "most", 0), self.waiting)
            for _ in range(20):
                await asyncio.sleep(0)
            self.waiting -= 1

    interaction = Slow()
    talk(Turns(TURN), interaction, **sizes())
    # states of the root, of the first turn and of the two second turns
    assert interaction.most == 4


ASKED = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("again", "'again'"),
        (7, "not 7"),
        ([], r"not \[\]"),
        ([{"content": "x"}], "not .*content"),
        (["x"], "not"),
        ({"role": "user", "content": "x"}, "not"),
        (Reply(messages=()), r"not \(\)"),
        (Reply(messages=[ASKED], info=[1]), r"info must be a dict without the key messages, not \[1\]"),
        (Reply(messages=[ASKED], info={"messages": 1}), "info must be a dict without the key messages"),
        (Reply(messages=[ASKED], info={"set": {1}}), "TypeError: Object of type set is not JSON serializable"),
        (Reply(messages=[ASKED], tool_rewards=0.5), r"tool_rewards must be a list of numbers, not 0\.5"),
        (Reply(messages=[ASKED], tool_rewards=[None]), r"tool_rewards must be a list of numbers, not \[None\]"),
        (Reply(messages=[ASKED], assistant={"x": threading.Lock()}), "TypeError: cannot pickle"),
        ([{**ASKED, "at": {1}}], "TypeError: Object of type set is not JSON serializable"),
        ([{"role": "nobody", "content": "x"}], "ValueError"),  # by the chat template
    ],
)
def test_a_step_that_returns_something_else_has_failed(answer, says):
    class Odd(Interaction):
        def step(self, context):
            return answer

    with pytest.raises(SearchError, match=f"Odd.step failed for prompt 7 at node 0: .*{says}"):
        talk(Turns(TURN), Odd(), rules=ConversationRules(on_error=OnError.FAIL), **sizes())


@pytest.mark.parametrize("answer", [False, True, 0, ["won"]])
def test_a_reason_that_is_not_text_is_a_failure(answer):
    class Odd(Interaction):
        def check_finished(self, context):
            return answer

    says = re.escape(f"Odd.check_finished failed for prompt 7 at node 0: must return a text or None, not {answer!r}")
    with pytest.raises(SearchError, match=says):
        talk(Turns(TURN), Odd(), rules=ConversationRules(on_error=OnError.FAIL), **sizes())


def test_a_state_that_cannot_be_closed_is_warned_of_and_the_others_are(caplog):
    closed = []

    class Stuck(Interaction):
        def start(self, sample):
            return [1]

        def step(self, context):
            return [{"role": "user", "content": "x"}]

        def close_state(self, state):
            closed.append(state)
            raise OSError("stuck")

    tree = talk(Turns(TURN), Stuck(), **sizes())
    assert len(tree.leaves) == 2
    # one state of the root, and one of each of the 1 + 2 + 2 turns
    assert len(closed) == 6
    assert "Stuck.close_state failed for prompt 7 at node the end: OSError: stuck" in caplog.text


@pytest.mark.parametrize("method", ["start", "check_finished", "step", "copy_state"])
@pytest.mark.parametrize("plain", [True, False])
def test_a_call_that_takes_too_long_has_failed_and_names_the_seconds(method, plain):
    interaction = Interaction()
    release = threading.Event()

    def slow_plain(*_):
        release.wait(0.3)

    async def slow(*_):
        await asyncio.Event().wait()

    setattr(interaction, method, slow_plain if plain else slow)
    rules = ConversationRules(on_error=OnError.FAIL, timeout_seconds=0.05)
    with pytest.raises(SearchError, match=f"Interaction.{method} failed for prompt 7 .*: no answer within 0.05 s"):
        talk(Turns(TURN), interaction, rules=rules, **sizes())
    release.set()


def test_hanging_calls_hold_up_neither_others_nor_verls_threads():
    release = threading.Event()

    class Hangs(Interaction):
        def step(self, context):
            if context.node == "0":
                release.wait(20.0)
            return [{"role": "user", "content": "x"}]

    class InThread(FakeTokens):
        async def append(self, *arguments):
            await asyncio.get_running_loop().run_in_executor(None, int)
            return await super().append(*arguments)

    async def grown():
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        rules = ConversationRules(timeout_seconds=5.0)
        try:
            return await start_talk(
                Turns(TURN), Hangs(), tokens=InThread(), rules=rules, **sizes(init_divergence=(2, 2), depth=2)
            )
        finally:
            release.set()

    tree = asyncio.run(grown())
    assert (len(tree.leaves), tree.counters.failed_steps) == (2, 1)


def test_a_timeout_of_the_interactions_own_is_not_taken_for_ours():
    class Own(Interaction):
        async def step(self, context):
            raise TimeoutError("the server")

    rules = ConversationRules(on_error=OnError.FAIL, timeout_seconds=60.0)
    with pytest.raises(SearchError, match="at node 0: TimeoutError: the server"):
        talk(Turns(TURN), Own(), rules=rules, **sizes())


@pytest.mark.parametrize("search", list(SearchKind))
def test_a_task_cancelled_inside_an_interaction_is_a_failure(search):
    class Cancels(Interaction):
        async def step(self, context):
            if context.node == "0":
                task = asyncio.ensure_future(asyncio.sleep(10))
                task.cancel()
                await task
            return None

    tree = talk(Turns(TURN), Cancels(), **sizes(init_divergence=(2, 2), search=search))
    assert (len(tree.leaves), tree.counters.failed_steps) == (2, 1)


@pytest.mark.parametrize("plain", [True, False])
def test_an_exit_inside_an_interaction_ends_only_its_path(plain):
    class Exits(Interaction):
        def step(self, context):
            if context.node == "0":
                sys.exit("usage: ...")

        if not plain:

            async def step(self, context):
                if context.node == "0":
                    sys.exit("usage: ...")

    tree = talk(Turns(TURN), Exits(), **sizes(init_divergence=(2, 2)))
    assert (len(tree.leaves), tree.counters.failed_steps) == (2, 1)


async def exits(error: BaseException) -> None:
    raise error


async def gathered(error: BaseException) -> None:
    await asyncio.gather(exits(error), asyncio.sleep(0))


async def grouped(error: BaseException) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(exits(error))
        group.create_task(asyncio.sleep(9))


async def nested(error: BaseException) -> None:
    await asyncio.create_task(gathered(error))


async def forgotten(error: BaseException) -> None:
    asyncio.create_task(exits(error))
    await asyncio.sleep(0.01)


async def cancelled(error: BaseException) -> None:
    asyncio.create_task(exits(error)).cancel()
    await asyncio.sleep(0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt("mine")], ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("work", [gathered, grouped, nested, forgotten, cancelled], ids=lambda work: work.__name__)
def test_an_exit_in_a_task_of_an_interaction_ends_only_its_path(work, error):
    class Exits(Interaction):
        async def step(self, context):
            if context.node == "0":
                await work(error)

    tree = talk(Turns(TURN), Exits(), rules=ConversationRules(on_error=OnError.END), **sizes(init_divergence=(2, 2)))
    reasons = {tree.nodes[leaf].key: tree.nodes[leaf].finish_detail for leaf in tree.leaves}
    is_awaited = work in (gathered, grouped, nested)
    assert (len(reasons), tree.counters.failed_steps) == (2, int(is_awaited))
    if is_awaited:
        text = f"Exits.step failed for prompt 7 at node 0: {type(error).__name__}: {error}"
        assert reasons["0"].endswith(text)


def test_exits_in_the_text_of_an_exception_and_in_a_property_end_only_the_path():
    class Exit(Exception):
        def __str__(self):
            sys.exit(3)

    class Exits(Interaction):
        async def step(self, context):
            if context.node == "0":
                raise Exit

        @property
        def check_finished(self):
            sys.exit(4)

    tree = talk(Turns(TURN), Exits(), rules=ConversationRules(on_error=OnError.END), **sizes(init_divergence=(2, 2)))
    details = [tree.nodes[leaf].finish_detail for leaf in tree.leaves]
    assert len(details) == 2 and all("SystemExit: 4" in detail or ": Exit" in detail for detail in details), details


def test_an_iterator_that_is_used_up_in_a_plain_function_is_a_failure_and_no_wait():
    class UsedUp(Interaction):
        def step(self, context):
            return next(iter([]))

    rules = ConversationRules(on_error=OnError.FAIL, timeout_seconds=20.0)
    with pytest.raises(SearchError, match="RuntimeError: StopIteration"):
        talk(Turns(TURN), UsedUp(), rules=rules, **sizes())


def test_plain_functions_run_off_the_event_loop_and_coroutines_on_it():
    threads = {}

    class Where(Interaction):
        def start(self, sample):
            threads["start"] = threading.get_ident()

        async def check_finished(self, context):
            threads["check_finished"] = threading.get_ident()

        def step(self, context):
            threads["step"] = threading.get_ident()

            async def later():
                threads["later"] = threading.get_ident()
                return [{"role": "user", "content": "x"}]

            return later()

    tree = talk(Turns(TURN), Where(), **sizes(width=1, depth=2))
    here = threading.get_ident()
    assert {name: ident == here for name, ident in threads.items()} == {
        "start": False, "check_finished": True, "step": False, "later": True,
    }  # fmt: skip
    assert tree.counters.steps == 1


def test_plain_functions_that_wait_do_not_make_each_other_wait():
    # More calls than asyncio has threads on any machine; each waits for all the others.
    together = threading.Barrier(40)

    class Waits(Interaction):
        def step(self, context):
            together.wait(30)
            return [{"role": "user", "content": "x"}]

    async def all_at_once():
        rules = ConversationRules(on_error=OnError.FAIL, timeout_seconds=60.0)
        loops = [start_talk(Turns(TURN), Waits(), rules=rules, **sizes(width=1, depth=2)) for _ in range(40)]
        return await asyncio.gather(*loops)

    assert [tree.counters.steps for tree in asyncio.run(all_at_once())] == [1] * 40


# --- exceptions that are no Exception, and strange texts ------------------------------------------------------------


class Mine(BaseException):
    """Exception of a user that is not an Exception."""


class Mute(Exception):
    """Exception without a text."""

    def __str__(self):
        raise ValueError("mute")


RAISED = [SystemExit(3), KeyboardInterrupt("mine"), asyncio.CancelledError("own"), GeneratorExit("g"), Mine("m"),
          BaseExceptionGroup("many", [Mine("m")])]  # fmt: skip


def raising(method: str, error: BaseException, *, plain: bool, node: str | None = None) -> Interaction:
    """Return an interaction that raises in one method, with ``node`` only there."""
    interaction = Recorded()
    usual = getattr(interaction, method)

    async def raises(*arguments):
        if node is None or arguments[0].node == node:
            raise error
        return await usual(*arguments)

    def raises_in_thread(*arguments):
        if node is None or arguments[0].node == node:
            raise error
        return usual(*arguments)

    setattr(interaction, method, raises_in_thread if plain else raises)
    return interaction


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("method", ["check_finished", "step"])
@pytest.mark.parametrize("search", list(SearchKind))
def test_any_exception_of_an_interaction_ends_only_its_path(method, plain, error, search):
    rules = ConversationRules(on_error=OnError.END)
    interaction = raising(method, error, plain=plain, node="0")
    tree = talk(Turns(TURN), interaction, rules=rules, **sizes(init_divergence=(2, 2), search=search))
    reasons = {tree.nodes[leaf].key: tree.nodes[leaf].finish_detail for leaf in tree.leaves}
    assert len(reasons) == 2 and tree.counters.failed_steps == 1
    assert reasons["0"] == f"Recorded.{method} failed for prompt 7 at node 0: {type(error).__name__}: {error}"
    assert interaction.open == []


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("plain", [True, False])
def test_any_exception_of_start_fails_the_prompt_and_any_of_close_state_is_a_warning(plain, error, caplog):
    with pytest.raises(SearchError, match=f"Recorded.start failed .* {type(error).__name__}: "):
        talk(Turns(TURN), raising("start", error, plain=plain), **sizes())
    assert len(talk(Turns(TURN), raising("close_state", error, plain=plain), **sizes()).leaves) == 2
    assert f"Recorded.close_state failed for prompt 7 at node the end: {type(error).__name__}: " in caplog.text


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("plain", [True, False])
def test_any_exception_of_copy_state_is_a_failed_turn(plain, error):
    with pytest.raises(SearchError, match=f"Recorded.copy_state failed .* {type(error).__name__}: "):
        talk(Turns(TURN), raising("copy_state", error, plain=plain), **sizes())


def test_an_exception_whose_text_cannot_be_made_is_named_by_its_type():
    rules = ConversationRules(on_error=OnError.FAIL)
    with pytest.raises(SearchError, match="^Recorded.step failed for prompt 7 at node 0: Mute$"):
        talk(Turns(TURN), raising("step", Mute(), plain=False), rules=rules, **sizes())


@pytest.mark.parametrize("plain", [True, False])
def test_ctrl_c_ends_the_search(plain):
    class Interrupted(Recorded):
        def step(self, context):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)

        if not plain:

            async def step(self, context):
                os.kill(os.getpid(), signal.SIGINT)
                await asyncio.sleep(20)

    with pytest.raises(KeyboardInterrupt):
        talk(Turns(TURN), Interrupted(), **sizes())


def test_a_cancelled_search_is_no_failure_of_the_interaction(caplog):
    async def cancelled():
        entered = asyncio.Event()

        class Waits(Recorded):
            async def step(self, context):
                entered.set()
                await asyncio.sleep(20)

        task = asyncio.create_task(start_talk(Turns(TURN), Waits(), **sizes()))
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert "failed" not in caplog.text


def test_where_signals_raise_at_once_a_keyboard_interrupt_is_not_the_users():
    async def asked():
        return is_from_user_code(KeyboardInterrupt(), asyncio.current_task())

    assert asyncio.run(asked())  # Ctrl-C cancels the task
    loop = asyncio.new_event_loop()
    assert not loop.run_until_complete(asked())  # Python's handler raises wherever the main thread is
    loop.close()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: is_from_user_code(KeyboardInterrupt(), None)).result()


def test_a_coroutine_that_is_closed_stays_closed():
    async def waits():
        try:
            await asyncio.sleep(20)
        except BaseException as error:
            assert not is_from_user_code(error, None)
            raise

    coroutine = waits()

    async def begin():
        asyncio.get_running_loop().call_soon(coroutine.close)
        coroutine.send(None)

    asyncio.run(begin())


@pytest.fixture
def warned(monkeypatch) -> None:
    """Forget the warnings of other tests."""
    monkeypatch.setattr(surrogates, "_WARNED", set())


def test_surrogates_in_messages_and_info_are_replaced_and_named_once(warned, caplog):
    class Strange(Interaction):
        async def step(self, context):
            message = {"role": "user", "name": "us\udc80er", "content": "bad \ud800 \ud83d\ude00"}
            return Reply(
                messages=[{**message, "\ud800": [("\udfff", 1)]}],
                info={"key \ud800": {"deep": ["\ud800", 1.5, None]}},
                assistant={"role": "assistant", "content": "\udbff"},
            )

        async def check_finished(self, context):
            return "so \ud800" if context.turn == 2 else None

    tree = talk(Turns(TURN), Strange(), **sizes(depth=2))
    replies = [node.reply for node in tree.nodes if node.reply is not None]
    assert replies and all(reply == replies[0] for reply in replies)
    message = {"role": "user", "name": "us\ufffder", "content": "bad \ufffd \U0001f600", "\ufffd": [("\ufffd", 1)]}
    assert replies[0].messages == [message]
    assert replies[0].info == {"key \ufffd": {"deep": ["\ufffd", 1.5, None]}}
    assert replies[0].assistant == {"role": "assistant", "content": "\ufffd"}
    assert {tree.nodes[leaf].finish_detail for leaf in tree.leaves} == {"so \ufffd"}
    sources = [record.getMessage().split(" returned ")[0].rpartition(">.")[2] for record in caplog.records]
    assert sources == ["Strange.step", "Strange.check_finished"]


def test_surrogates_in_an_error_are_replaced(warned):
    with pytest.raises(SearchError, match="ValueError: bad \ufffd$"):
        talk(Turns(TURN), raising("start", ValueError("bad \ud800"), plain=False), **sizes())


LIKE_JSON = st.recursive(
    st.none() | st.integers() | st.text(st.characters(codec=None, categories=None)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(categories=None)), inner),
)


@given(LIKE_JSON)
def test_any_value_can_be_encoded_without_its_surrogates_and_keeps_the_rest(value):
    clean = surrogates.without_surrogates(value, "a test")
    text = json.dumps(clean, ensure_ascii=False)
    assert json.loads(text.encode()) == clean
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        assert clean != value
    else:
        assert clean is value
