# SPDX-License-Identifier: Apache-2.0
"""Runs the run scripts for a few steps, for the tests of this folder."""

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
OUTPUTS = Path(os.environ.get("OUTPUTS", ROOT / "outputs")).resolve()
BATCH, WIDTH, STEPS, SEGMENT, RESPONSE = 8, 8, 3, 32, 128


def train(script: str, folder: Path, *overrides: str) -> list[dict[str, float]]:
    """Run a script for a few steps; return the metrics that verl's console logger printed for each."""
    command = [
        "bash",
        f"scripts/{script}",
        f"data.train_batch_size={BATCH}",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={BATCH}",
        f"actor_rollout_ref.rollout.n={WIDTH}",
        f"treepo.segment_length={SEGMENT}",
        f"treepo.depth={RESPONSE // SEGMENT}",
        f"data.max_response_length={RESPONSE}",
        "trainer.val_before_train=False",
        "trainer.test_freq=-1",
        f"trainer.default_local_dir={folder}/checkpoints",
        f"hydra.run.dir={folder}/hydra",
        *overrides,
    ]
    environment = {**os.environ, "PRESET": "tiny", "OUTPUTS": str(OUTPUTS), "TENSORBOARD_DIR": f"{folder}/tensorboard"}
    log = folder / "log.txt"
    with log.open("w") as stream:
        result = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=stream, stderr=subprocess.STDOUT, timeout=1500, check=False
        )
    text = log.read_text(errors="replace")
    assert result.returncode == 0, text[-6000:]
    number = r"([\w/@.-]+):(?:np\.\w+\()?(-?[\d.]+(?:e[+-]?\d+)?)"
    return [
        {key: float(value) for key, value in re.findall(number, line)}
        for line in text.splitlines()
        if re.search(r"step:\d+ - ", line)
    ]
