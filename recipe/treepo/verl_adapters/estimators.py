# SPDX-License-Identifier: Apache-2.0
"""Tree advantages, registered with verl (``verl.trainer.ppo.core_algos.register_adv_est``).

verl gives a custom estimator the rewards, the mask, the prompt ids and its own ``algorithm`` group only
(``verl.trainer.ppo.ray_trainer.compute_advantage``), so the trainer hands the tree paths of the batch over
with :func:`tree_batch` around verl's own call. The formulas: ``credit.py``.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from verl.trainer.ppo.core_algos import register_adv_est

from recipe.treepo.advantages.credit import segment_credit, subgroup_advantages, treerl_credit, treerpo_credit
from recipe.treepo.advantages.forest import Forest, TreePath, build_forest
from recipe.treepo.advantages.options import ChainCounting
from recipe.treepo.settings.schema import AdvantageSettings, Normalization

Advantages = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True)
class TreeBatch:
    """What the estimators need besides verl's arguments.

    Attributes:
        paths_P: For every row of the batch its ``Tree.tree_path``; empty for a row that was sampled on its own.
        settings: Options of the estimators.
    """

    paths_P: Sequence[TreePath]
    settings: AdvantageSettings


current_batch: ContextVar[TreeBatch | None] = ContextVar("treepo_tree_batch", default=None)


@contextmanager
def tree_batch(paths: Sequence[TreePath], settings: AdvantageSettings) -> Iterator[None]:
    """Make the tree paths of a batch known to the estimators that are called inside the ``with`` block."""
    token = current_batch.set(TreeBatch(paths, settings))
    try:
        yield
    finally:
        current_batch.reset(token)


@register_adv_est("treepo")
def compute_treepo_advantage(
    token_level_rewards: torch.Tensor, response_mask: torch.Tensor, index: np.ndarray, **_: Any
) -> Advantages:
    """Compute TreePO's sub-group advantages for outcome rewards (``subgroup_advantages``).

    All response tokens of a trajectory get the same. By default whitened over the batch's response tokens, as in the
    released code; without tree paths, or with trees of depth 1, it then equals verl's ``reinforce_plus_plus_baseline``.

    Args:
        token_level_rewards: (bs, response_length); the reward of a trajectory is the sum of its row.
        response_mask: (bs, response_length), 1 = generated token that is trained.
        index: (bs,) prompt id of every row; rows with the same id are one group.

    Returns:
        Advantages and returns, the same tensor, (bs, response_length), 0 outside the mask.

    Raises:
        RuntimeError: if the trainer has not handed over the tree paths of exactly these rows.
        ValueError: if there are fewer than two response tokens to take a variance of.
    """

    def credit(forest: Forest, rewards_T: np.ndarray, settings: AdvantageSettings) -> np.ndarray:
        advantages_T = subgroup_advantages(forest, rewards_T, settings)
        return np.broadcast_to(advantages_T[:, None], forest.node_TL.shape)

    return _estimate("treepo", credit, token_level_rewards, response_mask, index, Normalization.WHITEN)


@register_adv_est("treepo_segment")
def compute_treepo_segment_advantage(
    token_level_rewards: torch.Tensor, response_mask: torch.Tensor, index: np.ndarray, **_: Any
) -> Advantages:
    """Compute credit per segment from node values (:func:`recipe.treepo.advantages.credit.segment_credit`).

    The tokens of a node get the node's credit. Whitened by default, as in the released code; that shifts the mean, so
    where no credit shall stay no advantage, use ``normalization=std`` or ``none``.

    Arguments, result and errors are those of :func:`compute_treepo_advantage`.
    """
    return _estimate("treepo_segment", segment_credit, token_level_rewards, response_mask, index, Normalization.WHITEN)


@register_adv_est("treerl")
def compute_treerl_advantage(
    token_level_rewards: torch.Tensor, response_mask: torch.Tensor, index: np.ndarray, **_: Any
) -> Advantages:
    """Compute TreeRL's credit (:func:`recipe.treepo.advantages.credit.treerl_credit`), by default as it is.

    Arguments, result and errors are those of :func:`compute_treepo_advantage`.
    """

    def credit(forest: Forest, rewards_T: np.ndarray, settings: AdvantageSettings) -> np.ndarray:
        return treerl_credit(forest, rewards_T)

    return _estimate("treerl", credit, token_level_rewards, response_mask, index, Normalization.NONE)


@register_adv_est("treerpo")
def compute_treerpo_advantage(
    token_level_rewards: torch.Tensor, response_mask: torch.Tensor, index: np.ndarray, config: Any = None, **_: Any
) -> Advantages:
    """Compute TreeRPO's step-level values (``treerpo_credit``), by default as they are.

    verl's ``algorithm.norm_adv_by_std_in_grpo`` decides about the division by the standard deviation. With trees of
    depth 1 it equals verl's ``grpo``. Otherwise like :func:`compute_treepo_advantage`.
    """
    divide_by_std = True if config is None else bool(config.get("norm_adv_by_std_in_grpo", True))

    def credit(forest: Forest, rewards_T: np.ndarray, settings: AdvantageSettings) -> np.ndarray:
        return treerpo_credit(forest, rewards_T, divide_by_std=divide_by_std)

    return _estimate("treerpo", credit, token_level_rewards, response_mask, index, Normalization.NONE)


def shared_token_weights(prompt_ids: Sequence[Any], paths_P: Sequence[TreePath], response_length: int) -> torch.Tensor:
    """Return for each token one over the rows that hold it, so that each unique token weighs one in all.

    Args:
        prompt_ids: (bs,) whose tree the row belongs to.
        paths_P: The path of each row, empty for a row that was sampled on its own.
        response_length: Tokens of a row, padding included.

    Returns:
        (bs, response_length), float32.
    """
    forest = build_forest(prompt_ids, paths_P)
    weights_PL = (1.0 / np.maximum(forest.at(forest.rows_N), 1))[forest.trajectory_P, 1:]
    return _spread(weights_PL, forest.tokens_of_nodes(response_length))


def _estimate(
    name: str,
    credit: Callable[[Forest, np.ndarray, AdvantageSettings], np.ndarray],
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: np.ndarray,
    published: Normalization,
) -> Advantages:
    """Credit the nodes, normalize, and give each token the credit of its node; ``published``: what null stands for."""
    batch = current_batch.get()
    if batch is None or len(batch.paths_P) != len(index):
        raise RuntimeError(
            f"algorithm.adv_estimator={name} got no tree paths for this batch: the trainer that hands them over "
            "is chosen by trainer.v1.trainer_mode=treepo_sync"
        )
    settings = batch.settings
    forest = build_forest(index, batch.paths_P)
    rewards_T = np.zeros(len(forest.node_TL))
    rewards_T[forest.trajectory_P] = token_level_rewards.sum(dim=-1).double().numpy(force=True)
    if settings.chains is ChainCounting.DISTINCT:
        forest = forest.merge_chains()
    credit_PL = credit(forest, rewards_T, settings)[forest.trajectory_P, 1:]
    tokens_PL = forest.tokens_of_nodes(response_mask.shape[1])
    mask = response_mask.numpy(force=True).astype(np.int64, copy=False)  # any other type sums 60 times slower
    credit_PL = _normalize(credit_PL, _count(mask, tokens_PL), settings.normalization or published)
    advantages = _spread(credit_PL, tokens_PL).to(response_mask.device).masked_fill_(response_mask == 0, 0.0)
    return advantages, advantages


def _normalize(credit_PL: np.ndarray, trained_PL: np.ndarray, normalization: Normalization) -> np.ndarray:
    """Normalize over the batch's trained tokens, of which each node of each row has ``trained_PL``.

    The same as verl's ``masked_whiten`` over all tokens, at a cost that does not grow with their number.
    """
    if normalization is Normalization.NONE:
        return credit_PL
    tokens = trained_PL.sum()
    if tokens < 2:
        raise ValueError(f"treepo.advantage.normalization={normalization} needs at least two response tokens")
    mean = (trained_PL * credit_PL).sum() / tokens
    variance = (trained_PL * (credit_PL - mean) ** 2).sum() / (tokens - 1)
    shift = mean if normalization is Normalization.WHITEN else 0.0
    normalized_PL: np.ndarray = (credit_PL - shift) / np.sqrt(variance + 1e-8)
    return normalized_PL


def _count(mask: np.ndarray, tokens_PL: np.ndarray) -> np.ndarray:
    """Return how many tokens of each node are in the mask, (rows, nodes)."""
    tokens = tokens_PL.ravel()
    counts, filled = np.zeros(tokens.shape), tokens > 0
    begin = np.cumsum(tokens) - tokens
    counts[filled] = np.add.reduceat(mask.ravel(), begin[filled])
    return counts.reshape(tokens_PL.shape)


def _spread(values_PL: np.ndarray, tokens_PL: np.ndarray) -> torch.Tensor:
    """Repeat the value of each node for each of its tokens, (rows, tokens of a row), float32."""
    values = np.repeat(values_PL.astype(np.float32).ravel(), tokens_PL.ravel())
    return torch.from_numpy(values.reshape(len(values_PL), -1))
