# SPDX-License-Identifier: Apache-2.0
"""Short training runs with the run scripts, for the end-to-end tests."""

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from helpers.paths import ROOT
from recipe.treepo.console.metric_tail import parse_record
from recipe.treepo.dumps.reader import Dump
from recipe.treepo.viewer.layout import path_to

OUTPUTS = Path(os.environ.get("OUTPUTS", ROOT / "outputs")).resolve()
# The tiny preset is float32 on CPU; on a GPU engine and actor round to bfloat16.
LARGEST_DIFFERENCE = 0.1 if torch.cuda.is_available() else 1e-3
DETERMINISTIC = "actor_rollout_ref.rollout.full_determinism=True"
BATCH, WIDTH, STEPS, SEGMENT, RESPONSE = 8, 8, 3, 32, 128
# Block size of the engine (config/platform/cpu.yaml), with which segments align by default.
BLOCK = 32


LENGTHS = (
    f"treepo.segment_length={SEGMENT}",
    f"treepo.depth={RESPONSE // SEGMENT}",
    f"data.max_response_length={RESPONSE}",
)


def train(script: str, folder: Path, *overrides: str, lengths: tuple[str, ...] = LENGTHS) -> list[dict[str, float]]:
    """Run a script for a few steps; return the metrics of each step from verl's logger in the run's folder.

    Fails if the run fails, or if a metric is not a finite number.
    """
    run_in(folder, "bash", f"scripts/{script}", *few_steps(folder), *lengths, *overrides)
    metrics = metrics_of(folder)
    for step in metrics:
        assert not {key: value for key, value in step.items() if not math.isfinite(value)}
    return metrics


def train_with_verl(folder: Path, *overrides: str) -> None:
    """Train through verl's own entry point; fail if the run fails.

    The run equals ``run_treepo_qwen0.5b.sh`` for a user of verl: with machine, model, data and sizes, without any
    settings of trees.
    """
    data = OUTPUTS / "data/tiny"
    presets = ("hydra.searchpath=[pkg://recipe.treepo.config]", "+platform=cpu", "+preset=tiny", "~treepo")
    reward = ("path=pkg://recipe.treepo.reward", "name=compute_score")
    run_in(
        folder,
        sys.executable,
        "-m",
        "verl.trainer.main_ppo",
        *presets,
        f"actor_rollout_ref.model.path={ROOT}/tiny/model",
        f"data.train_files={data}/train.parquet",
        f"data.val_files={data}/val.parquet",
        "data.seed=0",
        "actor_rollout_ref.rollout.seed=0",
        *(f"reward.custom_reward_function.{option}" for option in reward),
        *few_steps(folder),
        f"data.max_response_length={RESPONSE}",
        "trainer.logger=[console]",
        *overrides,
    )


def few_steps(folder: Path) -> tuple[str, ...]:
    """Return the overrides of a small run with its files in a folder."""
    return (
        f"data.train_batch_size={BATCH}",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={BATCH}",
        f"actor_rollout_ref.rollout.n={WIDTH}",
        "trainer.val_before_train=False",
        "trainer.test_freq=-1",
        f"trainer.default_local_dir={folder}/checkpoints",
        f"hydra.run.dir={folder}/hydra",
    )


def run_in(folder: Path, *command: str, preset: str = "tiny") -> None:
    """Run a training command with its output in ``log.txt`` of the folder; a failure reports the end of it."""
    environment = {**os.environ, "PRESET": preset, "OUTPUTS": str(OUTPUTS), "TENSORBOARD_DIR": f"{folder}/tensorboard"}
    log = folder / "log.txt"
    with log.open("w") as stream:
        result = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=stream, stderr=subprocess.STDOUT, timeout=3600, check=False
        )
    assert result.returncode == 0, log.read_text(errors="replace")[-6000:]


def metrics_of(folder: Path) -> list[dict[str, float]]:
    """Return the metrics of each step of a run, validations before training included."""
    records = [parse_record(line) for line in (folder / "logs/metrics.jsonl").read_text().splitlines()]
    return [record.metrics for record in records if record is not None]


def dumps(folder: Path) -> tuple[str, ...]:
    """Return the overrides for dumps of rows and trees to a folder."""
    trees = (f"treepo.dump.dir={folder}/trees", "treepo.dump.every=1", "treepo.dump.prompts=null")
    return f"trainer.rollout_data_dir={folder}/rollouts", *trees, "treepo.dump.calls=true"


def dumped_trees(folder: Path, step: int | None = None, split: str = "train") -> list[dict[str, Any]]:
    """Return the dumped trees of a step, or of all steps, with leaf numbers as ``leaves``."""
    dump = Dump(folder / "trees")
    dump.refresh()
    trees = []
    for entry in dump.trees():
        if entry.summary["split"] == split and step in (None, entry.summary["step"]):
            tree = dump.load(entry)
            trees.append({**tree, "leaves": [one["leaf"] for one in tree["trajectories"]]})
    return trees


@dataclass(frozen=True)
class Trajectory:
    """A trained row, its tree, and the nodes of its path below the root, from the dumps."""

    row: dict[str, Any]
    tree: dict[str, Any]
    nodes: list[dict[str, Any]]

    @property
    def prompt(self) -> str:
        return self.row["uid"].rsplit("_", 2)[0]

    @property
    def path(self) -> list[tuple[int, int]]:
        """Number and offset of each node; as in ``Tree.tree_path``, added messages count only at the end."""
        kept = [node for node in self.nodes if node["messages"] is None or node is self.nodes[-1]]
        return [(node["index"], node["offset"]) for node in kept]

    @property
    def length(self) -> int:
        return sum(len(node["token_ids"]) for node in self.nodes)


def trajectories(folder: Path, step: int) -> list[Trajectory]:
    """Return the trajectories of a step; an asynchronous trainer may have begun their trees in an earlier step."""
    found, trees = [], {tree["uid"]: tree for tree in dumped_trees(folder)}
    for line in (folder / f"rollouts/{step}.jsonl").read_text().splitlines():
        row = json.loads(line)
        prompt, session, _ = row["uid"].rsplit("_", 2)
        tree = trees[prompt]
        found.append(Trajectory(row, tree, path_of(tree, tree["leaves"][int(session)])))
    return found


def path_of(tree: dict, node: int) -> list[dict]:
    """Return the nodes from below the root to a node of a dumped tree."""
    return [tree["nodes"][number] for number in path_to(tree["nodes"], node)[1:]]


def response_of(tree: dict, node: int) -> list[int]:
    """Return the response tokens on the path to a node of a dumped tree."""
    return [token for above in path_of(tree, node) for token in above["token_ids"]]
