# SPDX-License-Identifier: Apache-2.0
r"""Minerva math (math-ai/minervamath): 272 university problems, mostly physics, chemistry and astronomy.

Answers are numbers or formulas. Powers of ten in program notation (4.5e33) are rewritten, because the reward function
does not equate them with 4.5 \times 10^{33}. Other copies, with `problem` and a boxed `solution`, work, too.
"""

import math
import re
from typing import Any

from ..problems import DataSet, Drop, Problem, Purpose, boxed_answer, first_of, make_problem, number_as_text

_POWER_OF_TEN = re.compile(r"\s*(-?\d+(?:\.\d*)?|-?\.\d+)[eE]([+-]?\d{1,9})\s*", re.ASCII)


def minerva_row(row: dict[str, Any]) -> Problem | Drop:
    """Read a row with `question` (or `problem`) and `answer` (or a boxed `solution`)."""
    answer = row.get("answer")
    if isinstance(answer, float) and not answer.is_integer() and math.isfinite(answer):
        answer = repr(answer)  # keeps the power of ten
    answer = number_as_text(answer)
    if answer is None:
        answer = boxed_answer(row.get("solution"))
    if isinstance(answer, str) and (match := _POWER_OF_TEN.fullmatch(answer)):
        answer = f"{match.group(1)} \\times 10^{{{int(match.group(2))}}}"
    return make_problem(first_of(row, "question", "problem"), answer)


MINERVA = DataSet(
    name="minerva",
    purpose=Purpose.EVALUATION,
    about="Minerva math, university problems of the sciences, 272 problems",
    repository="math-ai/minervamath",
    split="test",
    row=minerva_row,
    columns=(("question", "problem"), ("answer", "solution")),
)
