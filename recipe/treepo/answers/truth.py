# SPDX-License-Identifier: Apache-2.0
"""Read a ground truth of a data set. Standard library only."""

import math
import re
import struct
from decimal import Decimal
from numbers import Real
from typing import Any

from recipe.treepo.answers.boxes import unboxed

MAX_ANSWER_CHARS = 1_000
"""Default length limit of the reward for parsing an answer."""

MOST_DIGITS = 15
"""Significant digits of a float up to which it may have been typed."""

# Texts in place of an answer, after removal of markup, case, and punctuation at both ends.
_MISSING = (
    r"n/a|n\.a|nan|null|<na>|tbd|todo|to be (?:determined|added)|placeholder|q\.?e\.?d"
    r"|no (?:final )?answer|no (?:final )?(?:answer|solution) (?:is )?(?:given|provided|available|found)"
    r"|(?:answer |solution )?(?:is )?not (?:given|provided|available|applicable)|answers? (?:may|will|can) vary"
)
_PROOF = (
    r"(?:the |a )?(?:full |complete )?proofs?"
    r"(?: (?:is )?(?:omitted|completed?|done|shown|given|provided|required|needed|above|below|by [\w ]+))?"
    r"|(?:(?:the |this )?(?:statement|claim|theorem|lemma|identity|inequality|equality|result|it|this))?"
    r" ?(?:is |are |has been |have been )?(?:thus |hence |now )?(?:proved|proven)(?: above| below)?"
)
_REFERENCE = (
    r"(?:please )?(?:see|refer to|check|as in|as shown in) (?:the |its |our |this )?(?:\w+ )?"
    r"(?:solutions?|proofs?|explanations?|answers?(?: key)?|above|below|text|figure|graph|diagram|picture|image|"
    r"attachment|steps?)(?: above| below| for details)?|(?:as )?(?:solution |answer )?(?:above|below)"
    r"|(?:(?:solution|answer|explanation) (?:is )?)?omitted"
)
_NO_ANSWER = re.compile(f"(?:{_MISSING}|{_PROOF}|{_REFERENCE})")
# Missing values as Python and R print them; in other spellings they may be words or symbols.
_NULLS = ("None", "NA")
_MARKUP = re.compile(r"\\(?:text\w*|math\w+|mbox|emph|operatorname)\s*\{([^{}]*)\}")
_ONLY_MARKS = re.compile(r"[?.\u2026,;:_#~\s]*|[-\u2013\u2014]{2,}|[\u2013\u2014]|\*{2,}|\\l?dots|\\blacksquare")
# A value as Python or JSON prints it, an image, or a link.
_PRINTED = re.compile(
    r"[\[({]\s*(?:'[^']*'|\"[^\"]*\")\s*[,:\])}].*|\[\s*(?:None|null|nan)?\s*\]"
    r"|(?:array|tensor|Decimal|(?:np|numpy|torch|datetime)\.\w+)\(.*\)|!\[.*|<img\b.*|https?://\S+",
    re.DOTALL,
)


def decimal_text(number: float) -> str:
    """Return a finite number in decimal notation: 1e-07 as 0.0000001.

    A number of a single-precision column is the shortest one there: 0.10000000149011612 is 0.1.
    """
    text = repr(float(number))
    if len(re.sub(r"e.*|^-?0\.0*|\D", "", text)) > MOST_DIGITS and _single(number) == number:
        text = next(short for digits in range(1, 18) if _single(float(short := f"{number:.{digits}g}")) == number)
    return f"{Decimal(text):f}"


def _single(number: float) -> float | None:
    """Return the nearest number of single precision, None beyond its range."""
    try:
        return float(struct.unpack("f", struct.pack("f", number))[0])
    except OverflowError:
        return None


def read_truth(ground_truth: Any) -> str:
    """Return the answer in a ground truth, "" if it has none.

    A solution in GSM8K's form counts from its last ####, a box is removed, and a float is its decimal number (1e-05 is
    0.00001). Only text and numbers are answers: None and NaN are missing values, and a list is not one answer.
    """
    if not isinstance(ground_truth, str | Real | Decimal) or ground_truth != ground_truth:
        return ""
    if isinstance(ground_truth, float) and math.isfinite(ground_truth):
        ground_truth = decimal_text(ground_truth)
    if isinstance(ground_truth, Decimal):
        ground_truth = f"{ground_truth:f}"
    try:
        text = str(ground_truth)
    except ValueError:  # Python refuses to print integers of more than 4,300 digits
        return ""
    return unboxed(text.rpartition("####")[2].strip())


def lacks_answer(truth: str) -> bool:
    r"""Return whether the text of a ground truth stands in place of an answer.

    Examples: N/A, None (as Python prints it), ?, `\text{Proof}`, "see solution", and `['70']`. Answers in words such as
    "none", "undefined", "no solution" or "cannot be determined" are answers.
    """
    if truth.strip() in _NULLS:
        return True
    truth = truth.strip().strip("$").strip()
    if _ONLY_MARKS.fullmatch(truth) or _PRINTED.fullmatch(truth):
        return True
    words = " ".join(_MARKUP.sub(r"\1", truth).split()).strip(" .!:;()[]").casefold()
    return _NO_ANSWER.fullmatch(words) is not None
