# SPDX-License-Identifier: Apache-2.0
"""A disk failure loses lines but never stops a run; size of a realistic tree."""

import logging
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from helpers.dumped_trees import Words, even_tree, origin, write_tree
from recipe.treepo.dumps.members import load, members, pack
from recipe.treepo.dumps.writer import DumpWriter

# Random letters do not compress below the remaining space: one line smaller and one larger than a file's buffer.
LINE = {"text": Words(3_000).decode(list(range(400)))}
LONG = {"text": Words(3_000).decode(list(range(3_000)))}


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Limit the size of files: a write beyond it stores the part that fits, then fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def lines_in(folder: Path) -> list[dict]:
    return [load(member) for path in folder.rglob("*.jsonl.gz") for member in members(path)]


@pytest.mark.parametrize("line", [LINE, LONG], ids=["short", "long"])
def test_a_disk_that_fills_up_midway_costs_the_line_only(tmp_path, caplog, line):
    assert len(pack(line, {})) > 700
    writer = DumpWriter(tmp_path, "worker")
    assert writer.append("train_000001", {"n": 1}, {})
    (path,) = tmp_path.rglob("*.jsonl.gz")
    size = path.stat().st_size
    with caplog.at_level(logging.WARNING), largest_file(size + 500):
        assert not writer.append("train_000001", line, {})
        assert not writer.append("train_000001", line, {})
    assert writer.failures == 2
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    message = caplog.text
    assert f"treepo.dump.dir={tmp_path}: a line could not be written (OSError: " in message
    assert path.stat().st_size == size
    assert writer.append("train_000001", line, {"a": 1})
    assert lines_in(tmp_path) == [{"n": 1}, line]


def test_a_folder_that_cannot_be_made_is_counted_and_reported_once(tmp_path, caplog):
    (tmp_path / "file").touch()
    writer = DumpWriter(tmp_path / "file", "worker")
    assert not any(writer.append("train_000001", LINE, {}) for _ in range(3))
    assert writer.failures == 3 and len(caplog.records) == 1


def test_a_folder_that_nobody_may_write_to_is_counted(caplog):
    writer = DumpWriter("/proc/treepo", "worker")
    assert not writer.append("train_000001", LINE, {})
    assert writer.failures == 1 and len(caplog.records) == 1


def test_an_invalid_value_costs_its_line_only(tmp_path, caplog):
    writer = DumpWriter(tmp_path, "worker")
    assert not writer.append("train_000001", {"value": float("nan")}, {})
    assert not writer.append("train_000001", {"value": object()}, {})
    assert not writer.append("train_000001", {}, {"prompt": "a" * 70_000})
    assert writer.failures == 3 and len(caplog.records) == 1
    assert writer.append("train_000001", {"value": 1}, {})
    assert lines_in(tmp_path) == [{"value": 1}]


def test_a_large_tree_takes_at_most_half_a_megabyte(tmp_path):
    words = Words()
    tree = even_tree(words)
    assert len(tree.nodes) == 191 and len(tree.leaves) == 16
    assert {len(tree.path(leaf).response_ids) for leaf in tree.leaves} == {14 * 512}
    write_tree(tmp_path, tree, origin(), words.decode)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.jsonl.gz")) <= 500_000
