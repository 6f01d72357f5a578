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

from fractions import Fraction

from recipe.treepo.answers.choices import same_choices, without_choice
from recipe.treepo.answers.dates import same_moments
from recipe.treepo.answers.forms import same_form
from recipe.treepo.answers.phrases import same_words
from recipe.treepo.answers.quantities import same_amounts, same_base
from recipe.treepo.answers.question import Question, Rule, question
from recipe.treepo.answers.refusals import REFUSALS
from recipe.treepo.answers.relations import RELATIONS, case_of_letters, right_side, stated_result
from recipe.treepo.answers.sequences import same_list, same_ratio, same_sequence
from recipe.treepo.answers.spelling import PLAIN_NUMBER, normalize, read_number
from recipe.treepo.answers.units import in_radians, measured, same_unit
from recipe.treepo.answers.words import read

# Rules on whole answers, and on their values without units and names
_RULES: tuple[Rule, ...] = (same_choices, same_moments, same_amounts, same_words, same_base, *RELATIONS)
_VALUE_RULES: tuple[Rule, ...] = (stated_result, same_sequence, *REFUSALS, same_ratio, case_of_letters, same_list)
LONGEST = 4_000  # characters


def compare_text(answer: str, gold: str) -> bool | Question:
    """Compare two answers as text; return a Question if mathematics has to decide.

    Over `LONGEST` characters, only identical texts agree.
    """
    if answer.strip() == gold.strip() or max(len(answer), len(gold)) > LONGEST:
        return answer.strip() == gold.strip() != ""
    if PLAIN_NUMBER.fullmatch(answer) and PLAIN_NUMBER.fullmatch(gold):
        return Fraction(answer) == Fraction(gold)
    values = without_choice(read(answer), read(gold))
    return values if isinstance(values, bool) else _compare_whole(*same_form(*values))


def _compare_whole(answer: str, gold: str) -> bool | Question:
    if (verdict := _first(_RULES, answer, gold)) is not None:
        return verdict
    value, unit, listed = measured(right_side(answer, gold))
    gold_value, gold_unit, _ = measured(right_side(gold, answer))
    if not same_unit(unit, gold_unit, listed):
        return False
    if (unit == "degree") != (gold_unit == "degree") and "\\pi" in value + gold_value:
        value, gold_value = in_radians(value, unit), in_radians(gold_value, gold_unit)
    return _compare_values(value, gold_value, unit == "percent", gold_unit == "percent")


def _compare_values(answer: str, gold: str, answer_percent: bool, gold_percent: bool) -> bool | Question:
    plain_answer, plain_gold = normalize(answer), normalize(gold)
    if not plain_answer or not plain_gold:
        return False
    one_percent = answer_percent != gold_percent
    number, gold_number = read_number(plain_answer), read_number(plain_gold)
    if number is not None and gold_number is not None:
        share = (number / 100, gold_number) if answer_percent else (number, gold_number / 100)
        return number == gold_number or (one_percent and share[0] == share[1])
    if plain_answer == plain_gold:
        return True
    verdict = _first(_VALUE_RULES, answer, gold)
    return question(answer, gold) if verdict is None else verdict


def _first(rules: tuple[Rule, ...], answer: str, gold: str) -> bool | Question | None:
    """Return the verdict of the first rule that decides."""
    return next((verdict for rule in rules if (verdict := rule(answer, gold)) is not None), None)
