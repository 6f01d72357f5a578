# SPDX-License-Identifier: Apache-2.0
"""Training of a LoRA adapter through the run script: engine and actor must have the same adapter after each update."""

import tempfile
from pathlib import Path

import pytest

from helpers.training_run import LARGEST_DIFFERENCE, STEPS, train
from recipe.treepo.verl_adapters.export import export

LORA = ("actor_rollout_ref.model.lora_rank=8", "actor_rollout_ref.model.lora_alpha=32")
# The learning rate makes each update large: a stale adapter in the engine would show.
FAST = "actor_rollout_ref.actor.optim.lr=3e-3"


@pytest.mark.slow
@pytest.mark.parametrize("packed", ["true", "false"])
def test_the_engine_samples_with_the_trained_adapter(packed):
    with tempfile.TemporaryDirectory() as name:
        metrics = train(
            "run_treepo_qwen0.5b.sh",
            Path(name),
            *(*LORA, FAST, f"treepo.packed_training={packed}"),
            *(f"trainer.total_training_steps={STEPS}", f"trainer.save_freq={STEPS}"),
        )
        assert not (export(Path(name)) / "lora_adapter").exists()
    assert len(metrics) == STEPS
    for step in metrics:
        assert step["training/rollout_probs_diff_max"] < LARGEST_DIFFERENCE
        assert step["actor/grad_norm"] > 0
        assert ("actor/packing/unique_over_total" in step) == (packed == "true")
