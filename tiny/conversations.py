# SPDX-License-Identifier: Apache-2.0
"""Make supervised conversations from the word problems of ``tiny.problems``.

They are the training data of the tiny chat model (``tiny/chat_recipe.py``). There are two kinds.

*re-check*: The problem comes with a worked solution. While the answer is wrong (and sometimes if it is right),
``CHECK_AGAIN`` and another solution follow, drawn independently. ``FINAL_ANSWER`` comes before the last turn, which is
one line.

*tool*: ``CALCULATOR`` is among the tools. The model makes one call per step and ends with the line of the answer. There
are two kinds of sloppy step. One skips the tool: it has a marker word and a mostly wrong result ("Selling 5 gives
roughly 24 - 5 = 18."), and shares its turn with the next call or the answer. The other calls the tool with a wrong
operand.

**Answers in these conversations may be wrong.** Use them for supervised training only, never as ground truth.
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
"""Schema that verl adds to the prompt for the function tool ``calculator(expression: str)``."""

TURN_WEIGHTS = {1: 1, 2: 4, 3: 4, 4: 4, 5: 1, 6: 1}
"""Weight of each maximum number of assistant turns in re-check conversations; a right answer may end them earlier."""
CHECK_RIGHT_SHARE = 0.6
"""Share of the right solutions after which the conversation continues."""
FINAL_RIGHT_SHARE = 0.5
"""Share of the final answers that repeat an earlier right answer, if the last solution is wrong."""
WRONG_OPERAND_SHARE = 0.25
"""Share of the sloppy steps in tool conversations with a call of a wrong operand; the others use no tool."""
EXPRESSION = re.compile(r"(-?\d{1,6}) ?([-+*]) ?(\d{1,6})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sloppiness:
    """Probabilities, 0 to 1, of sloppy steps; without any, all conversations are right throughout."""

    first: float = 0.0
    """Probability in the first solution of a re-check conversation."""
    again: float = 0.0
    """Probability in later solutions."""
    tool: float = 0.0
    """Probability in a tool conversation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Messages, tools in the prompt (None: none) and right answer of a conversation."""

    problem: str
    messages: list[Message]
    tools: list[dict[str, Any]] | None
    answer: int


def recheck_conversation(
    problem: WordProblem, rng: random.Random, sloppiness: Sloppiness, *, max_turns: int | None = None
) -> Conversation:
    """Write a conversation with repeated solutions.

    Args:
        problem: the subject of the conversation.
        rng: source of all randomness.
        sloppiness: probabilities of sloppy steps.
        max_turns: maximum number of assistant turns, at least 1; the last of several is the final answer. None draws
            the number.
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
    """Write a conversation that works the steps with the calculator, one call per turn."""
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
        problems: subjects, one per conversation.
        seed: random seed; equal arguments give equal conversations.
        sloppiness: probabilities of sloppy steps.
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
    """Return the result of ``a op b`` as text, or an error text for any other expression."""
    match = EXPRESSION.fullmatch(expression.strip())
    if match is None:
        return "Error: no such expression."
    left, right = int(match[1]), int(match[3])
    return str({"+": left + right, "-": left - right, "*": left * right}[match[2]])


def parse_call(text: str) -> str | None:
    """Return the expression of the only call in a turn, if it is a well-formed calculator call; else None."""
    calls = re.findall(r"<tool_call>(.*?)</tool_call>", text, re.DOTALL)
    try:
        (call,) = [json.loads(call) for call in calls]
        name, expression = call["name"], call["arguments"]["expression"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return expression if name == "calculator" and isinstance(expression, str) else None


def wrong_operand(step: Step, value: int, rest: Sequence[Step]) -> int:
    """Return an operand that is off by one and keeps ``rest`` within the bounds; the right one if there is none."""
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
