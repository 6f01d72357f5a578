# SPDX-License-Identifier: Apache-2.0
"""A reward function of one's own that sees the tree path, with the soft overlong penalty, in a real run."""

import json
import math
import tempfile
from pathlib import Path

import pytest
from formulas import dumps, sampled
from training_run import BATCH, RESPONSE, WIDTH, train

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
            # a validation, in which samples have no tree
            "trainer.test_freq=1",
        )
        rows = [json.loads(line) for line in (folder / "rollouts/1.jsonl").read_text().splitlines()]
        _, paths, scores, lengths = sampled(folder, 1)
        reasons = []
        for row in rows:
            prompt, session, _ = row["uid"].rsplit("_", 2)
            tree = json.loads((folder / f"trees/step_1/{prompt}.json").read_text())
            reasons.append(tree["nodes"][tree["leaves"][int(session)]]["finish_reason"])
    assert len(rows) == BATCH * WIDTH
    for row, path, score, length, reason in zip(rows, paths, scores, lengths, reasons, strict=True):
        acc = compute_score("test", row["output"], row["gts"])["acc"]
        overlong = max(0, length - (RESPONSE - BUFFER)) / BUFFER * FACTOR
        assert score == pytest.approx(
            acc - NODE_COST * len(path) - CUT_OFF_COST * (reason in CUT_OFF) - overlong, abs=1e-5
        )
    # Both parts were at work, and differed between trajectories.
    assert len({len(path) for path in paths}) > 1
    assert len({length > RESPONSE - BUFFER for length in lengths}) == 2
    (step,) = steps
    assert step["actor/grad_norm"] > 0
    assert math.isclose(step["critic/score/mean"], sum(scores) / len(scores), abs_tol=1e-5)
    # Accuracy in the validation is a share of its samples, without any costs.
    accuracies = [value for key, value in step.items() if key.startswith("val-core/") and "/acc/mean@" in key]
    assert accuracies and all(0 <= accuracy <= 1 for accuracy in accuracies)
    nodes = [value for key, value in step.items() if key.startswith("val-aux/") and "/tree_nodes/mean@" in key]
    assert nodes and set(nodes) == {0.0}
