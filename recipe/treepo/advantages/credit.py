# SPDX-License-Identifier: Apache-2.0
"""What each node of a tree is credited with for the rewards of its trajectories. Pure numpy.

Each function takes a forest and one reward per trajectory; all but the first return the credit of each node on each
path, (trajectories, levels). All tokens of a node share its credit, the root has none, and what lies past the end of a
path is not read. Where a forest has merged chains (``Forest.merge_chains``), "node" means all that lies between two
branch points.

In a prompt group of one trajectory there is nothing to compare with: the baseline is 0 and the raw reward stays, as in
verl's grpo and reinforce_plus_plus_baseline. With trees of depth 1 the credits are those of these two, up to scale.

Departures from the papers and their released code:

1. A group that a path passes more than once, because a segment did not branch, counts once, and the tokens of an
   unbranched chain share one credit; ``chains=published`` restores the count per segment.
2. TreePO: the value of a root is the mean over its children, where the released code has 0, so that the credits of its
   children sum to zero like those of any other node's.
3. TreePO: a sub-tree whose leaves all have the same reward gets no credit inside. By the formula alone it gets some
   where its paths differ in depth, and with a decay always.
4. TreeRL: no leave-one-out baseline is taken from the leaves first; V(root) is the prompt group's mean.
5. TreeRPO: groups without variance are not pruned, because verl's group filtering does so for whole prompts; what is
   left gets no credit.
"""

from dataclasses import replace

import numpy as np

from recipe.treepo.advantages.forest import Floats, Forest
from recipe.treepo.advantages.options import AdvantageOptions, Aggregation, ChainCounting

# What verl's grpo adds to a standard deviation before it divides.
EPSILON = 1e-6


def subgroup_advantages(forest: Forest, rewards_T: Floats, options: AdvantageOptions) -> Floats:
    """Compute the sub-group advantage of each trajectory (TreePO, arXiv 2508.17445, section 2).

    Trajectory i shares its ancestor at depth j with the trajectories of group G_ij, and G_i0 is the prompt group:
    ``A_i = sum_j w_ij (R_i - mean(R over G_ij)) / sum_j w_ij`` with w_ij = 1, or |G_ij|. Groups of one trajectory are
    left out below the root. A trajectory that no group is left for gets 0.

    Args:
        forest: Trees of the batch.
        rewards_T: Reward of each trajectory.
        options: ``aggregation``, ``chains``, ``root_group`` and ``equal_groups`` are read.

    Returns:
        (trajectories,)
    """
    size = forest.at(forest.size_N)
    mean_N = forest.mean_over_group(rewards_T)
    mean_N[forest.lone_roots] = 0.0
    counts = size > 1
    if options.chains is ChainCounting.DISTINCT:
        # Groups on a path are nested, so an equal size means the same group.
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
    """Credit each node with what it changes (estimator ``treepo_segment``; TreePO's released ``tree_seg_baseline``).

    ``credit(n) = V(n) - eta^k V(parent of n)``. The value V of a leaf is its sub-group advantage weighted by group
    size, that of any other node the plain mean over its children. k is the number of nodes below the parent on the
    path, at least 1, so that a decay eta below 1 keeps more of the value where the end is far.

    Args:
        forest: Trees of the batch.
        rewards_T: Reward of each trajectory.
        options: ``parent_decay`` (eta) is read, and the choice of groups as for :func:`subgroup_advantages`.
    """
    leaf_values = subgroup_advantages(forest, rewards_T, replace(options, aggregation=Aggregation.GROUP_SIZE))
    value_N = forest.mean_over_children(leaf_values)
    value_N[forest.lone_roots] = 0.0
    value, agrees_N = forest.at(value_N), forest.agrees(rewards_T)
    agrees_N[forest.lone_roots] = False
    to_end = forest.length_T[:, None] - np.arange(forest.node_TL.shape[1] - 1)
    credit = np.zeros_like(value)
    credit[:, 1:] = value[:, 1:] - options.parent_decay**to_end * value[:, :-1]
    credit[:, 1:][forest.at(agrees_N)[:, :-1]] = 0.0
    return credit


def treerl_credit(forest: Forest, rewards_T: Floats) -> Floats:
    """Credit each node with its global and its local advantage (TreeRL, arXiv 2506.11902, equations 2 to 4).

    ``credit(n) = ((V(n) - V(root)) + (V(n) - V(parent of n))) / sqrt(|L(n)|)``, where L(n) are the leaves below n and
    V(n) their mean reward. What many trajectories share is trained once for each of them; the square root holds that
    back.

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
    """Compare each node with its siblings by expected reward (TreeRPO, arXiv 2506.05183).

    ``credit(n) = (r(n) - mean(r over siblings)) / (std(r over siblings) + 1e-6)``, where r of a leaf is its reward,
    r of any other node the mean over its children, and the siblings, n among them, are the children of one parent; the
    standard deviation is that of a sample, as in verl's grpo. An only child gets 0.

    Args:
        forest: Trees of the batch.
        rewards_T: Reward of each trajectory.
        divide_by_std: Whether to divide at all. Two siblings get the same credit however small their difference is if
            so.
    """
    value_N = forest.mean_over_children(rewards_T)
    below = forest.parent_N >= 0
    deviation_N = np.zeros_like(value_N)
    deviation_N[below] = value_N[below] - value_N[forest.parent_N[below]]  # a parent's value is the siblings' mean
    variance_N = forest.sum_over_children(deviation_N**2) / np.maximum(forest.children_N - 1, 1)
    mean_N, std_N = value_N.copy(), np.sqrt(variance_N)
    mean_N[forest.lone_roots], std_N[forest.lone_roots] = 0.0, 1.0
    value, mean, std = forest.at(value_N), forest.at(mean_N), forest.at(std_N)
    credit = np.zeros_like(value)
    credit[:, 1:] = value[:, 1:] - mean[:, :-1]
    if divide_by_std:
        credit[:, 1:] /= std[:, :-1] + EPSILON
    return credit
