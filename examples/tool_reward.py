# SPDX-License-Identifier: Apache-2.0
"""Custom reward function with costs for tool calls: copy it and change it.

    python -m recipe.treepo.main_treepo ... \\
        reward.custom_reward_function.path=examples/tool_reward.py \\
        +reward.custom_reward_function.reward_kwargs.call_cost=0.01 \\
        +reward.custom_reward_function.reward_kwargs.error_cost=0.05

Costs default to zero. "acc" stays unchanged: whether the answer is right. `tree_reward.py` explains how verl calls
`compute_score`.
"""

from typing import Any

from recipe.treepo import reward

# Beginnings of the responses of failed calls, in lower case: those of the calculator and of verl (exception in a tool,
# unknown tool, unreadable arguments).
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
    """Subtract the costs of tool calls from the recipe's score.

    Args:
        data_source, solution_str, ground_truth: see `recipe.treepo.reward.compute_score`.
        extra_info: `extra_info` of the row, plus fields of the search about the trajectory. This function uses
            `tree_turns`: one entry per reply in the conversation, with `tool_calls` (name, arguments, response) if the
            reply holds tool results. Samples without a tree (verl's own tool loop, plain sampling) lack it and have no
            costs.
        call_cost: cost of each tool call.
        error_cost: additional cost of each failed call (ERRORS).
        options: options of the recipe's score; unknown ones raise ValueError.

    Returns:
        The result of the recipe's score, plus "tool_calls" and "tool_errors", the numbers of calls on the path.
    """
    result = reward.compute_score(data_source, solution_str, ground_truth, extra_info, **options)
    turns = (extra_info or {}).get("tree_turns")
    calls = [call for turn in (() if turns is None else turns) for call in turn.get("tool_calls", ())]
    errors = sum(call["response"].lower().startswith(ERRORS) for call in calls)
    result["score"] -= call_cost * len(calls) + error_cost * errors
    return result | {"tool_calls": float(len(calls)), "tool_errors": float(errors)}
