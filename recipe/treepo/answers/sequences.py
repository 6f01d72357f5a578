# SPDX-License-Identifier: Apache-2.0
"""Compare lists, sets, tuples, ratios and sequences with dots. Standard library only."""

import re
from itertools import pairwise

from recipe.treepo.answers.lists import split_list
from recipe.treepo.answers.phrases import WORDS, bare
from recipe.treepo.answers.question import Question, question
from recipe.treepo.answers.spelling import normalize, number_of, read_number
from recipe.treepo.answers.units import Measured, same_unit, split_unit

_MACROS = re.compile(r"\\text\{[^{}]*\}|\\begin ?\{.*|\\[A-Za-z]+|[^A-Za-z\\]")


def same_ratio(answer: str, gold: str) -> bool | None:
    """Compare ratios, and times such as 3:30, part by part; nothing else equals them."""
    if "\\{" in answer + gold or ("|" in answer + gold):
        return None
    parts, gold_parts = (
        re.split(r":|(?<=\d)\s*(?:\\text\s*\{\s*to\s*\}|\sto\s)\s*(?=\d)", text.strip()) for text in (answer, gold)
    )
    if len(parts) == len(gold_parts) == 1:
        return None
    numbers, gold_numbers = ([number_of(part) for part in side] for side in (parts, gold_parts))
    return None not in numbers and numbers == gold_numbers


def same_list(answer: str, gold: str) -> bool | Question | None:
    """Compare lists, sets and tuples: plain numbers here, other items by mathematics."""
    (opened, items), (gold_opened, gold_items) = split_list(answer), split_list(gold)
    if opened != gold_opened:
        for brackets, content in ((opened, items), (gold_opened, gold_items)):
            # The fractional part {x} or the integer part [x], not a group.
            if brackets in ("\\{\\}", "[]") and len(content) == 1 and _MACROS.sub("", content[0]):
                return False
    if opened == "\\{\\}" != gold_opened and len(items) == 1:  # a set of one item equals the item
        answer = items[0]
        opened, items = split_list(answer)
    if len(items) < 2 and len(gold_items) < 2:
        return None
    ordered = opened[:1] in ("(", "[") or gold_opened[:1] in ("(", "[")
    if ordered and "\\{\\}" in (opened, gold_opened):
        return False  # a set is not a tuple
    if "" in (opened, gold_opened) and "()" in (opened, gold_opened) and len(items) == len(gold_items):
        # A bare list equals a tuple in the same order.
        answer, gold = answer if opened else f"({answer})", gold if gold_opened else f"({gold})"
        opened = gold_opened = "()"
    values, gold_values = ([_item(item) for item in side] for side in (items, gold_items))
    if None in values or None in gold_values:
        return question(answer, gold)
    if not ordered:
        is_set = "\\{\\}" in (opened, gold_opened)
        values, gold_values = (sorted(set(side) if is_set else side, key=repr) for side in (values, gold_values))
    elif opened != gold_opened:
        return False
    return len(values) == len(gold_values) and all(
        item and other and item.value == other.value and same_unit(item.unit, other.unit, item.listed)
        for item, other in zip(values, gold_values, strict=True)
    )


def _item(text: str) -> Measured | None:
    """Return number and unit, or the words, of an item of a list; None if mathematics has to decide."""
    value, unit, listed = split_unit(text.strip())
    if (number := number_of(value)) is not None:
        return Measured(str(number), unit, listed)
    words = bare(text)
    return Measured(words, None, True) if WORDS.fullmatch(words) and len(words) > 2 else None


def same_sequence(answer: str, gold: str) -> bool | None:
    """Compare sequences with dots: the same last terms, and the same first ones, as far as both name them."""
    if "\\ldots" not in answer or "\\ldots" not in gold:
        return None
    sides = [[normalize(item) for item in split_list(text)[1]] for text in (answer, gold)]
    if not all(side.count("\\ldots") == 1 for side in sides):
        return None
    (first, last), (gold_first, gold_last) = (
        (side[: side.index("\\ldots")], side[side.index("\\ldots") + 1 :]) for side in sides
    )
    short, long = sorted((first, gold_first), key=len)
    if len(short) < 2 or long[: len(short)] != short or last != gold_last:
        return False
    numbers = [number for item in long if (number := read_number(item)) is not None]
    in_steps = len(numbers) == len(long) and len({after - before for before, after in pairwise(numbers)}) == 1
    return len(long) == len(short) or in_steps  # further terms have to go on in equal steps
