# SPDX-License-Identifier: Apache-2.0
"""Runs the run scripts for a few steps, for the tests of this folder."""

import math
import os
import re
import subprocess
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
OUTPUTS = Path(os.environ.get("OUTPUTS", ROOT / "outputs")).resolve()
# The tiny preset is float32 on CPU; on a GPU engine and actor round to bfloat16.
LARGEST_DIFFERENCE = 0.1 if torch.cuda.is_available() else 1e-3
BATCH, WIDTH, STEPS, SEGMENT, RESPONSE = 8, 8, 3, 32, 128
# The preset's treepo.cache_block, and the engine's.
BLOCK = 32


LENGTHS = (
    f"treepo.segment_length={SEGMENT}",
    f"treepo.depth={RESPONSE // SEGMENT}",
    f"data.max_response_length={RESPONSE}",
)


def train(
    script: str, folder: Path, *overrides: str, lengths: tuple[str, ...] = LENGTHS, prepare: bool = False
) -> list[dict[str, float]]:
    """Run a script for a few steps; return the metrics that verl's console logger printed for each.

    Fails if the run does, or if one of its metrics is not a finite number.

    Args:
        prepare: Whether the script has to prepare the data even if an earlier run has done so.
    """
    command = [
        "bash",
        f"scripts/{script}",
        f"data.train_batch_size={BATCH}",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={BATCH}",
        f"actor_rollout_ref.rollout.n={WIDTH}",
        *lengths,
        "trainer.val_before_train=False",
        "trainer.test_freq=-1",
        f"trainer.default_local_dir={folder}/checkpoints",
        f"hydra.run.dir={folder}/hydra",
        *overrides,
    ]
    environment = {**os.environ, "PRESET": "tiny", "OUTPUTS": str(OUTPUTS), "TENSORBOARD_DIR": f"{folder}/tensorboard"}
    files = {"TRAIN_FILE": OUTPUTS / "data/tiny/train.parquet", "VAL_FILE": OUTPUTS / "data/tiny/val.parquet"}
    if not prepare and all(file.exists() for file in files.values()):
        environment |= {name: str(file) for name, file in files.items()}
    log = folder / "log.txt"
    with log.open("w") as stream:
        result = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=stream, stderr=subprocess.STDOUT, timeout=3600, check=False
        )
    text = log.read_text(errors="replace")
    assert result.returncode == 0, text[-6000:]
    metrics = [metrics_of(line) for line in text.splitlines() if re.search(r"step:\d+ - ", line)]
    for step in metrics:
        assert not {key: value for key, value in step.items() if not math.isfinite(value)}
    return metrics


def metrics_of(line: str) -> dict[str, float]:
    """Return what verl's console logger printed for a step (``verl.utils.logger.aggregate_logger``)."""
    number = r"([\w/@.-]+):(?:np\.\w+\()?(-?[\d.]+(?:e[+-]?\d+)?|-?inf|nan)\b"
    return {key: float(value) for key, value in re.findall(number, line)}


def response_of(tree: dict, node: int) -> list[int]:
    """Return the response tokens on the path to a node of a dumped tree."""
    tokens: list[int] = []
    while node > 0:
        tokens = tree["nodes"][node]["token_ids"] + tokens
        node = tree["nodes"][node]["parent"]
    return tokens
