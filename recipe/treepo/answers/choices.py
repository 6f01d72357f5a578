# SPDX-License-Identifier: Apache-2.0
"""Compare the letters of multiple choices. Standard library only."""

import re

from recipe.treepo.answers.spelling import normalize, plain

# The letter of a choice. Lowercase letters only in parentheses and up to h: x is a variable.
_CHOICE = re.compile(r"(?:\\text\s*\{\s*)?(?:(?i:option|choice)\s+)?(?:\(([A-Za-h])\)|\(?([A-Z])\)?[.:]?)\s*\}?")
_CHOICE_WITH_VALUE = re.compile(
    r"(?:\(([A-Z])\)|([A-Z])[).:])[.:]?\s+(?![,;]|(?:\\text ?\{ ?)?(?:and|or|not)\b)(\S.*)", re.DOTALL
)
_ANOTHER_CHOICE = re.compile(r"\([A-Z]\)|(?<![A-Za-z\\])[A-Z][).:]")


def without_choice(answer: str, gold: str) -> bool | tuple[str, str]:
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
    match = _CHOICE_WITH_VALUE.fullmatch(re.sub(r"\\text\s*\{\s*(\(?[A-Z]\)?[.:]?)\s*\}", r"\1 ", answer))
    if match is None or _ANOTHER_CHOICE.search(match.group(3)):  # a list of choices is not a choice
        return None, None
    return match.group(1) or match.group(2), match.group(3)


_CHOICES = re.compile(r"(?:options? |choices? )?\(?[A-J①-⑩]\)?(?:(?: ?, ?(?:and |& )?| (?:and|&) | ?)\(?[A-J①-⑩]\)?)+")


def same_choices(answer: str, gold: str) -> bool | None:
    """Compare several letters of choices in any order: "A, C" is AC."""
    sets = [re.findall(r"[A-J①-⑩]", text) if _CHOICES.fullmatch(text) else [] for text in (plain(answer), plain(gold))]
    spells = any(len(letters) > 2 and letters != sorted(letters) for letters in sets)  # BAD is a word
    return sorted(sets[0]) == sorted(sets[1]) if all(sets) and not spells else None
