# SPDX-License-Identifier: Apache-2.0
"""Training with packed trees through the run scripts: real verl, Ray, FSDP2 and vLLM, tiny preset."""

import tempfile
from pathlib import Path

import pytest
import torch

from helpers.training_run import BATCH, LARGEST_DIFFERENCE, WIDTH, dumped_trees, dumps, response_of, train


def rows_of(folder: Path, step: int) -> list[list[int]]:
    """Return prompt and response of each trajectory of a step."""
    trees = dumped_trees(folder, step)
    return [tree["prompt_ids"] + response_of(tree, leaf) for tree in trees for leaf in tree["leaves"]]


def unique_over_total(rows: list[list[int]]) -> float:
    """Return the number of different prefixes over the number of tokens."""
    prefixes = {tuple(row[:end]) for row in rows for end in range(1, len(row) + 1)}
    return len(prefixes) / sum(map(len, rows))


def weights(folder: str, step: int) -> dict[str, torch.Tensor]:
    """Return the actor's weights after a step."""
    path = Path(folder) / f"checkpoints/global_step_{step}/actor/model_world_size_1_rank_0.pt"
    saved = torch.load(path, weights_only=False)
    return {name: getattr(weight, "full_tensor", lambda weight=weight: weight)() for name, weight in saved.items()}


@pytest.mark.slow
def test_packed_training_computes_each_token_once_and_trains_actor_and_critic():
    with tempfile.TemporaryDirectory() as name:
        metrics = train(
            "run_treepo_qwen0.5b.sh",
            Path(name),
            "trainer.total_training_steps=2",
            "trainer.save_freq=-1",
            "treepo.packed_training=true",
            *dumps(Path(name)),
            "algorithm.adv_estimator=gae",
            "actor_rollout_ref.actor.use_kl_loss=true",
        )
        # One micro-batch holds the batch, so prompts share common prefixes, too.
        shares = [unique_over_total(rows_of(Path(name), step)) for step in (1, 2)]
    assert [step["treepo/trajectories"] for step in metrics] == [BATCH * WIDTH] * 2
    for step, share in zip(metrics, shares, strict=True):
        # Probabilities of the engine and of the packed pass agree.
        assert step["training/rollout_probs_diff_max"] < LARGEST_DIFFERENCE
        assert step["actor/grad_norm"] > 0 and step["critic/grad_norm"] > 0
        assert share < 0.5
        for computed in ("unique_over_total", "forward_unique_over_total"):
            assert step[f"actor/packing/{computed}"] == pytest.approx(share, rel=1e-6)
    # The reference is the model before training, so the distance in the first step is 0 up to rounding.
    assert abs(metrics[0]["actor/kl_loss"]) < 1e-4


@pytest.mark.slow
def test_the_first_update_is_that_of_verls_engine():
    after = []
    for packed in ("true", "false"):
        with tempfile.TemporaryDirectory() as name:
            [step] = train(
                "run_treepo_qwen0.5b.sh",
                Path(name),
                "trainer.total_training_steps=1",
                "trainer.save_freq=1",
                "actor_rollout_ref.rollout.full_determinism=True",
                f"treepo.packed_training={packed}",
            )
            assert ("actor/packing/unique_over_total" in step) == (packed == "true")
            after.append(weights(name, 1))
    ours, theirs = after
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, atol=1e-5, rtol=0.0)
