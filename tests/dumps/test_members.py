# SPDX-License-Identifier: Apache-2.0
"""Lines as gzip members: lines are read back, unfinished lines are skipped, damage raises DumpError."""

import gzip
import json
import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.example_counts import examples
from recipe.treepo.dumps.members import MOST_SUMMARY_BYTES, DumpError, load, members, pack

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(), below, max_size=3),
    max_leaves=8,
)
LINES = st.lists(st.tuples(*[st.dictionaries(st.text(), VALUES, max_size=4)] * 2), max_size=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("dump")


@given(lines=LINES)
def test_all_lines_come_back_and_gzip_reads_them_too(folder, lines):
    path = folder / "a.jsonl.gz"
    path.write_bytes(b"".join(pack(*line) for line in lines))
    found = list(members(path))
    assert [(load(member), member.summary) for member in found] == lines
    if lines:  # zcat needs at least one member
        with gzip.open(path, "rt", encoding="utf-8") as file:
            assert [json.loads(line) for line in file] == [line for line, _ in lines]


@examples(short=20, long=100)
@given(lines=LINES)
def test_a_file_that_is_cut_off_at_any_byte_gives_its_complete_lines(folder, lines):
    path = folder / "cut.jsonl.gz"
    packed = [pack(*line) for line in lines]
    data = b"".join(packed)
    ends = [sum(map(len, packed[: number + 1])) for number in range(len(packed))]
    path.write_bytes(data)
    for length in reversed(range(len(data))):
        os.truncate(path, length)
        assert len(list(members(path))) == sum(end <= length for end in ends)


def test_reading_goes_on_where_it_stopped(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    first, second = pack({"line": 1}, {"a": 1}), pack({"line": 2}, {"a": 2})
    path.write_bytes(first + second[:-1])
    (member,) = members(path)
    path.write_bytes(first + second)
    assert [load(later) for later in members(path, member.offset + member.size)] == [{"line": 2}]


def test_a_flipped_bit_gives_the_line_or_a_dump_error(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    lines = [({"text": "some words " * 30, "n": list(range(40))}, {"kind": "tree", "n": number}) for number in range(3)]
    data = b"".join(pack(*line) for line in lines)
    rng, errors = random.Random(0), 0
    places = range(len(data)) if len(data) < 1_500 else rng.sample(range(len(data)), 1_500)
    for place in places:
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :])
        try:
            found = [load(member) for member in members(path)]
            # Time, flags and system in the header have no effect; a wrong size may hide later lines.
            assert found == [line for line, _ in lines][: len(found)]
        except DumpError:
            errors += 1
    assert errors > len(places) / 2


@pytest.mark.parametrize(
    "content",
    [b"\x1f\x8b\x08\x00" + bytes(30), b"no gzip at all, but long enough", gzip.compress(b'{"format": 1}\n' * 9)],
    ids=["no extra field", "text", "another gzip"],
)
def test_another_file_is_named(tmp_path, content):
    path = tmp_path / "other.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(DumpError, match=r"other\.jsonl\.gz is not a dump of trees: no line starts at byte 0"):
        list(members(path))


@pytest.mark.parametrize("text", ["[1]", "{", "[" * 50_000, "1" * 5_000], ids=["list", "cut", "deep", "number"])
def test_a_line_or_summary_that_is_not_a_mapping_is_a_dump_error(tmp_path, monkeypatch, text):
    monkeypatch.setattr("recipe.treepo.dumps.members.json.dumps", lambda value, **_: value)
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(pack(text, "{}"))
    with pytest.raises(DumpError, match="is damaged: the line at byte 0"):
        load(next(members(path)))
    path.write_bytes(pack("{}", text))
    with pytest.raises(DumpError, match="is damaged: the summary at byte 0"):
        list(members(path))


def test_a_line_that_is_too_long_is_not_loaded(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(pack({"text": "a" * 5_000}, {}))
    monkeypatch.setattr("recipe.treepo.dumps.members.MOST_LINE_BYTES", 4_000)
    with pytest.raises(DumpError, match="has more than 4000 bytes"):
        load(next(members(path)))


def test_a_summary_that_does_not_fit_the_header_is_refused():
    with pytest.raises(ValueError, match=f"at most {MOST_SUMMARY_BYTES} fit"):
        pack({}, {"prompt": "a" * MOST_SUMMARY_BYTES})
