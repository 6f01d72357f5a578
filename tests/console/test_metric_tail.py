# SPDX-License-Identifier: Apache-2.0
"""verl's metrics read during a run: incomplete and broken lines, files of earlier runs."""

import json
import math
import os
from pathlib import Path

import pytest

from recipe.treepo.console.metric_tail import MetricTail, StepRecord, parse_record


def record(step: int, **metrics: object) -> str:
    return json.dumps({"step": step, "data": metrics}) + "\n"


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_records_come_once_and_in_order(path):
    tail = MetricTail(path)
    assert (tail.started(), tail.read()) == (False, [])
    path.touch()
    assert (tail.started(), tail.read()) == (True, [])
    append(path, record(1, a=0.5) + record(2, a=1))
    assert tail.read() == [StepRecord(1, {"a": 0.5}), StepRecord(2, {"a": 1.0})]
    assert tail.read() == []
    append(path, record(3, a=2))
    assert tail.read() == [StepRecord(3, {"a": 2.0})]


def test_a_torn_line_waits_for_its_end(path):
    tail = MetricTail(path)
    line = record(1, a=0.5)
    for end in range(1, len(line)):
        path.write_text(line[:end])
        assert tail.read() == []
    path.write_text(line)
    assert tail.read() == [StepRecord(1, {"a": 0.5})]


def test_broken_lines_are_counted_and_skipped(path):
    tail = MetricTail(path)
    path.write_bytes(b'{"step": 1, "da\n\xff\xfe\n\n' + record(2, a=1).encode() + b'[1]\n{"step": "3", "data": {}}\n')
    assert tail.read() == [StepRecord(2, {"a": 1.0})]
    assert tail.broken == 4


@pytest.mark.parametrize("line", ["", "null", "3", "{}", '{"step": 1}', '{"step": true, "data": {}}', "[" * 100_000])
def test_other_lines_are_not_records(line):
    assert parse_record(line) is None


def test_other_values_than_numbers_are_left_out_and_null_is_nan():
    found = parse_record(json.dumps({"step": 1, "data": {"a": "x", "b": [1], "c": True, "d": None, "e": 10**400}}))
    assert found is not None and sorted(found.metrics) == ["c", "d"]
    assert math.isnan(found.metrics["d"])


def test_a_file_of_an_earlier_run_is_not_read_before_it_changes(path):
    path.write_text(record(1, a=1) + record(2, a=2))
    os.utime(path, (1, 1))
    tail = MetricTail(path)
    assert (tail.started(), tail.read()) == (False, [])
    path.write_text("")  # verl opens its logger
    assert tail.started() and tail.read() == []
    append(path, record(1, a=3))
    assert tail.read() == [StepRecord(1, {"a": 3.0})]


def test_a_file_that_is_emptied_is_read_again(path):
    tail = MetricTail(path)
    path.write_text(record(1, a=1) + record(2, a=2))
    assert len(tail.read()) == 2
    path.write_text(record(1, a=9))
    assert tail.read() == [StepRecord(1, {"a": 9.0})]
