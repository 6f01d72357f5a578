# SPDX-License-Identifier: Apache-2.0
"""Example reward with costs for tool calls: known scores, samples without a tree, and verl's error texts."""

import asyncio
import logging
from types import SimpleNamespace

import pytest

from helpers.load_file import load_file
from recipe.treepo.reward import METRICS

compute_score = load_file("examples/tool_reward.py").compute_score


def turn(*responses: str) -> dict:
    """Return an entry of tree_turns as written by ToolInteraction."""
    calls = [{"name": "calculator", "arguments": '{"expression": "1"}', "response": text} for text in responses]
    return {"messages": [{"role": "tool", "content": text} for text in responses], "tool_calls": calls}


def test_each_call_and_each_error_costs() -> None:
    """Four calls in two of three turns, one call failed: 1 - 4 * 0.1 - 1 * 0.25 = 0.35."""
    turns = [
        turn("4", "error: division by zero"),
        {"messages": [{"role": "user", "content": "error"}]},
        turn("1/3", "5"),
    ]
    result = compute_score("d", r"\boxed{7}", "7", {"tree_turns": turns}, call_cost=0.1, error_cost=0.25)
    assert result["score"] == pytest.approx(0.35)
    assert (result["acc"], result["tool_calls"], result["tool_errors"]) == (1.0, 4.0, 1.0)


def test_a_wrong_answer_pays_too() -> None:
    result = compute_score("d", r"\boxed{8}", "7", {"tree_turns": [turn("error: x", "Error when")]}, error_cost=0.5)
    assert (result["score"], result["acc"], result["tool_calls"], result["tool_errors"]) == (-1.0, 0.0, 2.0, 2.0)


def test_calls_are_counted_and_cost_nothing_by_default() -> None:
    result = compute_score("d", r"\boxed{7}", "7", {"tree_turns": [turn("error: x")]})
    assert (result["score"], result["tool_calls"], result["tool_errors"]) == (1.0, 1.0, 1.0)


def test_an_error_is_one_only_where_the_response_begins_with_it() -> None:
    turns = [turn("the error is 3", " 5", "", "terror", "ERROR: x", "error")]
    assert compute_score("d", "", "7", {"tree_turns": turns})["tool_errors"] == 2.0


@pytest.mark.parametrize("about", [None, {}, {"num_turns": 4}, {"tree_turns": []}, {"tree_turns": None}])
def test_samples_without_a_tree_have_the_same_keys_and_no_costs(about: dict | None) -> None:
    result = compute_score("d", r"\boxed{7}", "7", about, call_cost=1.0, error_cost=1.0)
    assert list(result) == [*METRICS, "tool_calls", "tool_errors"]
    assert all(type(value) is float for value in result.values())
    assert (result["score"], result["tool_calls"], result["tool_errors"]) == (1.0, 0.0, 0.0)


def test_the_recipes_options_arrive_and_unknown_ones_are_named() -> None:
    result = compute_score("d", "so 7", "7", {}, require_box=True, wrong_score=-1.0)
    assert result["score"] == -1.0
    with pytest.raises(ValueError, match="cal_cost"):
        compute_score("d", "7", "7", {}, cal_cost=0.1)


def test_verls_messages_of_failed_calls_count_as_errors(caplog: pytest.LogCaptureFixture) -> None:
    """verl's own _call_tool: an unknown tool, arguments that are not JSON, a tool that raises."""
    from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop
    from verl.tools.function_tool import FunctionTool

    def broken(expression: str) -> str:
        raise RuntimeError("out of order")

    agent = SimpleNamespace(
        tools={"broken": FunctionTool("broken", broken, None)},
        max_tool_response_length=256,
        tool_response_truncate_side="middle",
    )
    calls = [("other", "{}"), ("broken", "{"), ("broken", '{"expression": "1"}'), ("broken", '{"x": 1}')]
    with caplog.at_level(logging.CRITICAL):
        texts = [
            asyncio.run(
                ToolAgentLoop._call_tool(agent, SimpleNamespace(name=name, arguments=arguments), {}, SimpleNamespace())
            )[0].text
            for name, arguments in calls
        ]
    result = compute_score("d", r"\boxed{7}", "7", {"tree_turns": [turn(*texts)]}, error_cost=0.125)
    assert (result["tool_errors"], result["score"]) == (4.0, 0.5), texts
