# SPDX-License-Identifier: Apache-2.0
"""What verl's actor is to be trained with, from the trees and scores of a real run and the formulas."""

import json
from pathlib import Path

import pytest
import torch
from tree_oracle import token_credits

# The defaults, in the words of the oracle.
DEFAULTS = {
    "aggregation": "mean",
    "chains": "distinct",
    "root_group": True,
    "equal_groups": True,
    "parent_decay": 1.0,
    "divide_by_std": True,
}


def dumps(folder: Path) -> tuple[str, str]:
    """Return the overrides with which a run writes what this module reads."""
    return f"trainer.rollout_data_dir={folder}/rollouts", f"treepo.dump_dir={folder}/trees"


def sampled(folder: Path, step: int) -> tuple[list[str], list[list], list[float], list[int]]:
    """Return prompt id, tree path, score and number of tokens of each trajectory trained in a step.

    An asynchronous trainer may have sampled its tree in an earlier step.
    """
    prompts, paths, scores, lengths = [], [], [], []
    for line in (folder / f"rollouts/{step}.jsonl").read_text().splitlines():
        row = json.loads(line)
        prompt, session, _ = row["uid"].rsplit("_", 2)
        [file] = folder.glob(f"trees/step_*/{prompt}.json")
        tree = json.loads(file.read_text())
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


def check_step(folder: Path, step: dict[str, float], estimator: str, normalization: str, weight: str) -> None:
    """Assert that advantages and loss of a step with one update are those of the formulas."""
    prompts, paths, scores, lengths = sampled(folder, int(step["training/global_step"]))
    credits = token_credits(prompts, paths, scores, max(lengths), estimator, DEFAULTS)
    tokens = [
        (prompt, [node for node, begin in path if begin <= token][-1], token, credits[row][token])
        for row, (prompt, path, length) in enumerate(zip(prompts, paths, lengths, strict=True))
        for token in range(length)
    ]
    advantages = torch.tensor([credit for *_, credit in tokens], dtype=torch.float64)
    if normalization == "whiten":
        advantages = advantages - advantages.mean()
    if normalization != "none":
        advantages = advantages / advantages.std()
    assert step["critic/advantages/max"] == pytest.approx(advantages.max().item(), abs=1e-3)
    assert step["critic/advantages/min"] == pytest.approx(advantages.min().item(), abs=1e-3)
    assert step["critic/advantages/mean"] == pytest.approx(advantages.mean().item(), abs=1e-4)
    holders = {}
    for token in tokens:
        holders[token[:3]] = holders.get(token[:3], 0) + 1
    assert len(holders) == step["treepo/unique_tokens"] < len(tokens) == step["treepo/total_tokens"]
    weights = torch.tensor([1 / holders[token[:3]] if weight == "once" else 1.0 for token in tokens])
    # Before the first update of a step all probability ratios are 1.
    expected = -(weights * advantages).sum().item() / len(tokens)
    assert step["actor/pg_loss"] == pytest.approx(expected, abs=1e-5)
