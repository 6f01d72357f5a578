# SPDX-License-Identifier: Apache-2.0
"""Metrics of the signal for tree advantages: mixed outcomes, credit by depth, independence of trajectories."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recipe.treepo.advantages.forest import Floats, Forest, TreePath, build_forest

# Metric names below treepo/ -> unit and meaning, as in metrics.py. D is a number of segments.
OUTCOMES = {
    "mixed_prompts": (
        "share",
        "Prompts whose trajectories differ in reward; the others give no signal within the prompt",
    ),
    "mixed_subgroups": (
        "share",
        "Groups of trajectories with a common branch point below the prompt that differ in reward; "
        "absent if there is no such group",
    ),
    "effective_trajectories": (
        "trajectories",
        "Mean per prompt of `n * tokens / sum(k^2 * node_tokens)`, where k of the n trajectories pass a node; "
        "n without sharing, 1 if all are equal",
    ),
    "reward/depth_D": ("reward", "Mean reward of the trajectories with D segments"),
    "advantage/depth_D": ("advantage", "Mean absolute advantage of the trained tokens in segment D of the paths"),
}


class OutcomeRow(NamedTuple):
    """A trajectory of a training batch.

    Attributes:
        uid: verl's id of the prompt.
        path: ``Tree.tree_path`` of the trajectory, empty for a plain sample.
        depths: Number of segments up to each node of ``path``.
        reward: Reward of the trajectory.
        advantages: Advantage of each response token, (response tokens,).
        mask: 1 for trained tokens, else 0, (response tokens,).
    """

    uid: str
    path: TreePath
    depths: Sequence[int]
    reward: float
    advantages: Floats
    mask: Floats


def outcome_metrics(rows: Sequence[OutcomeRow]) -> dict[str, float]:
    """Return the metrics ``OUTCOMES`` of one batch under ``treepo/``, those by depth for trees only.

    ``effective_trajectories`` is the effective sample size of cluster sampling, with shared tokens as correlation.
    """
    if not rows:
        return {}
    forest = build_forest([row.uid for row in rows], [row.path for row in rows])
    rewards_T = np.zeros(len(forest.node_TL))
    rewards_T[forest.trajectory_P] = [row.reward for row in rows]
    merged = forest.merge_chains()
    agrees_N = merged.agrees(rewards_T)
    is_root_N, is_group_N = merged.parent_N < 0, (merged.parent_N >= 0) & (merged.size_N > 1)
    tokens_T = np.zeros(len(forest.node_TL), dtype=np.int64)
    tokens_T[forest.trajectory_P] = [len(row.mask) for row in rows]
    metrics = {
        "treepo/mixed_prompts": 1.0 - float(agrees_N[is_root_N].mean()),
        "treepo/effective_trajectories": float(_effective_trajectories(forest, tokens_T).mean()),
    }
    if is_group_N.any():
        metrics["treepo/mixed_subgroups"] = 1.0 - float(agrees_N[is_group_N].mean())
    in_trees = [row for row in rows if row.path]
    return metrics | _reward_by_depth(in_trees) | _advantage_by_depth(in_trees)


def _effective_trajectories(forest: Forest, tokens_T: np.ndarray) -> Floats:
    """Return the effective number of trajectories of each prompt, (prompts,)."""
    end = np.where(forest.on_path_TL, forest.begin_TL, tokens_T[:, None])[:, 1:]
    begin, end = end, np.concatenate([end[:, 1:], tokens_T[:, None]], axis=1)
    tokens_TL = end - begin
    prompt_T = forest.node_TL[:, 0]
    shared_T = (tokens_TL * forest.at(forest.size_N)[:, 1:]).sum(axis=1)
    total = np.bincount(prompt_T, weights=tokens_T)
    shared = np.bincount(prompt_T, weights=shared_T)
    n: Floats = np.bincount(prompt_T).astype(np.float64)
    return np.where(shared > 0, n * total / np.maximum(shared, 1), n)


def _reward_by_depth(rows: Sequence[OutcomeRow]) -> dict[str, float]:
    depths = np.array([row.depths[-1] for row in rows], dtype=np.int64)
    rewards = np.array([row.reward for row in rows])
    return {f"treepo/reward/depth_{depth}": float(rewards[depths == depth].mean()) for depth in np.unique(depths)}


def _advantage_by_depth(rows: Sequence[OutcomeRow]) -> dict[str, float]:
    size = 1 + max((depth for row in rows for depth in row.depths), default=0)
    sums, counts = np.zeros(size), np.zeros(size)
    for row in rows:
        begins = np.array([begin for _, begin in row.path])
        inside = begins < len(row.mask)  # an empty or cut-off reply begins beyond the response
        if not inside.any():
            continue
        depths = np.asarray(row.depths)[inside]
        np.add.at(sums, depths, np.add.reduceat(np.abs(row.advantages) * row.mask, begins[inside]))
        np.add.at(counts, depths, np.add.reduceat(row.mask, begins[inside]))
    return {f"treepo/advantage/depth_{depth}": sums[depth] / counts[depth] for depth in np.flatnonzero(counts)}
