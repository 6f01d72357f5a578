# SPDX-License-Identifier: Apache-2.0
"""Dumps of known trees, read back, and files with wrong contents."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.dumped_trees import origin, write_tree
from helpers.example_counts import examples
from helpers.scripted_engine import ScriptedEngine, decode
from helpers.searches import grow, searches
from helpers.strange_values import STRANGE, places, strange_trees, with_value
from recipe.treepo.dumps.lines import TreeOrigin, credit_line, tree_line
from recipe.treepo.dumps.members import DumpError, pack
from recipe.treepo.dumps.reader import Dump
from recipe.treepo.dumps.writer import DumpWriter
from recipe.treepo.search.engine import Segment
from recipe.treepo.search.stopping import FinishReason
from recipe.treepo.search.tree import Tree

TEXTS = {1: "a", 2: "b", 3: "é", 4: "�", 5: "�"}  # 4 and 5 together are one character


def read_letters(token_ids: list[int]) -> str:
    return "".join(map(TEXTS.get, token_ids)).replace("��", "€")


def small_tree() -> Tree:
    r"""Return a tree of two paths: 0 (2 tokens) above 0.0 (1 token, answer) and 0.1 (3 tokens, eos)."""
    tree = Tree([7, 8])
    above = tree.add(0, Segment([1, 2], [-0.5, -0.25], 2, 3, 3, 10.0, 11.0), key="0").index
    tree.finish(tree.add(above, Segment([3], [-0.1234567], 4, 3, 4, 11.0, 12.5), key="0.0").index, FinishReason.ANSWER)
    tree.finish(tree.add(above, Segment([4, 5, 1], [0, -1, -2]), key="0.1").index, FinishReason.EOS)
    tree.renumber()
    return tree


def read(folder) -> list[dict]:
    dump = Dump(folder)
    dump.refresh()
    return [dump.load(entry) for entry in dump.trees()]


def test_a_tree_comes_back_as_it_was(tmp_path):
    write_tree(tmp_path, small_tree(), origin(), read_letters, rewards=[1.0, 0.0])
    (tree,) = read(tmp_path)
    first, second, third = tree["nodes"][1:]
    assert [node["key"] for node in tree["nodes"]] == ["", "0", "0.0", "0.1"]
    assert [node["parent"] for node in tree["nodes"]] == [-1, 0, 1, 1]
    assert [node["offset"] for node in tree["nodes"]] == [0, 0, 2, 2]
    # The text of the third node differs from the joined texts of its tokens.
    assert [first["text"], second["text"], third["text"]] == ["ab", "é", "€a"]
    assert (second["logprobs"], second["token_ids"]) == ([-0.123], [3])
    assert (second["started"], second["ended"], second["cached_tokens"], second["versions"]) == (11.0, 12.5, 4, [3, 4])
    assert (second["finish_reason"], first["finish_reason"]) == ("answer", None)
    assert tree["prompt_ids"] == [7, 8]
    assert tree["statistics"]["unique_tokens"] == 6 and tree["statistics"]["total_tokens"] == 3 + 5
    # write_tree gives node n an advantage of n / 100, negative for wrong answers.
    assert tree["trajectories"] == [
        {"leaf": 2, "reward": 1.0, "parts": {"acc": 1.0}, "advantages": [(1, 0.01), (2, 0.02)]},
        {"leaf": 3, "reward": 0.0, "parts": {"acc": 0.0}, "advantages": [(1, -0.01), (3, -0.03)]},
    ]


def test_the_score_of_a_path_comes_back_and_may_be_missing(tmp_path):
    scored = small_tree()
    scored.nodes[2].score = -0.25
    write_tree(tmp_path, scored, origin(), read_letters, rewards=[1.0, 0.0])
    (tree,) = read(tmp_path)
    assert [node["score"] for node in tree["nodes"]] == [None, None, -0.25, None]
    line, summary = tree_line(scored, origin(), [None, None], read_letters)
    for node in line["nodes"]:
        del node["score"]  # a dump of an earlier version
    old = tmp_path / "old/train_000010/worker.jsonl.gz"
    old.parent.mkdir(parents=True)
    old.write_bytes(pack(line, summary))
    (tree,) = read(tmp_path / "old")
    assert "score" not in tree["nodes"][2]


def test_texts_that_the_vocabulary_has_are_not_written_twice():
    line, _ = tree_line(small_tree(), origin(), [None, None], read_letters)
    assert [node["text"] for node in line["nodes"]] == [None, None, None, "€a"]


def test_the_summary_has_the_values_of_the_index(tmp_path):
    rewards = [{"reward": 1.0}, {"reward": 0.0}]
    _, summary = tree_line(small_tree(), origin(4, step=30, split="val"), rewards, read_letters)
    assert summary == {
        "format": "treepo-tree/1",
        "kind": "tree",
        "uid": "val-30-4",
        "step": 30,
        "split": "val",
        "number": 4,
        "data_source": "math",
        "prompt": "<|user|>What is 4 + 2?<|assistant|>",
        "trajectories": 2,
        "reward": 0.5,
        "mixed": True,
        "unique_tokens": 6,
        "total_tokens": 8,
        "depth": 2,
        "fallbacks": 0,
        "failures": 0,
    }


def test_a_reward_that_only_the_trainer_knows_is_filled_in(tmp_path):
    tree = small_tree()
    DumpWriter(tmp_path, "worker").append("train_000010", *tree_line(tree, origin(), [None, None], read_letters))
    (before,) = read(tmp_path)
    assert [one["reward"] for one in before["trajectories"]] == [None, None]
    assert [one["advantages"] for one in before["trajectories"]] == [None, None]
    credit = credit_line("train-10-0", 3, {"reward": 0.25, "acc": 1, "note": "x"}, [(1, math.nan), (3, 0.5)])
    DumpWriter(tmp_path, "trainer").append("train_000010", *credit)
    (after,) = read(tmp_path)
    assert after["trajectories"][1] == {
        "leaf": 3,
        "reward": 0.25,
        "parts": {"acc": 1, "note": "x"},
        "advantages": [(1, None), (3, 0.5)],
    }


def test_credit_of_another_step_or_prompt_is_not_taken(tmp_path):
    tree = small_tree()
    DumpWriter(tmp_path, "worker").append("train_000010", *tree_line(tree, origin(), [None, None], read_letters))
    DumpWriter(tmp_path, "trainer").append("train_000011", *credit_line("train-10-0", 3, {"reward": 1.0}, []))
    DumpWriter(tmp_path, "trainer").append("train_000010", *credit_line("other", 3, {"reward": 1.0}, []))
    assert read(tmp_path)[0]["trajectories"][1]["reward"] is None


def test_a_dump_is_read_while_it_is_written(tmp_path):
    dump = Dump(tmp_path)
    dump.refresh()
    assert dump.trees() == []
    for count, step in enumerate((30, 5, 100), start=1):
        write_tree(tmp_path, small_tree(), origin(step=step), read_letters)
        dump.refresh()
        assert len(dump.trees()) == count
    assert [entry.summary["step"] for entry in dump.trees()] == [5, 30, 100]
    assert {entry.folder for entry in dump.trees()} == {"train_000005", "train_000030", "train_000100"}


def test_other_folders_are_refused_with_a_sentence(tmp_path):
    with pytest.raises(DumpError, match="there is no such folder"):
        Dump(tmp_path / "missing").refresh()
    (tmp_path / "old/step_10").mkdir(parents=True)
    (tmp_path / "old/step_10/uid.json").write_text("{}")
    with pytest.raises(DumpError, match=r"of a format older than treepo-tree/1\. Sample again"):
        Dump(tmp_path / "old").refresh()
    later = tmp_path / "later/train_000001/worker.jsonl.gz"
    later.parent.mkdir(parents=True)
    later.write_bytes(pack({}, {"format": "treepo-tree/2", "kind": "tree"}))
    with pytest.raises(DumpError, match="has format treepo-tree/2; this version reads treepo-tree/1"):
        Dump(tmp_path / "later").refresh()


@examples(short=25, long=300)
@given(search=searches(), seed=st.integers(0, 99))
def test_every_tree_of_a_search_can_be_read(tmp_path_factory, search, seed):
    folder = tmp_path_factory.mktemp("dump")
    engine = ScriptedEngine(seed=seed, end_rate=0.1, fail_rate=0.1)
    tree = grow(engine, **search)
    place = TreeOrigin(
        uid="u", step=1, split="val", number=0, data_source="", row=None, prompt="", ground_truth=None, settings={}
    )
    DumpWriter(folder, "worker").append("val_000001", *tree_line(tree, place, [None] * len(tree.leaves), decode))
    (found,) = read(folder)
    for node, stored in zip(tree.nodes, found["nodes"], strict=True):
        assert (node.key, node.parent, node.offset) == (stored["key"], stored["parent"], stored["offset"])
        assert list(node.segment.token_ids) == stored["token_ids"]
    for leaf in tree.leaves:
        path = tree.path(leaf)
        texts = [found["nodes"][node.index]["text"] for node in path.nodes]
        assert "".join(texts) == decode(path.response_ids)


# --- wrong values -----------------------------------------------------------------------------------------------------


def test_a_replaced_value_is_read_or_a_dump_error(tmp_path):
    path = tmp_path / "train_000010/worker.jsonl.gz"
    path.parent.mkdir()
    outcomes = {"read": 0, "refused": 0}
    for line, summary in strange_trees(400):
        path.write_bytes(pack(line, summary))
        try:
            read(tmp_path)
            outcomes["read"] += 1
        except DumpError as error:
            assert str(error).startswith(str(path))
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 40, outcomes


def test_a_replaced_value_of_a_summary_or_a_credit_is_read_or_a_dump_error(tmp_path):
    tree, rng = small_tree(), random.Random(1)
    path = tmp_path / "train_000010/worker.jsonl.gz"
    path.parent.mkdir()
    line, summary = tree_line(tree, origin(), [None, None], read_letters)
    credit, note = credit_line("train-10-0", 2, {"reward": 1.0, "acc": 1.0}, [(1, 0.5), (2, 0.5)])
    for _ in range(300):
        values = [line, summary, credit, note]
        number = rng.randrange(1, 4)
        values[number] = with_value(values[number], rng.choice(list(places(values[number]))), rng.choice(STRANGE))
        if not all(isinstance(value, dict) for value in values[1::2]):
            continue
        path.write_bytes(pack(*values[:2]) + pack(*values[2:]))
        try:
            read(tmp_path)
        except DumpError as error:
            assert str(error).startswith(str(path))
