# SPDX-License-Identifier: Apache-2.0
r"""OlympiadBench (Hothan/OlympiadBench), the part OE_TO_maths_en_COMP: open-ended, text-only English mathematics.

674 problems. A `context` is put before the question. Several answers (`is_multiple_answer`), in a list or in one text,
are joined by commas; the reward function accepts any order. Dropped rows: those with a tolerance (`error`), because the
reward function compares exactly; proofs; rows with images; in copies of all parts, also physics (`subject`). The `unit`
is not part of the answer but an extra. math-ai/olympiadbench has the same columns.
"""

from typing import Any

from ..problems import DataSet, Drop, Problem, Purpose, make_problem

_IMAGES = tuple(f"image_{number}" for number in range(1, 6))


def _has_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _final_answer(row: dict[str, Any]) -> str | Drop:
    """Return the answers of a row; several declared answers are joined by commas."""
    answers = row.get("final_answer")
    if answers is None or answers == []:
        return Drop.NO_ANSWER
    answers = [answers] if isinstance(answers, str) else answers
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        return Drop.MALFORMED_ROW
    if len(answers) > 1 and row.get("is_multiple_answer") is not True:
        return Drop.ODD_ANSWER
    return ", ".join(answers) if all(map(_has_text, answers)) else Drop.NO_ANSWER


def _exclusion(row: dict[str, Any]) -> Drop | None:
    """Return the reason for dropping a row, apart from question and answer, else None."""
    if row.get("modality") == "Multimodal" or any(row.get(image) is not None for image in _IMAGES):
        return Drop.NEEDS_IMAGE
    if row.get("language") not in (None, "English") or row.get("subject") not in (None, "Math"):
        return Drop.NOT_SELECTED
    if row.get("question_type") == "Theorem proof":
        return Drop.NO_ANSWER
    return None if row.get("error") in (None, "") else Drop.TOLERANCE


def olympiad_row(row: dict[str, Any]) -> Problem | Drop:
    """Read a row with `question`, `context`, `final_answer` and other columns of OlympiadBench."""
    if (reason := _exclusion(row)) is not None:
        return reason
    question, context = row.get("question"), row.get("context")
    if _has_text(question) and isinstance(context, str) and context.strip():
        question = f"{context.strip()}\n\n{question}"
    unit = row.get("unit") if _has_text(row.get("unit")) else None
    return make_problem(question, _final_answer(row), subject=row.get("subfield"), unit=unit)


OLYMPIAD_BENCH = DataSet(
    name="olympiad_bench",
    purpose=Purpose.EVALUATION,
    about="OlympiadBench, open-ended text-only English mathematics, 674 problems",
    repository="Hothan/OlympiadBench",
    config="OE_TO_maths_en_COMP",
    row=olympiad_row,
    columns=(("question",), ("final_answer",)),
    optional=(
        *("context", "is_multiple_answer", "error", "unit", "modality", "language", "question_type"),
        *("subject", "subfield"),
        *_IMAGES,
    ),
    extras=("subject", "unit"),
    license="apache-2.0",
)
