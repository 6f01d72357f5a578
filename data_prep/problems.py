# SPDX-License-Identifier: Apache-2.0
r"""Problems, data sets, and reasons for dropping rows; pure Python.

A row function converts one row of its source, a dict with arbitrary content, into a `Problem` or a `Drop`. It never
raises. It never guesses an answer, because recipe.treepo.reward scores against it; it drops the row instead.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from recipe.treepo.answers.boxes import BoxState, scan_boxes
from recipe.treepo.answers.spelling import normalize
from recipe.treepo.answers.truth import MAX_ANSWER_CHARS, decimal_text, lacks_answer

# Chat messages as JSON or Python prints them.
_PRINTED_MESSAGES = re.compile(r"""\[?\s*\{\s*["'](?:role|content|from|value|messages|prompt)["']\s*:""")


class Drop(Enum):
    """Reason for dropping a source row."""

    MALFORMED_ROW = "malformed row"  # no object, missing column, wrong type or invalid Unicode
    NO_PROBLEM = "no problem text"
    NO_ANSWER = "no answer"  # blank, only markup, a proof, or a text in place of an answer such as N/A
    NO_BOX = "no boxed answer"
    EMPTY_BOX = "empty box"  # also one with only markup
    UNBALANCED_BOX = "unbalanced box"
    ANSWER_TOO_LONG = "answer too long"  # beyond the limit of the reward function
    ODD_ANSWER = "answer not of this data set's form"  # such as an AIME answer that is not an integer up to 999
    TOLERANCE = "answer with a tolerance"  # the reward function compares exactly
    NEEDS_IMAGE = "needs an image"
    NOT_SELECTED = "outside the selection"  # another level, year or language
    JSON_TEXT = "JSON text in place of the problem"  # such as chat messages
    UNKNOWN_WRAPPING = "instruction around the problem not recognized"
    PROMPT_TOO_LONG = "prompt too long"
    DUPLICATE_PROBLEM = "duplicate problem"  # by --deduplicate; the first one stays
    HELD_OUT = "overlaps a held-out problem"  # by --held-out


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem: text, answer for scoring, and additional fields of the set."""

    text: str
    answer: str
    extras: Mapping[str, str] = field(default_factory=dict)


RowFunction = Callable[[dict[str, Any]], Problem | Drop]


class Purpose(Enum):
    """Purpose of a data set; determines the output files."""

    TRAINING = "training"  # train.parquet and val.parquet
    EVALUATION = "evaluation"  # NAME.parquet, the whole set in the order of its source


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """A data set that can be prepared.

    Attributes:
        name: Name on the command line, in file names and in the data_source column.
        purpose: Training or evaluation.
        about: Description in the list of sets, one line.
        repository: Repository on the Hugging Face hub.
        config: Configuration on the hub, None if there is only one.
        folder: Folder to read in the repository, None for the whole repository.
        split: Default split.
        columns: Required columns: one of each group of names.
        optional: Columns used if present.
        row: Row function.
        extras: Names of the extras of its problems; each is a text field of extra_info.
        license: License as stated on the hub, None if unknown.
    """

    name: str
    purpose: Purpose
    about: str
    repository: str
    row: RowFunction
    columns: tuple[tuple[str, ...], ...]
    config: str | None = None
    folder: str | None = None
    split: str = "train"
    optional: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    license: str | None = None

    def missing(self, columns: set[str]) -> list[str]:
        """Return the required columns absent from `columns`; alternatives read "a or b"."""
        return [" or ".join(group) for group in self.columns if columns.isdisjoint(group)]

    def wanted(self) -> list[str]:
        """Return all columns that the row function reads."""
        return [column for group in (*self.columns, self.optional) for column in group]


def make_problem(text: Any, answer: Any, **extras: Any) -> Problem | Drop:
    """Return a problem with these fields if they are valid, else the reason; only extras with text are kept.

    `answer` may be a `Drop`, which is returned if the problem has a text.
    """
    if not isinstance(text, str) or not isinstance(answer, str | Drop):
        return Drop.MALFORMED_ROW
    kept = {key: value for key, value in extras.items() if isinstance(value, str)}
    texts = [text, *kept.values(), *([answer] if isinstance(answer, str) else [])]
    if answer is Drop.MALFORMED_ROW or not all(map(is_unicode, texts)):
        return Drop.MALFORMED_ROW
    text = text.strip()
    if not text:
        return Drop.NO_PROBLEM
    if _PRINTED_MESSAGES.match(text):
        return Drop.JSON_TEXT
    if isinstance(answer, Drop):
        return answer
    answer = answer.strip()
    if len(answer) > MAX_ANSWER_CHARS:
        return Drop.ANSWER_TOO_LONG
    return Drop.NO_ANSWER if not normalize(answer) or lacks_answer(answer) else Problem(text, answer, kept)


def is_unicode(text: str) -> bool:
    """Return whether a text is valid Unicode; a lone surrogate is not."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def boxed_answer(solution: Any) -> str | Drop:
    """Return the content of the last box of a solution, or the reason why it cannot be a ground truth."""
    if not isinstance(solution, str) or not is_unicode(solution):
        return Drop.MALFORMED_ROW
    scan = scan_boxes(solution)
    if scan.state is not BoxState.COMPLETE:
        reasons = {BoxState.ABSENT: Drop.NO_BOX, BoxState.EMPTY: Drop.EMPTY_BOX, BoxState.UNCLOSED: Drop.UNBALANCED_BOX}
        return reasons[scan.state]
    answer = scan.content.strip()
    if len(answer) > MAX_ANSWER_CHARS:
        return Drop.ANSWER_TOO_LONG
    return answer if normalize(answer) else Drop.EMPTY_BOX


def first_of(row: Mapping[str, Any], *columns: str) -> Any:
    """Return the first value among these columns that is not None, else None."""
    return next((row[column] for column in columns if row.get(column) is not None), None)


def number_as_text(value: Any) -> Any:
    """Return a finite number as text: 27.0 as "27", 0.5 as "0.5", 1e-7 as "0.0000001"; anything else unchanged."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, float) and math.isfinite(value):
        return decimal_text(value)
    # Python refuses to print integers of more than 4,300 digits.
    return str(value) if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**300 else value
