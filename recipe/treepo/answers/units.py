# SPDX-License-Identifier: Apache-2.0
"""Split an answer into its value and its unit. Standard library only."""

import re
from string import ascii_lowercase
from typing import NamedTuple

from recipe.treepo.answers.lists import split_list
from recipe.treepo.answers.spelling import number_of
from recipe.treepo.answers.tables import (
    COUNTED,
    CURRENCIES,
    EXPONENTS,
    HAN_UNITS,
    NOT_UNITS,
    REMARKS,
    SPEEDS,
    UNITS,
)

_CURRENCY = re.compile(
    r"(-?)\s*(?:\\text\s*\{\s*)?((?:US|[AC])?\\\$|\\pounds|\\euro|[£€¥₹]|(?:USD|CAD|AUD|EUR|GBP|INR|CNY|RMB|JPY|CHF)(?![A-Z])"
    r"|Rs\.?(?=\s?\d))\s*(?:\}\s*)?"
)
_POWER = r"(?:\s*\^\s*(?:\{\s*(\d)\s*\}|(\d)))?"
_IN_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}" + _POWER + r"\s*\.?\s*\Z")
_BARE = re.compile(r"(?<![A-Za-z\\])([A-Za-z][A-Za-z./ ]*)" + _POWER + r"\s*\Z")
_CHINESE = re.compile(r"(?:\\text\s*\{\s*)?([\u4e00-\u9fff]+)\s*\}?\s*\Z")
_UNIT_WORDS = re.compile(r"(?:[^\W\d_]+(?:[-\s./]+[^\W\d_]+)*(?:\^\d)?\.?)?")
_SIGNS = (("%", "percent"), ("^\\circ", "degree"), ("\\$", "dollar"), ("€", "euro"), ("£", "pound"))
_ANGLE = re.compile(r"\\(?:arc)?(?:sin|cos|tan|cot|sec|csc)")
# Units whose case counts: Mbps are not MBps
_PREFIXED = re.compile(r"[kKmMGT](?:bar|ohms?|cal|mol|[bB]ps)")
_JOINTS = {"and", "or", "to", "mod"}


class Measured(NamedTuple):
    """Value and unit of an answer; the unit is None if there is none."""

    value: str
    unit: str | None
    listed: bool = True  # False: words that are no known unit


def split_unit(answer: str) -> Measured:
    r"""Split an answer after `tidy`.

    A unit is a currency before the value; or, after the value, a percent or degree sign, words in `\text{}`, or bare
    words after white space. Words are listed if the last one is the name of a unit or a plural noun, and none changes
    the number. Spellings of one unit return the same text.
    """
    if match := _CURRENCY.match(answer):
        name = match.group(2).removeprefix("US").casefold()
        return Measured(match.group(1) + answer[match.end() :], CURRENCIES.get(name, "dollar"))
    text = answer.rstrip()
    for sign, unit in _SIGNS:
        if text.endswith(sign) and not (unit == "degree" and _ANGLE.search(text)):
            return Measured(text[: -len(sign)].rstrip(), unit)
    if (match := _CHINESE.search(text)) and text[: match.start()].strip():
        return Measured(text[: match.start()].rstrip(), *_chinese(match.group(1)))
    match = _IN_TEXT.search(text) or _BARE.search(text)
    if match is None:
        return Measured(answer, None)
    value, words = text[: match.start()], match.group(1).strip()
    names = re.findall(r"[^\W\d_]+", words.casefold())
    if (
        not value.strip()
        or value.rstrip()[-1] in ",=+-"
        or not _UNIT_WORDS.fullmatch(words)
        or (match.re is _BARE and not _is_bare_unit(value, words))
        or _JOINTS & {*names[:1], *names[-1:]}  # joins two values
    ):
        return Measured(answer, None)
    return Measured(value.rstrip(), *_unit(words, match.group(2) or match.group(3)))


def _is_bare_unit(value: str, words: str) -> bool:
    names = [name for name in re.split(r"[\s/.]+", words) if name]
    if value.endswith(" "):
        if "/" in words:
            return all(map(unit_name, names))
        # Letters in the order of the alphabet are a product: xyz.
        return all(name not in ascii_lowercase if len(name) > 2 else name[1:] and unit_name(name) for name in names)
    # Without a space, only names that are unlikely to be a product of variables.
    return words in ("cm", "km", "mm", "kg", "mph") or (len(words) > 4 and unit_name(words) is not None)


def unit_name(word: str) -> str | None:
    """Return the unit of a name, None if it is unknown. Case distinguishes short names: mW is not MW."""
    return UNITS.get(word) or UNITS.get(word.casefold())


def _unit(words: str, power: str | None) -> tuple[str | None, bool]:
    """Return one spelling of a unit, "in^2" for "square inches" and for "in" with power 2, and whether it is known."""
    names = re.findall(r"[^\W\d_]+|/", re.sub(r"\bper\b", "/", re.split(r"\bof\b", words.strip(" ."))[0]))
    while names and names[-1].casefold() in REMARKS and (len(names) > 1 or names[0] != "in"):
        names.pop()
    parts, factor, listed = [], 1, not any(name.casefold() in NOT_UNITS for name in names)
    for position, name in enumerate(names):
        if exponent := EXPONENTS.get(name.casefold()):
            factor = exponent
            continue
        unit = name if name == "/" else unit_name(name)
        if "/" not in names[:position] and names[position + 1 : position + 2] in ([], ["/"], ["squared"], ["cubed"]):
            listed = listed and (unit is not None or re.search(r"\w\w[^s]s\Z", name) is not None)
        if unit != "unit":
            if _PREFIXED.fullmatch(name):
                unit = name.replace("K", "k")
            unit = unit or (name.casefold().removesuffix("s") if len(name) > 3 else name)
            parts.append(unit if factor == 1 else f"{unit}^{factor}")
            factor = 1
    if factor > 1 and parts:  # "feet squared"
        power = str(factor)
    unit = " ".join(parts).replace(" / ", "/")
    return (SPEEDS.get(unit, unit) + (f"^{power}" if power and parts else "")) or None, listed


def _chinese(words: str) -> tuple[str | None, bool]:
    for prefix, power in (("平方", "^2"), ("立方", "^3")):
        if words.startswith(prefix) and words[2:] in HAN_UNITS:
            return HAN_UNITS[words[2:]] + power, True
    return (None, True) if words in COUNTED else (HAN_UNITS.get(words, words), words in HAN_UNITS)


def measured(text: str) -> Measured:
    """Return value and unit of a whole answer; a list with units inside keeps them."""
    items = split_list(text)[1]
    inside = len(items) > 1 and any(split_unit(item).unit for item in items[:-1])
    return Measured(text, None) if inside else split_unit(text)


def same_unit(unit: str | None, gold_unit: str | None, listed: bool) -> bool:
    """Return whether the units agree; words that are no known unit have to be those of the ground truth."""
    return unit in (None, gold_unit) or (gold_unit is None and listed)


def in_radians(value: str, unit: str | None) -> str:
    """Give a number of degrees its sign back, so that mathematics compares it with radians."""
    return f"{value}^\\circ" if unit == "degree" and number_of(value) is not None else value
