# SPDX-License-Identifier: Apache-2.0
"""What verl's actor was trained with in a real run, against the formulas on the trees that were sampled."""

import json
import tempfile
from pathlib import Path

import pytest
import torch
from training_run import BATCH, WIDTH, train
from tree_oracle import token_credits

STEPS = 2
# The defaults, in the words of the oracle.
OPTIONS = {"aggregation": "mean", "chains": "distinct", "root_group": True, "equal_groups": True, "parent_decay": 1.0}


def sampled(folder: Path, step: int) -> tuple[list[str], list[list], list[float], list[int]]:
    """Return prompt id, tree path, score and number of tokens of each trajectory of a step."""
    prompts, paths, scores, lengths = [], [], [], []
    for line in (folder / f"rollouts/{step}.jsonl").read_text().splitlines():
        row = json.loads(line)
        prompt, session, _ = row["uid"].rsplit("_", 2)
        tree = json.loads((folder / f"trees/step_{step}/{prompt}.json").read_text())
        node = tree["leaves"][int(session)]
        path, length = [], tree["nodes"][node]["offset"] + len(tree["nodes"][node]["token_ids"])
        while node > 0:
            path.insert(0, (node, tree["nodes"][node]["offset"]))
            node = tree["nodes"][node]["parent"]
        prompts.append(prompt)
        paths.append(path)
        scores.append(row["score"])
        lengths.append(length)
    return prompts, paths, scores, lengths


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
            f"trainer.rollout_data_dir={folder}/rollouts",
            f"treepo.dump_dir={folder}/trees",
        )
        for number, step in enumerate(metrics, start=1):
            prompts, paths, scores, lengths = sampled(folder, number)
            assert len(prompts) == BATCH * WIDTH
            credits = token_credits(prompts, paths, scores, max(lengths), "treepo_segment", OPTIONS)
            tokens = [
                (prompt, [node for node, begin in path if begin <= token][-1], token, credits[row][token])
                for row, (prompt, path, length) in enumerate(zip(prompts, paths, lengths, strict=True))
                for token in range(length)
            ]
            advantages = torch.tensor([credit for *_, credit in tokens], dtype=torch.float64)
            advantages = (advantages - advantages.mean()) / advantages.std()
            assert step["critic/advantages/max"] == pytest.approx(advantages.max().item(), abs=1e-3)
            assert step["critic/advantages/min"] == pytest.approx(advantages.min().item(), abs=1e-3)
            holders = {}
            for prompt, node, token, _ in tokens:
                holders[prompt, node, token] = holders.get((prompt, node, token), 0) + 1
            assert len(holders) == step["treepo/unique_tokens"] < len(tokens) == step["treepo/total_tokens"]
            weights = torch.tensor([1 / holders[tuple(token[:3])] for token in tokens], dtype=torch.float64)
            # One update a step, so that all probability ratios are 1; without the weights the sum would be 0.
            expected = -(weights * advantages).sum().item() / len(tokens)
            assert abs(expected) > 1e-3
            assert step["actor/pg_loss"] == pytest.approx(expected, abs=1e-4)
