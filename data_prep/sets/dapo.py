# SPDX-License-Identifier: Apache-2.0
r"""DAPO-Math-17k (BytedTsinghua-SIA): some 17,000 problems with integer answers.

The published file is in verl's schema and holds about 100 copies of each problem. An instruction around each problem
requires "Answer: ..." on the last line. It is removed, so that --template decides, and duplicates are dropped by
default. A message with another wrapping, or half of this one, is dropped.

The processed copy (open-r1/DAPO-Math-17k-Processed, `--config en`) has the bare problem in `prompt` and works, too.
"""

from typing import Any

from ..problems import DataSet, Drop, Problem, Purpose, make_problem, number_as_text

BEFORE = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem."
)
AFTER = 'Remember to put your answer on its own line after "Answer:".'


def unwrap(content: str) -> str | None:
    """Return the problem without the known instruction around it, None if that differs."""
    content = content.strip()
    if not (content.startswith(BEFORE) and content.endswith(AFTER) and len(content) >= len(BEFORE) + len(AFTER)):
        return None
    return content[len(BEFORE) : -len(AFTER)].strip()


def dapo_row(row: dict[str, Any]) -> Problem | Drop:
    """Read a row with `prompt` (a wrapped message or a bare problem) and `reward_model` or `solution`."""
    reward_model, prompt = row.get("reward_model"), row.get("prompt")
    answer = reward_model.get("ground_truth") if isinstance(reward_model, dict) else row.get("solution")
    if isinstance(prompt, str):
        is_wrapped = prompt.strip().startswith(BEFORE) or prompt.strip().endswith(AFTER)
        problem = unwrap(prompt) if is_wrapped else prompt
        return Drop.UNKNOWN_WRAPPING if problem is None else make_problem(problem, number_as_text(answer))
    if not (isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], dict)):
        return Drop.MALFORMED_ROW
    content = prompt[0].get("content")
    if not isinstance(content, str):
        return Drop.MALFORMED_ROW
    problem = unwrap(content)
    return Drop.UNKNOWN_WRAPPING if problem is None else make_problem(problem, number_as_text(answer))


DAPO_MATH_17K = DataSet(
    name="dapo_math_17k",
    purpose=Purpose.TRAINING,
    about="DAPO-Math-17k, problems with integer answers, about 100 copies of each",
    repository="BytedTsinghua-SIA/DAPO-Math-17k",
    row=dapo_row,
    columns=(("prompt",), ("reward_model", "solution")),
    license="apache-2.0",
)
