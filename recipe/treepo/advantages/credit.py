# SPDX-License-Identifier: Apache-2.0
"""Credits of tree nodes from trajectory rewards: TreePO, TreeRL and TreeRPO. Pure numpy.

Each function takes a forest and one reward per trajectory. :func:`subgroup_advantages` returns one advantage per
trajectory. The others return one credit per node of each path, (trajectories, levels). All tokens of a node share its
credit. The root has no credit, and entries past the end of a path are unused. After ``Forest.merge_chains``, a node is
the whole stretch between two branch points.

A prompt group of one trajectory has nothing to compare with: its baseline is 0 and the raw reward stays, as in verl's
grpo and reinforce_plus_plus_baseline. With trees of depth 1, the credits equal those of these two, up to scale.

Differences from the papers and their released code:

1. The segments of an unbranched chain have the same group. The group counts once, and all tokens of the chain share one
   credit. TreePO's released segment estimator also counts groups of one: the leaf and the unbranched segments before
   it, each with weight 1 and advantage 0. A lone trajectory therefore gets 0 there. ``chains=published`` restores these
   counts.
2. TreePO: the value of a root is the mean over its children (0 in the released code and with ``chains=published``). The
   credits of its children therefore sum to zero, like those of any other node's children.
3. TreePO: ``normalization=std`` divides by the deviation of the averaged advantages over the batch. Equation 5 divides
   by the deviation of the single sub-group advantages. Its condition std(R) != 0 is left to verl's group filtering.
4. TreePO: inside a subtree of equal rewards, all credits are 0. The formula alone gives nonzero credits there if paths
   differ in depth, and always with a decay.
5. TreeRL: V(root) is the mean of the prompt group; no leave-one-out baseline is subtracted from the leaves first.
   Differences of values are divided by the square root, as in the paper. With the options of the released script, the
   values are divided before the difference is taken.
6. TreeRPO: the division by the standard deviation is that of verl's grpo, not the paper's own.
7. TreeRPO: groups without variance are not pruned, because verl's group filtering drops whole prompts. Groups that
   remain get no credit.
"""

from dataclasses import replace
from typing import Protocol

import numpy as np

from recipe.treepo.advantages.forest import Floats, Forest
from recipe.treepo.advantages.options import AdvantageOptions, Aggregation, ChainCounting


class Credit(Protocol):
    """Credit of the nodes of trees: a policy of an estimator."""

    def credit(self, forest: Forest, rewards: Floats) -> Floats:
        """Return the credit of each node of each path; all tokens of a node share it.

        ``forest.at`` makes the result from one number per node.

        Args:
            forest: Trees of the batch. Unless ``treepo.advantage.chains=published``, a node is the stretch between
                two branch points.
            rewards: (trajectories,) reward of each trajectory; finite.

        Returns:
            (trajectories, levels), the shape of ``forest.node_TL``. The root has no tokens, and entries past the end of
            a path are unused.
        """
        ...


# verl's grpo adds this to a standard deviation before the division.
EPSILON = 1e-6


def subgroup_advantages(
    forest: Forest, rewards_T: Floats, options: AdvantageOptions, *, single_groups: bool = False
) -> Floats:
    """Compute the sub-group advantage of each trajectory (TreePO, arXiv 2508.17445, section 2.3).

    G_ij contains the trajectories that share the ancestor of trajectory i at depth j; G_i0 is the prompt group. w_ij is
    1 (equation 5), or |G_ij| (equation 6).

    ``A_i = sum_j w_ij (R_i - mean(R over G_ij)) / sum_j w_ij``

    Below the root, groups of one trajectory do not count. A trajectory without any group gets 0.

    Args:
        forest: Trees of the batch.
        rewards_T: Reward of each trajectory.
        options: Choice of groups and weights: ``aggregation``, ``chains``, ``root_group`` and ``equal_groups``.
        single_groups: Whether groups of one trajectory count, too. Their advantage is 0.

    Returns:
        (trajectories,)
    """
    size = forest.at(forest.size_N)
    mean_N = forest.mean_over_group(rewards_T)
    if not single_groups:
        mean_N[forest.lone_roots] = 0.0
    counts = size > (0 if single_groups else 1)
    if options.chains is ChainCounting.DISTINCT:
        # Groups on a path are nested, so equal sizes mean the same group.
        counts[:, 1:] &= size[:, 1:] != size[:, :-1]
    if not options.equal_groups:
        counts &= ~forest.at(forest.agrees(rewards_T))
    counts[:, 0] = options.root_group
    weight = counts * (size if options.aggregation is Aggregation.GROUP_SIZE else 1.0)
    total = weight.sum(axis=1)
    advantages: Floats = (weight * (rewards_T[:, None] - forest.at(mean_N))).sum(axis=1)
    advantages /= np.where(total == 0, 1.0, total)
    return advantages


def segment_credit(forest: Forest, rewards_T: Floats, options: AdvantageOptions) -> Floats:
    """Credit each node with its value minus that of its parent (estimator ``treepo_segment``).

    ``credit(n) = V(n) - eta^k V(parent of n)``, TreePO's released ``tree_seg_baseline``. The value V of a leaf is its
    sub-group advantage, weighted by group size. V of any other node is the plain mean over its children. k is the
    number of nodes below the parent on the path, at least 1. With a decay eta below 1, a node keeps more of its value
    the farther the end of the path is.

    With ``chains=published``, groups of one trajectory count, and the value of a root is 0, as in the released code.

    Args:
        forest: Trees of the batch.
        rewards_T: Reward of each trajectory.
        options: ``parent_decay`` (eta), and the choice of groups as for :func:`subgroup_advantages`.
    """
    published = options.chains is ChainCounting.PUBLISHED
    options = replace(options, aggregation=Aggregation.GROUP_SIZE)
    leaf_values = subgroup_advantages(forest, rewards_T, options, single_groups=published)
    value_N = forest.mean_over_children(leaf_values)
    value_N[forest.parent_N < 0 if published else forest.lone_roots] = 0.0
    value, agrees_N = forest.at(value_N), forest.agrees(rewards_T)
    agrees_N[forest.lone_roots] = False
    to_end = forest.length_T[:, None] - np.arange(forest.node_TL.shape[1] - 1)
    credit = np.zeros_like(value)
    credit[:, 1:] = value[:, 1:] - options.parent_decay**to_end * value[:, :-1]
    credit[:, 1:][forest.at(agrees_N)[:, :-1]] = 0.0
    return credit


def treerl_credit(forest: Forest, rewards_T: Floats) -> Floats:
    """Credit each node with its global plus its local advantage (TreeRL, arXiv 2506.11902, equations 2 to 4).

    ``credit(n) = ((V(n) - V(root)) + (V(n) - V(parent of n))) / sqrt(|L(n)|)``, with the leaves L(n) below n and their
    mean reward V(n). A shared token is trained once per trajectory; the square root dampens this.

    Args:
        forest: Trees of the batch.
        rewards_T: Reward of each trajectory.
    """
    value_N = forest.mean_over_group(rewards_T)
    value_N[forest.lone_roots] = 0.0
    value, leaves = forest.at(value_N), np.maximum(forest.at(forest.size_N), 1)
    credit = np.zeros_like(value)
    credit[:, 1:] = (2 * value[:, 1:] - value[:, :1] - value[:, :-1]) / np.sqrt(leaves[:, 1:])
    return credit


def treerpo_credit(forest: Forest, rewards_T: Floats, *, divide_by_std: bool = True) -> Floats:
    """Credit each node with its expected reward relative to its siblings (TreeRPO, arXiv 2506.05183).

    ``credit(n) = (r(n) - mean(r over siblings)) / (std(r over siblings) + 1e-6)``. r of a leaf is its reward; r of any
    other node is the mean over its children. The siblings are all children of one parent, n included. The standard
    deviation is that of a sample, as in verl's grpo. An only child gets 0.

    Args:
        forest: Trees of the batch.
        rewards_T: Reward of each trajectory.
        divide_by_std: Whether to divide by the standard deviation. With division, the credits of two siblings do not
            depend on the size of their difference.
    """
    value_N = forest.mean_over_children(rewards_T)
    below = forest.parent_N >= 0
    deviation_N = np.zeros_like(value_N)
    deviation_N[below] = (
        value_N[below] - value_N[forest.parent_N[below]]
    )  # a parent's value is the mean of the siblings
    variance_N = forest.sum_over_children(deviation_N**2) / np.maximum(forest.children_N - 1, 1)
    mean_N, std_N = value_N.copy(), np.sqrt(variance_N)
    mean_N[forest.lone_roots], std_N[forest.lone_roots] = 0.0, 1.0
    value, mean, std = forest.at(value_N), forest.at(mean_N), forest.at(std_N)
    credit = np.zeros_like(value)
    credit[:, 1:] = value[:, 1:] - mean[:, :-1]
    if divide_by_std:
        credit[:, 1:] /= std[:, :-1] + EPSILON
    return credit


class TreePOCredit:
    """Sub-group advantages (:func:`subgroup_advantages`): all tokens of a trajectory get the same."""

    def __init__(self, options: AdvantageOptions) -> None:
        self._options = options

    def credit(self, forest: Forest, rewards: Floats) -> Floats:
        """See :class:`Credit`."""
        advantages_T = subgroup_advantages(forest, rewards, self._options)
        return np.broadcast_to(advantages_T[:, None], forest.node_TL.shape)


class SegmentCredit(TreePOCredit):
    """Value of a node minus that of its parent (:func:`segment_credit`)."""

    def credit(self, forest: Forest, rewards: Floats) -> Floats:
        """See :class:`Credit`."""
        return segment_credit(forest, rewards, self._options)


class TreeRLCredit:
    """Global plus local advantage (:func:`treerl_credit`)."""

    def credit(self, forest: Forest, rewards: Floats) -> Floats:
        """See :class:`Credit`."""
        return treerl_credit(forest, rewards)


class TreeRPOCredit:
    """Expected reward relative to the siblings (:func:`treerpo_credit`)."""

    def __init__(self, *, divide_by_std: bool) -> None:
        self._divide_by_std = divide_by_std

    def credit(self, forest: Forest, rewards: Floats) -> Floats:
        """See :class:`Credit`."""
        return treerpo_credit(forest, rewards, divide_by_std=self._divide_by_std)
