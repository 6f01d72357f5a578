# SPDX-License-Identifier: Apache-2.0
import asyncio
import bisect
from collections import Counter
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.example_counts import examples
from helpers.scripted_engine import EOS, ScriptedEngine, decode
from helpers.searches import (
    PROMPT,
    REQUIRED,
    boundaries,
    brute_force_box,
    check_width,
    grow,
    longest_segment,
    pieces_of_call,
    searches,
    start,
)
from recipe.treepo.search import SearchError, SearchKind, SearchShape
from recipe.treepo.search.branching import Budget, Favor, Share
from recipe.treepo.search.fallback import FallbackRules, FallbackStart, PointRule
from recipe.treepo.search.node import ROOT
from recipe.treepo.search.statistics import TreeStatistics
from recipe.treepo.search.stopping import FinishReason
from recipe.treepo.search.tree import Tree

# --- cost of a tree -------------------------------------------------------------------------------------------------


def test_a_request_without_a_count_of_cached_tokens_leaves_no_number_that_needs_it():
    class Forgetful(ScriptedEngine):
        async def extend(self, input_ids, *, max_tokens, branch):
            answer = await super().extend(input_ids, max_tokens=max_tokens, branch=branch)
            return replace(answer, cached_tokens=None) if branch in self.forgets else answer

    def costs(forgets):
        engine = Forgetful(seed=3)
        engine.forgets = forgets
        tree = grow(engine, depth=3, response_length=12, width=4, segment_length=4)
        found = asdict(TreeStatistics.of(tree))
        return {name: number for name, number in found.items() if "seconds" not in name}, set(engine.calls)

    known, branches = costs(set())
    # The scripted engine takes a quarter of each input from its cache.
    assert known["cached_prompt_tokens"] > 0 and known["computed_prompt_tokens"] > known["cached_prompt_tokens"]
    unknown = known | {"computed_prompt_tokens": None, "cached_prompt_tokens": None}
    assert [costs(forgets)[0] for forgets in (branches, {"0"}, {"1"})] == [unknown] * 3


def test_a_sum_with_an_unknown_number_is_unknown():
    samples = [
        TreeStatistics.of_plain_sample(prompt_tokens=10, cached_tokens=cached, response_tokens=2) for cached in (4, 7)
    ]
    total = TreeStatistics.total(samples)
    assert (total.computed_prompt_tokens, total.cached_prompt_tokens, total.decoded_tokens) == (6 + 3, 4 + 7, 4)
    without = TreeStatistics.of_plain_sample(prompt_tokens=10, cached_tokens=None, response_tokens=2)
    for order in ([without, *samples], [*samples, without]):
        total = TreeStatistics.total(order)
        assert (total.computed_prompt_tokens, total.cached_prompt_tokens, total.decoded_tokens) == (None, None, 6)


@pytest.mark.parametrize("search", list(SearchKind))
@pytest.mark.parametrize(
    ("depth", "width", "divergence", "init", "at_every_boundary", "max_segments_per_request"),
    [
        (4, 8, 3, 1, 1 + 3 + 8 + 8, 1 + 3 + 8),
        (5, 8, 2, 1, 1 + 2 + 4 + 8 + 8, 1 + 2 + 4 + 8),
        (5, 8, 3, 1, 1 + 3 + 8 + 8 + 8, 1 + 3 + 8),
        (6, 8, 2, 1, 1 + 2 + 4 + 8 + 8 + 8, 1 + 2 + 4 + 8),
        (7, 8, 2, 1, 39, 15),
        (14, 16, 2, 2, 2 + 4 + 8 + 11 * 16, 2 + 4 + 8 + 16),
        (7, 64, 2, 2, 190, 126),
        (3, 4, 1, 4, 12, 4),
    ],
)
def test_without_early_ends_a_tree_costs_the_sum_of_its_levels(
    search, depth, width, divergence, init, at_every_boundary, max_segments_per_request
):
    for most, calls in ((1, at_every_boundary), (None, max_segments_per_request)):
        tree = grow(
            ScriptedEngine(),
            order=REQUIRED,
            depth=depth,
            response_length=4 * depth,
            width=width,
            segment_length=4,
            divergence=divergence,
            init_divergence=(init, init),
            search=search,
            max_segments_per_request=most,
        )
        assert tree.counters.engine_calls == calls
        assert tree.counters.decoded_tokens == 4 * at_every_boundary
        assert len(tree.nodes) == 1 + at_every_boundary
        assert tree.counters.fallbacks == tree.counters.overrun_tokens == 0
        assert [tree.nodes[leaf].depth for leaf in tree.leaves] == [depth] * width


@pytest.mark.parametrize("search", list(SearchKind))
@pytest.mark.parametrize(("width", "children"), [(1, 1), (2, 1), (5, 3), (8, 4)])
def test_by_default_the_root_has_children_for_half_of_the_width(search, width, children):
    tree = grow(ScriptedEngine(), order=REQUIRED, depth=3, response_length=12, width=width, segment_length=4,
                search=search, init_divergence=None)  # fmt: skip
    assert sum(node.parent == 0 for node in tree.nodes[1:]) == children
    assert len(tree.leaves) == width


def test_a_long_path_is_given_to_the_engine_from_its_first_token_on():
    engine = ScriptedEngine()
    tree = grow(
        engine,
        order=REQUIRED,
        depth=3,
        response_length=1200,
        width=2,
        segment_length=400,
        divergence=1,
        max_segments_per_request=1,
    )
    for leaf in tree.leaves:
        path = [node.index for node in tree.path(leaf).nodes[1:]]
        assert len(path) == 3
        for number, node in enumerate(path):
            given, _, _ = engine.calls[tree.nodes[node].key]
            before = [token for above in path[:number] for token in tree.nodes[above].segment.token_ids]
            assert given == PROMPT + before
            assert len(before) == 400 * number


def test_a_request_runs_on_over_as_many_segments_as_it_may():
    # The 4 children of the root use up the width: each path's 5 segments take ceil(5 / 2) requests.
    tree = grow(
        ScriptedEngine(), order=REQUIRED, depth=5, response_length=20, width=4, segment_length=4,
        init_divergence=(4, 4), max_segments_per_request=2,
    )  # fmt: skip
    assert tree.counters.engine_calls == 4 * 3
    assert len(tree.nodes) == 1 + 4 * 5


def test_tokens_beyond_the_end_of_a_path_are_cut_off_and_counted():
    # The answer is complete after 12 tokens (three segments of 4), but the request allows 20.
    text = list(b"so \\boxed{7} and so on and")
    tree = grow(
        ScriptedEngine(script=[text]), depth=5, response_length=20, width=1, segment_length=4, init_divergence=(1, 1)
    )
    (leaf,) = tree.leaves
    assert decode(tree.path(leaf).response_ids) == "so \\boxed{7}"
    assert tree.nodes[leaf].finish_reason is FinishReason.ANSWER
    assert tree.counters.engine_calls == 1
    assert tree.counters.overrun_tokens == 8


def test_requests_stop_where_a_path_may_still_end_too_short():
    # The second of four paths ends after one token and is dropped. The others stop at the boundary, so one of them can
    # branch. Otherwise the width of the second path would fall back.
    engine = ScriptedEngine(script=[[97] * 12, [EOS[0]], [97] * 12, [97] * 12])
    tree = grow(engine, depth=3, response_length=12, width=4, segment_length=4, init_divergence=(4, 4), min_length=5)
    assert (tree.counters.dropped_paths, tree.counters.fallbacks) == (1, 0)
    assert [max_tokens for branch, (_, max_tokens, _) in engine.calls.items() if len(branch) == 1] == [4] * 4


# --- branching ------------------------------------------------------------------------------------------------------


def test_the_share_of_a_stopped_path_goes_to_its_level():
    # The first child of the root continues, the second ends at once. The level had 2 paths, so the next one may have
    # min(4 - 1, 2 * 2) = 3 segments, all of them children of the first.
    engine = ScriptedEngine(script=[[97] * 12, [EOS[1]]])
    tree = grow(engine, depth=3, response_length=12, width=4, segment_length=4)
    first, second = (tree.nodes[child] for child in tree.nodes[ROOT].children)
    assert second.finish_reason is FinishReason.EOS
    assert len(first.children) == 3


def test_without_transfer_a_path_gets_its_divergence_and_the_rest_falls_back():
    # Each of the two children of the root should become 2 trajectories. The second ends at once, and its leftover width
    # resumes at its only boundary, the root. There the scripted engine generates the text of a first child.
    engine = ScriptedEngine(script=[[97] * 12, [EOS[1]]])
    tree = grow(engine, depth=3, response_length=12, width=4, segment_length=4, search=SearchKind.BY_PATH)
    assert {node.key: node.finish_reason for node in tree.nodes if node.depth == 1} == {
        "0": None,
        "1": FinishReason.EOS,
        "1~0": None,
    }
    assert len(tree.nodes[tree.nodes[ROOT].children[0]].children) == 2


def test_no_node_but_the_root_gets_more_children_than_the_largest_divergence():
    # Without the limit, the open path would also get the children of the ended one.
    engine = ScriptedEngine(script=[[97] * 12, [EOS[1]]])
    tree = grow(engine, depth=3, response_length=12, width=6, segment_length=4, max_divergence=2)
    assert max(len(node.children) for node in tree.nodes[1:]) == 2


def test_the_divergences_are_drawn_from_their_whole_ranges():
    roots, levels = set(), set()
    for seed in range(80):
        tree = grow(
            ScriptedEngine(), seed=seed, order=REQUIRED, depth=2, response_length=8, width=20, segment_length=4,
            divergence=(1, 4), init_divergence=(2, 5), fallback=FallbackRules(start=FallbackStart.DRY),
            max_segments_per_request=1,
        )  # fmt: skip
        first = [node for node in tree.nodes if node.depth == 1 and "~" not in node.key]
        second = [node for node in tree.nodes if node.depth == 2 and "~" not in node.key]
        roots.add(len(first))
        levels.add(len(second) / len(first))
    assert roots == {2, 3, 4, 5}
    assert levels == {1, 2, 3, 4}


def test_a_level_has_no_more_segments_than_its_tokens_pay_for():
    engine = ScriptedEngine(seed=3, end_rate=0.1)
    tree = grow(
        engine, depth=6, response_length=24, width=12, segment_length=4, budget=Budget.LEVEL_TOKENS, level_tokens=14,
        init_divergence=(2, 2),
    )  # fmt: skip
    assert len(tree.leaves) == 12
    assert engine.most_running == 14 // 4


def test_a_prompt_gets_as_many_trajectories_as_its_response_tokens_pay_for():
    # Each response may take 12 tokens, so 36 tokens pay for 3. All take 5, so 36 - 15 = 21 tokens remain, enough for
    # one more. Then 16 remain, enough for one more, and then 11, enough for none: 3 + 1 + 1 = 5.
    engine = ScriptedEngine(script=[[97] * 4 + [EOS[0]]])
    numbers = {"depth": 3, "response_length": 12, "segment_length": 4, "budget": Budget.TOTAL_TOKENS}
    tree = grow(engine, width=8, total_tokens=36, min_width=2, init_divergence=(8, 8), **numbers)
    assert [tree.nodes[leaf].end for leaf in tree.leaves] == [5] * 5
    # The width limits the number from above, min_width from below.
    tree = grow(ScriptedEngine(script=engine.script), width=4, total_tokens=36, min_width=2, **numbers)
    assert len(tree.leaves) == 4
    tree = grow(ScriptedEngine(script=[[97] * 20]), width=8, total_tokens=36, min_width=3, **numbers)
    assert [tree.nodes[leaf].end for leaf in tree.leaves] == [12] * 3


def test_the_favored_path_gets_the_children():
    # Token 98 is likely and 97 is not. At a low temperature all free children go to one of the two paths.
    class Sure(ScriptedEngine):
        def _answer(self, input_ids, max_tokens, branch):
            answer = super()._answer(input_ids, max_tokens, branch)
            answer.logprobs[:] = [-0.1 if token == 98 else -1.0 for token in answer.token_ids]
            return answer

    def children(**rules):
        tree = grow(
            Sure(script=[[97] * 8, [98] * 8]), depth=2, response_length=8, width=6, segment_length=4, divergence=3,
            temperature=0.01, max_segments_per_request=1, **rules,
        )  # fmt: skip
        return [len(tree.nodes[child].children) for child in tree.nodes[ROOT].children]

    for share in (Share.PATH_SUM, Share.PATH_MEAN, Share.SEGMENT_SUM, Share.SEGMENT_MEAN):
        assert children(share=share, favor=Favor.HIGH) == [1, 5]
        assert children(share=share, favor=Favor.LOW) == [5, 1]
    assert children(share=Share.ENTROPY, favor=Favor.HIGH) == [5, 1]
    assert children(share=Share.EVEN) == [3, 3]


# --- fallback -------------------------------------------------------------------------------------------------------


def test_a_dry_tree_falls_back_to_boundaries_of_finished_paths_until_it_is_full():
    # Every response is 6 tokens and an end token: two segments of 4. The first path gives one leaf, the other
    # three come from fallbacks, which resume at its only inner boundaries: the root or its first segment.
    engine = ScriptedEngine(script=[[97] * 6 + [EOS[0]]])
    tree = grow(engine, depth=4, response_length=16, width=4, segment_length=4, divergence=1, init_divergence=(1, 1))
    assert len(tree.leaves) == 4
    assert tree.counters.fallbacks == 3
    assert {tuple(tree.path(leaf).response_ids) for leaf in tree.leaves} == {(*[97] * 6, EOS[0])}


def test_fallback_does_not_wait_for_open_paths_that_cannot_fill_the_width():
    # The second path ends in its first segment, so 3 trajectories are missing. With two children at most, the first
    # path can become 2 of them. EARLY falls back for the third at once; DRY (as published) waits for the first path.
    def first_fallback(start):
        engine = ScriptedEngine(script=[[97] * 12, [EOS[0]]])
        grow(
            engine, depth=2, response_length=8, width=4, segment_length=4, max_divergence=2,
            fallback=FallbackRules(start=start),
        )  # fmt: skip
        return next(rank for rank, branch in enumerate(engine.calls) if "~" in branch), engine.most_running

    assert first_fallback(FallbackStart.EARLY) == (4, 3)
    assert first_fallback(FallbackStart.DRY) == (4, 2)


def test_resuming_inside_a_segment_splits_it_and_keeps_its_boundary():
    # Token 5 (the second of the second segment) is the least likely token of the only finished path.
    class OneUnlikelyToken(ScriptedEngine):
        def _answer(self, input_ids, max_tokens, branch):
            answer = super()._answer(input_ids, max_tokens, branch)
            start = len(input_ids) - len(PROMPT)
            answer.logprobs[:] = [-9.0 if start + i == 5 else -1.0 for i in range(len(answer.token_ids))]
            return answer

    engine = OneUnlikelyToken(script=[list(range(97, 109))])
    tree = grow(
        engine, depth=3, response_length=12, width=2, segment_length=4, divergence=1, init_divergence=(1, 1),
            max_segments_per_request=1,
        fallback=FallbackRules(point=PointRule.LEAST_LIKELY_TOKEN),
    )  # fmt: skip
    spans = {node.key: (node.offset, node.end, node.depth, node.partial) for node in tree.nodes}
    assert spans == {
        "": (0, 0, 0, False),
        "0": (0, 4, 1, False),
        "0.0@5": (4, 5, 2, True),
        "0.0": (5, 8, 2, False),
        "0.0.0": (8, 12, 3, False),
        "0.0.0~0": (5, 8, 2, False),
        "0.0.0~0.0": (8, 12, 3, False),
    }
    assert engine.calls["0.0.0~0"][:2] == (PROMPT + [97, 98, 99, 100, 101], 3)
    assert [tree.path(leaf).spans[1] for leaf in tree.leaves] == [(2, 4), (2, 4)]


def test_where_no_path_may_be_chosen_the_search_starts_again_at_the_root():
    engine = ScriptedEngine(script=[[97] * 20])
    tree = grow(
        engine, depth=3, response_length=12, width=3, segment_length=4, divergence=1, init_divergence=(1, 1),
        fallback=FallbackRules(self_ended_only=True),
    )  # fmt: skip
    assert [tree.nodes[leaf].finish_reason for leaf in tree.leaves] == [FinishReason.LENGTH] * 3
    assert [node.key for node in tree.nodes if node.depth == 1] == ["0", "1", "2"]


# --- stopping -------------------------------------------------------------------------------------------------------


def test_a_stop_string_ends_the_path_where_it_ends_also_across_a_boundary():
    engine = ScriptedEngine(script=[list(b"one two three")])
    tree = grow(
        engine, depth=4, response_length=16, width=1, segment_length=4, init_divergence=(1, 1), stop_strings=("two",),
        order=(FinishReason.STOP, *REQUIRED),
    )  # fmt: skip
    assert decode(tree.path(tree.leaves[0]).response_ids) == "one two"
    assert tree.nodes[tree.leaves[0]].finish_reason is FinishReason.STOP


def test_a_path_that_ends_too_short_is_dropped_and_its_width_given_back():
    # The second child of the root ends after one token; its width goes to the children of the first.
    engine = ScriptedEngine(script=[[97] * 12, [EOS[1]]])
    tree = grow(engine, depth=3, response_length=12, width=3, segment_length=4, min_length=2)
    dropped = [node for node in tree.nodes if node.dropped]
    assert [(node.key, node.finish_reason) for node in dropped] == [("1", FinishReason.EOS)]
    assert len(tree.leaves) == 3
    assert TreeStatistics.of(tree).unique_tokens == tree.counters.decoded_tokens - 1 - tree.counters.overrun_tokens


@pytest.mark.parametrize(("min_length", "calls"), [(1, 4), (2, 8), (5, 8), (6, 12)])
def test_requests_stop_only_as_long_as_a_path_may_end_too_short(min_length, calls):
    # Each result has a token: with 1 no path can be too short, with 5 none after the first boundary, at 4.
    tree = grow(
        ScriptedEngine(), order=REQUIRED, depth=3, response_length=12, width=4, segment_length=4,
        init_divergence=(4, 4), min_length=min_length,
    )  # fmt: skip
    assert tree.counters.engine_calls == calls


def test_where_no_path_may_be_dropped_any_more_requests_run_on():
    # The only path of the first level is dropped; with width 1 no other may be dropped.
    engine = ScriptedEngine(script=[[EOS[0]], [97] * 12])
    tree = grow(engine, depth=3, response_length=12, width=1, segment_length=4, init_divergence=(1, 1), min_length=5)
    assert [max_tokens for _, max_tokens, _ in engine.calls.values()] == [4, 12]
    assert (len(tree.leaves), tree.counters.dropped_paths) == (1, 1)


@pytest.mark.parametrize("max_segments_per_request", [None, 1])
def test_the_replacement_of_a_dropped_path_keeps_all_but_its_last_segment(max_segments_per_request):
    engine = ScriptedEngine(script=[[97, 97, EOS[0]]])
    tree = grow(
        engine, depth=4, response_length=8, width=1, segment_length=2, init_divergence=(1, 1), min_length=4,
        search=SearchKind.BY_PATH, max_segments_per_request=max_segments_per_request,
    )  # fmt: skip
    assert [node.key for node in tree.nodes] == ["", "0", "0.0", "0.0?", "0.0??"]
    assert [node.dropped for node in tree.nodes] == [False, False, True, True, False]


@pytest.mark.parametrize("search", list(SearchKind))
@pytest.mark.parametrize("start_of_fallback", list(FallbackStart))
def test_a_model_with_only_short_responses_is_given_up(search, start_of_fallback):
    tree = grow(
        ScriptedEngine(end_rate=1.0), depth=3, response_length=12, width=3, segment_length=4, min_length=2,
        search=search, fallback=FallbackRules(start=start_of_fallback),
    )  # fmt: skip
    assert [tree.nodes[leaf].end for leaf in tree.leaves] == [1, 1, 1]
    assert tree.counters.dropped_paths >= 3


# --- faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("search", list(SearchKind))
def test_a_failed_request_is_repeated_and_then_its_width_goes_elsewhere(search):
    engine = ScriptedEngine(broken={"1"})
    tree = grow(engine, depth=3, response_length=12, width=4, segment_length=4, retries=2, search=search)
    assert engine.attempts["1"] == 3
    assert "1" not in {node.key for node in tree.nodes}
    assert len(tree.leaves) == 4
    assert (tree.counters.failed_calls, tree.counters.abandoned_paths) == (3, 1)


@pytest.mark.parametrize("search", list(SearchKind))
def test_a_prompt_fails_only_without_any_path_and_gives_the_reason(search):
    engine = ScriptedEngine(broken=True, jitter=3)
    # By level 2 + 4 and, once more paths than 4 were abandoned, 2 of those; by path each of 2 is sampled 3 times.
    paths = {SearchKind.BY_LEVEL: 2 + 4 + 2, SearchKind.BY_PATH: 2 * 3}[search]
    reason = f"{2 * paths} of {2 * paths} requests failed, all alike: ConnectionError: the engine went away$"
    with pytest.raises(SearchError, match=f"^the prompt got no trajectory: {reason}") as caught:
        grow(engine, depth=3, response_length=12, width=4, segment_length=4, retries=1, search=search)
    assert isinstance(caught.value.__cause__, ConnectionError)
    assert engine.attempts.total() == 2 * paths


@pytest.mark.parametrize("search", list(SearchKind))
def test_obtained_paths_are_kept_if_the_engine_fails_for_the_rest(search):
    class NoSecondChild(ScriptedEngine):
        def _answer(self, input_ids, max_tokens, branch):
            if not branch.startswith("0"):
                raise ConnectionError("the engine went away")
            return super()._answer(input_ids, max_tokens, branch)

    tree = grow(NoSecondChild(), depth=2, response_length=8, width=4, segment_length=4, search=search)
    # By path, the second child loses its width of two. By level, its width goes to the first child.
    assert len(tree.leaves) == (2 if search is SearchKind.BY_PATH else 4)
    assert tree.counters.missing_trajectories == 4 - len(tree.leaves)


def test_an_abandoned_path_is_sampled_again_with_its_width():
    tree = grow(
        ScriptedEngine(broken={"0.0"}), order=REQUIRED, depth=4, response_length=16, width=4, segment_length=4,
        init_divergence=(1, 1), search=SearchKind.BY_PATH,
    )  # fmt: skip
    assert {node.key for node in tree.nodes if node.depth == 2} == {"0.0!", "0.1"}
    again = next(node for node in tree.nodes if node.key == "0.0!")
    assert len(again.children) == 2
    assert tree.counters.fallbacks == 0


@pytest.mark.parametrize("search", list(SearchKind))
def test_a_path_stopped_inside_a_segment_branches_at_its_boundary(search):
    class Hasty(ScriptedEngine):
        def _tokens(self, input_ids, max_tokens, branch):
            return super()._tokens(input_ids, min(max_tokens, 3), branch)

    tree = grow(
        Hasty(), order=REQUIRED, depth=2, response_length=8, width=2, segment_length=4, init_divergence=(1, 1),
        search=search,
    )  # fmt: skip
    ends = {(node.key, node.offset, node.end) for node in tree.nodes[1:3]}
    assert ends == {("0", 0, 3), ("0.0", 3, 4)}
    assert [len(node.children) for node in tree.nodes[:3]] == [1, 1, 2]


def test_without_branching_a_dry_tree_has_nothing_to_decide_before_its_paths_end():
    tree = grow(
        ScriptedEngine(), order=REQUIRED, depth=6, response_length=24, width=8, segment_length=4, max_divergence=1,
        fallback=FallbackRules(start=FallbackStart.DRY),
    )  # fmt: skip
    assert tree.counters.engine_calls == 8


@pytest.mark.parametrize("search", list(SearchKind))
def test_cancelling_a_search_leaves_no_request_running(search):
    async def cancelled():
        engine = ScriptedEngine(blocked=frozenset({"0", "1"}))
        task = asyncio.create_task(start(engine, depth=3, response_length=12, width=4, segment_length=4, search=search))
        while engine.running < 2:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return engine.running, engine.cancelled

    assert asyncio.run(cancelled()) == (0, 2)


def test_with_a_cache_block_paths_branch_after_whole_blocks_and_one_token():
    # The prompt has 3 tokens, a block 4: one token exceeds whole blocks after 3 + 2, 3 + 6 and 3 + 10 tokens. 4 is as
    # near to 2 as to 6, and the lower boundary is taken.
    tree = grow(
        ScriptedEngine(), order=REQUIRED, depth=4, response_length=16, width=8, segment_length=4,
        init_divergence=(1, 1), cache_block=4, max_segments_per_request=1,
    )  # fmt: skip
    assert {node.end for node in tree.nodes[1:]} == {2, 6, 10, 16}
    assert [tree.nodes[leaf].depth for leaf in tree.leaves] == [4] * 8
    # 1 x 2 + 2 x 4 + 4 x 4 + 8 x 6
    assert tree.counters.decoded_tokens == 74
    # Segments that are not a multiple of a block: 6 is nearest to 5, and 10 to 10. Requests cross the boundaries.
    tree = grow(
        ScriptedEngine(), order=REQUIRED, depth=3, response_length=15, width=4, segment_length=5,
        init_divergence=(4, 4), cache_block=4,
    )  # fmt: skip
    assert {node.end for node in tree.nodes[1:]} == {6, 10, 15}
    assert tree.counters.engine_calls == 4
    # 9 would shift to 10, the end of the response, and the last level would never be reached.
    tree = grow(
        ScriptedEngine(), order=REQUIRED, depth=2, response_length=10, width=4, segment_length=9,
        init_divergence=(2, 2), cache_block=4,
    )  # fmt: skip
    assert {node.end for node in tree.nodes[1:]} == {9, 10}


def test_the_longest_segment_is_the_longest_that_any_prompt_has():
    for segment, block in ((4, 4), (8, 4), (6, 3), (5, 4), (7, 3), (4, None), (6, 6)):
        shape = SearchShape(width=1, segment_length=segment, cache_block=block)
        searches = [
            {
                "segment_length": segment,
                "depth": 12,
                "response_length": 12 * segment,
                "cache_block": block,
                "prompt": prompt,
            }
            for prompt in range(1, 20)
        ]
        longest = max(map(longest_segment, searches))
        assert longest <= shape.longest_segment
        assert longest == shape.longest_segment or segment % (block or 1)


# --- waiting --------------------------------------------------------------------------------------------------------


def test_by_path_none_waits_for_another_and_by_level_all_do():
    async def reached(search):
        engine = ScriptedEngine(blocked=frozenset({"0"}))
        task = asyncio.create_task(
            start(engine, order=REQUIRED, depth=4, response_length=16, width=8, segment_length=4, search=search)
        )
        for _ in range(200):
            await asyncio.sleep(0)
        without_the_first = set(engine.calls)
        engine.release.set()
        return without_the_first, await task

    calls, tree = asyncio.run(reached(SearchKind.BY_PATH))
    # The second child of the root becomes 4 trajectories: 1 + 2 + 4 requests, the last four over two segments each.
    assert calls == {"1", "1.0", "1.1", "1.0.0", "1.0.1", "1.1.0", "1.1.1"}
    assert len(tree.leaves) == 8
    calls, tree = asyncio.run(reached(SearchKind.BY_LEVEL))
    assert calls == {"1"}
    assert len(tree.leaves) == 8


# --- every policy at once -------------------------------------------------------------------------------------------


engines = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 100),
        "end_rate": st.sampled_from([0.0, 0.05, 0.3, 1.0]),
        "repeat_rate": st.sampled_from([0.0, 0.7]),
        "fail_rate": st.sampled_from([0.0, 0.0, 0.2, 0.6]),
    }
)


def record(tree: Tree) -> list[tuple]:
    return [(node.key, node.parent, node.segment, node.finish_reason, node.dropped) for node in tree.nodes]


@examples(short=500, long=2000)
@given(searches(), engines, st.integers(1, 100))
def test_every_search_keeps_the_invariants(search, text, jitter):
    engine = ScriptedEngine(**text)
    try:
        tree = grow(engine, **search)
    except SearchError:
        assert text["fail_rate"] > 0
        return
    tree.check()
    check_width(tree, search, engine)
    check_calls(tree, search, engine)
    check_ends(tree, search)

    # The order in which requests finish does not change the tree.
    again = ScriptedEngine(**text, jitter=jitter)
    other = grow(again, **search)
    assert record(other) == record(tree)
    assert again.calls == engine.calls


def check_calls(tree: Tree, search: dict, engine: ScriptedEngine) -> None:
    """Check that each call got exactly the tokens on the path, and each returned token is stored once or cut off."""
    node_of = {node.key: node for node in tree.nodes}
    stored, cut = 0, 0
    for branch, (input_ids, max_tokens, output) in engine.calls.items():
        pieces = pieces_of_call(node_of, branch, set(engine.calls))
        first = pieces[0]
        assert input_ids == PROMPT + tree.path(first.parent).response_ids
        kept = [token for piece in pieces for token in piece.segment.token_ids]
        assert kept == output[: len(kept)]
        assert max_tokens <= search["response_length"] - first.offset
        if len(kept) < len(output):
            assert pieces[-1].finish_reason is not None
        stored, cut = stored + len(kept), cut + len(output) - len(kept)
        # Long requests and splits do not move boundaries.
        for piece in pieces:
            inside = piece.end not in boundaries(search)
            assert piece.partial == (inside and piece.finish_reason is None) or piece.finish_reason is not None
            assert piece.depth == 1 + bisect.bisect_left(boundaries(search), piece.end)
    counters = tree.counters
    assert stored == sum(len(node.segment.token_ids) for node in tree.nodes)
    assert (counters.decoded_tokens, counters.overrun_tokens) == (stored + cut, cut)
    assert counters.computed_prompt_tokens + counters.cached_prompt_tokens == sum(
        len(input_ids) for input_ids, _, _ in engine.calls.values()
    )
    assert counters.engine_calls == len(engine.calls)
    assert counters.failed_calls == sum(engine.attempts.values()) - len(engine.calls)
    statistics = TreeStatistics.of(tree)
    assert statistics.trajectories == len(tree.leaves) == sum(statistics.finish_reasons.values())


def check_ends(tree: Tree, search: dict) -> None:
    """Check that a path ends at its leaf for its reason, and had no reason to end at an earlier boundary."""
    for node in tree.nodes[1:]:
        reasons = reasons_of(tree, node.index, search)
        if node.finish_reason is not None:
            assert node.finish_reason == reasons[0]
            assert not node.dropped or node.end < search["min_length"]
        elif not node.partial:
            assert reasons == []


def reasons_of(tree: Tree, node: int, search: dict) -> list[FinishReason]:
    """Return all reasons that apply at a node, in their order, without the code under test."""
    tokens = [token for on_path in tree.path(node).nodes for token in on_path.segment.token_ids]
    text = decode(tokens)
    unit = tokens if search["repetition"].unit == "tokens" else text
    window = search["repetition"].window
    grams = Counter(tuple(unit[i : i + window]) for i in range(len(unit) - window + 1))
    applies = {
        FinishReason.ANSWER: brute_force_box(text) and (tokens[-1] in EOS or not search["answer_needs_eos"]),
        FinishReason.EOS: tokens[-1] in EOS,
        FinishReason.STOP: any(string in text for string in search["stop_strings"]),
        FinishReason.LENGTH: len(tokens) == search["response_length"],
        FinishReason.DEPTH: len(tokens) == boundaries(search)[-1],
        FinishReason.REPETITION: bool(grams) and max(grams.values()) >= search["repetition"].count,
    }
    return [reason for reason in search["order"] if applies[reason]]


@examples(short=150, long=500)
@given(searches(), engines)
def test_running_on_changes_the_number_of_requests_and_nothing_else(search, text):
    text["fail_rate"] = 0.0
    stops, runs = ScriptedEngine(**text), ScriptedEngine(**text)
    stopped = grow(stops, **{**search, "max_segments_per_request": 1})
    ran = grow(runs, **{**search, "max_segments_per_request": None})
    strip = [(key, parent, s.token_ids, s.logprobs, *rest) for key, parent, s, *rest in record(stopped)]
    assert [(key, parent, s.token_ids, s.logprobs, *rest) for key, parent, s, *rest in record(ran)] == strip
    assert ran.path(ran.leaves[-1]).spans == stopped.path(stopped.leaves[-1]).spans
    assert len(runs.calls) <= len(stops.calls)
    assert stopped.counters.overrun_tokens <= ran.counters.overrun_tokens


@pytest.mark.parametrize("divergence", [1, 2])
def test_width_falls_back_early_only_if_the_open_paths_could_not_have_filled_it(divergence):
    filled = 0
    for seed in range(600):
        numbers = {
            "seed": seed, "depth": 3 + seed % 2, "response_length": 12 + seed % 2 * 4, "segment_length": 4,
            "width": 3 + seed % (3 * divergence), "divergence": divergence, "order": (FinishReason.EOS, *REQUIRED),
        }  # fmt: skip
        trees = [
            grow(ScriptedEngine(seed=seed, end_rate=0.08), **numbers, fallback=FallbackRules(start=fallback))
            for fallback in (FallbackStart.DRY, FallbackStart.EARLY)
        ]
        if trees[0].counters.fallbacks == 0:
            filled += 1
            assert trees[1].counters.fallbacks == 0
            assert record(trees[1]) == record(trees[0])
    assert filled > 20
