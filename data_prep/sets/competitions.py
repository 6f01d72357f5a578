# SPDX-License-Identifier: Apache-2.0
r"""AIME 2024 and 2025, and AMC 2023: small evaluation sets with several publishers and column names.

Defaults: HuggingFaceH4/aime_2024, math-ai/aime25 and math-ai/amc23. Other copies are read by name
(`--source Maxwell-Jia/AIME_2024`, `yentinglin/aime_2025`, `MathArena/aime_2025`, `math-ai/aime24`, ...). The problem is
in `problem`, `Problem` or `question`; the answer in `answer` or `Answer`, as text or number, else in the box of
`solution`. AI-MO/aimo-validation-amc mixes AMC 2022 and 2023: rows of another `year` or `url` are dropped.
"""

import re
from functools import partial
from typing import Any

from recipe.treepo.answers.boxes import last_boxed

from ..problems import DataSet, Drop, Problem, Purpose, boxed_answer, first_of, make_problem, number_as_text

_AIME_ANSWER = re.compile(r"\$?\s*(\d{1,3})(?:\s*\^\s*(?:\\circ|\{\s*\\circ\s*\}))?\s*\$?", re.ASCII)
_PROBLEM = ("problem", "Problem", "question")
_ANSWER = ("answer", "Answer", "solution", "Solution")


def _answer(row: dict[str, Any]) -> Any:
    answer = number_as_text(first_of(row, "answer", "Answer"))
    if answer is None:
        return boxed_answer(first_of(row, "solution", "Solution"))
    return last_boxed(answer) or answer if isinstance(answer, str) else answer


def _other_year(row: dict[str, Any], year: int) -> bool:
    """Return whether `year`, or else the url ("2023_AMC_12A_Problems"), names another year."""
    stated = number_as_text(row.get("year"))
    if isinstance(stated, str) and re.fullmatch(r"\s*20\d\d\s*", stated, re.ASCII):
        return int(stated) != year
    url = row.get("url")
    years = re.findall(r"20\d\d(?=_)", url, re.ASCII) if isinstance(url, str) else []
    return bool(years) and str(year) not in years


def aime_row(row: dict[str, Any], *, year: int) -> Problem | Drop:
    """Read a row of an AIME. Answers are integers from 0 to 999: "033" becomes "33", and a degree sign is removed."""
    if _other_year(row, year):
        return Drop.NOT_SELECTED
    answer = _answer(row)
    if isinstance(answer, str):
        match = _AIME_ANSWER.fullmatch(answer.strip())
        answer = str(int(match.group(1))) if match else Drop.ODD_ANSWER if answer.strip() else Drop.NO_ANSWER
    return make_problem(first_of(row, *_PROBLEM), answer)


def amc_row(row: dict[str, Any], *, year: int) -> Problem | Drop:
    """Read a row of an AMC whose answer is a value ("27" or 27.0) instead of a choice."""
    if _other_year(row, year):
        return Drop.NOT_SELECTED
    answer = _answer(row)
    if isinstance(answer, str) and re.fullmatch(r"\s*-?\d+\.0+\s*", answer, re.ASCII):
        answer = answer.partition(".")[0]
    return make_problem(first_of(row, *_PROBLEM), answer)


def _competition(name: str, about: str, repository: str, split: str, row: Any, license: str | None = None) -> DataSet:
    return DataSet(
        name=name,
        purpose=Purpose.EVALUATION,
        about=about,
        repository=repository,
        split=split,
        row=row,
        columns=(_PROBLEM, _ANSWER),
        optional=("url", "year"),
        license=license,
    )


AIME_2024 = _competition(
    "aime_2024", "AIME 2024, I and II, 30 problems", "HuggingFaceH4/aime_2024", "train", partial(aime_row, year=2024)
)
AIME_2025 = _competition(
    "aime_2025", "AIME 2025, I and II, 30 problems", "math-ai/aime25", "test", partial(aime_row, year=2025)
)
AMC_2023 = _competition("amc_2023", "AMC 12 of 2023, 40 problems", "math-ai/amc23", "test", partial(amc_row, year=2023))
