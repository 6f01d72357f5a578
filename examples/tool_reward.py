# SPDX-License-Identifier: Apache-2.0
"""A custom reward function that sees the tool calls of a model: copy it and change it.

    python -m recipe.treepo.main_treepo ... \\
        reward.custom_reward_function.path=examples/tool_reward.py \\
        +reward.custom_reward_function.reward_kwargs.call_cost=0.01 \\
        +reward.custom_reward_function.reward_kwargs.error_cost=0.05

See `tree_reward.py` for how verl calls `compute_score`. Costs are zero unless given; "acc" stays unchanged: whether
the answer is right.
"""

from typing import Any

from recipe.treepo import reward

# How the response of a failed call begins, in small letters: the calculator's, and verl's where a tool raised an
# exception, where there is no such tool and where the arguments cannot be read.
ERRORS = ("error", "unknown function '", "invalid json in arguments")


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: dict[str, Any] | None = None,
    *,
    call_cost: float = 0.0,
    error_cost: float = 0.0,
    **options: Any,
) -> dict[str, float]:
    """Take costs of tool calls off the recipe's score.

    Args:
        data_source, solution_str, ground_truth: see `recipe.treepo.reward.compute_score`.
        extra_info: the row's own `extra_info` and the search's fields about the trajectory; used here is
            `tree_turns`, one entry for each time that something was added to the conversation, with `tool_calls` (name,
            arguments, response) where that was the results of tools. Samples without a tree (verl's own tool loop,
            plain sampling) have none, and no costs here.
        call_cost: taken off for each tool call.
        error_cost: taken off, beside call_cost, for each call that failed (ERRORS).
        options: of the recipe's score; unknown ones raise ValueError.

    Returns:
        The result of the recipe's score, and "tool_calls" and "tool_errors", numbers of calls on the path.
    """
    result = reward.compute_score(data_source, solution_str, ground_truth, **options)
    turns = (extra_info or {}).get("tree_turns")
    calls = [call for turn in (() if turns is None else turns) for call in turn.get("tool_calls", ())]
    errors = sum(call["response"].lower().startswith(ERRORS) for call in calls)
    result["score"] -= call_cost * len(calls) + error_cost * errors
    return result | {"tool_calls": float(len(calls)), "tool_errors": float(errors)}
