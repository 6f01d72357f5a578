# SPDX-License-Identifier: Apache-2.0
"""A real run whose tool exits and returns lone surrogates, and whose reward function returns NaN."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from helpers.training_run import BATCH, WIDTH, dumped_trees, dumps, train

TOOL = '''
import sys
from verl.tools.function_tool import function_tool

@function_tool
def calculator(expression: str) -> str:
    """Evaluate an arithmetic expression.

    Args:
        expression: For example 3 * (4 + 5)
    """
    if len(expression) % 2 == 0:
        sys.exit(3)
    return "42 \\ud800"
'''
REWARD = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    right = float(str(ground_truth) in solution_str)
    return {"score": float("nan") if len(solution_str) % 5 == 0 else right, "acc": right, "pred": "\\udfff"}
"""


def read_rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.slow
def test_faulty_tools_and_rewards_cost_their_own_trajectories_only():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tool.py").write_text(TOOL)
        (folder / "my_reward.py").write_text(REWARD)
        [step] = train(
            "run_calculator_qwen0.5b.sh",
            folder,
            *("trainer.total_training_steps=1", "trainer.save_freq=-1", "trainer.test_freq=1"),
            *dumps(folder),
            f"trainer.validation_data_dir={folder}/validation",
            "algorithm.adv_estimator=grpo",
            f"actor_rollout_ref.rollout.multi_turn.function_tool_path={folder}/tool.py",
            f"reward.custom_reward_function.path={folder}/my_reward.py",
            lengths=(),
        )
        rows, trees = read_rows(folder / "rollouts/1.jsonl"), dumped_trees(folder)
        log = (folder / "logs/console.log").read_text(errors="replace")
        screen = (folder / "log.txt").read_text()
        validation = (folder / "validation/1.jsonl").read_text()
    trained = [row["score"] for row in rows if not row["uid"].startswith("pad")]  # verl's padding
    rewards = [one["reward"] for tree in trees for one in tree["trajectories"]]
    lost = rewards.count(None)
    assert 0 < lost < len(rewards) == BATCH * WIDTH
    assert (step["treepo/reward_errors"], step["treepo/removed_trajectories"], len(trained)) == (
        *(lost, lost),
        len(rewards) - lost,
    )
    assert sorted(trained) == sorted(reward for reward in rewards if reward is not None)
    assert step["critic/score/mean"] == pytest.approx(sum(trained) / len(trained))
    assert step["actor/grad_norm"] > 0
    assert step["treepo/failed_steps"] > 0
    said = [message["content"] for tree in trees for node in tree["nodes"] for message in node["messages"] or []]
    assert "42 \ufffd" in said and not any("\ud800" in text for text in said)
    assert f"The first: reward function compute_score of {folder}/my_reward.py gave nan for prompt" in log
    assert "tool calculator: SystemExit: 3" in log and "tool calculator returned a text with surrogates" in log
    assert "were not finite numbers; console.log names the first" in screen
    assert step["val-aux/reward_errors"] > 0 and "NaN" not in validation
