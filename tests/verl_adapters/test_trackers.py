# SPDX-License-Identifier: Apache-2.0
"""Trackers on a disk that is full: /dev/full refuses each write as such a disk does."""

import json
from types import SimpleNamespace

import pytest
from verl.utils.tracking import FileLogger, Tracking

from recipe.treepo.verl_adapters.trackers import SteadyTracker


def test_a_full_disk_costs_one_warning_and_the_other_trackers_go_on(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("VERL_FILE_LOGGER_PATH", "/dev/full")
    full = FileLogger("project", "run")
    monkeypatch.setenv("VERL_FILE_LOGGER_PATH", f"{tmp_path}/metrics.jsonl")
    trackers = {"full": full, "file": FileLogger("project", "run")}
    tracking = SimpleNamespace(logger={name: SteadyTracker(name, tracker) for name, tracker in trackers.items()})
    for step in (1, 2):
        Tracking.log(tracking, {"x": step}, step)
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        {"step": 1, "data": {"x": 1}},
        {"step": 2, "data": {"x": 2}},
    ]
    [record] = caplog.records
    says = "trainer.logger=full: step 1 could not be written ([Errno 28] No space left on device). The run continues"
    assert record.getMessage().startswith(says)
    for tracker in tracking.logger.values():
        tracker.finish()
        assert tracker.fp.closed


def test_an_error_of_another_kind_is_raised():
    def log(data, step):
        raise ValueError("no such metric")

    with pytest.raises(ValueError, match="no such metric"):
        SteadyTracker("own", SimpleNamespace(log=log)).log({}, 1)
