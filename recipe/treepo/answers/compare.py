# SPDX-License-Identifier: Apache-2.0
"""Decide by text whether two answers agree. Standard library only.

Graders differ on some answers. These conventions hold here:

- A rounded value does not equal the exact value.
- A unit, a currency, a degree sign or a percent sign may be missing on one side; two different ones are not equal. A
  percentage also equals the number (50% is 0.5).
- A base counts if it is named.
- Order counts in tuples and ratios, not in sets and bare lists.
- The left side of `x = 5` may be missing. Unsolved equations and unfinished computations are not answers.
- Case counts in variables, not in words.
- Of a choice with its value, "(D) 7", either part alone is right.
"""

import re
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from recipe.treepo.answers.forms import NAME, RELATION, same_form
from recipe.treepo.answers.lists import JOINT, split_list
from recipe.treepo.answers.refusals import REFUSALS
from recipe.treepo.answers.spelling import normalize, power_of_ten, read_number, tidy
from recipe.treepo.answers.units import split_unit

LONGEST = 4_000  # characters


class Question(NamedTuple):
    """Pair for a mathematical comparison: LaTeX with exact numbers, without units."""

    answer: str
    gold: str


# (answer, ground truth) -> whether they agree, a question for mathematics, or None if the rule does not decide.
Rule = Callable[[str, str], bool | Question | None]


def compare_text(answer: str, gold: str) -> bool | Question:
    """Compare two answers as text; return a Question if mathematics has to decide.

    Over `LONGEST` characters, only identical texts agree.
    """
    if answer.strip() == gold.strip() or max(len(answer), len(gold)) > LONGEST:
        return answer.strip() == gold.strip() != ""
    values = _without_choice(tidy(power_of_ten(answer)), tidy(power_of_ten(gold)))
    return values if isinstance(values, bool) else _compare_whole(*same_form(*values))


def _compare_whole(answer: str, gold: str) -> bool | Question:
    for rule in _RULES:
        verdict = rule(answer, gold)
        if verdict is not None:
            return verdict
    (answer, answer_unit), (gold, gold_unit) = (
        split_unit(_right_side(answer, gold)),
        split_unit(_right_side(gold, answer)),
    )
    if answer_unit is not None and gold_unit is not None and answer_unit != gold_unit:
        return False
    return _compare_values(answer, gold, answer_unit == "percent", gold_unit == "percent")


def _compare_values(answer: str, gold: str, answer_percent: bool, gold_percent: bool) -> bool | Question:
    plain_answer, plain_gold = normalize(answer), normalize(gold)
    if not plain_answer or not plain_gold:
        return False
    one_percent = answer_percent != gold_percent
    number, gold_number = read_number(plain_answer), read_number(plain_gold)
    if number is not None and gold_number is not None:
        if one_percent and (number if answer_percent else gold_number) / 100 == (
            gold_number if answer_percent else number
        ):
            return True
        return number == gold_number
    if plain_answer == plain_gold:
        return True
    for rule in _VALUE_RULES:
        verdict = rule(answer, gold)
        if verdict is not None:
            return verdict
    return _question(answer, gold)


# --- rules on whole answers: True, False, or None if a rule does not apply -------------------------------------

_WORDS = re.compile(r"[^\W\d_]+(?:[ '-][^\W\d_]+)*")
_SHORT_WORDS = frozenset("a an as at be by do if in is it no of on or so to up we".split())


def _words(answer: str, gold: str) -> bool | None:
    """Compare words as text: a mathematics parser would read "blue" as a product of letters."""
    bare_answer, bare_gold = _bare(answer), _bare(gold)
    words = (
        len(bare_gold) > 1  # "a" is a word, but here a variable
        and _WORDS.fullmatch(bare_gold) is not None
        and all(len(word) > 2 or word in _SHORT_WORDS for word in bare_gold.split())
    )
    if words:
        return bare_answer == bare_gold
    return False if _WORDS.fullmatch(bare_answer) and len(bare_answer) > 2 and not _LETTERS.search(gold) else None


def _bare(answer: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", answer)).strip(" .").casefold()


# The letter of a choice. Lowercase letters only in parentheses and up to h: x is a variable.
_CHOICE = re.compile(r"(?:\\text\s*\{\s*)?(?:(?i:option|choice)\s+)?(?:\(([A-Za-h])\)|\(?([A-Z])\)?[.:]?)\s*\}?")
_CHOICE_WITH_VALUE = re.compile(r"(?:\(([A-Z])\)|([A-Z])[).:])[.:]?\s+(?![,;]|\\text\b|and\b|or\b)(\S.*)", re.DOTALL)
_ANOTHER_CHOICE = re.compile(r"\([A-Z]\)|(?<![A-Za-z\\])[A-Z][).:]")


def _without_choice(answer: str, gold: str) -> bool | tuple[str, str]:
    """Compare the letters of choices; return both values if the values decide."""
    if normalize(answer) == normalize(gold) != "":
        return True
    letter, value = _split_choice(answer)
    gold_letter, gold_value = _split_choice(gold)
    if gold_letter is None:
        return answer if value is None else value, gold
    if letter is None:
        return False if gold_value is None else (answer, gold_value)
    if letter != gold_letter or value is None or gold_value is None:
        return letter == gold_letter
    return value, gold_value


def _split_choice(answer: str) -> tuple[str | None, str | None]:
    """Return the letter of a choice and its value; each may be None."""
    if match := _CHOICE.fullmatch(answer):
        return (match.group(1) or match.group(2)).upper(), None
    match = _CHOICE_WITH_VALUE.fullmatch(re.sub(r"\\text\s*\{\s*(\(?[A-Z]\)?[.:]?)\s*\}", r"\1", answer))
    if match is None or _ANOTHER_CHOICE.search(match.group(3)):  # a list of choices is not a choice
        return None, None
    return match.group(1) or match.group(2), match.group(3)


_BASE = re.compile(r"\(?(\d[\dA-Z]*|[A-Z][\dA-Z]+)\)?_(?:\{\(?([a-z]+|\d+)\)?\}|(\d)|([a-z]{3,}))", re.ASCII)
_NAMED = "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split()
_BASE_NAMES = {name: base for base, name in enumerate(_NAMED, start=2)}


def _base(answer: str, gold: str) -> bool | None:
    """Require the same number and the same base if either side names a base."""
    number, gold_number = _read_base(answer), _read_base(gold)
    return None if number is None and gold_number is None else number == gold_number


def _read_base(answer: str) -> tuple[int, int] | None:
    match = _BASE.fullmatch(normalize(answer))
    if match is None or len(match.group(1)) > 200:
        return None
    name = match.group(2) or match.group(3) or match.group(4)
    base = int(name) if name.isdigit() and len(name) < 3 else _BASE_NAMES.get(name, 0)
    try:
        return (int(match.group(1), base), base) if 1 < base <= 36 else None  # a subscript such as n is not a base
    except ValueError:  # a digit outside the base
        return None


_LETTERS = re.compile(r"[A-Za-z]")


def _joined_relations(answer: str, gold: str) -> bool | None:
    """Distinguish relations joined by "and" from those joined by "or", except for values of one variable."""
    if not all(RELATION.search(text) or len(_variables(text)[0]) > 1 for text in (answer, gold)):
        return None
    joints = [{word for word in re.findall(r"\b(and|or)\b", text)} for text in (answer, gold)]
    return False if all(joints) and joints[0] != joints[1] else None


_SIDES = re.compile(r"[=<>,;]|\\(?:le|ge|ne|lt|gt|in)(?![A-Za-z])|\\text\s*\{\s*,?\s*(?:and|or)\s*\}|\b(?:and|or)\b")


def _unsolved(answer: str, gold: str) -> bool | None:
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


_MEMBER = re.compile(r"\s*([A-Za-z])\s*\\in(?![A-Za-z])")


def _other_variable(answer: str, gold: str) -> bool | None:
    r"""Reject `k \in (2,3)` for 2 < x < 3: the variables differ."""
    for one, other in ((answer, gold), (gold, answer)):
        member, names = _MEMBER.match(one), _variables(other)[0]
        if member and RELATION.search(other) and names and member.group(1) not in names:
            return False
    return None


_RULES: tuple[Rule, ...] = (_words, _base, _joined_relations, _unsolved, _other_variable)

# --- rules on values ---------------------------------------------------------------------------------------------


def _right_side(answer: str, other: str) -> str:
    r"""Drop the name on the left of a single equation or `\in`, if the other answer has none or the same one."""
    if (member := _MEMBER.match(answer)) and not _MEMBER.match(other):
        return answer[member.end() :].strip()
    left, _, right = answer.partition("=")
    if not right.strip() or "=" in right or RELATION.search(answer) or not NAME.fullmatch(left.strip()):
        return answer
    other_left, equals, _ = other.partition("=")
    if equals and normalize(other_left) != normalize(left):
        return answer
    return answer if RELATION.search(other) or "\\in" in other else right.strip()


_SIGNS = re.compile(r"\\(?:frac|sqrt|cdot|times|div|binom|pi)(?![A-Za-z])")


def _stated_result(answer: str, gold: str) -> Question | None:
    """Accept a computation with its result, x = 10 + 15 = 25, if the result is right and the equation true."""
    name, _, rest = answer.partition("=")
    left, equals, right = (rest if "=" in rest and NAME.fullmatch(name.strip()) else answer).partition("=")
    if not equals or "=" in right + gold or not left.strip() or _LETTERS.search(_SIGNS.sub("", left)):
        return None
    number, gold_number = _number(right), _number(gold)
    same = normalize(right) == normalize(gold) or (number is not None and number == gold_number)
    return _question(left, gold) if same else None


def _ratio(answer: str, gold: str) -> bool | None:
    """Compare ratios, and times such as 3:30, part by part; nothing else equals them."""
    if "\\{" in answer + gold or ("|" in answer + gold):
        return None
    parts, gold_parts = (
        re.split(r":|(?<=\d)\s*(?:\\text\s*\{\s*to\s*\}|\sto\s)\s*(?=\d)", text.strip()) for text in (answer, gold)
    )
    if len(parts) == len(gold_parts) == 1:
        return None
    numbers, gold_numbers = ([_number(part) for part in side] for side in (parts, gold_parts))
    return None not in numbers and numbers == gold_numbers


def _lists(answer: str, gold: str) -> bool | Question | None:
    """Compare lists, sets and tuples: plain numbers here, other items by mathematics."""
    (opened, items), (gold_opened, gold_items) = split_list(answer), split_list(gold)
    for brackets, content, others in ((opened, items, gold_opened), (gold_opened, gold_items, opened)):
        # The fractional part {x} or the integer part [x], not a group.
        if brackets in ("\\{\\}", "[]") and len(content) == 1 and brackets != others and "\\begin" not in content[0]:
            if _LETTERS.search(_without_macros(content[0])):
                return False
    if opened == "\\{\\}" != gold_opened and len(items) == 1:  # a set of one item equals the item
        answer = items[0]
        opened, items = split_list(answer)
    if len(items) < 2 and len(gold_items) < 2:
        return None
    if {opened[:1], gold_opened[:1]} in ({"\\", "("}, {"\\", "["}):
        return False  # a set is not a tuple
    ordered = opened[:1] in ("(", "[") or gold_opened[:1] in ("(", "[")
    if "" in (opened, gold_opened) and "()" in (opened, gold_opened) and len(items) == len(gold_items):
        # A bare list equals a tuple in the same order.
        answer, gold = answer if opened else f"({answer})", gold if gold_opened else f"({gold})"
        opened = gold_opened = "()"
    numbers, gold_numbers = (
        [number for item in side if (number := _number(item)) is not None] for side in (items, gold_items)
    )
    if len(numbers) < len(items) or len(gold_numbers) < len(gold_items):
        return _question(answer, gold)
    if ordered:
        return opened == gold_opened and numbers == gold_numbers
    if "\\{\\}" in (opened, gold_opened):
        return set(numbers) == set(gold_numbers)
    return sorted(numbers) == sorted(gold_numbers)


def _number(text: str) -> Fraction | None:
    return read_number(normalize(text))


def _case_of_letters(answer: str, gold: str) -> bool | None:
    """Reject variables that differ in case, Greek ones too; the mathematics parser ignores the case of some."""
    names, gold_names = (set(re.findall(r"\\?[A-Za-z]+", _separated(text))) for text in (answer, gold))
    swapped = {
        re.sub(r"[A-Za-z]", lambda match: match.group().swapcase(), name, count=1) for name in names - gold_names
    }
    return False if swapped & (gold_names - names) else None


def _separated(text: str) -> str:
    r"""Add a space after each letter outside macros, so that each is a name; drop `\text{}`."""
    return re.sub(r"(\\[A-Za-z]+)|([A-Za-z])", r"\1\2 ", re.sub(r"\\text\{[^{}]*\}", "", text))


def _without_macros(text: str) -> str:
    return re.sub(r"\\text\{[^{}]*\}|\\[A-Za-z]+", "", text)


_VALUE_RULES: tuple[Rule, ...] = (_stated_result, *REFUSALS, _ratio, _case_of_letters, _lists)

# --- questions for mathematics ---------------------------------------------------------------------------------

_DECIMAL = re.compile(r"(?<![\d.])(\d*)\.(\d+)(?![\d.])(?:\\overline\{(\d+)\})?", re.ASCII)
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*\^\s*\\circ", re.ASCII)
_MIXED = re.compile(r"(?<![\w.^}])(\d{1,9}) ?\\frac ?(?:\{(\d{1,9})\}|(\d))(?:\{(\d{1,9})\}|(\d))", re.ASCII)


def _question(answer: str, gold: str) -> Question:
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
