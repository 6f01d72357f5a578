# SPDX-License-Identifier: Apache-2.0
"""Custom reward function with costs for the trajectory's path in the tree: copy it and change it.

    python -m recipe.treepo.main_treepo ... \\
        reward.custom_reward_function.path=examples/tree_reward.py \\
        +reward.custom_reward_function.reward_kwargs.cut_off_cost=0.2

verl calls `compute_score` with keyword arguments, from threads of several processes. The function must keep no state
and always return the same keys. Validations log the values beside "score", and `algorithm.filter_groups.metric` may
name them. "acc" stays unchanged: whether the answer is right.
"""

from typing import Any

from recipe.treepo import reward

# Finish reasons of paths that the search ended, not the model.
CUT_OFF = frozenset({"length", "depth", "turns", "repetition"})


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: dict[str, Any] | None = None,
    *,
    node_cost: float = 0.0,
    cut_off_cost: float = 0.1,
    **options: Any,
) -> dict[str, float]:
    """Subtract costs that depend on the tree from the recipe's score.

    Args:
        data_source, solution_str, ground_truth: see `recipe.treepo.reward.compute_score`.
        extra_info: `extra_info` of the row, plus fields of the search about the trajectory: `tree_path`, (node number,
            first response token) pairs of its nodes below the root; `tree_finish_reason`; `tree_statistics`, numbers
            about the whole tree. Samples without a tree (`treepo.sampler=plain`, and validations of single turns unless
            `treepo.validate_with_tree=true`) lack these fields and have no costs.
        node_cost: cost of each node on the path.
        cut_off_cost: cost of a path that the search ended.
        options: options of the recipe's score; unknown ones raise ValueError.

    Returns:
        The result of the recipe's score, plus "tree_nodes" and "tree_cut_off" (0.0 or 1.0).
    """
    result = reward.compute_score(data_source, solution_str, ground_truth, extra_info, **options)
    about = extra_info or {}
    nodes = len(about.get("tree_path") or ())
    cut_off = about.get("tree_finish_reason") in CUT_OFF
    result["score"] -= node_cost * nodes + cut_off_cost * cut_off
    return result | {"tree_nodes": float(nodes), "tree_cut_off": float(cut_off)}
