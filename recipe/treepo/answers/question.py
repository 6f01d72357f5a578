# SPDX-License-Identifier: Apache-2.0
"""Questions for a mathematics parser: LaTeX in which nothing is rounded. Standard library only."""

import re
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from recipe.treepo.answers.lists import JOINT


class Question(NamedTuple):
    """Pair for a mathematical comparison: LaTeX with exact numbers, without units."""

    answer: str
    gold: str


# (answer, ground truth) -> whether they agree, a question for mathematics, or None if the rule does not decide.
Rule = Callable[[str, str], bool | Question | None]

_DECIMAL = re.compile(r"(?<![\d.])(\d*)\.(\d+)(?![\d.])(?:\\overline\{(\d+)\})?", re.ASCII)
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*\^\s*\\circ", re.ASCII)
_MIXED = re.compile(r"(?<![\w.^}])(\d{1,9}) ?\\frac ?(?:\{(\d{1,9})\}|(\d))(?:\{(\d{1,9})\}|(\d))", re.ASCII)


def question(answer: str, gold: str) -> Question:
    return Question(_exact(answer), _exact(gold))


def _exact(text: str) -> str:
    """Write decimals and mixed numbers as fractions and degrees in radians, so that nothing is rounded.

    The mathematics parser reads a mixed number as a product.
    """
    text = _DEGREES.sub(r"(\\frac{\1\\pi}{180})", JOINT.sub(", ", text))
    return _DECIMAL.sub(_fraction, _MIXED.sub(_improper, text))


def _improper(match: re.Match[str]) -> str:
    whole, top, bottom = (int(group) for group in match.groups() if group is not None)
    return f"\\frac{{{whole * bottom + top}}}{{{bottom}}}" if 0 < top < bottom else match.group()


def _fraction(match: re.Match[str]) -> str:
    value = Fraction(f"{match.group(1) or 0}.{match.group(2)}")
    if match.group(3):
        value += Fraction(int(match.group(3)), (10 ** len(match.group(3)) - 1) * 10 ** len(match.group(2)))
    return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"
