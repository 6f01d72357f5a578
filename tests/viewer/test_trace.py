# SPDX-License-Identifier: Apache-2.0
"""Requests of a tree as events, checked by hand."""

import json
from dataclasses import replace
from itertools import pairwise

from helpers.dumped_trees import origin, write_tree
from recipe.treepo.dumps.reader import Dump
from recipe.treepo.interaction import Reply
from recipe.treepo.search.engine import Segment
from recipe.treepo.search.stopping import FinishReason
from recipe.treepo.search.tree import Tree
from recipe.treepo.viewer.trace import chrome_trace, requests


def timed_tree() -> Tree:
    """Return a tree of five requests."""
    tree = Tree([1])

    def add(parent, key, started, ended, tokens=2):
        segment = Segment(list(range(tokens)), [0.0] * tokens, 7, started=100.0 + started, ended=100.0 + ended)
        return tree.add(parent, segment, key=key).index

    first, second = add(0, "0", 0.0, 1.0), add(0, "1", 0.0, 1.0)
    below = add(first, "0.0", 1.5, 4.0)
    leaf = add(below, "0.0.0", 1.5, 4.0)
    tree.finish(leaf, FinishReason.DEPTH)
    tree.end_turn(second)
    reply = tree.add_reply(second, [5], Reply(messages=[{"role": "tool", "content": "x"}]), key="1+").index
    tree.finish(add(reply, "1+.0", 2.0, 3.0), FinishReason.EOS)
    tree.finish(add(tree.split(leaf, 3), "0.0~0", 4.0, 4.25, 3), FinishReason.EOS)
    tree.renumber()
    return tree


def test_events_by_hand(tmp_path):
    write_tree(tmp_path, timed_tree(), origin(3), lambda ids: "x" * len(ids))
    write_tree(tmp_path, timed_tree(), origin(4, step=11), lambda ids: "x" * len(ids))
    dump = Dump(tmp_path)
    dump.refresh()
    trace = json.loads(json.dumps(chrome_trace(dump, dump.trees())))
    events = [event for event in trace["traceEvents"] if event["ph"] == "X" and event["pid"] == 1]
    # (key, start and length in microseconds, row): 0 and 1 overlap, and so do 0.0 and 1+.0.
    assert [(event["name"], event["ts"], event["dur"], event["tid"]) for event in events] == [
        ("0", 0, 1_000_000, 1),
        ("1", 0, 1_000_000, 2),
        ("0.0@3", 1_500_000, 2_500_000, 1),
        ("1+.0", 2_000_000, 1_000_000, 2),
        ("0.0~0", 4_000_000, 250_000, 1),
    ]
    assert events[2]["args"] == {"nodes": ["0.0@3", "0.0", "0.0.0"], "tokens": 4, "cached_tokens": 7}
    names = {
        (event["pid"], event["tid"]): event["args"]["name"] for event in trace["traceEvents"] if event["ph"] == "M"
    }
    assert names[1, 0].startswith("train_000010 worker-") and names[2, 0].startswith("train_000011 worker-")
    assert (names[1, 1], names[1, 2]) == ("prompt 3 train-10-3", "prompt 3 train-10-3 (2)")
    assert (names[2, 1001], names[2, 1002]) == ("prompt 4 train-11-4", "prompt 4 train-11-4 (2)")


def test_an_event_has_no_count_that_the_engine_did_not_give(tmp_path):
    tree = timed_tree()
    for node in tree.nodes:
        node.segment = replace(node.segment, cached_tokens=None)
    write_tree(tmp_path, tree, origin(3), lambda ids: "x" * len(ids))
    dump = Dump(tmp_path)
    dump.refresh()
    events = [event for event in chrome_trace(dump, dump.trees())["traceEvents"] if event["ph"] == "X"]
    assert [event["args"].keys() for event in events] == [{"nodes", "tokens"}] * 5


def test_events_of_a_row_do_not_overlap(dump):
    trace = chrome_trace(dump, dump.trees())
    rows = {}
    for event in trace["traceEvents"]:
        if event["ph"] == "X":
            rows.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
    assert rows
    for spans in rows.values():
        assert all(end <= start for (_, end), (start, _) in pairwise(sorted(spans)))


def test_nodes_without_times_are_left_out(rich):
    for node in rich["nodes"]:
        node["started"] = node["ended"] = 0.0
    assert requests(rich) == []
