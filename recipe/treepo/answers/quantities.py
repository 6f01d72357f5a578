# SPDX-License-Identifier: Apache-2.0
"""Compare amounts in several units, and numbers in other bases. Standard library only."""

import re
from fractions import Fraction

from recipe.treepo.answers.spelling import number_of, plain
from recipe.treepo.answers.tables import BASE_NAMES, SIZES
from recipe.treepo.answers.units import split_unit, unit_name

_PART = re.compile(r"(?:,|and|\s)*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\.?\s*")


def _read_amount(text: str) -> tuple[str, Fraction, int] | None:
    """Read an amount such as "2 hours 30 minutes": dimension, value in the smallest unit, and the size of the largest.

    Returns None for anything else, and for an amount in one unit.
    """
    parts = _PART.findall(text)
    if len(parts) < 2 or _PART.sub("", text).strip():
        return None
    names = [unit_name(name) for _, name in parts]
    for dimension, sizes in SIZES.items():
        units = [sizes[name] for name in names if name in sizes]
        if len(units) == len(parts) and units == sorted(set(units), reverse=True):
            total = sum(Fraction(number) * size for (number, _), size in zip(parts, units, strict=True))
            return dimension, Fraction(total), units[0]
    return None


def _same_amount(amount: tuple[str, Fraction, int], other: str) -> bool:
    """Return whether another answer is the same amount, in one or several units or as a plain number."""
    dimension, total, largest = amount
    if several := _read_amount(other):
        return several[:2] == amount[:2]
    if dimension == "time" and (clock := re.fullmatch(r"(\d+):(\d\d)", other)):
        return total == largest * int(clock.group(1)) + Fraction(largest, 60) * int(clock.group(2))
    value, unit, _ = split_unit(other)
    number, size = number_of(value), largest if unit is None else SIZES[dimension].get(unit)
    return number is not None and size is not None and number * size == total


def same_amounts(answer: str, gold: str) -> bool | None:
    """Compare amounts in several units, such as 2 hours 30 minutes."""
    texts = plain(answer), plain(gold)
    for text, other in (texts, texts[::-1]):
        if amount := _read_amount(text):
            return _same_amount(amount, other)
    return None


_BASE = re.compile(
    r"\(?(\d[\dA-Z]*|[A-Z][\dA-Z]+)\)?(?:_\{? ?\(?(?:base)? ?(\d+)\)?\}?)? ?"  # 101_2
    r"(?:\(?(?:in )?(?:base[ -]?(\d+)|([a-z]+))\)?)?"  # 101 in base 2
)


def same_base(answer: str, gold: str) -> bool | None:
    """Require the same number and the same base if either side names a base."""
    number, gold_number = _read_base(answer), _read_base(gold)
    return None if number is None and gold_number is None else number == gold_number


def _read_base(answer: str) -> tuple[int, int] | None:
    match = _BASE.fullmatch(plain(answer))
    if match is None or len(match.group(1)) > 200:
        return None
    number = match.group(2) or match.group(3) or "0"
    base = BASE_NAMES.get(match.group(4), 0) or (int(number) if len(number) < 3 else 0)
    try:
        return (int(match.group(1), base), base) if 1 < base <= 36 else None  # a subscript such as n is not a base
    except ValueError:  # a digit outside the base
        return None
