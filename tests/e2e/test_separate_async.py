# SPDX-License-Identifier: Apache-2.0
"""Trees while training and rollout run at the same time, with servers of their own, to which weights go over TCP."""

import tempfile
from pathlib import Path

import pytest

from helpers.training_run import BATCH, LARGEST_DIFFERENCE, WIDTH, dumped_trees, dumps, train

STEPS = 3


@pytest.mark.slow
def test_separate_servers_sample_trees_with_the_weights_that_they_receive():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        metrics = train(
            "run_treepo_qwen0.5b.sh",
            folder,
            "trainer.v1.trainer_mode=treepo_separate_async",
            "trainer.v1.separate_async.parameter_sync_step=1",
            *(f"actor_rollout_ref.rollout.{key}=1" for key in ("nnodes", "n_gpus_per_node")),
            "ray_kwargs.ray_init.num_gpus=2",
            # All versions are equal, so a difference shows weights that did not arrive.
            "actor_rollout_ref.actor.optim.lr=0",
            *("treepo.stale_tokens.policy=mask", "treepo.stale_tokens.max_age=0"),
            *(f"trainer.total_training_steps={STEPS}", "trainer.save_freq=-1"),
            *dumps(folder),
        )
        assert len(metrics) == STEPS
        versions: list[set[int]] = [set()] * STEPS
        for step, found in enumerate(metrics):
            assert found["treepo/trajectories"] == BATCH * WIDTH
            assert found["training/rollout_probs_diff_max"] < LARGEST_DIFFERENCE
            trees = dumped_trees(folder, step + 1)
            versions[step] = {version for tree in trees for node in tree["nodes"][1:] for version in node["versions"]}
        # Weights of version v have trained v steps.
        assert versions[0] == {0}
        assert all(min(found) >= 0 and max(found) <= step for step, found in enumerate(versions))
        assert max(versions[-1]) > 0
        assert metrics[0]["treepo/stale_tokens"] == 0
