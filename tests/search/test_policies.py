# SPDX-License-Identifier: Apache-2.0
"""Policies of a user, scores and pruning."""

import asyncio
import hashlib
import math
import pickle
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.example_counts import examples
from helpers.scripted_conversation import TURN, Recorded, Turns, sizes, talk
from helpers.scripted_engine import ScriptedEngine, decode
from helpers.searches import PROMPT, REQUIRED, grow, searches
from recipe.treepo.interaction import Steps
from recipe.treepo.policies import PathView, Policies, PolicyContext, Resume
from recipe.treepo.search import SearchError, SearchKind
from recipe.treepo.search.branching import Budget, Share
from recipe.treepo.search.conversation import ConversationRules
from recipe.treepo.search.engine import Segment
from recipe.treepo.search.fallback import FallbackRules, FallbackStart, PathOrder
from recipe.treepo.search.policy_calls import PolicyError
from recipe.treepo.search.stopping import FinishReason

SIZES = {"width": 4, "segment_length": 2, "depth": 3, "response_length": 6, "order": (FinishReason.EOS, *REQUIRED)}


def number_of(path: PathView) -> float:
    """Return a number from 0 to 1 that depends on the tokens of a path only."""
    digest = hashlib.sha256(bytes(str([*path.token_ids]), "ascii")).digest()
    return digest[0] / 255


class BoxEngine:
    """Engine whose second segment opens a box."""

    async def extend(self, input_ids: Sequence[int], *, max_tokens: int, branch: str) -> Segment:
        token_ids = [*b"a\\boxed{bcdefgh"][len(input_ids) - len(PROMPT) :][:max_tokens]
        return Segment(token_ids, [-1.0] * len(token_ids))


class HashScore:
    """Scorer that waits some turns of the loop, in which other paths split this one's nodes."""

    async def score(self, path: PathView, context: PolicyContext) -> float:
        before = number_of(path), path.text, [*path.logprobs], [*path.boundaries], path.turn_text
        for _ in range(path.length % 3):
            await asyncio.sleep(0)
        assert before == (number_of(path), path.text, [*path.logprobs], [*path.boundaries], path.turn_text)
        return number_of(path)


class AnyChildren:
    """Branching at random, with pruned paths."""

    def children(self, paths: Sequence[PathView], room: int, context: PolicyContext) -> list[int]:
        counts, left = [], room
        for path in paths:
            counts.append(context.rng.randint(0, min(left, 3 + len(path.siblings) % 2)))
            left -= counts[-1]
        return counts


class AnyPoint:
    """Fallback at random, inside segments, too."""

    def resume(self, paths: Sequence[PathView], count: int, context: PolicyContext) -> list[Resume]:
        points = []
        for _ in range(count):
            path = context.rng.choice([None, *paths, *(path for path in paths if path.siblings)])
            points.append(Resume(path, 0 if path is None else context.rng.randrange(path.length)))
        return points


class AnyEnd:
    """Stopping rule at random."""

    def ends(self, path: PathView, context: PolicyContext) -> bool:
        return context.rng.random() < 0.1 + 0.2 * len(path.siblings)


@st.composite
def policies(draw) -> dict[str, Any]:
    scorer = draw(st.sampled_from([None, HashScore()]))
    chosen = Policies(
        branching=draw(st.sampled_from([None, AnyChildren()])),
        fallback=draw(st.sampled_from([None, AnyPoint()])),
        stopping_rule=draw(st.sampled_from([None, AnyEnd()])),
        scorer=scorer,
    )
    own: dict[str, Any] = {"policies": chosen}
    if scorer is not None:
        own |= {
            "prune_below": draw(st.sampled_from([None, 0.3, 2.0])),
            "prune_above": draw(st.sampled_from([None, 0.8])),
        }
    return own


engines = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 100),
        "end_rate": st.sampled_from([0.0, 0.05, 0.3]),
        "fail_rate": st.sampled_from([0.0, 0.2]),
    }
)


@examples(short=300, long=2000)
@given(searches(), policies(), engines, st.booleans(), st.integers(1, 100))
def test_any_policies_keep_the_invariants_and_grow_equal_trees(search, own, text, by_score, jitter):
    if by_score and own["policies"].scorer is not None:
        search["fallback"] = replace(search["fallback"], order=PathOrder.LOWER_SCORE_FIRST)
        search["share"] = Share.EVEN if search["search"] is SearchKind.BY_PATH else Share.SCORE
    search["min_length"] = 0
    engine = ScriptedEngine(**text)
    try:
        tree = grow(engine, **search, **own)
    except SearchError:
        assert text["fail_rate"] > 0
        return
    tree.check()
    missing = tree.counters.missing_trajectories
    if search["budget"] is not Budget.TOTAL_TOKENS:
        assert len(tree.leaves) + missing == search["width"]
    pruned = [node for node in tree.nodes if node.finish_reason is FinishReason.PRUNED]
    assert len(pruned) == tree.counters.pruned_paths
    assert all(node.dropped for node in pruned)
    if search["search"] is SearchKind.BY_LEVEL:
        assert len(pruned) <= search["width"]
    scored = [node for node in tree.nodes if node.score is not None]
    assert len(scored) <= tree.counters.score_calls
    for node in scored:
        if not node.partial or node.finish_reason is not None:
            assert node.score == number_of(tree.path(node.index)) or node.children

    other = grow(ScriptedEngine(**text, jitter=jitter), **search, **own)
    assert [(node.key, node.parent, node.segment, node.finish_reason, node.score) for node in other.nodes] == [
        (node.key, node.parent, node.segment, node.finish_reason, node.score) for node in tree.nodes
    ]


def test_a_score_that_awaits_keeps_its_path_while_another_path_resumes_on_it():
    lengths = []

    class Waits:
        async def score(self, path: PathView, context: PolicyContext) -> float:
            before = [*path.token_ids]
            for _ in range(40 * (path.length // 4)):
                await asyncio.sleep(0)
            lengths.append(len(before))
            assert [*path.token_ids] == before
            return 0.0

    class Middle:
        def resume(self, paths: Sequence[PathView], count: int, context: PolicyContext) -> list[Resume]:
            return [Resume(paths[0], min(1, paths[0].length - 1)) if paths else Resume(None, 0)] * count

    # One child of the root; its first segment is shared, and paths that end early resume inside it.
    options = {**SIZES, "search": SearchKind.BY_PATH, "init_divergence": (1, 1)}
    for seed in range(30):
        grow(ScriptedEngine(end_rate=0.2, seed=seed), **options, policies=Policies(scorer=Waits(), fallback=Middle()))
    assert sum(length >= 4 for length in lengths) > 60


class Children:
    """Branching with a given result."""

    def __init__(self, counts: Any) -> None:
        self._counts = counts

    def children(self, paths: Sequence[PathView], room: int, context: PolicyContext) -> Any:
        if isinstance(self._counts, BaseException):
            raise self._counts
        return self._counts


@pytest.mark.parametrize("search", SearchKind)
@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (
            [9, 9],
            r"Children.children returned \[9, 9\]: (18 children, but room for 4|must be 1 whole numbers of at least 0)",
        ),
        ([-1, 1], r"Children.children returned \[-1, 1\]: must be"),
        (["a", 1], r"must be . whole numbers"),
        ([1.0, 1.0], r"must be . whole numbers"),
        ([1, 1, 1], r"must be . whole numbers"),
        (None, r"Children.children raised TypeError"),
        ([True, True], r"must be . whole numbers"),
        (ValueError("two\nlines"), r"Children.children raised ValueError: two lines"),
        (SystemExit(3), r"Children.children raised SystemExit: 3"),
        (KeyboardInterrupt(), r"Children.children raised KeyboardInterrupt"),
        (asyncio.CancelledError(), r"Children.children raised CancelledError"),
        (StopIteration(), r"Children.children raised StopIteration"),
    ],
)
def test_a_wrong_number_of_children_ends_with_class_prompt_and_node(search, counts, message):
    context = PolicyContext(prompt="prompt 7")
    with pytest.raises(PolicyError, match=message + r".*\(prompt 7, node 0(, 1)?\)"):
        grow(ScriptedEngine(), **SIZES, search=search, policies=Policies(branching=Children(counts)), context=context)


@pytest.mark.parametrize(("search", "counts"), [("by_level", [3, 2]), ("by_path", [3])])
def test_one_child_more_than_there_is_room_for_is_too_many(search, counts):
    with pytest.raises(PolicyError, match=rf"{sum(counts)} children, but room for {sum(counts) - 1} "):
        grow(ScriptedEngine(), **SIZES, search=SearchKind(search), policies=Policies(branching=Children(counts)))


def test_an_own_policy_may_give_a_level_all_the_width_that_is_left():
    class FirstTakesAll:
        def children(self, paths: Sequence[PathView], room: int, context: PolicyContext) -> list[int]:
            return [room - len(paths) + 1, *[1] * (len(paths) - 1)]

    tree = grow(ScriptedEngine(), **SIZES, divergence=1, policies=Policies(branching=FirstTakesAll()))
    assert [tree.nodes[leaf].key for leaf in tree.leaves] == ["0.0.0", "0.1.0", "0.2.0", "1.0.0"]


def test_each_decision_has_random_numbers_of_its_own_and_the_same_in_every_run():
    class Draws:
        def __init__(self) -> None:
            self.drawn: dict[str, float] = {}

        def ends(self, path: PathView, context: PolicyContext) -> bool:
            self.drawn[path.name] = context.rng.random()
            return False

    rules = [Draws(), Draws()]
    for rule, jitter in zip(rules, (0, 5), strict=True):
        grow(ScriptedEngine(jitter=jitter), **SIZES, policies=Policies(stopping_rule=rule))
    assert rules[0].drawn == rules[1].drawn
    assert len(set(rules[0].drawn.values())) == len(rules[0].drawn) > 4


class Point(Children):
    """Fallback with a given token."""

    def resume(self, paths: Sequence[PathView], count: int, context: PolicyContext) -> Any:
        return [Resume(paths[0], self._counts)] * count


@pytest.mark.parametrize("search", SearchKind)
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, asyncio.CancelledError, OverflowError])
@pytest.mark.parametrize("method", ["ends", "score", "resume", "task"])
def test_an_exit_in_any_policy_ends_the_search_and_not_the_process(search, kind, method):
    class Exits:
        def ends(self, path: PathView, context: PolicyContext) -> bool:
            raise kind("own")

        def resume(self, paths: Sequence[PathView], count: int, context: PolicyContext) -> Any:
            raise kind("own")

        async def score(self, path: PathView, context: PolicyContext) -> float:
            await asyncio.sleep(0)
            raise kind("own")

    class Task(Exits):
        async def score(self, path: PathView, context: PolicyContext) -> float:
            return await asyncio.create_task(super().score(path, context))

    own, name = {"ends": "stopping_rule", "resume": "fallback", "score": "scorer", "task": "scorer"}[method], Exits()
    if method == "task":
        name, method = Task(), "score"
    options = {**SIZES, "divergence": 1, "max_divergence": 1, "search": search}
    with pytest.raises(PolicyError, match=rf"{type(name).__name__}.{method} raised {kind.__name__}") as caught:
        grow(ScriptedEngine(), **options, policies=Policies(**{own: name}))
    assert (caught.value.policy, caught.value.method) == (type(name).__name__, method)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.method) == (str(caught.value), method)


def test_a_score_that_takes_too_long_ends_the_search():
    class Hangs:
        async def score(self, path: PathView, context: PolicyContext) -> float:
            await asyncio.sleep(60)
            return 0.0

    with pytest.raises(PolicyError, match=r"^Hangs.score gave no result within 0.05 s \(prompt, node [01]\)$"):
        grow(ScriptedEngine(), **SIZES, policies=Policies(scorer=Hangs()), score_timeout_seconds=0.05)


@pytest.mark.parametrize("search", SearchKind)
def test_numbers_of_numpy_and_torch_are_numbers(search):
    class Numpy:
        def children(self, paths: Sequence[PathView], room: int, context: PolicyContext) -> Any:
            return np.ones(len(paths), dtype=np.int64)

        def resume(self, paths: Sequence[PathView], count: int, context: PolicyContext) -> Any:
            return [(paths[0], torch.tensor(2))] * count

        def ends(self, path: PathView, context: PolicyContext) -> Any:
            return np.bool_(False)

        async def score(self, path: PathView, context: PolicyContext) -> Any:
            return np.float32(0.5) if path.length % 4 else torch.tensor(0.5)

    own = Numpy()
    policies = Policies(branching=own, fallback=own, stopping_rule=own, scorer=own)
    tree = grow(ScriptedEngine(), **SIZES, search=search, policies=policies)
    assert len(tree.leaves) == 4 and {node.score for node in tree.nodes if node.is_generated and node.index} <= {
        0.5,
        None,
    }


def test_a_policy_may_sort_the_paths_but_not_change_those_of_the_search():
    class Sorts(Children):
        def resume(self, paths: Sequence[PathView], count: int, context: PolicyContext) -> Any:
            if self._counts:
                paths.sort()
            found = sorted(paths, key=lambda path: path.name, reverse=True)
            return [Resume(found[0], 2)] * count

    options = {**SIZES, "divergence": 1, "max_divergence": 1}
    tree = grow(ScriptedEngine(), **options, policies=Policies(fallback=Sorts(False)))
    assert [tree.nodes[leaf].key for leaf in tree.leaves] == ["0.0.0", "1.0.0", "1.0.0~0.0", "1.0.0~1.0"]
    with pytest.raises(PolicyError, match="Sorts.resume raised AttributeError"):
        grow(ScriptedEngine(), **options, policies=Policies(fallback=Sorts(True)))


def test_what_policies_see_of_the_prompt_is_read_only():
    class Writes(Children):
        def children(self, paths: Sequence[PathView], room: int, context: PolicyContext) -> Any:
            self._counts(context)

    for change in (lambda context: context.prompt_ids.append(7), lambda context: context.row.clear()):
        with pytest.raises(PolicyError, match="raised AttributeError"):
            grow(ScriptedEngine(), **SIZES, policies=Policies(branching=Writes(change)))


def test_a_policy_sees_the_text_of_the_turn_whatever_rules_read():
    seen = set()

    class Looks:
        def ends(self, path: PathView, context: PolicyContext) -> bool:
            assert path.turn_text == path.text == decode([*path.token_ids])
            seen.add(path.opens_box == ("\\boxed{" in path.text))
            return path.opens_box

    for order in (REQUIRED, (FinishReason.ANSWER, *REQUIRED)):
        sizes_ = {**SIZES, "segment_length": 4, "response_length": 12, "order": order}
        tree = grow(BoxEngine(), **sizes_, policies=Policies(stopping_rule=Looks()))
        reasons = [(tree.nodes[leaf].finish_reason, tree.nodes[leaf].depth) for leaf in tree.leaves]
        assert reasons == [("custom", 2)] * 4
    assert seen == {True}


@pytest.mark.parametrize("search", SearchKind)
@pytest.mark.parametrize("token", range(14))
def test_a_point_inside_a_reply_is_refused(search, token):
    class InReply:
        def resume(self, paths: Sequence[PathView], count: int, context: PolicyContext) -> Any:
            mask = paths[0].response_mask
            chosen = token if token < len(mask) else 0
            is_reply.append(not mask[chosen])
            return [Resume(paths[0], chosen)] * count

    for steps in Steps:
        is_reply: list[bool] = []
        options = {**sizes(width=3, max_divergence=1), "search": search, "rules": ConversationRules(steps=steps)}
        try:
            tree = talk(Turns(TURN), Recorded(), **options, policies=Policies(fallback=InReply()))
        except PolicyError as error:
            assert is_reply[-1]
            assert re.search(
                r"a reply has this token; it must be one that the model generated \(prompt, node ", str(error)
            )
        else:
            assert is_reply and not any(is_reply)
            tree.check()


@pytest.mark.parametrize("token", [-1, 6, 99, 1.5, math.nan, None, True])
def test_a_point_off_the_path_ends_with_class_prompt_and_node(token):
    options = {**SIZES, "divergence": 1, "max_divergence": 1}
    message = rf"Point.resume returned {token}: the token must be from 0 to 5 \(prompt, node 0.0.0\)"
    with pytest.raises(PolicyError, match=message):
        grow(ScriptedEngine(), **options, policies=Policies(fallback=Point(token)))


class Unprintable:
    def __repr__(self) -> str:
        raise ValueError("no")


def test_a_result_without_a_text_is_named_by_its_type():
    with pytest.raises(PolicyError, match="returned a list: must be 2 whole numbers"):
        grow(ScriptedEngine(), **SIZES, policies=Policies(branching=Children([Unprintable()])))


@pytest.mark.parametrize("score", [math.nan, math.inf, 10**400, None, True, "1"])
def test_a_score_that_is_no_number_ends_with_class_prompt_and_node(score):
    class Odd:
        async def score(self, path: PathView, context: PolicyContext) -> Any:
            return score

    with pytest.raises(
        PolicyError, match=rf"Odd.score returned {score!r:.80}: must be a finite number \(prompt, node [01]\)"
    ):
        grow(ScriptedEngine(), **SIZES, policies=Policies(scorer=Odd()))


def test_a_stopping_rule_that_returns_no_boolean_ends_with_class_prompt_and_node():
    class Odd:
        def ends(self, path: PathView, context: PolicyContext) -> Any:
            return path.length

    with pytest.raises(PolicyError, match=r"Odd.ends returned 2: must be True or False \(prompt, node [01]\)"):
        grow(ScriptedEngine(), **SIZES, policies=Policies(stopping_rule=Odd()))


def test_an_own_rule_ends_paths_where_it_applies_first():
    class FourTokens:
        def ends(self, path: PathView, context: PolicyContext) -> bool:
            return path.length >= 4

    tree = grow(ScriptedEngine(), **SIZES, policies=Policies(stopping_rule=FourTokens()))
    assert [(tree.nodes[leaf].finish_reason, tree.nodes[leaf].end) for leaf in tree.leaves] == [("custom", 4)] * 4


def test_a_policy_sees_the_path_the_row_and_the_state_of_the_run():
    seen = []

    class Looks:
        def children(self, paths: Sequence[PathView], room: int, context: PolicyContext) -> list[int]:
            for path in paths:
                assert path.text == decode([*path.token_ids])
                assert [*path.logprobs[-2:]] == [*path.segment_logprobs]
                assert [one.name for one in path.siblings] == ["1" if path.name == "0" else "0"] or path.depth > 1
                assert (path.finish_reason, path.score) == (None, None)
                seen.append((path.name, path.length, path.depth, [*path.boundaries]))
            assert (context.row["data_source"], context.step, context.progress) == ("sums", 3, 0.5)
            assert [*context.prompt_ids] == PROMPT
            return [1] * len(paths)

    context = PolicyContext(row={"data_source": "sums"}, step=3, progress=0.5)
    grow(ScriptedEngine(), **{**SIZES, "width": 2}, policies=Policies(branching=Looks()), context=context)
    assert seen == [("0", 2, 1, [0]), ("1", 2, 1, [0]), ("0.0", 4, 2, [0, 2]), ("1.0", 4, 2, [0, 2])]


def test_paths_below_the_threshold_are_pruned_and_their_width_goes_to_the_others():
    class First:
        async def score(self, path: PathView, context: PolicyContext) -> float:
            return float(path.name.startswith("0"))

    options = {**SIZES, "fallback": FallbackRules(start=FallbackStart.DRY)}
    tree = grow(ScriptedEngine(), **options, policies=Policies(scorer=First()), prune_below=0.5)
    # Level 1 has the paths 0 and 1. 1 is pruned, and 0 gets the four children of both.
    assert [tree.nodes[leaf].key for leaf in tree.leaves] == ["0.0.0", "0.1.0", "0.2.0", "0.3.0"]
    assert [node.key for node in tree.nodes if node.dropped] == ["1"]
    assert (tree.counters.pruned_paths, tree.counters.score_calls) == (1, 2 + 4 + 4)


@pytest.mark.parametrize("start", FallbackStart)
@pytest.mark.parametrize("search", SearchKind)
def test_a_policy_that_prunes_everything_still_ends_with_all_trajectories(search, start):
    class Nothing:
        def children(self, paths: Sequence[PathView], room: int, context: PolicyContext) -> list[int]:
            return [0] * len(paths)

    options = {**SIZES, "search": search, "fallback": FallbackRules(start=start)}
    tree = grow(ScriptedEngine(), **options, policies=Policies(branching=Nothing()))
    assert len(tree.leaves) == 4
    assert tree.counters.pruned_paths == (4 if search is SearchKind.BY_LEVEL else 6)
