# SPDX-License-Identifier: Apache-2.0
"""Faults in real runs; the rest of the suite: ``python -m benchmarks.faults``."""

import tempfile
from pathlib import Path

import pytest

from benchmarks.faults.suite import BATCH, FAULTS, STEPS, WIDTH, counted, ended, run, start

QUICK = "vLLM's engine is killed before the weights"


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, id=fault.what, marks=() if fault.what == QUICK else pytest.mark.slow)
        for fault in FAULTS
        if not fault.disk  # needs root
    ],
)
def test_a_fault_ends_the_run_with_its_cause_and_leaves_nothing(fault):
    with tempfile.TemporaryDirectory() as name:
        outcome = run(fault, Path(name) / "run")
    assert outcome.is_as_expected, (outcome.status, outcome.left, outcome.counted, outcome.screen[-20:])


@pytest.mark.slow
def test_two_runs_train_side_by_side():
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / run for run in ("first", "second")]
        for folder in folders:
            folder.mkdir()
        runs = [start(folder) for folder in folders]
        assert [ended(run) for run in runs] == [0, 0]
        assert [list(counted(folder)) for folder in folders] == [[(BATCH * WIDTH, 0, 0)] * STEPS] * 2
