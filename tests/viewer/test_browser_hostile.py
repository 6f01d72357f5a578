# SPDX-License-Identifier: Apache-2.0
"""Hostile texts in a real browser: all are shown verbatim and have no effect."""

import json
import random

import pytest

from helpers.browser import cells, serving, shown_text
from helpers.dumped_trees import origin
from recipe.treepo.dumps.lines import tree_line
from recipe.treepo.dumps.reader import Dump
from recipe.treepo.dumps.writer import DumpWriter
from recipe.treepo.search.engine import Segment
from recipe.treepo.search.stopping import FinishReason
from recipe.treepo.search.tree import Tree
from recipe.treepo.viewer.export import export
from recipe.treepo.viewer.page_data import index_rows
from recipe.treepo.viewer.selection import page_name
from recipe.treepo.viewer.visible import visible, visible_values

ATTACKS = (
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "<svg onload=window.hacked=1>",
    "</text></svg><script>window.hacked=1</script>",
    "<!--<script>",
    "</script x><img src=x onerror=window.hacked=1>",
    "]]><script>window.hacked=1</script>",
    "</style><style>body{display:none}</style>",
    "{{7*7}}${7*7}{%raw%}#{7*7}",
    "javascript:window.hacked=1",
    '" onmouseover="window.hacked=1" \'',
    "&lt;b&gt;&#0;&amp;",
    "\0\x01\x1b[2J\x7f\x9b",
    "\u202eabc\u2066\u200f\u061c",
    "\ud800\udc00\udfff",
    "\u2028\u2029\ufeff\ufffe",
    "\\u003cscript\\u003e",
    "a\u0301" * 20,
    "\r\n\t  spaces  \r",
    "中文字\U0001f600",
    "שלום עולם",
)


def hostile_texts(count):
    rng = random.Random(0)
    texts = ["".join(rng.choices(ATTACKS, k=rng.randint(1, 4))) + str(number) for number in range(count - 1)]
    return [*texts, "<b>" * 350_000]


def hostile_tree(texts):
    """Return a tree with one node per text, and each text also as the text of a token."""
    tree = Tree([1])
    for number, _ in enumerate(texts):
        node = tree.add(0, Segment([number], [-0.5]), key=str(number)).index
        tree.finish(node, FinishReason.INTERACTION, detail=texts[number][:200])
    return tree


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A dump of ten trees with 1,000 hostile texts, each as text, token and one of the other fields."""
    folder, texts = tmp_path_factory.mktemp("hostile"), hostile_texts(1_000)
    writer = DumpWriter(folder, "worker")
    for number in range(10):
        own = texts[number * 100 : number * 100 + 100]
        place = origin(number, uid=own[0], prompt=own[1], data_source=own[2], ground_truth=own[3], split="train",
                       settings={own[4]: own[5]})  # fmt: skip
        rewards = [{"reward": float(leaf % 2), text: text} for leaf, text in enumerate(own)]
        line, summary = tree_line(
            hostile_tree(own), place, rewards, lambda ids, own=own: "".join(map(own.__getitem__, ids))
        )
        line["nodes"][1] |= {"kind": "reply", "messages": [{"role": own[6], own[7]: own[8]}]}
        assert writer.append("train_000010", line, summary)
    dump = Dump(folder)
    dump.refresh()
    return dump


@pytest.fixture
def hostile_address(hostile):
    with serving(hostile) as address:
        yield address


def test_hostile_texts_are_only_shown(page, hostile, hostile_address):
    page.goto(hostile_address)
    entries = hostile.trees()
    assert [line[3] for line in cells(page, "#trees")] == [row["prompt"] for row in index_rows(entries)]
    for entry in entries:
        tree = hostile.load(entry)
        page.goto(f"{hostile_address}/{page_name(entry)}")
        facts = page.locator(".facts pre").all_text_contents()
        # Parsers drop a line feed at the start of a pre; none of these texts starts with one.
        assert facts[:2] == [visible(tree["prompt"]), visible(tree["ground_truth"])]
        for row in (0, 50, 99):
            page.select_option("#first", str(row))
            assert shown_text(page) == {row + 1: visible(tree["nodes"][row + 1]["text"])}
            if row == 0:
                (messages,) = page.locator("#text pre").all_text_contents()
                assert json.loads(messages) == visible_values(tree["nodes"][1]["messages"])
        page.select_option("#second", "3")
        assert page.evaluate("window.hacked === undefined")
        assert page.evaluate("document.querySelectorAll('script').length") == 2
        assert page.locator("body b, body img, #picture script").count() == 0
        assert page.evaluate("getComputedStyle(document.body).display") == "block"
        page.locator("[data-node='5'] > rect").hover()
    assert len(page.watch.requests) == 1 + len(entries)


def test_hostile_pages_as_files(page, hostile, tmp_path):
    entries = hostile.trees()[-1:]  # the one with a megabyte of text
    export(hostile, entries, tmp_path / "one.html")
    page.goto((tmp_path / "one.html").as_uri())
    page.select_option("#first", "99")
    assert shown_text(page)[100] == "<b>" * 350_000
    assert page.evaluate("window.hacked === undefined")
    assert len(page.watch.requests) == 1
