# SPDX-License-Identifier: Apache-2.0
"""Expected inputs of verl's actor, from the trees and scores of a real run and the formulas."""

from pathlib import Path

import pytest
import torch

from helpers.training_run import trajectories
from helpers.tree_oracle import token_credits

# The defaults, with the names of the oracle.
DEFAULTS = {
    "aggregation": "mean",
    "chains": "distinct",
    "root_group": True,
    "equal_groups": True,
    "parent_decay": 1.0,
    "divide_by_std": True,
}


def check_step(folder: Path, step: dict[str, float], estimator: str, normalization: str, weight: str) -> None:
    """Assert that advantages and loss of a step with one update equal the formulas."""
    rows = trajectories(folder, int(step["training/global_step"]))
    prompts, paths, scores = zip(*((row.prompt, row.path, row.row["score"]) for row in rows), strict=True)
    credits = token_credits(prompts, paths, scores, max(row.length for row in rows), estimator, DEFAULTS)
    # Prompt, node and offset identify unique tokens; those of added messages are not trained.
    trained, holders = [], {}
    for row, credit in zip(rows, credits, strict=True):
        for node in row.nodes:
            for offset in range(node["offset"], node["offset"] + len(node["token_ids"])):
                token = row.prompt, node["index"], offset
                holders[token] = holders.get(token, 0) + 1
                if node["messages"] is None:
                    trained.append((token, credit[offset]))
    assert len(holders) == step["treepo/unique_tokens"] < sum(holders.values()) == step["treepo/total_tokens"]
    advantages = torch.tensor([credit for _, credit in trained], dtype=torch.float64)
    if normalization == "whiten":
        advantages = advantages - advantages.mean()
    if normalization != "none":
        advantages = advantages / advantages.std()
    assert step["critic/advantages/max"] == pytest.approx(advantages.max().item(), abs=1e-3)
    assert step["critic/advantages/min"] == pytest.approx(advantages.min().item(), abs=1e-3)
    assert step["critic/advantages/mean"] == pytest.approx(advantages.mean().item(), abs=1e-4)
    weights = torch.tensor([1 / holders[token] if weight == "once" else 1.0 for token, _ in trained])
    # Before the first update of a step all probability ratios are 1.
    expected = -(weights * advantages).sum().item() / len(trained)
    assert step["actor/pg_loss"] == pytest.approx(expected, abs=1e-5)
