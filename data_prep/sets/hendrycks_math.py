# SPDX-License-Identifier: Apache-2.0
r"""MATH (Hendrycks et al.): levels 3 to 5 for training, and MATH500.

MATH has 12,500 problems. The usual split holds out the 500 of MATH500 and trains on the other 12,000, which
nlile/hendrycks-MATH-benchmark publishes with levels and answers. There are two sets of levels 3 to 5:

- `math_level3to5` selects by level from those 12,000. It also reads other copies of MATH (level "Level 5", answer in
  the box of `solution`).
- `simplerl_math` is SimpleRL's published selection of 8,523 problems (hkust-nlp/SimpleRL-Zoo-Data, folder
  simplelr_qwen_level3to5). We know of no description of its selection rule. All rows are used; of their whole prompts,
  only the bare question.
"""

import re
from typing import Any

from ..problems import DataSet, Drop, Problem, Purpose, boxed_answer, first_of, make_problem, number_as_text

LEVELS = ("3", "4", "5")


def _level(row: dict[str, Any]) -> str | None:
    """Return the level as a digit (from 5, "5" or "Level 5"); None for other values, such as MATH's "Level ?"."""
    level = number_as_text(row.get("level"))
    match = re.fullmatch(r"(?:Level )?([1-5])", level) if isinstance(level, str) else None
    return None if match is None else match.group(1)


def math_row(row: dict[str, Any]) -> Problem | Drop:
    """Read a row of any level, with `problem`, `level` and `answer` (or a boxed `solution`)."""
    answer = number_as_text(row.get("answer"))
    if not (isinstance(answer, str) and answer.strip()):
        answer = boxed_answer(row.get("solution"))
    return make_problem(row.get("problem"), answer, level=_level(row), subject=first_of(row, "subject", "type"))


def hard_math_row(row: dict[str, Any]) -> Problem | Drop:
    """Read a row of level 3 to 5, as `math_row`."""
    return math_row(row) if _level(row) in LEVELS else Drop.NOT_SELECTED


def simplerl_row(row: dict[str, Any]) -> Problem | Drop:
    """Read a row with `question` and `gt_answer`."""
    answer = number_as_text(row.get("gt_answer"))
    return make_problem(row.get("question"), answer, level=_level(row), subject=row.get("subject"))


MATH_LEVEL3TO5 = DataSet(
    name="math_level3to5",
    purpose=Purpose.TRAINING,
    about="MATH levels 3 to 5 of the 12,000 problems outside MATH500",
    repository="nlile/hendrycks-MATH-benchmark",
    row=hard_math_row,
    columns=(("problem",), ("level",), ("answer", "solution")),
    optional=("subject", "type"),
    extras=("level", "subject"),
)
SIMPLERL_MATH = DataSet(
    name="simplerl_math",
    purpose=Purpose.TRAINING,
    about="MATH levels 3 to 5 as SimpleRL published them, 8,523 problems",
    repository="hkust-nlp/SimpleRL-Zoo-Data",
    folder="simplelr_qwen_level3to5",
    row=simplerl_row,
    columns=(("question",), ("gt_answer",)),
    optional=("level", "subject"),
    extras=("level", "subject"),
    license="apache-2.0",
)
MATH500 = DataSet(
    name="math500",
    purpose=Purpose.EVALUATION,
    about="MATH500, 500 problems held out from MATH",
    repository="HuggingFaceH4/MATH-500",
    split="test",
    row=math_row,
    columns=(("problem",), ("answer", "solution")),
    optional=("level", "subject", "type"),
    extras=("level", "subject"),
)
