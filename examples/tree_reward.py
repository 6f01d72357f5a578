# SPDX-License-Identifier: Apache-2.0
"""A custom reward function that sees how its trajectory ended in the tree: copy it and change it.

    python -m recipe.treepo.main_treepo ... \\
        reward.custom_reward_function.path=examples/tree_reward.py \\
        +reward.custom_reward_function.reward_kwargs.cut_off_cost=0.2

verl calls `compute_score` with keyword arguments, from threads of several processes: it keeps no state, and returns the
same keys every time. Values beside "score" are logged in validations, and `algorithm.filter_groups.metric` may name
them. "acc" stays unchanged: whether the answer is right.
"""

from typing import Any

from recipe.treepo import reward

# Reasons for which the search, not the model, ended a path.
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
    """Take costs that depend on the tree off the recipe's score.

    Args:
        data_source, solution_str, ground_truth: see `recipe.treepo.reward.compute_score`.
        extra_info: the row's own `extra_info` and the search's fields about the trajectory: `tree_path`, the
            (node number, response token at which it begins) pairs of its nodes below the root; `tree_finish_reason`;
            `tree_statistics`, numbers about the whole tree. Samples without a tree (`treepo.sampler=plain`, and
            validations of single turns unless `treepo.validate_with_tree=true`) have none of them, and no costs here.
        node_cost: taken off for each node on the path.
        cut_off_cost: taken off where the search ended the path.
        options: of the recipe's score; unknown ones raise ValueError.

    Returns:
        The result of the recipe's score, and "tree_nodes" and "tree_cut_off" (0.0 or 1.0).
    """
    result = reward.compute_score(data_source, solution_str, ground_truth, **options)
    about = extra_info or {}
    nodes = len(about.get("tree_path") or ())
    cut_off = about.get("tree_finish_reason") in CUT_OFF
    result["score"] -= node_cost * nodes + cut_off_cost * cut_off
    return result | {"tree_nodes": float(nodes), "tree_cut_off": float(cut_off)}
