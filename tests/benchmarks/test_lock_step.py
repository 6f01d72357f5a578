# SPDX-License-Identifier: Apache-2.0
"""Trees in lock step: equal to trees without it, with one level of all trees at a time."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.sampling.lock_step import LockStep, grow_in_lock_step
from helpers.example_counts import examples
from helpers.scripted_engine import EOS, ScriptedEngine, decode
from helpers.searches import PROMPT, check_width, search_arguments, searches
from recipe.treepo.search import SearchError, SearchKind, SearchShape
from recipe.treepo.search.branching import BranchingRules
from recipe.treepo.search.engine import Segment
from recipe.treepo.search.fallback import FallbackRules, FallbackStart
from recipe.treepo.search.stopping import FinishReason, StoppingRules
from recipe.treepo.search.tree import Tree


class Clock:
    """Sort requests into periods; a period ends when no request is in flight."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.periods: list[set[tuple[int, str]]] = []


class TimedEngine(ScriptedEngine):
    def __init__(self, clock: Clock, number: int, **text) -> None:
        super().__init__(**text)
        self.clock, self.number = clock, number

    async def extend(self, input_ids: Sequence[int], *, max_tokens: int, branch: str) -> Segment:
        if self.clock.in_flight == 0:
            self.clock.periods.append(set())
        self.clock.in_flight += 1
        self.clock.periods[-1].add((self.number, branch))
        try:
            for _ in range(5):  # so that requests of one level overlap
                await asyncio.sleep(0)
            return await super().extend(input_ids, max_tokens=max_tokens, branch=branch)
        finally:
            self.clock.in_flight -= 1


def shape_of(
    max_segments_per_request: int | None, width: int, start: FallbackStart, search: SearchKind = SearchKind.BY_LEVEL
) -> SearchShape:
    return SearchShape(
        width=width,
        segment_length=4,
        search=search,
        max_segments_per_request=max_segments_per_request,
        branching=BranchingRules(init_divergence=(1, width)),
        fallback=FallbackRules(start=start),
        retry_seconds=0.0,
    )


STOPPING = StoppingRules(
    order=(FinishReason.ANSWER, FinishReason.EOS, FinishReason.LENGTH, FinishReason.DEPTH),
    eos_token_ids=frozenset(EOS),
    response_length=19,
    depth=5,
    decode=decode,
)


async def grow(texts: list[dict], shape: SearchShape, lock_steps: list[LockStep | None], clocks: list[Clock]) -> list:
    """Grow trees concurrently; return the trees or their errors."""
    searches = [
        grow_in_lock_step(
            [1000 + number],
            engine=TimedEngine(clock, number, **text),
            shape=shape,
            stopping=STOPPING,
            seed=number,
            lock_step=lock_step,
        )
        for number, (clock, text, lock_step) in enumerate(zip(clocks, texts, lock_steps, strict=True))
    ]
    return await asyncio.wait_for(asyncio.gather(*searches, return_exceptions=True), timeout=20)


def record(tree: Tree | Exception) -> list[tuple]:
    if isinstance(tree, Exception):
        assert isinstance(tree, SearchError), repr(tree)
        return [("no tree",)]
    return [(node.key, node.parent, node.segment, node.finish_reason, node.dropped) for node in tree.nodes]


def without_calls(tree: list[tuple]) -> list[tuple]:
    """Return a record without the fields that depend on the number of requests (cache hits, versions)."""
    return [(key, parent, s.token_ids, s.logprobs, *rest) for key, parent, s, *rest in tree if s.token_ids]


@examples(short=50, long=200)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "seed": st.integers(0, 1000),
                "jitter": st.integers(0, 1000),
                "end_rate": st.sampled_from([0.0, 0.05, 0.3]),
                "broken": st.sampled_from([False, False, False, True]),
            }
        ),
        min_size=1,
        max_size=5,
    ),
    st.integers(1, 8),
    st.sampled_from(list(FallbackStart)),
)
def test_trees_in_lock_step_are_the_same_and_take_their_levels_together(texts, width, start):
    count = len(texts)
    free = asyncio.run(grow(texts, shape_of(1, width, start), [None] * count, [Clock() for _ in texts]))
    # Even with multi-segment requests, lock step stops at each level.
    for max_segments_per_request in (1, None):
        shape = shape_of(max_segments_per_request, width, start)
        alone, together = [Clock() for _ in texts], Clock()
        found = asyncio.run(grow(texts, shape, [LockStep(1) for _ in texts], alone))
        assert list(map(record, found)) == list(map(record, free))
        found = asyncio.run(grow(texts, shape, [LockStep(count)] * count, [together] * count))
        assert list(map(record, found)) == list(map(record, free))
        levels = [
            [clock.periods[level] for clock in alone if level < len(clock.periods)]
            for level in range(max(len(clock.periods) for clock in alone))
        ]
        assert together.periods == [set().union(*level) for level in levels]
        # No request of a level continues another of the same level.
        for period in together.periods:
            assert not any(
                tree == other and branch.startswith(f"{parent}.") for tree, branch in period for other, parent in period
            )


TEXT = {
    "seed": st.integers(0, 1000),
    "jitter": st.integers(0, 1000),
    "end_rate": st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    "repeat_rate": st.sampled_from([0.0, 0.7]),
}
SEARCHES = searches(kinds=[SearchKind.BY_LEVEL])


async def grow_any(trees: list[tuple[dict, dict]], lock_steps: list[LockStep | None]) -> tuple[list, list]:
    """Grow trees of different shapes concurrently; return trees or errors, and the engines."""
    engines = [ScriptedEngine(**text) for _, text in trees]
    growing = [
        grow_in_lock_step(PROMPT, lock_step=lock_step, **search_arguments(engine, **search))
        for engine, (search, _), lock_step in zip(engines, trees, lock_steps, strict=True)
    ]
    return await asyncio.wait_for(asyncio.gather(*growing, return_exceptions=True), timeout=20), engines


@examples(short=200, long=2000)
@given(st.lists(st.tuples(SEARCHES, st.fixed_dictionaries(TEXT)), min_size=1, max_size=4))
def test_lock_step_changes_no_tree_of_any_shape(trees):
    """Trees of one lock step may differ in width, depth, segments and policies."""
    count = len(trees)
    free, _ = asyncio.run(grow_any(trees, [None] * count))
    locked, engines = asyncio.run(grow_any(trees, [LockStep(count)] * count))
    assert [without_calls(record(tree)) for tree in locked] == [without_calls(record(tree)) for tree in free]
    for tree, engine, (search, _) in zip(locked, engines, trees, strict=True):
        tree.check()
        check_width(tree, search, engine)


@examples(short=100, long=1000)
@given(
    st.lists(
        st.tuples(SEARCHES, st.fixed_dictionaries({**TEXT, "fail_rate": st.sampled_from([0.0, 0.2, 0.6, 1.0])})),
        min_size=1,
        max_size=4,
    )
)
def test_failures_of_one_tree_change_no_other_tree_of_its_lock_step(trees):
    """Compared with lock steps of one tree: without any, requests of several segments fail at other points."""
    count = len(trees)
    alone, _ = asyncio.run(grow_any(trees, [LockStep(1) for _ in trees]))
    together, _ = asyncio.run(grow_any(trees, [LockStep(count)] * count))
    assert list(map(record, together)) == list(map(record, alone))


def test_a_level_begins_when_the_slowest_tree_has_ended_the_one_before():
    # Without ends: 1, 2, 4 and 4 requests of each of two trees; one path of the first tree is blocked.
    async def run():
        slow = ScriptedEngine(blocked=frozenset({"0.0"}))
        fast = ScriptedEngine(seed=1)
        shape = SearchShape(
            width=4, segment_length=4, branching=BranchingRules(init_divergence=(1, 1)), retry_seconds=0.0
        )
        rules = StoppingRules(
            order=(FinishReason.LENGTH, FinishReason.DEPTH),
            eos_token_ids=frozenset(),
            response_length=16,
            depth=4,
            decode=decode,
        )
        lock_step = LockStep(2)
        tasks = [
            asyncio.create_task(
                grow_in_lock_step([7], engine=engine, shape=shape, stopping=rules, seed=0, lock_step=lock_step)
            )
            for engine in (slow, fast)
        ]
        for _ in range(200):
            await asyncio.sleep(0)
        assert set(slow.calls) == {"0", "0.1"}
        assert set(fast.calls) == {"0", "0.0", "0.1"}
        slow.release.set()
        trees = await asyncio.gather(*tasks)
        assert [tree.counters.engine_calls for tree in trees] == [11, 11]

    asyncio.run(run())


def test_a_search_that_is_cancelled_holds_up_no_other():
    async def run():
        held_up, other = ScriptedEngine(blocked=frozenset({"0.0"})), ScriptedEngine(seed=1)
        lock_step = LockStep(2)
        shape = SearchShape(width=4, segment_length=4, branching=BranchingRules(init_divergence=(1, 1)))
        first, second = (
            asyncio.create_task(
                grow_in_lock_step([7], engine=engine, shape=shape, stopping=STOPPING, seed=0, lock_step=lock_step)
            )
            for engine in (held_up, other)
        )
        for _ in range(200):
            await asyncio.sleep(0)
        assert not second.done()
        first.cancel()
        assert len((await second).leaves) == 4

        # Another tree is cancelled while it waits.
        waiting = LockStep(2)
        task = asyncio.create_task(waiting.next_level())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        waiting.leave()
        await asyncio.wait_for(waiting.next_level(), timeout=5)

    asyncio.run(run())


def test_searches_without_levels_cannot_be_in_lock_step():
    shape = shape_of(None, 4, FallbackStart.EARLY, SearchKind.BY_PATH)
    with pytest.raises(ValueError, match="search=by_path has no levels"):
        asyncio.run(
            grow_in_lock_step(
                [1], engine=ScriptedEngine(), shape=shape, stopping=STOPPING, seed=0, lock_step=LockStep(1)
            )
        )
