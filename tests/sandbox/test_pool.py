# SPDX-License-Identifier: Apache-2.0
"""Processes under limits, for any task."""

import subprocess
import sys
from pathlib import Path

import pytest

from recipe.treepo.sandbox.pool import WORKER_FILE, Failure, LimitedPool


def test_long_results_arrive_whole_and_long_questions_are_not_put(tmp_path: Path) -> None:
    """Results may exceed the capacity of a pipe; longer questions are not sent."""
    task = tmp_path / "task.py"
    task.write_text("def load():\n    return lambda question: question['text'] * 10\n")
    pool = LimitedPool(task, workers=1, memory_mb=64)
    try:
        assert pool.ask({"text": "ab" * 10_000}, timeout_s=20) == "ab" * 100_000
        assert pool.ask({"text": "a" * 70_000}, timeout_s=20) is Failure.TOO_LONG
        assert pool.ask({"text": "c"}, timeout_s=20) == "c" * 10
    finally:
        pool.close()


def test_a_task_that_cannot_be_loaded_is_an_error_that_names_it(tmp_path: Path) -> None:
    task = tmp_path / "task.py"
    task.write_text("import nothing_of_this_name\n")
    pool = LimitedPool(task, workers=1, memory_mb=64)
    with pytest.raises(RuntimeError, match="task.py.* did not start: ModuleNotFoundError: .*nothing_of_this_name"):
        pool.ask({}, timeout_s=1)
    assert pool.workers() == []


def test_running_out_of_memory_is_a_crash_and_the_worker_goes_on(tmp_path: Path) -> None:
    """A checker that allocates 300 MiB stands in for SymPy: it fails with 64 MiB and succeeds with 1 GiB."""
    task = tmp_path / "task.py"
    task.write_text("def load():\n    return lambda question: len(bytearray(300 * 2**20)) > 0\n")
    replies = {}
    for megabytes in (64, 1_024):
        done = subprocess.run(
            [sys.executable, "-P", str(WORKER_FILE), str(task), str(megabytes * 2**20)],
            input=b'{"question": {}, "timeout_s": 20}\n' * 2,
            capture_output=True,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr
        replies[megabytes] = done.stdout.splitlines()[1:]
    # One worker answered both requests, each in its own copy.
    assert replies == {64: [b'{"failure": "crash"}'] * 2, 1_024: [b'{"result": true}'] * 2}
