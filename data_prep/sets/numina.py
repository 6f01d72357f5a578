# SPDX-License-Identifier: Apache-2.0
r"""NuminaMath (AI-MO): competition and school problems with solutions; the answer is the last `\boxed{}`.

CoT is the whole set; TIR is a part with Python in the solutions and mostly numeric answers. CoT includes proofs, which
are dropped for lack of a boxed answer. In CoT, `source` names the origin of a problem.
"""

from typing import Any

from ..problems import DataSet, Drop, Problem, Purpose, boxed_answer, make_problem


def numina_row(row: dict[str, Any]) -> Problem | Drop:
    """Read a row with `problem`, `solution` and, in CoT, `source`."""
    return make_problem(row.get("problem"), boxed_answer(row.get("solution")), source=row.get("source"))


NUMINA_MATH_TIR = DataSet(
    name="numina_math_tir",
    purpose=Purpose.TRAINING,
    about="NuminaMath-TIR, competition problems, answers mostly numbers",
    repository="AI-MO/NuminaMath-TIR",
    row=numina_row,
    columns=(("problem",), ("solution",)),
    license="apache-2.0",
)
NUMINA_MATH_COT = DataSet(
    name="numina_math_cot",
    purpose=Purpose.TRAINING,
    about="NuminaMath-CoT, from school exams to olympiads; proofs are dropped",
    repository="AI-MO/NuminaMath-CoT",
    row=numina_row,
    columns=(("problem",), ("solution",)),
    optional=("source",),
    extras=("source",),
    license="apache-2.0",
)
