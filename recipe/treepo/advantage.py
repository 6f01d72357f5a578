# SPDX-License-Identifier: Apache-2.0
"""Tree advantages, registered with verl (``verl.trainer.ppo.core_algos.register_adv_est``).

verl gives a custom estimator the rewards, the mask and the prompt ids only
(``verl.trainer.ppo.ray_trainer.compute_advantage``), so the trainer hands the tree paths of the batch over
with :func:`tree_batch` around verl's own call.

Departures from the paper and its released code:

1. A group that the path passes through more than once, because a segment did not branch, counts once. The released
   code counts it once per segment of the chain.
2. Groups of one trajectory say nothing below the root and are left out of the average there.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from verl.trainer.ppo.core_algos import register_adv_est
from verl.utils.torch_functional import masked_whiten

from recipe.treepo.settings import AdvantageSettings, Aggregation, Normalization


@dataclass(frozen=True, slots=True)
class TreeBatch:
    """What the estimator needs besides verl's arguments.

    Attributes:
        node_paths_P: For every row of the batch the node numbers below the root, root side first; empty for a
            trajectory that was sampled on its own.
        settings: How to aggregate and normalise.
    """

    node_paths_P: list[list[int]]
    settings: AdvantageSettings


_tree_batch: ContextVar[TreeBatch | None] = ContextVar("treepo_tree_batch", default=None)


@contextmanager
def tree_batch(node_paths: list[list[int]], settings: AdvantageSettings) -> Iterator[None]:
    """Make the tree paths of a batch known to the estimators that are called inside the ``with`` block."""
    token = _tree_batch.set(TreeBatch(node_paths, settings))
    try:
        yield
    finally:
        _tree_batch.reset(token)


@register_adv_est("treepo")
def compute_treepo_advantage(
    token_level_rewards: torch.Tensor, response_mask: torch.Tensor, index: np.ndarray, **_: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the sub-group advantages of TreePO (arXiv 2508.17445, section 2) for outcome rewards.

    Trajectory i shares its ancestor at depth j with the trajectories of group G_ij, and G_i0 is the whole prompt
    group. Its advantage is the mean over j of ``R_i - mean(R over G_ij)``, plain or weighted by ``|G_ij|``, the same
    for all its response tokens, then normalised over the batch. Without tree paths, or with trees of depth 1, it
    equals verl's ``reinforce_plus_plus_baseline``; like there, a prompt group of one keeps its raw reward.

    Args:
        token_level_rewards: (bs, response_length); the reward of a trajectory is the sum of its row.
        response_mask: (bs, response_length), 1 = generated token that is trained.
        index: (bs,) prompt id of every row; rows with the same id are one group.

    Returns:
        Advantages and returns, the same tensor, (bs, response_length), 0 outside the mask.

    Raises:
        RuntimeError: if the trainer has not handed over the tree paths of exactly these rows.
    """
    batch = _tree_batch.get()
    if batch is None or len(batch.node_paths_P) != len(index):
        raise RuntimeError(
            "algorithm.adv_estimator=treepo got no tree paths for this batch: the trainer that hands them over "
            "is chosen by trainer.v1.trainer_mode=treepo_sync"
        )
    with torch.no_grad():
        rewards = token_level_rewards.sum(dim=-1)
        advantages = subgroup_advantages(
            rewards.double().numpy(force=True), index, batch.node_paths_P, batch.settings.aggregation
        )
        tokens = torch.as_tensor(advantages, dtype=rewards.dtype, device=rewards.device).unsqueeze(-1) * response_mask
        if batch.settings.normalization is Normalization.WHITEN:
            tokens = masked_whiten(tokens, response_mask) * response_mask
    return tokens, tokens


def subgroup_advantages(
    rewards: np.ndarray, prompt_ids: Sequence[Any], node_paths_P: list[list[int]], aggregation: Aggregation
) -> np.ndarray:
    """Return each trajectory's sub-group advantage, (bs,), before normalisation.

    Args:
        rewards: (bs,) reward of each trajectory.
        prompt_ids: (bs,) whose tree the trajectory belongs to.
        node_paths_P: Node numbers below the root for each trajectory; numbers mean something within a prompt only.
        aggregation: Plain mean over the distinct groups, or weighted by their size.
    """
    size, mean = _group_sizes_and_means(rewards, prompt_ids, node_paths_P)
    # Groups on a path are nested, so an equal size means the same group; the root (column 0) always counts.
    counts = size > 1
    counts[:, 1:] &= size[:, 1:] != size[:, :-1]
    counts[:, 0] = True
    mean[size[:, 0] == 1, 0] = 0.0
    weight = counts * (size if aggregation is Aggregation.GROUP_SIZE else 1.0)
    return (weight * (rewards[:, None] - mean)).sum(axis=1) / weight.sum(axis=1)


def _group_sizes_and_means(
    rewards: np.ndarray, prompt_ids: Sequence[Any], node_paths_P: list[list[int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return size and mean reward of each row's group at each depth, both (bs, 1 + longest path).

    Column 0 is the prompt group. Past the end of a path size and mean are 0.
    """
    _, prompt = np.unique(np.asarray(prompt_ids, dtype=str), return_inverse=True)
    nodes = np.full((len(rewards), 1 + max((len(path) for path in node_paths_P), default=0)), -1, dtype=np.int64)
    nodes[:, 0] = 0  # the root's number
    for row, path in enumerate(node_paths_P):
        nodes[row, 1 : 1 + len(path)] = path
    on_path = nodes >= 0
    groups = np.stack([np.broadcast_to(prompt[:, None], nodes.shape)[on_path], nodes[on_path]], axis=1)
    _, group = np.unique(groups, axis=0, return_inverse=True)
    sizes = np.bincount(group)
    sums = np.bincount(group, weights=np.broadcast_to(rewards[:, None], nodes.shape)[on_path])
    size, mean = np.zeros(nodes.shape), np.zeros(nodes.shape)
    size[on_path], mean[on_path] = sizes[group], (sums / sizes)[group]
    return size, mean
