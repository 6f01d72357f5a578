# SPDX-License-Identifier: Apache-2.0
import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe.treepo.search import SearchShape, grow_tree
from recipe.treepo.stopping import FinishReason, StoppingRules
from recipe.treepo.tree import ROOT, Tree
from scripted_engine import EOS, ScriptedEngine, decode

PROMPT = [1000, 1001, 1002]


def grow(engine: ScriptedEngine, *, seed: int = 0, order=tuple(FinishReason), eos=EOS, **numbers) -> Tree:
    stopping = StoppingRules(
        order=order,
        eos_token_ids=frozenset(eos),
        response_length=numbers.pop("response_length"),
        depth=numbers.pop("depth"),
        decode=decode,
    )
    shape = SearchShape(**numbers)
    engine.prompt_length = len(PROMPT)
    return asyncio.run(grow_tree(PROMPT, engine=engine, shape=shape, stopping=stopping, rng=random.Random(seed)))


@pytest.mark.parametrize(
    ("depth", "width", "divergence", "init", "calls"),
    [
        (4, 8, 3, 1, 1 + 3 + 8 + 8),
        (5, 8, 2, 1, 1 + 2 + 4 + 8 + 8),
        (5, 8, 3, 1, 1 + 3 + 8 + 8 + 8),
        (6, 8, 2, 1, 1 + 2 + 4 + 8 + 8 + 8),
        (7, 8, 2, 1, 39),
        (14, 16, 2, 2, 2 + 4 + 8 + 11 * 16),
        (7, 64, 2, 2, 190),
        (3, 4, 1, 4, 12),
    ],
)
def test_without_early_ends_a_tree_costs_what_its_levels_add_up_to(depth, width, divergence, init, calls):
    tree = grow(
        ScriptedEngine(),
        order=(FinishReason.LENGTH, FinishReason.DEPTH),
        depth=depth,
        response_length=4 * depth,
        width=width,
        segment_length=4,
        divergence=divergence,
        init_divergence=(init, init),
    )
    assert tree.counters.engine_calls == calls
    assert tree.counters.decoded_tokens == 4 * calls
    assert tree.counters.fallbacks == 0
    assert [tree.nodes[leaf].depth for leaf in tree.leaves] == [depth] * width


def test_what_a_stopped_path_leaves_goes_to_the_open_paths_of_its_level():
    # Nodes 1 and 2 start from the root. Node 1 (odd) ends at once; node 2 (even) goes on. The level had 2 paths, so
    # the next one may have min(4 - 1, 2 * 2) = 3 segments, all of them children of node 2.
    engine = ScriptedEngine(script=[[97] * 12, [EOS[1]]])
    tree = grow(engine, depth=3, response_length=12, width=4, segment_length=4, divergence=2, init_divergence=(2, 2))
    assert tree.nodes[1].finish_reason is FinishReason.EOS
    assert tree.nodes[2].children == [3, 4, 5]


def test_a_dry_tree_falls_back_to_boundaries_of_finished_paths_until_it_is_full():
    # Every response is 6 tokens and an end token: two segments of 4. The first path gives one leaf, the other
    # three come from fallbacks, which resume at its only inner boundaries: the root or its first segment.
    engine = ScriptedEngine(script=[[97] * 6 + [EOS[0]]])
    tree = grow(engine, depth=4, response_length=16, width=4, segment_length=4, divergence=1, init_divergence=(1, 1))
    assert len(tree.leaves) == 4
    assert tree.counters.fallbacks == 3
    assert {tree.nodes[node].parent for node in (3, 4, 5)} <= {ROOT, 1}
    assert {tuple(tree.response_ids(leaf)) for leaf in tree.leaves} == {(*[97] * 6, EOS[0])}


def test_the_root_divergence_is_drawn_from_its_whole_range():
    drawn = set()
    for seed in range(60):
        engine = ScriptedEngine()
        tree = grow(
            engine, seed=seed, depth=2, response_length=8, width=8, segment_length=4, divergence=1,
            init_divergence=(2, 5),
        )  # fmt: skip
        # With divergence 1 nothing branches below the root: what the root did not get comes from fallbacks.
        first_level = [node for node in tree.nodes if node.index != ROOT and len(engine.calls[node.index][0]) == 3]
        drawn.add(min(len(first_level), 8 - tree.counters.fallbacks))
    assert drawn == {2, 3, 4, 5}


def test_a_failing_call_fails_the_search_and_leaves_nothing_running():
    engine = ScriptedEngine(fail_at=4, jitter=3)
    with pytest.raises(ExceptionGroup) as caught:
        grow(engine, depth=4, response_length=16, width=8, segment_length=4, divergence=3, init_divergence=(2, 2))
    assert caught.group_contains(ConnectionError, match="went away")
    assert engine.running == 0


def test_an_engine_that_returns_nothing_is_an_error_and_not_a_dead_end():
    class Mute(ScriptedEngine):
        def _tokens(self, input_ids, max_tokens, node):
            return []

    with pytest.raises(ExceptionGroup) as caught:
        grow(Mute(), depth=2, response_length=8, width=2, segment_length=4, divergence=2, init_divergence=(1, 1))
    assert caught.group_contains(RuntimeError, match="returned 0 tokens")


@st.composite
def searches(draw):
    width = draw(st.integers(1, 12))
    segment = draw(st.integers(1, 9))
    depth = draw(st.integers(1, 6))
    low = draw(st.integers(1, width))
    rules = draw(st.permutations(list(FinishReason)))
    optional = draw(st.sets(st.sampled_from([FinishReason.ANSWER, FinishReason.EOS])))
    return {
        "width": width,
        "segment_length": segment,
        "depth": depth,
        "response_length": draw(st.integers((depth - 1) * segment + 1, depth * segment)),
        "divergence": draw(st.integers(1, 4)),
        "init_divergence": (low, draw(st.integers(low, width))),
        "order": tuple(r for r in rules if r in optional or r in (FinishReason.LENGTH, FinishReason.DEPTH)),
        "seed": draw(st.integers(0, 2**32)),
    }


@settings(max_examples=400)
@given(searches(), st.sampled_from([0.0, 0.05, 0.3, 1.0]), st.integers(0, 100), st.integers(1, 100))
def test_every_search_keeps_the_invariants(search, end_rate, text_seed, jitter):
    engine = ScriptedEngine(seed=text_seed, end_rate=end_rate)
    tree = grow(engine, **search)
    tree.check()
    assert len(tree.leaves) == search["width"]
    assert engine.most_running <= search["width"]

    # The engine was given exactly the tokens on the path, and each node holds exactly what it returned.
    assert set(engine.calls) == {node.index for node in tree.nodes[1:]}
    for node in tree.nodes[1:]:
        input_ids, max_tokens, output = engine.calls[node.index]
        text = []
        above = node.parent
        while above != ROOT:
            text = engine.calls[above][2] + text
            above = tree.nodes[above].parent
        assert input_ids == PROMPT + text
        assert node.segment.token_ids == output
        assert max_tokens == min(search["segment_length"], search["response_length"] - len(text))

    # Nothing is decoded twice or thrown away, and the counters agree with the calls.
    assert tree.counters.decoded_tokens == sum(len(output) for _, _, output in engine.calls.values())
    assert tree.counters.decoded_tokens == sum(len(node.segment.token_ids) for node in tree.nodes)
    assert tree.counters.prompt_tokens == sum(len(input_ids) for input_ids, _, _ in engine.calls.values())
    on_a_path = {node for leaf in tree.leaves for node in tree.path(leaf)}
    assert on_a_path == set(range(len(tree.nodes)))

    # A path ends at its leaf for its reason, and had no reason to end before.
    for leaf in tree.leaves:
        for node in tree.path(leaf)[1:]:
            assert (tree.nodes[node].finish_reason is not None) == (node == leaf)
            assert reasons_of(tree, node, search) == [] if node != leaf else True
        assert tree.nodes[leaf].finish_reason == reasons_of(tree, leaf, search)[0]

    # The same search whose requests finish in another order is the same tree.
    other = grow(ScriptedEngine(seed=text_seed, end_rate=end_rate, jitter=jitter), **search)
    assert [(n.parent, n.segment, n.finish_reason) for n in other.nodes] == [
        (n.parent, n.segment, n.finish_reason) for n in tree.nodes
    ]
    assert other.leaves == tree.leaves


def reasons_of(tree: Tree, node: int, search: dict) -> list[FinishReason]:
    """All reasons that apply at a node, in the order asked for; written without the code under test."""
    tokens = [token for index in tree.path(node) for token in tree.nodes[index].segment.token_ids]
    applies = {
        FinishReason.ANSWER: brute_force_box(decode(tokens)),
        FinishReason.EOS: tokens[-1] in EOS,
        FinishReason.LENGTH: len(tokens) == search["response_length"],
        FinishReason.DEPTH: len(tree.path(node)) - 1 == search["depth"],
    }
    return [reason for reason in search["order"] if applies[reason]]


def brute_force_box(text: str) -> bool:
    for start in range(len(text)):
        if text.startswith("\\boxed{", start):
            for end in range(start + 7, len(text) + 1):
                inside = text[start + 7 : end]
                depths = [inside[: i + 1].count("}") - inside[: i + 1].count("{") for i in range(len(inside))]
                if depths and depths[-1] == 1 and all(depth <= 0 for depth in depths[:-1]):
                    return True
    return False
