# SPDX-License-Identifier: Apache-2.0
r"""Compare the sides of equations, inequalities and memberships such as `x \in [2,5]`. Standard library only."""

import re

from recipe.treepo.answers.forms import NAME, RELATION
from recipe.treepo.answers.lists import JOINT, split_list
from recipe.treepo.answers.question import Question, question
from recipe.treepo.answers.spelling import normalize, number_of

_LETTERS = re.compile(r"[A-Za-z]")


def joined_relations(answer: str, gold: str) -> bool | None:
    """Distinguish relations joined by "and" from those joined by "or", except for values of one variable."""
    for text, other in ((answer, gold), (gold, answer)):  # a union of intervals is an "or"
        if "\\cup" in other and not re.search(r"\bor\b", text) and JOINT.search(text):
            return False
    if not all(RELATION.search(text) or len(_variables(text)[0]) > 1 for text in (answer, gold)):
        return None
    joints = [{word for word in re.findall(r"\b(and|or)\b", text)} for text in (answer, gold)]
    return False if all(joints) and joints[0] != joints[1] else None


_SIDES = re.compile(r"[=<>,;]|\\(?:le|ge|ne|lt|gt|in)(?![A-Za-z])|\\text\s*\{\s*,?\s*(?:and|or)\s*\}|\b(?:and|or)\b")


def unsolved(answer: str, gold: str) -> bool | None:
    """Reject an unsolved relation if the ground truth is a solution such as x > 3.

    Mathematics would solve the relation, and so accept a copy of the problem.
    """
    if "=" not in answer and not RELATION.search(answer):
        return None
    (names, solved), (gold_names, gold_solved) = _variables(answer), _variables(gold)
    if not gold_solved or len(gold_names) != 1:
        return None
    return None if solved and names == gold_names else False


def _variables(text: str) -> tuple[set[str], bool]:
    """Return the letters that stand alone on a side of a relation, and whether there are no other letters."""
    sides = [re.sub(r"\\text\s*\{[^{}]*\}|\\[A-Za-z]+", "", side).strip(" ()") for side in _SIDES.split(text)]
    names = {side for side in sides if len(side) == 1 and _LETTERS.fullmatch(side)}
    return names, not any(_LETTERS.search(side) for side in sides if side not in names)


_MEMBER = re.compile(r"\s*([A-Za-z]|\([a-z](?:, ?[a-z])+\))\s*\\in(?![A-Za-z])")


# The argument of a function whose value does not depend on it, and the letters of an angle
_NAMED = (
    re.compile(r"[A-Za-z]\(([A-Za-z])\) ?=(?!.*\1)"),
    re.compile(r"(?:\\angle ?)?\{? ?([A-Z]{3}) ?\}? ?="),
)


def other_variable(answer: str, gold: str) -> bool | None:
    r"""Reject `k \in (2,3)` for 2 < x < 3: the variables differ."""
    for one, other in ((answer, gold), (gold, answer)):
        member, names = _MEMBER.match(one), _variables(other)[0]
        if member and RELATION.search(other) and names and member.group(1) not in names:
            return False
    return None


def other_name(answer: str, gold: str) -> bool | None:
    """Reject P(B) = 1/3 for P(A) = 1/3, and the angle ACB for ABC."""
    for pattern in _NAMED:
        name, gold_name = (match and normalize(match.group(1)) for match in map(pattern.match, (answer, gold)))
        if name and gold_name and name not in (gold_name, gold_name[::-1]):
            return False
    return None


def end_points(answer: str, gold: str) -> bool | None:
    """Reject a list of numbers for an interval; mathematics takes it for the end points."""
    for one, other in ((answer, gold), (gold, answer)):
        member = _MEMBER.match(one)
        interval = member is not None and one[member.end() :].strip()[:1] in ("(", "[")
        numbers = not RELATION.search(other) and other[:1] not in ("(", "[", "]")
        if numbers and (interval or RELATION.search(one)) and len(split_list(other)[1]) > 1:
            return False
    return None


RELATIONS = (joined_relations, unsolved, other_variable, other_name, end_points)


def right_side(answer: str, other: str) -> str:
    r"""Drop the name on the left of a single equation or `\in`, if the other answer has none or the same one."""
    (name, sign, value), (other_name, other_sign, _) = _named(answer), _named(other)
    differ = other_name and (name, sign) != (other_name, other_sign)
    return answer if differ or (sign == "=" and RELATION.search(other)) else value


def _named(text: str) -> tuple[str, str, str]:
    r"""Return name, sign and value of `x = 5` or `x \in (2,5)`; `x \in \{2,5\}` is an equation, too.

    The name is empty if there is none. The value is the whole text if it cannot stand alone.
    """
    if member := _MEMBER.match(text):
        value = text[member.end() :].strip()
        return normalize(member.group(1)), "=" if value.startswith("\\{") else "\\in", value
    name, _, value = (part.strip() for part in text.partition("="))
    alone = value and "=" not in value and not RELATION.search(text) and NAME.fullmatch(name)
    return normalize(name) if value else "", "=", value if alone else text


_SIGNS = re.compile(r"\\(?:frac|sqrt|cdot|times|div|binom|pi)(?![A-Za-z])")


def stated_result(answer: str, gold: str) -> Question | None:
    """Accept a computation with its result, x = 10 + 15 = 25, if the result is right and the equation true."""
    name, _, rest = answer.partition("=")
    left, equals, right = (rest if "=" in rest and NAME.fullmatch(name.strip()) else answer).partition("=")
    if not equals or "=" in right + gold or _LETTERS.search(_SIGNS.sub("", left)):
        return None
    same = normalize(right) == normalize(gold) or number_of(right) == number_of(gold) is not None
    return question(left, gold) if same else None


def case_of_letters(answer: str, gold: str) -> bool | None:
    """Reject variables that differ in case, Greek ones too; the mathematics parser ignores the case of some."""
    names, gold_names = (set(re.findall(r"\\?[A-Za-z]+", _separated(text))) for text in (answer, gold))
    swapped = {
        re.sub(r"[A-Za-z]", lambda match: match.group().swapcase(), name, count=1) for name in names - gold_names
    }
    return False if swapped & (gold_names - names) else None


def _separated(text: str) -> str:
    r"""Add a space after each letter outside macros, so that each is a name; drop `\text{}`."""
    return re.sub(r"(\\[A-Za-z]+)|([A-Za-z])", r"\1\2 ", re.sub(r"\\text\{[^{}]*\}", "", text))
