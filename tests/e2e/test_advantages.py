# SPDX-License-Identifier: Apache-2.0
"""What verl's actor was trained with in a real run, against the formulas on the trees that were sampled."""

import tempfile
from pathlib import Path

from formulas import check_step, dumps
from training_run import BATCH, STEPS, WIDTH, train


def test_the_actor_is_trained_with_segment_credit_and_each_unique_token_once():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        metrics = train(
            "run_treepo_qwen0.5b.sh",
            folder,
            f"trainer.total_training_steps={STEPS}",
            "trainer.save_freq=-1",
            "algorithm.adv_estimator=treepo_segment",
            "treepo.shared_token_weight=once",
            *dumps(folder),
        )
        assert [step["treepo/trajectories"] for step in metrics] == [BATCH * WIDTH] * STEPS
        for step in metrics:
            check_step(folder, step, "treepo_segment", "whiten", "once")
        # Without the weights the losses of whitened advantages would be 0; with them one may be near it by chance, but
        # hardly all of them as near as ten times what check_step allows.
        assert max(abs(step["actor/pg_loss"]) for step in metrics) > 1e-4
