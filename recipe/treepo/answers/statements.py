# SPDX-License-Identifier: Apache-2.0
r"""Find the answer that a solution without a box states. Standard library only.

The answer is all of what the statement names: `2 1/2`, `12 500`, `$\frac{3}{4}$` or `minus 8`, never a digit out of the
middle. If the text names several values, a condition ("at least 5") or a formula in plain text, there is no answer. The
input is untrusted model output: nothing is evaluated, and only the end of a text is read.
"""

import re
from collections.abc import Iterator
from fractions import Fraction

LONGEST = 4_000
"""Characters at the end of a text that are read."""
MOST_WORDS = 40
"""Characters of an answer in words behind "the answer is"."""
MOST_SENTENCES = 8
"""Sentences at the end of a text that are searched for a value."""

_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.IGNORECASE | re.DOTALL)
_HASHES = re.compile(r"^ *####[ \t]*(\S[^\n]*)", re.MULTILINE)
_FRAMED = re.compile(r"\\fbox *\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")
_PHRASE = re.compile(r"\banswer\b[^.\n:=\d$\\]{0,40}?(?:\bis\b|\bare\b|\bequals\b|:|=)\s*:?", re.IGNORECASE)
# A dot ends a sentence only before white space or at the end of the text.
_SENTENCES = re.compile(r"(?<=[.!?])\s+|\n+")
_EMPHASIS = re.compile(r"\*\*(?=\S)([^*\n]{1,200}?)(?<=\S)\*\*|__(?=\S)([^_\n]{1,200}?)(?<=\S)__|`([^`\n]{1,200})`")
_GROUP = re.compile(r"[(\[{][^()\[\]{}]{3,200}[)\]}]")
_FORMULA = re.compile(r"\$\$?([^$\n]{1,400}?)\$?\$|\\\(([^\n]{1,400}?)\\\)|\\\[([^\n]{1,400}?)\\\]")
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}[ ,]+[A-Za-z]{2,}")
_COPULA = re.compile(r"=|\u2248|:|\b(?:is|are|was|were|equals?|makes?|gives?|gave|made|has|have|totals?|needs?|be)\b")
_REMARK = re.compile(r"\((?!\s*(?:mod\b|[-+\u2212\u2013]?\d+(?:\.\d+)?\)))[^()\n]*[A-Za-z]{2}[^()\n]*\)")

_POWERS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_MINUS = "-\u2212\u2013"
_SIGN = rf"(?:(?:[{_MINUS}]|\bminus\b|\bnegative\b)\s?)?"
_DIGITS = (
    r"(?:\d{1,3}(?:(?:,|\{,\}|\\,| |\u00a0|\u202f|')\d{3})+(?![\d,])(?:\.\d+)?|\d+(?:\.\d+|,\d{1,2}(?!\d)|,\d{4,})?)"
)
_VALUE = re.compile(
    rf"(?P<sign>{_SIGN})(?P<number>{_DIGITS})"
    r"(?:(?P<mixed>(?:[ -])\d+/\d+)|(?P<bottom>\s?/\s?\d+)"
    r"|(?P<exponent>[eE][-+]?\d{1,2}(?!\w|\.\d))|(?P<ten>\s?(?:x|\*|\u00d7|\\times)\s?10\^\{?[-\u2212]?\d{1,2}\}?)"
    r"|(?P<raised>[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+)|(?P<factorial>!(?=\s*[.,;)$])))?"
    r"(?P<percent>\s?\\?%|\s+percent\b)?"
    rf"(?:\s+(?P<power>{'|'.join(_POWERS)})\b)?",
    re.IGNORECASE,
)
_SIGNED_IN_BRACKETS = re.compile(r"\(([-+\u2212\u2013]?\d+(?:\.\d+)?)\)(?!\w)")
# Units with an exponent, which is not a number of its own
_UNIT_POWER = re.compile(
    r"(?<![A-Za-z])(cm|mm|km|m|ft|in|feet|inches|meters?|metres?|units?|miles?|yards?) ?\^? ?\{?[23]\}?(?!\w)"
)
_VARIABLE = re.compile(r"(?:(?<![A-Za-z])[A-Za-z]\s?|[\d)\]]\s?)\Z")
_SUPERSCRIPTS = str.maketrans("\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079", "0123456789")
# Signs and words around a number that make it a part of something else.
_PART_BEFORE = re.compile(
    r"(?:[\w.\\^_{\[]|[*_/+<>\u2264\u2265\u2260\u221a\u00d7\u00f7{\[]\s*|[A-Za-z\d)]\s?[-\u2212]\s?|[A-Za-z]\(|\d\s?:\s?"
    r"|\b(?:least|most|than|about|over|mod|to|and|or|between|by|from|times|plus|below|above|under|up|log|ln|sqrt"
    r"|steps?|sin|cos|tan|exp|root)\s+)\Z",
    re.IGNORECASE,
)
_ATTACHED = (
    r"\^(?!\s*\{?\s*\\(?:circ|degree))|[_:{\[\u221a\u03c0\u00d7\u00f7]|\s*[+*/=<>\u00d7\u00f7\u2264\u2265\u2260\u221a\u03c0]"
    r"|\s[-\u2212\u2013]\s|-\d|(?!(?-i:st|nd|rd|th|cm|mm|km|kg|[mgsh])(?![A-Za-z]))[A-Za-z]|,\s?\d|\s+\(\s*mod\b"
    r"|\s+(?:mod|pi|i|x|y|z|squared|cubed)\b"
)
_PART_OF_RESULT = re.compile(_ATTACHED, re.IGNORECASE)
_PART_BEHIND = re.compile(
    rf"(?:{_ATTACHED}|\s+(?:to|or|and|by|out|over|plus|minus|times|dozens?|score|less|more)\b)", re.IGNORECASE
)


def stated_answer(text: str) -> str | None:
    """Return the answer that a text without a box states, None if it states none or more than one."""
    text = text[-LONGEST:]
    if marked := _TAGGED.findall(text) or _HASHES.findall(text):
        return _whole_value(marked[-1])
    if framed := _FRAMED.findall(text):
        return framed[-1].strip() or None
    ends = [phrase.end() for phrase in _PHRASE.finditer(text)]
    if ends and (rest := text[ends[-1] :].strip()):
        return _phrase_value(_SENTENCES.split(rest, maxsplit=1)[0])
    sentences = [part for part in _SENTENCES.split(text) if part.strip()]
    for sentence in reversed(sentences[-MOST_SENTENCES:]):
        if re.search(r"\d|\$|\\\(|\\\[", sentence):
            return _value(sentence)
    return None


def _phrase_value(rest: str) -> str | None:
    """Return the value of the text behind "the answer is": also a group in brackets, a letter or a few words."""
    bare = rest.strip(" *_`").removesuffix(".").strip()
    if _GROUP.fullmatch(bare) or (len(bare) <= MOST_WORDS and not re.search(r"[\d$\\=<>]", bare)):
        return bare or None
    return _value(rest)


def _whole_value(text: str) -> str | None:
    """Return the value of a marked answer, or all of it if it names no single value."""
    text = text.strip()
    return _value(text) or text.removesuffix(".") or None


def _value(sentence: str) -> str | None:
    """Return the one value that a sentence names."""
    emphasized = [next(filter(None, groups)) for groups in _EMPHASIS.findall(sentence)]
    if emphasized:
        return _value(emphasized[-1])
    sentence = _REMARK.sub(" ", sentence)
    if not re.search(r"\$(?![\d.])", sentence):  # amounts of money
        sentence = sentence.replace("$", "")
    formulas = [match for match in _FORMULA.finditer(sentence) if not _PROSE.search(_content(match))]
    if formulas:
        return _formula_value(sentence, formulas)
    return _number_value(sentence)


def _content(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group is not None)


def _formula_value(sentence: str, formulas: list[re.Match[str]]) -> str | None:
    """Return the last formula, unless the words around it change its value."""
    last = formulas[-1]
    before, behind = sentence[: last.start()], sentence[last.end() :]
    if re.search(r"\d", behind) or re.search(r"\b(?:least|most|than|minus|negative|or|and|not)\s*\Z", before, re.I):
        return None
    if re.match(rf"\s*(?:{'|'.join(_POWERS)}|dozen)\b", behind):
        return None
    # A box without braces is not a box, but its macro is no part of the value either.
    return _content(last).rpartition("=")[2].replace("\\boxed", "").strip() or None


def _number_value(sentence: str) -> str | None:
    """Return the one number of a sentence without formulas, or the one behind its last equals sign or verb."""
    sentence = re.sub(r"\|(\d+(?:\.\d+)?)\|", r"\1", sentence)
    sentence = sentence if "f(" in sentence else _SIGNED_IN_BRACKETS.sub(r" \1", sentence)
    sentence = _UNIT_POWER.sub(r"\1", sentence)
    found = list(_numbers(sentence))
    if len({value for _, value in found}) > 1:
        verbs = [verb for verb in _COPULA.finditer(sentence) if verb.end() <= found[-1][0]]
        if verbs:
            found = [(start, value) for start, value in found if start >= verbs[-1].end()]
            if verbs[-1].group() == "=" and not sentence[verbs[-1].end() : found[0][0]].strip():
                found = found[:1]  # the result of a computation; a number behind it belongs to the description
    values = {value for _, value in found}
    return values.pop() if len(values) == 1 else None


def _numbers(sentence: str) -> Iterator[tuple[int, str | None]]:
    """Yield the start and the value of each number; None for a part of something else."""
    for match in _VALUE.finditer(sentence):
        before = sentence[max(0, match.start() - 24) : match.start()].rstrip("$")
        part = _PART_BEFORE.search(before) or (match["sign"].startswith(tuple(_MINUS)) and _VARIABLE.search(before))
        behind = _PART_OF_RESULT if before.rstrip().endswith("=") else _PART_BEHIND
        part = part or behind.match(sentence, match.end())
        yield match.start(), None if part else _spelled(match)


def _spelled(match: re.Match[str]) -> str:
    """Return a number as LaTeX without separators."""
    number = re.sub(r"(?<=\d)(?:\{,\}|\\,|[ \u00a0\u202f'])(?=\d{3})", "", match["number"])
    number = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", number).replace(",", ".")
    if match["mixed"]:
        number = f"{number} {match['mixed'][1:]}"
    elif match["bottom"]:
        number += re.sub(r"\s", "", match["bottom"])
    elif match["exponent"]:
        number = str(Fraction(number) * Fraction(10) ** int(match["exponent"][1:]))
    elif match["ten"]:
        number += "\\times 10^{" + match["ten"].partition("^")[2].strip("{}").replace("\u2212", "-") + "}"
    elif match["raised"]:
        number += "^{" + match["raised"].translate(_SUPERSCRIPTS) + "}"
    elif match["factorial"]:
        number += "!"
    if match["power"] and number.replace(".", "").isdigit():
        number = str(Fraction(number) * 10 ** _POWERS[match["power"].casefold()])
    if match["percent"]:
        number += "\\%"
    return ("-" if match["sign"].strip() else "") + number
