# SPDX-License-Identifier: Apache-2.0
"""Tree advantages, registered with verl (``verl.trainer.ppo.core_algos.register_adv_est``).

``recipe/treepo/advantages/credit.py`` contains the formulas; ``batch.py`` there has the trees of the batch, which the
trainer provides around verl's call.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from verl.trainer.ppo.core_algos import register_adv_est

from recipe.treepo.advantages.batch import TreeBatch, batch_of, tree_batch
from recipe.treepo.advantages.credit import Credit, SegmentCredit, TreePOCredit, TreeRLCredit, TreeRPOCredit
from recipe.treepo.advantages.forest import Floats, Forest, TreePath, build_forest
from recipe.treepo.advantages.options import ChainCounting
from recipe.treepo.search.policy_calls import PolicyCall
from recipe.treepo.settings.schema import Normalization, StalePolicy, StaleTokenSettings

Advantages = tuple[torch.Tensor, torch.Tensor]


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

    rows = token_level_rewards, response_mask, index
    return _estimate("treepo", lambda batch: TreePOCredit(batch.settings), *rows, Normalization.WHITEN)


@register_adv_est("treepo_segment")
def compute_treepo_segment_advantage(
    token_level_rewards: torch.Tensor, response_mask: torch.Tensor, index: np.ndarray, **_: Any
) -> Advantages:
    """Compute credit per segment from node values (:func:`recipe.treepo.advantages.credit.segment_credit`).

    The tokens of a node get the node's credit. By default, credit is whitened, as in the released code. Whitening
    shifts the mean, so zero credit becomes a nonzero advantage. ``normalization=std`` and ``none`` keep it at zero.

    Arguments, result and errors are those of :func:`compute_treepo_advantage`.
    """
    rows = token_level_rewards, response_mask, index
    return _estimate("treepo_segment", lambda batch: SegmentCredit(batch.settings), *rows, Normalization.WHITEN)


@register_adv_est("treerl")
def compute_treerl_advantage(
    token_level_rewards: torch.Tensor, response_mask: torch.Tensor, index: np.ndarray, **_: Any
) -> Advantages:
    """Compute TreeRL's credit (:func:`recipe.treepo.advantages.credit.treerl_credit`), not normalized by default.

    Arguments, result and errors are those of :func:`compute_treepo_advantage`.
    """
    rows = token_level_rewards, response_mask, index
    return _estimate("treerl", lambda batch: TreeRLCredit(), *rows, Normalization.NONE)


@register_adv_est("treerpo")
def compute_treerpo_advantage(
    token_level_rewards: torch.Tensor, response_mask: torch.Tensor, index: np.ndarray, config: Any = None, **_: Any
) -> Advantages:
    """Compute TreeRPO's step-level values (``treerpo_credit``), by default without further normalization.

    verl's ``algorithm.norm_adv_by_std_in_grpo`` enables the division by the standard deviation. With trees of depth 1
    the result equals verl's ``grpo``. Other arguments, result and errors are those of :func:`compute_treepo_advantage`.
    """
    divide_by_std = True if config is None else bool(config.get("norm_adv_by_std_in_grpo", True))
    rows = token_level_rewards, response_mask, index
    return _estimate("treerpo", lambda batch: TreeRPOCredit(divide_by_std=divide_by_std), *rows, Normalization.NONE)


@register_adv_est("treepo_custom")
def compute_custom_advantage(
    token_level_rewards: torch.Tensor, response_mask: torch.Tensor, index: np.ndarray, **_: Any
) -> Advantages:
    """Compute the credit of ``treepo.advantage.custom``, by default without normalization.

    Arguments, result and errors are those of :func:`compute_treepo_advantage`.

    Raises:
        PolicyError: if the user's class fails or returns a wrong result.
    """
    rows = token_level_rewards, response_mask, index
    return _estimate("treepo_custom", lambda batch: CheckedCredit(batch.credit, index), *rows, Normalization.NONE)


class CheckedCredit:
    """The user's credit with a check of its result."""

    def __init__(self, credit: Credit | None, prompts: np.ndarray) -> None:
        """Take the user's class, and the prompt id of each row of the batch.

        Raises:
            RuntimeError: without a class.
        """
        if credit is None:
            raise RuntimeError("algorithm.adv_estimator=treepo_custom: needs a class. Set treepo.advantage.custom.")
        self._credit, self._prompts = credit, prompts

    def credit(self, forest: Forest, rewards: Floats) -> Floats:
        """See :class:`recipe.treepo.advantages.Credit`.

        Raises:
            PolicyError: if the user's class fails or returns a wrong result.
        """
        call = PolicyCall(self._credit, "credit", f"batch of {len(self._prompts)} trajectories", list)
        found = call.result(lambda: np.asarray(self._credit.credit(forest, rewards), dtype=np.float64))
        if found.shape != forest.node_TL.shape:
            rule = f"must have the shape (trajectories, levels), {forest.node_TL.shape}"
            raise call.wrong(found.shape, rule)
        odd = np.argwhere(~np.isfinite(found[:, 1:]) & forest.on_path_TL[:, 1:])
        if len(odd):
            trajectory, level = odd[0]
            row = int(np.flatnonzero(forest.trajectory_P == trajectory)[0])
            node = f"{level + 1} of trajectory {trajectory} of the batch"
            own = replace(call, prompt=f"prompt {self._prompts[row]}", nodes=lambda: [node])
            raise own.wrong(float(found[trajectory, level + 1]), "must be a finite number")
        return found


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
    make_credit: Callable[[TreeBatch], Credit],
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: np.ndarray,
    published: Normalization,
) -> Advantages:
    """Compute the credit of nodes, normalize it, and spread it over their tokens.

    A row whose reward is not finite gets 0; the other rows get the advantages of the batch without it. ``published`` is
    the normalization of the source; it applies if the setting is null.
    """
    batch = batch_of(len(index), f"algorithm.adv_estimator={name}")
    settings = batch.settings
    rewards_P = token_level_rewards.sum(dim=-1).double().numpy(force=True)
    finite_P = np.isfinite(rewards_P)
    if not finite_P.all():
        advantages = torch.zeros(response_mask.shape, device=response_mask.device)
        if (rows := np.flatnonzero(finite_P)).size:
            finite = token_level_rewards[rows], response_mask[rows], index[rows]
            with tree_batch([batch.paths_P[row] for row in rows], settings, batch.credit):
                own, _ = _estimate(name, make_credit, *finite, published)
            advantages[rows] = own
        return advantages, advantages
    forest = build_forest(index, batch.paths_P)
    rewards_T = np.zeros(len(forest.node_TL))
    rewards_T[forest.trajectory_P] = rewards_P
    if settings.chains is ChainCounting.DISTINCT:
        forest = forest.merge_chains()
    credit_PL = make_credit(batch).credit(forest, rewards_T)[forest.trajectory_P, 1:]
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
