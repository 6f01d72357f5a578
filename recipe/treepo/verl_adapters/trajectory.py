# SPDX-License-Identifier: Apache-2.0
"""Fields of a trajectory for the trainer and the reward function."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from recipe.treepo.answers.thinking import FIELD, Thinking
from recipe.treepo.search.statistics import TreeStatistics
from recipe.treepo.search.tree import Tree

CUT_FIELD = "tree_prompt_cut"
"""Field of a trajectory that tells whether the beginning of its prompt was cut off."""
THINKING_TOKENS = "thinking_tokens"
"""Field of a trajectory: number of its tokens inside thoughts; absent for models without thoughts."""


def trajectory_fields(tree: Tree) -> list[dict[str, Any]]:
    """Return the fields of each trajectory of a finished tree, in the order of its leaves.

    Returns:
        ``tree_path``: (node number, index of its first response token) from the root's child on. ``tree_depths``:
        number of segments on the path up to each of these nodes. ``tree_versions``: oldest weight version that
        generated a part of each of these nodes, None if unknown. ``tree_finish_reason`` and ``tree_finish_detail``:
        reason for the end of the path. ``tree_turns``: messages and info of each reply of the interaction.
        ``tree_statistics``: :class:`TreeStatistics` of the whole tree as a dictionary.
    """
    statistics = asdict(TreeStatistics.of(tree))
    paths = [tree.path(leaf) for leaf in tree.leaves]
    return [
        {
            "tree_path": path.spans,
            "tree_depths": [tree.nodes[node].depth for node, _ in path.spans],
            "tree_versions": [tree.nodes[node].segment.min_version for node, _ in path.spans],
            "tree_finish_reason": str(path.last.finish_reason),
            "tree_finish_detail": path.last.finish_detail,
            "tree_turns": [{"messages": reply.messages, **reply.info} for reply in path.replies],
            "tree_statistics": statistics,
        }
        for path in paths
    ]


def with_thinking(row: Mapping[str, Any], thinking: Thinking) -> dict[str, Any]:
    """Return a copy of a data set's row that tells the reward function the tags of thoughts."""
    return {**row, "extra_info": {**(row.get("extra_info") or {}), FIELD: thinking.fields}}
