# SPDX-License-Identifier: Apache-2.0
"""Models and data of the study, and their runs by the scripts that users run."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from benchmarks.common.process_session import run_session
from tiny import ledgers
from tiny.problems import write_rows

ROOT = Path(__file__).parents[2]
TRAIN, EVALUATE = "scripts/run_treepo_qwen0.5b.sh", "scripts/evaluate_qwen0.5b.sh"


@dataclass(frozen=True)
class Task:
    """A model with its problems.

    Attributes:
        preset: Preset that the scripts run.
        depth: Segments of a path.
        length: Maximum tokens of a response.
        environment: Further variables for the scripts.
        overrides: Further overrides of verl and treepo.
    """

    preset: str
    depth: int
    length: int
    environment: Mapping[str, str] = field(default_factory=dict)
    overrides: Sequence[str] = ()


DATA = ROOT / "outputs/data"
PROMPT, LENGTH, DEPTH = 128, 384, 6
"""Maximum tokens of the ledger's prompts and responses, and segments of its paths."""
TASKS = {
    "tiny": Task("tiny", depth=4, length=128),
    "ledger": Task(
        "tiny",
        depth=DEPTH,
        length=LENGTH,
        environment={
            "MODEL_PATH": str(ROOT / "tiny/ledger_model"),
            "TRAIN_FILE": str(DATA / "ledger/train.parquet"),
            "VAL_FILE": str(DATA / "ledger/val.parquet"),
        },
        overrides=(
            f"data.max_prompt_length={PROMPT}",
            f"data.max_response_length={LENGTH}",
            f"actor_rollout_ref.rollout.max_model_len={PROMPT + LENGTH}",
            f"treepo.depth={DEPTH}",
            f"treepo.segment_length={LENGTH // DEPTH}",
        ),
    ),
    "small": Task("small", depth=8, length=64),
}


def make_data(name: str) -> None:
    """Write the data of a task; files that exist stay."""
    folder = DATA / name
    if (folder / "val.parquet").exists():
        return
    command = ["bash", "-c", f'source scripts/common.sh && make_{name}_data "$1"', "bash", str(folder)]
    if name == "ledger":
        problems = folder / "problems.jsonl"
        write_rows(problems, ledgers.generate_rows(2100, seed=1))
        command = [sys.executable, "-m", "data_prep", "numina_math_tir"]
        command += ["--source", str(problems), "--out-dir", str(folder)]
        command += ["--val-size", "100", "--data-source", "tiny_ledgers", "--template", "plain"]
    environment = {**os.environ, "VENV": sys.prefix}
    subprocess.run(command, cwd=ROOT, check=True, env=environment)


def repeated(source: Path, path: Path, *, problems: int, times: int) -> None:
    """Write the first rows of a parquet file several times to another."""
    rows = pd.read_parquet(source).head(problems)
    if len(rows) < problems:
        raise ValueError(f"{source}: {len(rows)} of {problems} problems.")
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.concat([rows] * times, ignore_index=True).to_parquet(path)


def run_script(
    script: str, task: Task, folder: Path, *overrides: str, seed: int = 0, time_limit: float, **environment: str
) -> None:
    """Run a script with the settings of a task; its output goes to ``log.txt`` in the folder.

    Raises:
        RuntimeError: if it fails, or exceeds the time limit in seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ended = run_session(
        ["bash", script, *task.overrides, *overrides],
        folder=ROOT,
        environment={"PRESET": task.preset, "SEED": str(seed), **task.environment, **environment},
        log=folder / "log.txt",
        time_limit=time_limit,
    )
    if ended != "exit":
        raise RuntimeError(f"{ended} of {time_limit:.0f} s; see {folder}/log.txt")
