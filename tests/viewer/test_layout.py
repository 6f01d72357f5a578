# SPDX-License-Identifier: Apache-2.0
"""Positions and values of boxes, for a tree checked by hand and for arbitrary trees."""

import json
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.example_counts import examples
from helpers.scripted_conversation import Chancy, talk
from helpers.scripted_engine import ScriptedEngine, decode
from helpers.searches import grow, searches
from recipe.treepo.dumps.lines import TreeOrigin, tree_line
from recipe.treepo.dumps.reader import check_tree
from recipe.treepo.interaction import ConversationRules, OnError, Steps
from recipe.treepo.search import SearchError
from recipe.treepo.viewer.layout import End, Group, Start, finite, layout, path_to, start_of
from recipe.treepo.viewer.svg import tree_svg

PLACE = TreeOrigin(
    uid="u", step=1, split="val", number=0, data_source="", row=None, prompt="", ground_truth=None, settings={}
)


def place_of(box):
    return box.x, box.width, box.row, box.rows


def test_a_tree_by_hand(rich):
    """The tree of ``helpers.dumped_trees.rich_tree``: segments of 64 tokens, leaves with rewards 01010101."""
    picture = layout(rich)
    box_of = {rich["nodes"][box.node]["key"]: box for box in picture.boxes}
    keys = [rich["nodes"][row.node]["key"] for row in picture.rows]
    assert keys == ["0.0.0", "0.1.0.0", "0.1.0~0", "0.0^0", "1.0+.0", "1.0+.1", "1.1", "1.1?", "1.2!", "1.3.0"]
    assert {key: place_of(box) for key, box in box_of.items()} == {
        "0": (0, 64, 0, 3),
        "0.0": (64, 64, 0, 1),
        "0.0.0": (128, 21, 0, 1),
        "0.1": (64, 64, 1, 2),
        "0.1.0@160": (128, 32, 1, 2),
        "0.1.0": (160, 32, 1, 1),
        "0.1.0.0": (192, 64, 1, 1),
        "0.1.0~0": (160, 32, 2, 1),
        "0.0^0": (0, 128, 3, 1),
        "1": (0, 64, 4, 6),
        "1.0": (64, 55, 4, 2),
        "1.0+": (119, 20, 4, 2),
        "1.0+.0": (139, 32, 4, 1),
        "1.0+.1": (139, 64, 5, 1),
        "1.1": (64, 5, 6, 1),
        "1.1?": (64, 32, 7, 1),
        "1.2!": (64, 32, 8, 1),
        "1.3": (64, 64, 9, 1),
        "1.3.0": (128, 16, 9, 1),
    }
    assert picture.tokens == 256
    ends = [row.end for row in picture.rows]
    assert ends == [*[End.LEAF] * 6, End.DROPPED, *[End.LEAF] * 2, End.OPEN]
    assert [row.right for row in picture.rows] == [False, True, False, True, False, True, None, False, True, None]
    assert picture.rows[5].reason == "interaction" and picture.rows[5].detail == "solved"
    starts = {key: box.start for key, box in box_of.items() if box.start}
    assert starts == {
        "0.1.0~0": Start.FALLBACK,
        "0.0^0": Start.FALLBACK,
        "1.1?": Start.DROPPED,
        "1.2!": Start.ABANDONED,
    }
    assert [key for key, box in box_of.items() if box.split] == ["0.1.0@160"]
    inside = [node["key"] for node in rich["nodes"] if node["partial"]]
    assert {"0.1.0@160"} < set(inside)  # a path that ends inside a segment is not split there
    assert [key for key, box in box_of.items() if box.reply] == ["1.0+"]
    assert [key for key, box in box_of.items() if box.lost] == ["1.1", "1.3", "1.3.0"]


def test_values_by_hand(rich):
    picture = layout(rich)
    box_of = {rich["nodes"][box.node]["key"]: box for box in picture.boxes}
    # Below 0: 0, 1, 0, so 1/3 and squares 2/9 + 4/9 over 2; below 1: 0, 1, 0, 1; in all: 0 1 0 1 0 1 0 1.
    assert box_of["0"].group == Group(size=3, mean=pytest.approx(1 / 3), deviation=pytest.approx((1 / 3) ** 0.5))
    assert box_of["1"].group == Group(size=4, mean=0.5, deviation=pytest.approx((1 / 3) ** 0.5))
    assert picture.root == Group(size=8, mean=0.5, deviation=pytest.approx((2 / 7) ** 0.5))
    assert box_of["0.0.0"].group == Group(size=1, mean=0.0, deviation=None)
    assert box_of["1.1"].group == Group(size=0, mean=None, deviation=None)
    # Each correct trajectory gives node n an advantage of n/100, each wrong one -n/100.
    assert box_of["0"].advantage == pytest.approx(-0.01 / 3)
    assert box_of["0.0^0"].advantage == pytest.approx(box_of["0.0^0"].node / 100)
    assert box_of["1.0+"].advantage is None and box_of["1.3"].advantage is None
    logprobs = rich["nodes"][box_of["1.1"].node]["logprobs"]
    assert box_of["1.1"].logprob == pytest.approx(sum(logprobs) / 5)
    assert box_of["1.0+"].logprob is None
    assert box_of["0"].version == 4


@pytest.mark.parametrize(
    ("key", "above", "start"),
    [
        ("0.1", "0", None),
        ("0.1", "0.1@37", None),
        ("0.1@50", "0.1@37", None),
        ("0~1", "0", Start.FALLBACK),
        ("0~1@9", "0", Start.FALLBACK),
        ("0~1", "0~1@9", None),
        ("0^12", "", Start.FALLBACK),
        ("0~1.0", "0~1", None),
        ("0.1!", "0", Start.ABANDONED),
        ("0.1!!", "0", Start.ABANDONED),
        ("0.1!.0", "0.1!", None),
        ("0.1?", "0", Start.DROPPED),
        ("0.1+", "0.1", None),
    ],
)
def test_the_name_shows_the_start_of_a_path(key, above, start):
    assert start_of(key, above) == start


def test_acc_decides_whether_an_answer_is_right(rich):
    rich["trajectories"][0] |= {"reward": -0.5, "parts": {"acc": 1.0}}
    rich["trajectories"][1] |= {"reward": 0.5, "parts": {}}
    rich["trajectories"][2] |= {"reward": None, "parts": {}}
    assert [row.right for row in layout(rich).rows[:3]] == [True, True, None]


@examples(short=40, long=400)
@given(search=searches(), seed=st.integers(0, 99), data=st.data())
def test_boxes_of_any_tree_fit_together(search, seed, data):
    engine = ScriptedEngine(seed=seed, end_rate=0.1, fail_rate=0.1)
    tree = grow(engine, **search)
    rewards = [data.draw(st.none() | st.fixed_dictionaries({"reward": st.integers(-1, 1)})) for _ in tree.leaves]
    line, _ = tree_line(tree, PLACE, rewards, decode)
    picture = layout(line)
    assert [box.node for box in picture.boxes] == list(range(1, len(tree.nodes)))
    box_of = {box.node: box for box in picture.boxes}
    for node in tree.nodes:
        box = box_of.get(node.index)
        below = sorted((box_of[child] for child in node.children), key=lambda one: one.row)
        first, rows = (box.row, box.rows) if box else (0, len(picture.rows))
        if below:  # children cover the parent's rows without gaps, so they do not overlap
            assert below[0].row == first and sum(child.rows for child in below) == rows
            assert all(a.row + a.rows == b.row for a, b in pairwise(below))
            assert {child.x for child in below} == {node.end}
        elif box:
            assert rows == 1 and picture.rows[first].node == node.index
        if box:
            assert box.width == len(node.segment.token_ids)
    assert sorted(row.node for row in picture.rows if row.end is End.LEAF) == tree.leaves
    for box in picture.boxes:
        on = [leaf for leaf in tree.leaves if box.node in path_to(line["nodes"], leaf)]
        assert box.group.size == len(on) and box.lost == (not on)


@examples(short=30, long=300)
@given(
    seed=st.integers(0, 10_000), rates=st.tuples(*[st.sampled_from([0.0, 0.2, 0.5])] * 3), steps=st.sampled_from(Steps)
)
def test_any_conversation_can_be_shown(seed, rates, steps):
    """Failed, dropped and empty replies; with ``steps=per_branch`` a reply precedes its branch."""
    engine = ScriptedEngine(seed=seed, end_rate=0.2, fail_rate=rates[0])
    rules = ConversationRules(steps=steps, on_error=OnError.DROP if seed % 2 else OnError.END)
    numbers = {"depth": 4, "width": 6, "segment_length": 8, "response_length": 60, "init_divergence": (2, 2)}
    interaction = Chancy(end_rate=rates[1], fail_rate=rates[2])
    try:
        tree = talk(engine, interaction, rules=rules, seed=seed, **numbers)
    except SearchError:
        return  # prompts without a trajectory are not dumped
    line, _ = tree_line(tree, PLACE, [{"reward": 1.0}] * len(tree.leaves), decode)
    line = json.loads(json.dumps(line))
    for node in line["nodes"]:
        node["text"] = node["text"] or ""
    check_tree(line, Path("dump"))
    picture = layout(line)
    replies = {node.index for node in tree.nodes if node.reply is not None}
    assert {box.node for box in picture.boxes if box.reply} == replies
    assert all(box.logprob is None for box in picture.boxes if box.reply)
    dropped = {node.index for node in tree.nodes if node.dropped}
    assert {row.node for row in picture.rows if row.end is End.DROPPED} == dropped
    ElementTree.fromstring(tree_svg(line))


def test_a_tree_without_paths_has_one_open_row(rich):
    rich |= {"nodes": rich["nodes"][:1], "trajectories": []}
    picture = layout(rich)
    assert (picture.boxes, picture.tokens, picture.root.size) == ([], 0, 0)
    assert [row.end for row in picture.rows] == [End.OPEN]


@pytest.mark.parametrize("value", [True, None, "1", float("nan"), float("inf"), 10**400, [], {}])
def test_only_numbers_are_numbers(value):
    assert finite(value) is None


def test_a_deep_and_a_wide_tree_take_no_recursion(rich):
    node = rich["nodes"][1] | {"token_ids": [0], "logprobs": [0.0]}
    chain = [node | {"index": index, "parent": index - 1, "offset": index - 1} for index in range(1, 20_001)]
    rich |= {"nodes": [rich["nodes"][0], *chain], "trajectories": []}
    assert layout(rich).tokens == 20_000
