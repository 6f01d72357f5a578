# SPDX-License-Identifier: Apache-2.0
"""Policies of a user, scores and pruning."""

import asyncio
import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.example_counts import examples
from helpers.scripted_engine import ScriptedEngine, decode
from helpers.searches import PROMPT, REQUIRED, grow, searches
from recipe.treepo.policies import PathView, Policies, PolicyContext, Resume
from recipe.treepo.search import SearchError, SearchKind
from recipe.treepo.search.branching import Budget, Share
from recipe.treepo.search.fallback import FallbackRules, FallbackStart, PathOrder
from recipe.treepo.search.policy_calls import PolicyError
from recipe.treepo.search.stopping import FinishReason

SIZES = {"width": 4, "segment_length": 2, "depth": 3, "response_length": 6, "order": (FinishReason.EOS, *REQUIRED)}


def number_of(path: PathView) -> float:
    """Return a number from 0 to 1 that depends on the tokens of a path only."""
    digest = hashlib.sha256(bytes(str([*path.token_ids]), "ascii")).digest()
    return digest[0] / 255


class HashScore:
    """Scorer that waits some turns of the loop."""

    async def score(self, path: PathView, context: PolicyContext) -> float:
        for _ in range(path.length % 3):
            await asyncio.sleep(0)
        return number_of(path)


class AnyChildren:
    """Branching at random, with pruned paths."""

    def children(self, paths: Sequence[PathView], room: int, context: PolicyContext) -> list[int]:
        counts, left = [], room
        for _ in paths:
            counts.append(context.rng.randint(0, min(left, 3)))
            left -= counts[-1]
        return counts


class AnyPoint:
    """Fallback at random, inside segments, too."""

    def resume(self, paths: Sequence[PathView], count: int, context: PolicyContext) -> list[Resume]:
        points = []
        for _ in range(count):
            path = context.rng.choice([None, *paths])
            points.append(Resume(path, 0 if path is None else context.rng.randrange(path.length)))
        return points


class AnyEnd:
    """Stopping rule at random."""

    def ends(self, path: PathView, context: PolicyContext) -> bool:
        return context.rng.random() < 0.1


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


class Children:
    """Branching with a given result."""

    def __init__(self, counts: Any) -> None:
        self._counts = counts

    def children(self, paths: Sequence[PathView], room: int, context: PolicyContext) -> Any:
        if isinstance(self._counts, Exception):
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
        (ValueError("two\nlines"), r"Children.children raised ValueError: two lines"),
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


@pytest.mark.parametrize("token", [-1, 6, 99, 1.5, math.nan, None])
def test_a_point_off_the_path_ends_with_class_prompt_and_node(token):
    options = {**SIZES, "divergence": 1, "max_divergence": 1}
    message = rf"Point.resume returned {token}: the token must be from 0 to 5 \(prompt, node 0.0.0\)"
    with pytest.raises(PolicyError, match=message):
        grow(ScriptedEngine(), **options, policies=Policies(fallback=Point(token)))


@pytest.mark.parametrize("score", [math.nan, math.inf, None, True, "1"])
def test_a_score_that_is_no_number_ends_with_class_prompt_and_node(score):
    class Odd:
        async def score(self, path: PathView, context: PolicyContext) -> Any:
            return score

    with pytest.raises(
        PolicyError, match=rf"Odd.score returned {score!r}: must be a finite number \(prompt, node [01]\)"
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
