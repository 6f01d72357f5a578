# SPDX-License-Identifier: Apache-2.0
"""Rewrite two answers to the same form without changing their meaning. Standard library only.

Covers set-builder notation, approximations, thousands commas inside an expression, and inequalities for a union of
intervals. Inputs are results of `tidy`.
"""

import re

from recipe.treepo.answers.spelling import normalize, read_number

RELATION = re.compile(r"[<>]|\\(?:le|ge|ne|lt|gt)(?![A-Za-z])")
# Left sides of equations that only name a value.
NAME = re.compile(
    r"(?:\\text\s*\{[^{}]*\}|[A-Za-z]'*(?:_\w|_\{\w+\})?(?:\((?:[a-z]|-?\d+)\))?|\([A-Za-z](?:\s*,\s*[A-Za-z])*\)|"
    r"\\frac\{d[A-Za-z]\}\{d[A-Za-z]\}|(?:\\(?:angle|triangle|overline)(?![A-Za-z]))?[A-Za-z{} ]+)"
)


def same_form(answer: str, gold: str) -> tuple[str, str]:
    """Return both texts, each rewritten if the other one allows it."""
    answer, gold = _without_builder(answer), _without_builder(gold)
    answer, gold = _exact_side(answer, gold), _exact_side(gold, answer)
    answer, gold = _without_thousands(answer, gold), _without_thousands(gold, answer)
    return _as_union(answer, gold), _as_union(gold, answer)


_BUILDER = re.compile(r"\\\{ ?[a-z] ?(?:[|:]|\\(?:mid|vert)(?![A-Za-z]))(.+)\\\}")


def _without_builder(text: str) -> str:
    r"""Replace `\{x \mid x<2\}` by its condition if that is an inequality."""
    match = _BUILDER.fullmatch(text)
    return match.group(1).strip() if match and RELATION.search(match.group(1)) and "=" not in text else text


def _exact_side(text: str, other: str) -> str:
    r"""Keep the relevant side of `\approx`.

    An exact value with its decimal, `\frac{2}{3} \approx 0.667`, becomes the value. A decimal after a name or after
    nothing stays if the other answer is a decimal too, because that one is rounded as well.
    """
    left, sign, right = (part.strip() for part in text.partition("\\approx"))
    if not sign or "." not in right or read_number(normalize(right)) is None:
        return text
    if left and not NAME.fullmatch(left):
        return left
    return right if "." in other and read_number(normalize(other)) is not None else text


_THOUSANDS = re.compile(r"(?<![\d,.])(\d{1,3}(?:,\d{3})+(?:\.\d+)?)(?= ?(?:\\[A-Za-z]|[A-Za-z]))", re.ASCII)


def _without_thousands(text: str, other: str) -> str:
    r"""Drop the commas of `1,000\pi`, unless brackets or the other answer suggest a list."""
    if "," not in text or "," in other or text.startswith(("(", "[", "\\{")):
        return text
    rewritten = _THOUSANDS.sub(lambda match: match.group().replace(",", ""), text)
    return text if "," in rewritten else rewritten


_OR = re.compile(r"\\text\s*\{\s*or\s*\}|\sor\s")
_ORDER = re.compile(r"(<|>|\\(?:le|ge|lt|gt)(?![A-Za-z]))")
_OTHER_WAY = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "\\lt": ">", "\\gt": "<"}


def _as_union(text: str, other: str) -> str:
    """Write inequalities of one variable, joined by "or", as a union of intervals if the other answer is one."""
    if "\\cup" not in other or RELATION.search(other) or not _OR.search(text):
        return text
    parts = _OR.split(text)
    intervals = [interval for part in parts if (interval := _interval(part)) is not None]
    if len(intervals) < len(parts) or len({name for name, _ in intervals}) != 1:
        return text
    return "\\cup".join(interval for _, interval in intervals)


def _interval(relation: str) -> tuple[str, str] | None:
    """Return variable and interval of x < b, a < x or a < x < b; None for anything else."""
    parts = [part.strip() for part in _ORDER.split(relation)]
    if len(parts) == 3 and _is_variable(parts[0]):
        parts = [parts[2], _OTHER_WAY[parts[1]], parts[0]]
    if len(parts) == 3 and _is_variable(parts[2]):
        bound, sign, name = parts
        ends = (bound, sign, "\\infty", "<") if sign in ("<", "\\le", "\\lt") else ("-\\infty", "<", bound, sign)
    elif len(parts) == 5 and _is_variable(parts[2]) and {parts[1], parts[3]} <= {"<", "\\le", "\\lt"}:
        name, ends = parts[2], (parts[0], parts[1], parts[4], parts[3])
    else:
        return None
    low, low_sign, high, high_sign = ends
    if any("," in end or "=" in end or re.search(r"(?<![\\A-Za-z])[A-Za-z]", end) for end in (low, high)):
        return None
    closed = ("\\le", "\\ge")
    return name, f"{'[' if low_sign in closed else '('}{low},{high}{']' if high_sign in closed else ')'}"


def _is_variable(text: str) -> bool:
    return re.fullmatch(r"[A-Za-z]", text) is not None
