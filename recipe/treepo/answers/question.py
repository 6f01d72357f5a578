# SPDX-License-Identifier: Apache-2.0
"""Questions for a mathematics parser: LaTeX in which nothing is rounded. Standard library only."""

import re
from collections.abc import Callable
from typing import NamedTuple

from recipe.treepo.answers.lists import JOINT
from recipe.treepo.answers.spelling import number_of


class Question(NamedTuple):
    """Pair for a mathematical comparison: LaTeX with exact numbers, without units."""

    answer: str
    gold: str


# (answer, ground truth) -> whether they agree, a question for mathematics, or None if the rule does not decide.
Rule = Callable[[str, str], bool | Question | None]

_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*\^\s*\\circ", re.ASCII)
# Mixed numbers, which the mathematics parser reads as products, and decimals
_INEXACT = re.compile(
    r"(?<![\w.^}])\d{1,9} ?\\frac ?(?:\{\d{1,9}\}|\d)(?:\{\d{1,9}\}|\d)"
    r"|(?<![\d.])\d*\.\d+(?![\d.])(?:\\overline\{\d+\})?",
    re.ASCII,
)


def question(answer: str, gold: str) -> Question:
    return Question(_exact(answer), _exact(gold))


def _exact(text: str) -> str:
    """Write decimals and mixed numbers as fractions and degrees in radians, so that nothing is rounded."""
    return _INEXACT.sub(_fraction, _DEGREES.sub(r"(\\frac{\1\\pi}{180})", JOINT.sub(", ", text)))


def _fraction(match: re.Match[str]) -> str:
    value = number_of(match.group())
    return match.group() if value is None else f"\\frac{{{value.numerator}}}{{{value.denominator}}}"
