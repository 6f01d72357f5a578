# SPDX-License-Identifier: Apache-2.0
"""Make supervised conversations from the word problems of ``tiny.problems``.

The tiny chat model learns them (``tiny/chat_recipe.py``). There are two kinds.

*re-check*: the problem, a worked solution, and while the answer is wrong (and sometimes although it is right)
``CHECK_AGAIN`` with another solution, drawn independently; before the last turn ``FINAL_ANSWER``, answered with
one line.

*tool*: with ``CALCULATOR`` among the tools; one call per step, each answered by the tool, then the line with the
answer. A sloppy step is worked without the tool, with a marker word and mostly wrong ("Selling 5 gives roughly
24 - 5 = 18."), before the next call or the answer in the same turn, or the tool is called with a wrong operand.

**Answers in these conversations may be wrong**; they are for supervised training alone, never ground truth.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tiny.problems import (
    MAX_OPERAND,
    MIN_OPERAND,
    SLOPPY_WRONG_SHARE,
    Step,
    WordProblem,
    answer_line,
    apply_operation,
    can_finish,
    right_answer,
    slip,
    step_line,
    work_out,
)

Message = dict[str, Any]

CHECK_AGAIN = "Check again."
FINAL_ANSWER = "Give the final answer."
CALCULATOR: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "Evaluate an arithmetic expression.",
        "parameters": {
            "type": "object",
            "properties": {"expression": {"type": "string", "description": "For example 3 * (4 + 5)"}},
            "required": ["expression"],
        },
    },
}
"""Schema that verl's function tool ``calculator(expression: str)`` puts into the prompt."""

TURN_WEIGHTS = {1: 1, 2: 4, 3: 4, 4: 4, 5: 1, 6: 1}
"""Most assistant turns of a re-check conversation, and how often each is drawn; it may end earlier, being right."""
CHECK_RIGHT_SHARE = 0.6
"""Share of the right solutions after which the conversation goes on."""
FINAL_RIGHT_SHARE = 0.5
"""Share of the final answers that repeat an earlier right one, where the last solution is wrong and one was right."""
WRONG_OPERAND_SHARE = 0.25
"""Share of the sloppy steps in tool conversations that are calls with a wrong operand; the rest use no tool."""
EXPRESSION = re.compile(r"(-?\d{1,6}) ?([-+*]) ?(\d{1,6})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sloppiness:
    """Hold the probability, 0 to 1, that a step is sloppy; all zero gives conversations that are right throughout."""

    first: float = 0.0
    """In the first solution of a re-check conversation."""
    again: float = 0.0
    """In its later ones."""
    tool: float = 0.0
    """In a tool conversation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Hold the messages, the tools in its prompt (None: none) and the right answer."""

    problem: str
    messages: list[Message]
    tools: list[dict[str, Any]] | None
    answer: int


def recheck_conversation(
    problem: WordProblem, rng: random.Random, sloppiness: Sloppiness, *, max_turns: int | None = None
) -> Conversation:
    """Write a conversation in which solutions are asked for again.

    Args:
        problem: the subject of the conversation.
        rng: decides all that is random.
        sloppiness: of the solutions.
        max_turns: most assistant turns, at least 1; the last of several is the final answer. None: drawn.
    """
    if max_turns is None:
        max_turns = rng.choices(list(TURN_WEIGHTS), list(TURN_WEIGHTS.values()))[0]
    right = right_answer(problem)
    messages = [_user(problem.text)]
    values: list[int] = []
    while True:
        lines, value = work_out(problem, rng, sloppy_rate=sloppiness.again if values else sloppiness.first)
        values.append(value)
        messages.append(_assistant("\n".join([*lines, answer_line(problem, value)])))
        if len(values) == max_turns or (value == right and rng.random() >= CHECK_RIGHT_SHARE):
            break
        if len(values) == max_turns - 1:
            final = right if right in values and rng.random() < FINAL_RIGHT_SHARE else value
            messages += [_user(FINAL_ANSWER), _assistant(answer_line(problem, final))]
            break
        messages.append(_user(CHECK_AGAIN))
    return Conversation(problem=problem.text, messages=messages, tools=None, answer=right)


def tool_conversation(problem: WordProblem, rng: random.Random, sloppiness: Sloppiness) -> Conversation:
    """Write a conversation in which the steps are worked with the calculator, one call a turn."""
    messages, lines, value = [_user(problem.text)], [], problem.start
    for index, step in enumerate(problem.steps):
        rest = problem.steps[index + 1 :]
        result = apply_operation(step.op, value, step.operand)
        assert result is not None, f"step {index} of {problem.text!r} leaves the bounds"
        operand = step.operand
        if rng.random() < sloppiness.tool:
            if rng.random() >= WRONG_OPERAND_SHARE:
                result = slip(result, rest) if rng.random() < SLOPPY_WRONG_SHARE else result
                lines.append(step_line(step, value, result, sloppy=True))
                value = result
                continue
            operand = wrong_operand(step, value, rest)
        expression = f"{value} {step.op} {operand}"
        value = int(calculate(expression))
        messages += [_assistant("\n".join(lines), expression), {"role": "tool", "content": str(value)}]
        lines = []
    messages.append(_assistant("\n".join([*lines, answer_line(problem, value)])))
    return Conversation(problem=problem.text, messages=messages, tools=[CALCULATOR], answer=right_answer(problem))


def conversations(
    problems: Sequence[WordProblem],
    seed: int,
    sloppiness: Sloppiness,
    *,
    tool_share: float,
    max_turns: int | None = None,
) -> list[Conversation]:
    """Write one conversation per problem.

    Args:
        problems: the subjects, one per conversation.
        seed: the same seed and arguments give the same conversations.
        sloppiness: how often steps are sloppy.
        tool_share: share of the tool kind, 0 to 1.
        max_turns: see :func:`recheck_conversation`.
    """
    rng = random.Random(f"conversations/{seed}")
    made = []
    for problem in problems:
        if rng.random() < tool_share:
            made.append(tool_conversation(problem, rng, sloppiness))
        else:
            made.append(recheck_conversation(problem, rng, sloppiness, max_turns=max_turns))
    return made


def calculate(expression: str) -> str:
    """Return the result of ``a op b`` as the tool's answer; an error text for any other expression."""
    match = EXPRESSION.fullmatch(expression.strip())
    if match is None:
        return "Error: no such expression."
    left, right = int(match[1]), int(match[3])
    return str({"+": left + right, "-": left - right, "*": left * right}[match[2]])


def parse_call(text: str) -> str | None:
    """Return the expression of the one well-formed calculator call in a turn's text; None where there is none."""
    calls = re.findall(r"<tool_call>(.*?)</tool_call>", text, re.DOTALL)
    try:
        (call,) = [json.loads(call) for call in calls]
        name, expression = call["name"], call["arguments"]["expression"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return expression if name == "calculator" and isinstance(expression, str) else None


def wrong_operand(step: Step, value: int, rest: Sequence[Step]) -> int:
    """Return an operand that is off by one and from whose result ``rest`` can be worked; the right one if none is."""
    for operand in (step.operand + 1, step.operand - 1):
        if MIN_OPERAND <= operand <= MAX_OPERAND:
            result = apply_operation(step.op, value, operand)
            if result is not None and can_finish(result, rest):
                return operand
    return step.operand


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _assistant(content: str, expression: str | None = None) -> Message:
    message: Message = {"role": "assistant", "content": content}
    if expression is not None:
        call = {"name": "calculator", "arguments": {"expression": expression}}
        message["tool_calls"] = [{"type": "function", "function": call}]
    return message
