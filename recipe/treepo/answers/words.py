# SPDX-License-Identifier: Apache-2.0
"""Rewrite words that are part of a number: `five`, `3 million`, `5 sixths`, `minus 8`. Standard library only."""

import re
from decimal import Decimal
from functools import lru_cache

from recipe.treepo.answers.notation import from_plain_text, from_unicode
from recipe.treepo.answers.spelling import power_of_ten, tidy
from recipe.treepo.answers.tables import (
    HAN_DIGITS,
    MULTIPLIERS,
    NUMBER_WORDS,
    PARTS,
    POWERS,
    SMALL,
    alternatives,
    rewrite,
    rewritings,
)

_CARDINAL = re.compile(
    rf"(?<![A-Za-z\\])(?:{alternatives(SMALL)})(?:(?:[ -]|(?<=d|n) and )(?:{alternatives(NUMBER_WORDS)}))*(?![A-Za-z])",
    re.IGNORECASE,
)
_WRAPPER = r"\\(?:text|mathrm|mbox|textbf|textrm)\s*\{"
_GAP = rf"(?P<gap>(?:[\s~$-]|\\[,;: ])*(?:{_WRAPPER}\s*)?)"
_NUMBER = r"(?<![\w.\\])(?P<number>\d+(?:,\d{3})*(?:\.\d+)?)"


def _cardinal(match: re.Match[str]) -> str:
    """Return the number that words spell; the words, if they spell none or several."""
    total, current = 0, 0
    for word in re.split(r"[ -](?:and )?", match.group().casefold()):
        if value := SMALL.get(word, 0):
            if current % 10 or (current % 100 and value >= 10) or (current and value == 10):
                return match.group()
            current += value
        elif power := POWERS.get(word):
            current = max(1, current) * 10**power
            if power > 2:
                total, current = total + current, 0
    return str(total + current)


def _times(match: re.Match[str]) -> str:
    product = Decimal(match["number"].replace(",", "")) * MULTIPLIERS[match["word"].casefold()]
    return f"{product.normalize():f}{match['gap'].strip(' -')}"


def _part(match: re.Match[str]) -> str:
    return f"\\frac{{{match['number']}}}{{{PARTS[match['word'].casefold()]}}}{match['gap'].strip(' -')}"


def _chinese_part(match: re.Match[str]) -> str:
    bottom, top = (HAN_DIGITS.index(digit) for digit in match.groups())
    return f"\\frac{{{top}}}{{{bottom}}}"


def _behind(words: str) -> str:
    """Return the pattern of a number before these words."""
    return rf"{_NUMBER}{_GAP}(?P<word>{words})(?![A-Za-z克米])"


_REWRITES = rewritings(
    (f"([{HAN_DIGITS}])分之([{HAN_DIGITS}])", _chinese_part),
    (_CARDINAL.pattern, _cardinal),
    (rf"(^|[,(=:])\s*(?:{_WRAPPER}\s*)?(?:minus|negative|负)\s*\}}?\s*(?=[\d.\\$])", r"\1-"),
    (_behind("and an? half"), r"\g<number>.5\g<gap>"),
    (_behind(alternatives(MULTIPLIERS)), _times),
    (_behind(alternatives(PARTS)), _part),
    (_behind("(?:degrees )?below (?:zero|0)"), r"-\g<number>\g<gap>"),
    (rf"(?<![\w.\\])(\d*\.)(\d+){_GAP}(?:repeating|recurring)(?![A-Za-z])", r"\1\\overline{\2}\g<gap>"),
    (_behind(r"squared(?= *\}? *\Z)"), r"\g<number>^{2}\g<gap>"),
    (_behind(r"cubed(?= *\}? *\Z)"), r"\g<number>^{3}\g<gap>"),
    (r"per[ -]cent(?![A-Za-z])", "percent"),
    (rf"{_WRAPPER}\s*\}}", ""),
    flags=re.IGNORECASE,
)
_NOT_ONLY_WORDS = re.compile(r"[\d:,(]|\A[A-Z]\.|answer|option|choice|选|分之", re.IGNORECASE)
_ALL_TEXT = re.compile(rf"\s*{_WRAPPER}([^{{}}]*)\}}\s*\.?\s*")
_SAYS = r"(?:the )?(?:(?:final|correct|right|best) )?(?:answers?|options?|choices?|答案)(?: is| are| ?:|=|是|为)\s*"
_SAYS += r"|故?选(?:项)?[:\uff1a]?\s*|(?:exactly|only) |一?共有?|有"
_INTRODUCTION = re.compile(rf"{_WRAPPER}\s*(?:{_SAYS})\}}|{_SAYS}", re.IGNORECASE)
_PHRASES = rewritings(
    (
        r"\A(?:(?:there (?:is|are) )?no (?:real |such )?solutions?(?: exists?)?|none|(?:the )?empty set)\Z",
        r"\\emptyset",
    ),
    (r"\A(?:(?:it )?does not exist|dne|undefined)\Z", "undefined"),
    (r"\A(?:(?:the )?(?:set of )?(?:all )?real numbers|all reals)\Z", r"\\mathbb{R}"),
    flags=re.IGNORECASE,
)


def from_words(text: str) -> str:
    """Replace words that are part of a number, and drop "the answer is"."""
    if not re.search(r"[^\W\d_]{2}|[^\x00-\x7f]", text):
        return text
    words = _ALL_TEXT.fullmatch(text)
    if words and (_CARDINAL.search(words.group(1)) or _NOT_ONLY_WORDS.search(words.group(1))):
        text = words.group(1).strip()
    if introduction := _INTRODUCTION.match(text):
        text = text[introduction.end() :]
    bare = re.sub(rf"{_WRAPPER}|\}}", "", text).strip(" .")
    if (phrase := rewrite(bare, _PHRASES)) != bare:
        return phrase
    if len(bare) == 1 and bare in HAN_DIGITS:
        return str(HAN_DIGITS.index(bare))
    return rewrite(text, _REWRITES)


@lru_cache(maxsize=1_024)
def read(answer: str) -> str:
    """Return an answer in LaTeX, with numbers in digits and without markup."""
    return tidy(from_words(from_plain_text(from_unicode(power_of_ten(answer)))))
