# SPDX-License-Identifier: Apache-2.0
"""Main training run, shared by all tests of its results."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from helpers.training_run import DETERMINISTIC, STEPS, dumps, train


@dataclass(frozen=True)
class MainRun:
    """Folder with the files of a run (checkpoint, rollouts, trees), and the metrics of its steps."""

    folder: Path
    metrics: list[dict[str, float]]


@pytest.fixture(scope="session")
def main_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MainRun]:
    """Train with trees by the run script and its preset; deterministic, for comparison with a second run."""
    folder = tmp_path_factory.mktemp("main_run")
    steps = [f"trainer.{key}={STEPS}" for key in ("total_training_steps", "save_freq", "test_freq")]
    steps.append("data.val_max_samples=8")
    yield MainRun(folder, train("run_treepo_qwen0.5b.sh", folder, *steps, DETERMINISTIC, *dumps(folder)))
