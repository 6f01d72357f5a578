# SPDX-License-Identifier: Apache-2.0
"""GSM8K (openai): school word problems; the answer is the number after "####" at the end of the solution."""

import re
from typing import Any

from ..problems import DataSet, Drop, Problem, Purpose, make_problem

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?", re.ASCII)


def final_number(solution: Any) -> str | Drop:
    """Return the number after the last "####", without dollar sign and thousands commas."""
    if not isinstance(solution, str):
        return Drop.MALFORMED_ROW
    _, mark, answer = solution.rpartition("####")
    answer = answer.strip().removeprefix("$").replace(",", "")
    if not mark or not answer:
        return Drop.NO_ANSWER
    return answer if _NUMBER.fullmatch(answer) else Drop.ODD_ANSWER


def gsm8k_row(row: dict[str, Any]) -> Problem | Drop:
    """Read a row with `question` and `answer` (the solution)."""
    return make_problem(row.get("question"), final_number(row.get("answer")))


GSM8K = DataSet(
    name="gsm8k",
    purpose=Purpose.TRAINING,
    about="GSM8K, school problems in words, training split",
    repository="openai/gsm8k",
    config="main",
    row=gsm8k_row,
    columns=(("question",), ("answer",)),
    license="mit",
)
GSM8K_TEST = DataSet(
    name="gsm8k_test",
    purpose=Purpose.EVALUATION,
    about="GSM8K, test split",
    repository="openai/gsm8k",
    config="main",
    split="test",
    row=gsm8k_row,
    columns=(("question",), ("answer",)),
    license="mit",
)
