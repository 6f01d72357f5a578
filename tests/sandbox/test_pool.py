# SPDX-License-Identifier: Apache-2.0
"""Processes under limits, whatever their task: what is not seen through the reward (test_reward.py) and the
calculator (test_calculator.py).
"""

from pathlib import Path

import pytest

from recipe.treepo.sandbox.pool import Failure, LimitedPool


def test_long_results_arrive_whole_and_long_questions_are_not_put(tmp_path: Path) -> None:
    """More than a pipe holds comes back; what does not fit one is not sent."""
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
