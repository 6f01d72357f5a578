# SPDX-License-Identifier: Apache-2.0
"""Pages contain their data, allow only their own script and style, and withstand any text."""

import base64
import hashlib
import json
import math
import re
from html.parser import HTMLParser

import pytest

from helpers.strange_values import strange_trees
from recipe.treepo.dumps.lines import FORMAT
from recipe.treepo.dumps.members import DumpError, pack
from recipe.treepo.dumps.reader import Dump
from recipe.treepo.viewer import page
from recipe.treepo.viewer.curve import points
from recipe.treepo.viewer.layout import layout
from recipe.treepo.viewer.page import index_page, message_page, tree_page
from recipe.treepo.viewer.page_data import index_rows, tree_data
from recipe.treepo.viewer.png import tree_image
from recipe.treepo.viewer.selection import page_name, sharing


class Elements(HTMLParser):
    """The elements of a page, and the texts of its scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict]] = []
        self.texts: dict[str, list[str]] = {"script": [], "style": [], "json": []}
        self._inside: str | None = None
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        kind = dict(attributes).get("type")
        self._inside = "json" if kind == "application/json" else tag if tag in ("script", "style") else None

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside:
            self.texts[self._inside].append(data)


def data_of(tree):
    return json.loads(json.dumps(tree_data(tree, layout(tree))))


def pages(dump):
    entries = dump.trees()
    yield index_page(dump.folder, entries, problem="<b>some</b>")
    yield from (tree_page(dump, entries, number) for number in range(len(entries)))
    yield message_page("<b>no</b>")


def test_a_page_allows_its_own_script_and_style_only(dump):
    for made in pages(dump):
        found = Elements(made.html.decode())
        (policy,) = [a["content"] for _, a in found.elements if a.get("http-equiv") == "Content-Security-Policy"]
        assert policy == made.policy and policy.startswith("default-src 'none'; ")
        for kind in ("script", "style"):
            hashes = [
                f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
                for text in found.texts[kind]
            ]
            assert f"{kind}-src {' '.join(hashes) or chr(39) + 'none' + chr(39)}" in policy.split("; ")
            assert len(hashes) <= 1


def test_no_page_has_a_handler_a_style_attribute_or_another_address(dump):
    for made in pages(dump):
        for tag, attributes in Elements(made.html.decode()).elements:
            assert tag not in ("img", "iframe", "object", "embed", "base", "audio", "video", "b")
            for name, value in attributes.items():
                assert not name.startswith("on") and name not in ("style", "src", "srcdoc", "formaction")
                assert "javascript:" not in (value or "")
                if name in ("href", "action"):
                    assert re.fullmatch(r"[A-Za-z0-9_-]+\.html", value)


def test_the_index_holds_the_summaries(dump):
    entries = dump.trees()
    made = index_page(dump.folder, entries)
    (text,) = Elements(made.html.decode()).texts["json"]
    rows = json.loads(text)
    assert rows == json.loads(json.dumps(index_rows(entries)))
    assert [(row["step"], row["split"], row["number"]) for row in rows] == [
        (0, "amc paper_best", 3), (10, "train", 0), (10, "train", 1), (20, "train", 0), (20, "train", 1), (20, "val", 2)
    ]  # fmt: skip
    first = rows[1]
    assert (first["reward"], first["mixed"], first["fallbacks"], first["failures"]) == (0.5, True, 2, 2)
    # Unique tokens of the trajectories: 64 + 64 + 21, 64 + 32 + 32 + 64, 32, 128, 64 + 55 + 20 + 32, 64, 32, 32. All
    # tokens: 149, 256, 192, 128, 171, 203, 96, 96.
    assert first["sharing"] == pytest.approx(1291 / 800, abs=1e-4)
    assert (rows[2]["reward"], rows[2]["mixed"]) == (1.0, False)
    assert len({row["page"] for row in rows}) == len(rows)


def test_the_page_of_a_tree_holds_its_nodes_and_paths(rich):
    data = data_of(rich)
    texts = [
        node["text"] if node["pieces"] is None else "".join(data["vocabulary"][piece] for piece in node["pieces"])
        for node in data["nodes"]
    ]
    assert texts == [node["text"] for node in rich["nodes"]]
    assert [node["logprobs"] for node in data["nodes"]] == [node["logprobs"] for node in rich["nodes"]]
    leaf = next(row for row in data["rows"] if row["words"] == "1 · interaction: solved")
    numbers = [number for number, node in enumerate(data["nodes"]) if node["key"] in ("1", "1.0", "1.0+.1")]
    assert leaf["advantages"] == {str(number): number / 100 for number in numbers}
    assert json.loads(leaf["parts"]) == {"acc": 1.0}
    one = data["nodes"][numbers[0]]
    assert (one["size"], one["mean"], one["deviation"]) == (4, 0.5, pytest.approx(math.sqrt(1 / 3), abs=1e-5))
    reply = next(node for node in data["nodes"] if node["reply"])
    assert json.loads(reply["messages"]) == [{"role": "tool", "content": "4 and <b>no</b> markup"}]


def test_tokens_that_do_not_join_to_the_text_are_not_tinted(rich):
    rich["nodes"][1]["text"] += "!"
    node = data_of(rich)["nodes"][1]
    assert node["pieces"] is None and node["text"] == rich["nodes"][1]["text"]


@pytest.mark.parametrize("end", ["</script>", "</script x><b>", "</SCRIPT\n"])
def test_a_script_element_cannot_be_left(dump, rich, monkeypatch, end):
    hostile = f"{end}<script>alert(1)</script><!--<script> \u202e\ud800\0"
    rich["prompt"] = rich["uid"] = rich["nodes"][1]["text"] = hostile
    monkeypatch.setattr(Dump, "load", lambda *_: rich)
    html = tree_page(dump, dump.trees(), 0).html.decode("utf-8")
    found = Elements(html)
    assert len(found.texts["script"]) == len(found.texts["json"]) == 1
    assert not {"<", ">"} & set(found.texts["json"][0])  # browsers end scripts at tags that Python's parser ignores
    shown = f"{end}<script>alert(1)</script><!--<script> ⟨U+202E⟩⟨U+D800⟩␀"
    assert json.loads(found.texts["json"][0])["nodes"][1]["text"] == shown


def test_a_page_above_the_limit_is_a_message(dump, rich, monkeypatch):
    monkeypatch.setattr(page, "MOST_BYTES", 5_000)
    made = tree_page(dump, dump.trees(), 0)
    assert len(made.html) < 8_000 and b"This page would have" in made.html and b"--text prints" not in made.html
    assert b"print the tree with --text" in made.html


def test_neighbors_are_linked(dump):
    entries = dump.trees()
    names = [page_name(entry) for entry in entries]
    for number in range(len(entries)):
        links = [a.get("href") for tag, a in Elements(tree_page(dump, entries, number).html.decode()).elements
                 if tag == "a"]  # fmt: skip
        assert links == ["index.html", *names[max(number - 1, 0) : number], *names[number + 1 : number + 2]]
    alone = Elements(tree_page(dump, entries, 0, alone=True).html.decode())
    assert not [tag for tag, _ in alone.elements if tag == "a"]


def test_the_viewer_shows_all_trees_that_the_reader_accepts(tmp_path):
    path = tmp_path / "train_000010/worker.jsonl.gz"
    path.parent.mkdir()
    shown = 0
    for line, summary in strange_trees(150, seed=5):
        path.write_bytes(pack(line, summary))
        dump = Dump(tmp_path)
        dump.refresh()
        try:
            made = tree_page(dump, dump.trees(), 0)
        except DumpError:
            continue
        shown += 1
        tree_image(dump.load(dump.trees()[0]), width=300, height=80)
        assert b"application/json" in made.html
    assert shown > 20


@pytest.mark.parametrize("value", [None, True, "x", 10**400, float("1e308"), [], {"a": 1}])
def test_a_summary_of_any_values_is_shown(tmp_path, value):
    keys = ("uid", "step", "split", "number", "data_source", "prompt", "trajectories", "reward", "mixed",
            "unique_tokens", "total_tokens", "depth", "fallbacks", "failures")  # fmt: skip
    path = tmp_path / "train_000010/worker.jsonl.gz"
    path.parent.mkdir()
    path.write_bytes(pack({}, {"format": FORMAT, "kind": "tree", **dict.fromkeys(keys, value)}))
    dump = Dump(tmp_path)
    dump.refresh()
    assert b"1 tree in" in index_page(tmp_path, dump.trees()).html


def test_curves_by_hand():
    summaries = [
        {"split": "train", "step": 2, "reward": 1.0, "total_tokens": 30, "unique_tokens": 10},
        {"split": "train", "step": 1, "reward": 0.5, "total_tokens": 10, "unique_tokens": 10},
        {"split": "train", "step": 2, "reward": 0.0, "total_tokens": 20, "unique_tokens": 10},
        {"split": "val", "step": 2, "reward": None, "total_tokens": 0, "unique_tokens": 0},
    ]
    assert points(summaries, lambda summary: summary["reward"]) == {"train": [(1, 0.5), (2, 0.5)]}
    assert points(summaries, sharing) == {"train": [(1, 1.0), (2, 2.5)]}
