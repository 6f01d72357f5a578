# SPDX-License-Identifier: Apache-2.0
"""Tree advantages, registered with verl (``verl.trainer.ppo.core_algos.register_adv_est``).

verl passes only rewards, mask, prompt ids and its ``algorithm`` group to a custom estimator
(``verl.trainer.ppo.ray_trainer.compute_advantage``). The trainer therefore provides the tree paths of the batch with
:func:`tree_batch` around verl's call. ``credit.py`` contains the formulas.
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
from recipe.treepo.settings.schema import AdvantageSettings, Normalization, StalePolicy, StaleTokenSettings

Advantages = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True)
class TreeBatch:
    """Inputs of the estimators besides verl's arguments.

    Attributes:
        paths_P: ``Tree.tree_path`` of each row of the batch; empty for a row sampled without a tree.
        settings: Options of the estimators.
    """

    paths_P: Sequence[TreePath]
    settings: AdvantageSettings


current_batch: ContextVar[TreeBatch | None] = ContextVar("treepo_tree_batch", default=None)


@contextmanager
def tree_batch(paths: Sequence[TreePath], settings: AdvantageSettings) -> Iterator[None]:
    """Provide the tree paths of a batch to the estimators called inside the ``with`` block."""
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

    All response tokens of a trajectory get the same advantage. By default, advantages are whitened over the batch's
    response tokens, as in the released code. Without tree paths, or with trees of depth 1, they then equal verl's
    ``reinforce_plus_plus_baseline``.

    Args:
        token_level_rewards: (bs, response_length) rewards; the reward of a trajectory is the sum of its row.
        response_mask: (bs, response_length), 1 for each generated token that is trained.
        index: (bs,) prompt id of each row; rows with the same id form one group.

    Returns:
        Advantages and returns as the same tensor, (bs, response_length), 0 outside the mask.

    Raises:
        RuntimeError: if the trainer did not provide the tree paths of exactly these rows.
        ValueError: if the batch has fewer than two response tokens and the normalization needs a variance.
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

    The tokens of a node get the node's credit. By default, credit is whitened, as in the released code. Whitening
    shifts the mean, so zero credit becomes a nonzero advantage. ``normalization=std`` and ``none`` keep it at zero.

    Arguments, result and errors are those of :func:`compute_treepo_advantage`.
    """
    return _estimate("treepo_segment", segment_credit, token_level_rewards, response_mask, index, Normalization.WHITEN)


@register_adv_est("treerl")
def compute_treerl_advantage(
    token_level_rewards: torch.Tensor, response_mask: torch.Tensor, index: np.ndarray, **_: Any
) -> Advantages:
    """Compute TreeRL's credit (:func:`recipe.treepo.advantages.credit.treerl_credit`), not normalized by default.

    Arguments, result and errors are those of :func:`compute_treepo_advantage`.
    """

    def credit(forest: Forest, rewards_T: np.ndarray, settings: AdvantageSettings) -> np.ndarray:
        return treerl_credit(forest, rewards_T)

    return _estimate("treerl", credit, token_level_rewards, response_mask, index, Normalization.NONE)


@register_adv_est("treerpo")
def compute_treerpo_advantage(
    token_level_rewards: torch.Tensor, response_mask: torch.Tensor, index: np.ndarray, config: Any = None, **_: Any
) -> Advantages:
    """Compute TreeRPO's step-level values (``treerpo_credit``), by default without further normalization.

    verl's ``algorithm.norm_adv_by_std_in_grpo`` enables the division by the standard deviation. With trees of depth 1
    the result equals verl's ``grpo``. Other arguments, result and errors are those of :func:`compute_treepo_advantage`.
    """
    divide_by_std = True if config is None else bool(config.get("norm_adv_by_std_in_grpo", True))

    def credit(forest: Forest, rewards_T: np.ndarray, settings: AdvantageSettings) -> np.ndarray:
        return treerpo_credit(forest, rewards_T, divide_by_std=divide_by_std)

    return _estimate("treerpo", credit, token_level_rewards, response_mask, index, Normalization.NONE)


def shared_token_weights(prompt_ids: Sequence[Any], paths_P: Sequence[TreePath], response_length: int) -> torch.Tensor:
    """Return loss weights with which each unique token has a total weight of one.

    The weight of a token is one over the number of rows that contain it.

    Args:
        prompt_ids: (bs,) prompt id of each row.
        paths_P: Tree path of each row; empty for a row sampled without a tree.
        response_length: Number of tokens of a row, padding included.

    Returns:
        (bs, response_length), float32.
    """
    forest = build_forest(prompt_ids, paths_P)
    weights_PL = (1.0 / np.maximum(forest.at(forest.rows_N), 1))[forest.trajectory_P, 1:]
    return _spread(weights_PL, forest.tokens_of_nodes(response_length))


def stale_token_weights(
    prompt_ids: Sequence[Any],
    paths_P: Sequence[TreePath],
    ages_P: Sequence[Sequence[int]],
    settings: StaleTokenSettings,
    response_length: int,
) -> torch.Tensor:
    """Return loss weights by the age of the weights that sampled a token (``treepo.stale_tokens``).

    Args:
        prompt_ids: (bs,) prompt id of each row.
        paths_P: Tree path of each row; empty for a row sampled without a tree.
        ages_P: Age in training steps of each node of a row's path; a row without a path has the age of its sample, or
            none for 0.
        settings: Policy and limit.
        response_length: Number of tokens of a row, padding included.

    Returns:
        (bs, response_length), float32.
    """
    tokens_PL = build_forest(prompt_ids, paths_P).tokens_of_nodes(response_length)
    ages_PL = np.zeros(tokens_PL.shape, dtype=np.int64)
    for row, ages in enumerate(ages_P):
        ages_PL[row, : len(ages)] = ages
    beyond_PL = np.maximum(ages_PL - settings.max_age, 0)
    match settings.policy:
        case StalePolicy.KEEP:
            weights_PL = np.ones(ages_PL.shape)
        case StalePolicy.MASK:
            weights_PL = (beyond_PL == 0).astype(np.float64)
        case StalePolicy.DECAY:
            weights_PL = settings.decay**beyond_PL
    return _spread(weights_PL, tokens_PL)


def _estimate(
    name: str,
    credit: Callable[[Forest, np.ndarray, AdvantageSettings], np.ndarray],
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: np.ndarray,
    published: Normalization,
) -> Advantages:
    """Compute the credit of nodes, normalize it, and spread it over their tokens.

    A row whose reward is not finite gets 0; the other rows get the advantages of the batch without it. ``published`` is
    the normalization of the source; it applies if the setting is null.
    """
    batch = current_batch.get()
    if batch is None or len(batch.paths_P) != len(index):
        raise RuntimeError(
            f"algorithm.adv_estimator={name}: the trainer provides no tree paths for this batch. "
            "Use trainer.v1.trainer_mode=treepo_sync, treepo_colocate_async or treepo_separate_async."
        )
    settings = batch.settings
    rewards_P = token_level_rewards.sum(dim=-1).double().numpy(force=True)
    finite_P = np.isfinite(rewards_P)
    if not finite_P.all():
        advantages = torch.zeros(response_mask.shape, device=response_mask.device)
        if (rows := np.flatnonzero(finite_P)).size:
            with tree_batch([batch.paths_P[row] for row in rows], settings):
                own, _ = _estimate(name, credit, token_level_rewards[rows], response_mask[rows], index[rows], published)
            advantages[rows] = own
        return advantages, advantages
    forest = build_forest(index, batch.paths_P)
    rewards_T = np.zeros(len(forest.node_TL))
    rewards_T[forest.trajectory_P] = rewards_P
    if settings.chains is ChainCounting.DISTINCT:
        forest = forest.merge_chains()
    credit_PL = credit(forest, rewards_T, settings)[forest.trajectory_P, 1:]
    tokens_PL = forest.tokens_of_nodes(response_mask.shape[1])
    mask = response_mask.numpy(force=True).astype(np.int64, copy=False)  # other types sum 60 times slower
    credit_PL = _normalize(credit_PL, _count(mask, tokens_PL), settings.normalization or published)
    advantages = _spread(credit_PL, tokens_PL).to(response_mask.device).masked_fill_(response_mask == 0, 0.0)
    return advantages, advantages


def _normalize(credit_PL: np.ndarray, trained_PL: np.ndarray, normalization: Normalization) -> np.ndarray:
    """Normalize credit over the batch's trained tokens; ``trained_PL`` counts them for each node of each row.

    Whitening equals verl's ``masked_whiten`` over all tokens, but its cost does not grow with their number.
    """
    if normalization is Normalization.NONE:
        return credit_PL
    tokens = trained_PL.sum()
    if tokens < 2:
        raise ValueError(
            f"treepo.advantage.normalization={normalization}: needs at least two response tokens. "
            "Use treepo.advantage.normalization=none."
        )
    mean = (trained_PL * credit_PL).sum() / tokens
    variance = (trained_PL * (credit_PL - mean) ** 2).sum() / (tokens - 1)
    shift = mean if normalization is Normalization.WHITEN else 0.0
    normalized_PL: np.ndarray = (credit_PL - shift) / np.sqrt(variance + 1e-8)
    return normalized_PL


def _count(mask: np.ndarray, tokens_PL: np.ndarray) -> np.ndarray:
    """Return the number of trained tokens of each node, (rows, nodes)."""
    tokens = tokens_PL.ravel()
    counts, filled = np.zeros(tokens.shape), tokens > 0
    begin = np.cumsum(tokens) - tokens
    counts[filled] = np.add.reduceat(mask.ravel(), begin[filled])
    return counts.reshape(tokens_PL.shape)


def _spread(values_PL: np.ndarray, tokens_PL: np.ndarray) -> torch.Tensor:
    """Repeat the value of each node for each of its tokens, (rows, tokens of a row), float32."""
    values = np.repeat(values_PL.astype(np.float32).ravel(), tokens_PL.ravel())
    return torch.from_numpy(values.reshape(len(values_PL), -1))
