# SPDX-License-Identifier: Apache-2.0
"""Custom reward function with costs for the tree path, with the soft overlong penalty, in a real run."""

import math
import tempfile
from pathlib import Path

import pytest

from helpers.training_run import BATCH, RESPONSE, WIDTH, dumps, train, trajectories
from recipe.treepo.reward import compute_score

NODE_COST, CUT_OFF_COST, BUFFER, FACTOR = 0.0625, 0.25, 64, 0.5
CUT_OFF = ("length", "depth", "repetition")


@pytest.mark.slow
def test_the_example_scores_by_the_tree_path_and_length():
    penalty, options = "reward.reward_kwargs.overlong_buffer_cfg", "+reward.custom_reward_function.reward_kwargs"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        steps = train(
            "run_treepo_qwen0.5b.sh",
            folder,
            "trainer.total_training_steps=1",
            "trainer.save_freq=-1",
            *dumps(folder),
            "reward.custom_reward_function.path=examples/tree_reward.py",
            f"{options}.node_cost={NODE_COST}",
            f"{options}.cut_off_cost={CUT_OFF_COST}",
            f"{penalty}.enable=True",
            f"{penalty}.len={BUFFER}",
            f"{penalty}.penalty_factor={FACTOR}",
            # a validation, with samples without a tree
            "trainer.test_freq=1",
        )
        rows = trajectories(folder, 1)
    assert len(rows) == BATCH * WIDTH
    for row in rows:
        acc = compute_score("test", row.row["output"], row.row["gts"])["acc"]
        overlong = max(0, row.length - (RESPONSE - BUFFER)) / BUFFER * FACTOR
        costs = NODE_COST * len(row.path) + CUT_OFF_COST * (row.nodes[-1]["finish_reason"] in CUT_OFF)
        assert row.row["score"] == pytest.approx(acc - costs - overlong, abs=1e-5)
    # Both parts have an effect and differ between trajectories.
    assert len({len(row.path) for row in rows}) > 1
    assert len({row.length > RESPONSE - BUFFER for row in rows}) == 2
    (step,) = steps
    assert step["actor/grad_norm"] > 0
    assert math.isclose(step["critic/score/mean"], sum(row.row["score"] for row in rows) / len(rows), abs_tol=1e-5)
    # Accuracy in the validation is a share of its samples, without any costs.
    accuracies = [value for key, value in step.items() if key.startswith("val-core/") and "/acc/mean@" in key]
    assert accuracies and all(0 <= accuracy <= 1 for accuracy in accuracies)
    nodes = [value for key, value in step.items() if key.startswith("val-aux/") and "/tree_nodes/mean@" in key]
    assert nodes and set(nodes) == {0.0}
