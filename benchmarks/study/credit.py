# SPDX-License-Identifier: Apache-2.0
"""Compare the credit of estimators with true advantages, segment by segment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recipe.treepo.advantages.credit import (
    EPSILON,
    Credit,
    SegmentCredit,
    TreePOCredit,
    TreeRLCredit,
    TreeRPOCredit,
)
from recipe.treepo.advantages.forest import Floats, Forest, build_forest
from recipe.treepo.advantages.options import AdvantageOptions, Aggregation
from recipe.treepo.search.tree import Tree

PLAIN_SAMPLES = "plain samples"
"""Name of the sampler without trees."""


def group_advantages(rewards: Floats) -> Floats:
    """Return GRPO's advantages of the trajectories of one prompt."""
    advantages: Floats = (rewards - rewards.mean()) / (rewards.std(ddof=1) + EPSILON)
    return advantages


class GroupCredit:
    """GRPO's advantage: the reward relative to the group of the prompt, the same for all tokens."""

    def credit(self, forest: Forest, rewards: Floats) -> Floats:
        """See :class:`recipe.treepo.advantages.Credit`."""
        return np.broadcast_to(group_advantages(rewards)[:, None], forest.node_TL.shape)


class BaselineCredit:
    """The reward less the mean of the prompt: ``treepo`` without trees, and verl's ``reinforce_plus_plus_baseline``."""

    def credit(self, forest: Forest, rewards: Floats) -> Floats:
        """See :class:`recipe.treepo.advantages.Credit`."""
        return np.broadcast_to((rewards - rewards.mean())[:, None], forest.node_TL.shape)


GROUP_ESTIMATORS: Mapping[str, Credit] = {"grpo": GroupCredit(), "reinforce_plus_plus_baseline": BaselineCredit()}
"""Estimators of verl that compare the trajectories of a prompt."""
ESTIMATORS: Mapping[str, Credit] = {
    **GROUP_ESTIMATORS,
    "treepo": TreePOCredit(AdvantageOptions()),
    "treepo, group_size": TreePOCredit(AdvantageOptions(aggregation=Aggregation.GROUP_SIZE)),
    "treepo, no equal groups": TreePOCredit(AdvantageOptions(equal_groups=False)),
    "treepo_segment": SegmentCredit(AdvantageOptions()),
    "treerl": TreeRLCredit(),
    "treerpo": TreeRPOCredit(divide_by_std=True),
}
"""The same and those of trees with their default options, and two options of ``treepo``."""
WHITENED = {
    *("reinforce_plus_plus_baseline", "treepo", "treepo, group_size", "treepo, no equal groups", "treepo_segment"),
}
"""Estimators whose default is to whiten over the batch."""


def credit_of_tokens(tree: Tree, rewards: Sequence[float], credit: Credit) -> list[Floats]:
    """Return the credit of each response token of each trajectory.

    Args:
        rewards: Reward of each leaf, in the order of ``tree.leaves``.
    """
    paths = [tree.path(leaf) for leaf in tree.leaves]
    forest = build_forest(["prompt"] * len(paths), [path.spans for path in paths]).merge_chains()
    rewards_T = np.zeros(len(paths))
    rewards_T[forest.trajectory_P] = rewards
    lengths = [tree.nodes[leaf].end for leaf in tree.leaves]
    rows = credit.credit(forest, rewards_T)[forest.trajectory_P, 1:]
    tokens = forest.tokens_of_nodes(max(lengths))
    return [np.repeat(row, own)[:length] for row, own, length in zip(rows, tokens, lengths, strict=True)]


def boundaries(length: int, segment: int) -> list[int]:
    """Return the bounds of the segments of a response, from 0 to its length."""
    return [*range(0, length, segment), length]


def segment_means(values: Floats, segment: int) -> Floats:
    """Return the mean over each segment of a response."""
    bounds = boundaries(len(values), segment)
    return np.array([values[begin:end].mean() for begin, end in zip(bounds, bounds[1:], strict=False)])


@dataclass(frozen=True)
class Agreement:
    """How well credit agrees with true advantages.

    Attributes:
        correlation: Pearson's correlation over all segments of all trajectories.
        equal_signs: Share of equal signs, among segments with a credit and a clear true advantage.
        credited: Share of the segments with a clear true advantage that have a credit other than 0.
        segments: Number of segments.
    """

    correlation: float
    equal_signs: float
    credited: float
    segments: int


def agreement(given: Floats, true: Floats, *, clear: float = 1e-9) -> Agreement:
    """Compare credits with true advantages, (segments,) each.

    Args:
        clear: A true advantage is clear if its absolute value is larger.
    """
    is_clear, is_credited = np.abs(true) > clear, np.abs(given) > 1e-9
    both = is_clear & is_credited
    return Agreement(
        correlation=float(np.corrcoef(given, true)[0, 1]),
        equal_signs=float((np.sign(given) == np.sign(true))[both].mean()),
        credited=float(both.sum() / is_clear.sum()),
        segments=len(true),
    )
