# SPDX-License-Identifier: Apache-2.0
"""Engine protocol: a violation is a failed request, never part of a tree.

``test_grow.py`` checks the invariants of trees with engines that fail at random in all these ways.
"""

import asyncio
import logging

import pytest

from helpers.scripted_conversation import TURN, Chancy, Turns, sizes, talk
from helpers.scripted_engine import FAULTS, ScriptedEngine, faulty
from helpers.searches import grow, start
from recipe.treepo.interaction import InteractionError
from recipe.treepo.search import SearchError, SearchKind, failures
from recipe.treepo.search.engine import EngineError, Segment, checked
from recipe.treepo.search.failures import MOST_CHARACTERS, Failures
from recipe.treepo.search.tree import Tree

NAN, INF = float("nan"), float("inf")
KINDS = pytest.mark.parametrize("search", list(SearchKind))
SMALL = {"depth": 3, "response_length": 12, "width": 4, "segment_length": 4}


@pytest.fixture(autouse=True)
def warned(monkeypatch) -> None:
    """Forget the warnings of other tests."""
    monkeypatch.setattr(failures, "_WARNED", set())


# --- the check -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token_ids", "logprobs", "message"),
    [
        ([], [], "the engine returned no token"),
        ([5] * 4, [-1.0] * 4, "the engine ignored max_tokens: it returned 4 tokens instead of at most 3"),
        ([5, 6], [-1.0], "the engine returned a wrong number of log-probabilities: 1, tokens: 2"),
        ([5], [-1.0] * 2, "the engine returned a wrong number of log-probabilities: 2, tokens: 1"),
        ([5], [], "the engine returned a wrong number of log-probabilities: 0, tokens: 1"),
        ([5, -1], [-1.0] * 2, "the engine returned a token id that is not an integer of at least 0: -1"),
        ([5, 6.0], [-1.0] * 2, "the engine returned a token id that is not an integer of at least 0: 6.0"),
        ([2**32], [-1.0], "the engine returned a token id that is not an integer of at least 0: 4294967296"),
        ([5, None], [-1.0] * 2, "the engine returned a token id that is not an integer of at least 0: None"),
        ([5, 6], [-1.0, NAN], "the engine returned a log-probability that is not a finite number: nan for token 1"),
        ([5, 6], [INF, -1.0], "the engine returned a log-probability that is not a finite number: inf for token 0"),
        ([5], [-INF], "the engine returned a log-probability that is not a finite number: -inf for token 0"),
        ([5], [None], "the engine returned a log-probability that is not a finite number: None for token 0"),
        (
            [5, 6],
            [-1.0, -1e39],
            "the engine returned a log-probability that is not a finite number: -1e+39 for token 1",
        ),
        ([5, 6], [INF, -INF], "the engine returned a log-probability that is not a finite number: inf for token 0"),
    ],
)
def test_a_result_that_violates_the_protocol_is_an_error(token_ids, logprobs, message):
    with pytest.raises(EngineError) as caught:
        checked(Segment(token_ids, logprobs), 3)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("token_ids", "logprobs"),
    [([0], [0.0]), ([5, 6, 7], [-1.0, 0, -1e30]), ([5, 6], [-3e38] * 2), ([2**32 - 1], [-0.0]), ([5], [1e-7])],
)
def test_results_at_the_limits_of_the_protocol_pass(token_ids, logprobs):
    segment = checked(Segment(token_ids, logprobs, 4, 5, 6), 3, started=7.0, ended=8.0)
    assert segment.token_ids.tolist() == token_ids
    assert segment.logprobs.tolist() == pytest.approx(logprobs)
    assert (segment.cached_tokens, segment.min_version, segment.max_version) == (4, 5, 6)
    assert (segment.started, segment.ended) == (7.0, 8.0)


# --- the search ------------------------------------------------------------------------------------------------------


class FailsOnce(ScriptedEngine):
    """Engine whose first attempt for each of some branches has a fault."""

    def __init__(self, fault: str, branches: set[str], **rest) -> None:
        super().__init__(**rest)
        self.first_fault, self.branches = fault, branches

    def _answer(self, input_ids, max_tokens, branch):
        if branch in self.branches and self.attempts[branch] == 1:
            return faulty(self.first_fault, max_tokens)
        return super()._answer(input_ids, max_tokens, branch)


def record(tree: Tree) -> list[tuple]:
    return [(node.key, node.parent, node.segment, node.finish_reason, node.dropped) for node in tree.nodes]


@KINDS
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_retried_and_leaves_no_trace_in_the_tree(fault, search):
    whole = grow(ScriptedEngine(end_rate=0.05), search=search, retries=1, **SMALL)
    tree = grow(FailsOnce(fault, {"0", "1.0"}, end_rate=0.05), search=search, retries=1, **SMALL)
    assert record(tree) == record(whole)
    assert (tree.counters.failed_calls, tree.counters.abandoned_paths) == (2, 0)
    assert whole.counters.failed_calls == 0
    assert tree.counters.decoded_tokens == whole.counters.decoded_tokens


@KINDS
@pytest.mark.parametrize("fault", FAULTS)
def test_a_branch_with_a_fault_in_all_attempts_is_abandoned_and_its_width_goes_elsewhere(fault, search):
    tree = grow(ScriptedEngine(broken={"1"}, fault=fault), search=search, retries=2, **SMALL)
    tree.check()
    assert "1" not in {node.key for node in tree.nodes}
    assert (len(tree.leaves), tree.counters.failed_calls, tree.counters.abandoned_paths) == (4, 3, 1)


@KINDS
@pytest.mark.parametrize("fault", FAULTS)
def test_an_engine_with_one_fault_in_all_results_ends_in_one_sentence(fault, search):
    with pytest.raises(SearchError) as caught:
        grow(ScriptedEngine(broken=True, fault=fault), search=search, retries=1, **SMALL)
    count = {SearchKind.BY_LEVEL: 16, SearchKind.BY_PATH: 12}[search]  # see test_grow.py
    # The texts themselves are above. "long": requests of 4 tokens.
    of_the_search = {
        "error": "ConnectionError: the engine went away",
        "cancelled": "the request was cancelled, but not by the search",
        "long": "the engine ignored max_tokens: it returned 5 tokens instead of at most 4",
    }
    reason = of_the_search.get(fault, "the engine returned ")
    message = f"the prompt got no trajectory: {count} of {count} requests failed, all alike: {reason}"
    assert str(caught.value).startswith(message)
    assert (fault not in of_the_search) or str(caught.value) == message


@KINDS
def test_a_request_cancelled_by_the_engine_cancels_neither_the_search_nor_its_caller(search):
    async def searched():
        task = asyncio.create_task(start(ScriptedEngine(broken={"0"}, fault="cancelled"), search=search, **SMALL))
        tree = await asyncio.wait_for(task, timeout=20)
        assert not task.cancelled() and task.cancelling() == 0
        return tree

    tree = asyncio.run(searched())
    assert len(tree.leaves) == 4 and tree.counters.failed_calls == 1


@KINDS
def test_a_cancelled_search_counts_no_failed_request(search, caplog):
    async def cancelled():
        engine = ScriptedEngine(blocked=frozenset({"0", "1"}))
        task = asyncio.create_task(start(engine, search=search, retries=3, **SMALL))
        while engine.running < 2:
            await asyncio.sleep(0)
        task.cancel()
        for _ in range(20):
            await asyncio.sleep(0)
        engine.release.set()  # a search that goes on would end with a tree
        with pytest.raises(asyncio.CancelledError):
            await task
        return engine

    engine = asyncio.run(cancelled())
    assert engine.attempts.total() == engine.cancelled == 2
    assert caplog.text == ""


# --- reasons ---------------------------------------------------------------------------------------------------------


def test_the_error_of_a_prompt_names_the_most_frequent_reason_and_its_count():
    counted = Failures()
    for error in (OSError("disk"), EngineError("too long: 5"), EngineError("too long: 6"), OSError("no\nmore")):
        counted.add_request(error)
    counted.add_request(EngineError("too long: 7"))
    error = counted.no_trajectory(engine_calls=2)
    assert str(error) == "the prompt got no trajectory: 5 of 7 requests failed, 3 alike: too long: 5"
    assert str(error.__cause__) == "too long: 5"


def test_the_error_of_a_prompt_names_failures_of_the_interaction_beside_those_of_requests():
    counted = Failures()
    counted.add_request(OSError("disk"))
    for _ in range(2):
        counted.add_interaction(ValueError("no luck"))
    error = counted.no_trajectory(engine_calls=3)
    assert str(error) == (
        "the prompt got no trajectory: 1 of 4 requests failed, all alike: OSError: disk; "
        "2 calls of the interaction failed: ValueError: no luck"
    )
    assert isinstance(error.__cause__, ValueError)
    with pytest.raises(SearchError, match=r"no trajectory: \d+ calls of the interaction failed: InteractionError: "):
        talk(Turns(TURN), Chancy(fail_rate=1.0), **sizes())


def test_failures_are_of_one_kind_if_they_differ_only_in_numbers_and_names():
    def kind(error: Exception, cause: Exception | None = None) -> str:
        error.__cause__ = cause
        return failures.kind_of(error)

    assert kind(EngineError("the engine aborted the request: branch 0.1")) == "the engine aborted the request"
    assert kind(OSError("disk 1")) == kind(OSError("disk 2")) == "OSError"
    assert kind(InteractionError("at node 0"), KeyError("a")) == "InteractionError from KeyError"


def test_reasons_are_one_short_line_and_those_of_rays_errors_are_their_causes():
    class RayTaskError(Exception):
        def __init__(self, cause):
            super().__init__("ray::Server.generate()\n  many frames\nValueError: bad prompt")
            self.cause = cause

    assert failures.reason_of(RayTaskError(ValueError("bad prompt"))) == "ValueError: bad prompt"
    assert failures.reason_of(RayTaskError(None)) == "RayTaskError: ray::Server.generate()"
    assert failures.reason_of(ValueError("x" * 1000)) == f"ValueError: {'x' * (MOST_CHARACTERS - 12)}..."


def test_each_kind_of_failed_request_is_logged_once_per_process(caplog):
    with caplog.at_level(logging.WARNING):
        for fault in ("long", "nan", "long", "error"):
            with pytest.raises(SearchError):
                grow(ScriptedEngine(broken=True, fault=fault), **SMALL)
    reasons = [entry.getMessage().partition(" without another warning: ")[2] for entry in caplog.records]
    assert reasons == [
        "the engine ignored max_tokens: it returned 5 tokens instead of at most 4",
        "the engine returned a log-probability that is not a finite number: nan for token 3",
        "ConnectionError: the engine went away",
    ]
