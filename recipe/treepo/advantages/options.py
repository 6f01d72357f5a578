# SPDX-License-Identifier: Apache-2.0
"""Options of the tree estimators."""

from dataclasses import dataclass, field
from enum import StrEnum


class Aggregation(StrEnum):
    """Average of a trajectory's sub-group advantages."""

    MEAN = "mean"  # plain mean over the distinct groups on its path
    GROUP_SIZE = "group_size"  # weighted by the number of trajectories in each group


class ChainCounting(StrEnum):
    """Number of groups in a chain of segments that did not branch."""

    DISTINCT = "distinct"  # one: all its segments have the same trajectories
    PUBLISHED = "published"  # one per segment; treepo_segment: groups of one trajectory count, roots have value 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvantageOptions:
    """Groups that count, and their weights.

    Attributes:
        aggregation: Average of the sub-group advantages.
        chains: Number of groups in an unbranched chain.
        root_group: Whether all trajectories of a prompt are a group.
        equal_groups: Whether groups of equal rewards count.
        parent_decay: Factor for each node between the parent and the end of the path; above 0, at most 1.
    """

    aggregation: Aggregation = Aggregation.MEAN
    chains: ChainCounting = ChainCounting.DISTINCT
    root_group: bool = True
    equal_groups: bool = True
    parent_decay: float = field(default=1.0, metadata={"most": 1})
