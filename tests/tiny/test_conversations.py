# SPDX-License-Identifier: Apache-2.0
"""Properties of the supervised conversations, checked from their texts alone."""

from __future__ import annotations

import json
import random
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.example_counts import examples
from helpers.tiny_stories import LINE, answer_from_story, boxed, calculate
from tiny import conversations as tiny_conversations
from tiny.conversations import CHECK_AGAIN, FINAL_ANSWER, Conversation, Sloppiness, conversations
from tiny.problems import Step, WordProblem, generate_problems

SEEDS = st.integers(min_value=0, max_value=2**32 - 1)
SLOPPY = Sloppiness(first=0.25, again=0.15, tool=0.2)


def made(seed: int, count: int = 20, sloppiness: Sloppiness = SLOPPY, tool_share: float = 0.5) -> list[Conversation]:
    """Make conversations on new problems."""
    return conversations(generate_problems(count, seed), seed, sloppiness, tool_share=tool_share)


def assistant_turns(conversation: Conversation) -> list[dict]:
    """Return the assistant's messages."""
    return [message for message in conversation.messages if message["role"] == "assistant"]


@examples(short=10, long=30)
@given(seed=SEEDS)
def test_clean_conversations_state_the_right_answer_in_every_solution(seed: int) -> None:
    for conversation in made(seed, sloppiness=Sloppiness()):
        assert conversation.answer == answer_from_story(conversation.problem)
        turns = assistant_turns(conversation)
        solved = [boxed(turn["content"]) for turn in turns if "tool_calls" not in turn]
        assert set(solved) == {conversation.answer}
        assert "roughly" not in json.dumps(conversation.messages)
        if conversation.tools:
            steps = len(re.findall(r"\d+", conversation.problem)) - 1
            assert len(turns) == steps + 1


@examples(short=10, long=30)
@given(seed=SEEDS)
def test_recheck_conversations_alternate_and_go_on_while_wrong(seed: int) -> None:
    for conversation in made(seed, tool_share=0.0):
        roles = [message["role"] for message in conversation.messages]
        asked = [message["content"] for message in conversation.messages[2::2]]
        turns = assistant_turns(conversation)
        assert conversation.tools is None
        assert roles == ["user", "assistant"] * len(turns)
        assert 1 <= len(turns) <= 6
        assert set(asked[:-1]) <= {CHECK_AGAIN}
        assert not asked or asked[-1] in (CHECK_AGAIN, FINAL_ANSWER)
        solutions = turns[:-1] if FINAL_ANSWER in asked else turns
        assert all(LINE.match(turn["content"].split("\n")[0]) for turn in solutions)
        if FINAL_ANSWER in asked:
            values = [boxed(turn["content"]) for turn in solutions]
            assert "\n" not in turns[-1]["content"]
            final = boxed(turns[-1]["content"])
            assert final == values[-1] or (final == conversation.answer and final in values)
        elif len(turns) > 1:
            assert boxed(turns[-1]["content"]) == conversation.answer, (
                "a wrong answer never ends a conversation without a request"
            )


def test_some_right_solutions_are_checked_and_checks_help() -> None:
    rows = made(1, 3000, tool_share=0.0)
    first = [boxed(row.messages[1]["content"]) == row.answer for row in rows]
    checked = [row for row in rows if len(row.messages) > 3 and row.messages[2]["content"] == CHECK_AGAIN]
    again = [boxed(row.messages[3]["content"]) == row.answer for row in checked]
    # Of 4 steps on average, 0.225 and 0.135 each are wrong: 0.775^4 = 0.36, 0.865^4 = 0.56.
    assert 0.32 < sum(first) / len(first) < 0.42
    assert sum(again) / len(again) > sum(first) / len(first) + 0.1
    assert any(boxed(row.messages[1]["content"]) == row.answer for row in checked)
    lengths = [len(assistant_turns(row)) for row in rows]
    assert {1, 2, 3, 4, 5, 6} == set(lengths)
    assert sum(2 <= length <= 4 for length in lengths) > len(lengths) / 2


@examples(short=10, long=30)
@given(seed=SEEDS)
def test_tool_results_follow_from_the_calls_and_values_are_carried_on(seed: int) -> None:
    for conversation in made(seed, tool_share=1.0):
        numbers = [int(n) for n in re.findall(r"\d+", conversation.problem)]
        value, steps = numbers[0], 0
        for message, following in pairwise(conversation.messages[1:]):
            if message["role"] != "assistant":
                continue
            value, steps = inline(message["content"], value, steps)
            (call,) = message["tool_calls"]
            left, op, right = call["function"]["arguments"]["expression"].split()
            assert int(left) == value
            assert abs(int(right) - numbers[steps + 1]) <= 1
            value, steps = calculate(op, int(left), int(right)), steps + 1
            assert following == {"role": "tool", "content": str(value)}
            assert 1 <= value <= 60
        last = conversation.messages[-1]["content"]
        value, steps = inline("\n".join(last.split("\n")[:-1]), value, steps)
        assert (boxed(last), steps) == (value, len(numbers) - 1)


def inline(content: str, value: int, steps: int) -> tuple[int, int]:
    """Follow the steps without the tool, all of which have the marker word."""
    for line in filter(None, content.split("\n")):
        match = LINE.match(line)
        assert match, line
        assert match["marker"], line
        assert int(match[2]) == value
        value, steps = int(match[5]), steps + 1
    return value, steps


def testwrong_operands_and_inline_steps_occur_only_where_sloppy() -> None:
    rows = made(3, 1000, tool_share=1.0)
    inline_steps = sum("roughly" in message["content"] for row in rows for message in row.messages)
    wrong = sum(boxed(row.messages[-1]["content"]) != row.answer for row in rows)
    assert inline_steps > 300
    # Of 4 steps, 0.2 * (0.75 * 0.9 + 0.25) = 0.185 each are wrong: 1 - 0.815^4 = 0.56, less the errors that cancel.
    assert 0.42 < wrong / len(rows) < 0.56


def testwrong_operands_keep_the_bounds() -> None:
    # 10 is not an operand.
    assert tiny_conversations.wrong_operand(Step("+", 9, "", ""), 10, ()) == 8
    assert tiny_conversations.wrong_operand(Step("+", 5, "", ""), 10, ()) == 6
    # 55 + 6 = 61 is out of bounds.
    assert tiny_conversations.wrong_operand(Step("+", 5, "", ""), 55, ()) == 4
    # 5 - 3 = 2 cannot lose 2, and 1 is not an operand: the right operand stays.
    assert tiny_conversations.wrong_operand(Step("-", 2, "", ""), 5, (Step("-", 2, "", ""),)) == 2


def test_same_seed_gives_same_conversations() -> None:
    assert made(7) == made(7)
    problems = generate_problems(50, 7)
    assert conversations(problems, 1, SLOPPY, tool_share=0.5) != conversations(problems, 2, SLOPPY, tool_share=0.5)


def test_the_final_answer_may_be_an_earlier_right_one(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = WordProblem("Mia has 4.", "Mia", "pens", 4, (Step("+", 3, "", "Buying 3"),))
    values = iter([7, 8])
    monkeypatch.setattr(tiny_conversations, "work_out", lambda *_, **__: (["x"], next(values)))
    monkeypatch.setattr(tiny_conversations, "right_answer", lambda _: 7)
    monkeypatch.setattr(tiny_conversations, "CHECK_RIGHT_SHARE", 1.0)
    monkeypatch.setattr(tiny_conversations, "FINAL_RIGHT_SHARE", 1.0)
    done = tiny_conversations.recheck_conversation(problem, random.Random(0), SLOPPY, max_turns=3)
    assert [message["content"] for message in done.messages] == [
        *("Mia has 4.", "x\nSo Mia has \\boxed{7} pens.", CHECK_AGAIN, "x\nSo Mia has \\boxed{8} pens."),
        *(FINAL_ANSWER, "So Mia has \\boxed{7} pens."),
    ]


@pytest.mark.parametrize(
    ("expression", "result"),
    [("4 * 6", "24"), ("24 - 30", "-6"), ("7+8", "15"), (" 1 + 2 ", "3")],
)
def test_calculator_works_simple_expressions(expression: str, result: str) -> None:
    assert tiny_conversations.calculate(expression) == result


@pytest.mark.parametrize("expression", ["", "1 +", "2 ** 9", "__import__('os')", "1 + 2 + 3", "9" * 7 + " * 2"])
def test_calculator_evaluates_nothing_else(expression: str) -> None:
    assert tiny_conversations.calculate(expression).startswith("Error")


def test_only_one_well_formed_call_is_parsed() -> None:
    call = '<tool_call>\n{"name": "calculator", "arguments": {"expression": "4 * 6"}}\n</tool_call>'
    assert tiny_conversations.parse_call(f"Selling.\n{call}") == "4 * 6"
    bad = [call + call, call.replace("}}", "}"), call.replace("calculator", "x"), call.replace('"4 * 6"', "4")]
    bad += ["<tool_call>[1]</tool_call>", "no call", "<tool_call>" + "[" * 100_000 + "</tool_call>"]
    assert [tiny_conversations.parse_call(text) for text in bad] == [None] * len(bad)
