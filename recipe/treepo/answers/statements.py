# SPDX-License-Identifier: Apache-2.0
r"""Find the answer that a solution without a box states. Standard library only.

The answer is all of what the statement names: `2 1/2`, `12 500`, `$\frac{3}{4}$` or `minus 8`, never a digit out of the
middle. If the text names several values, a condition ("at least 5") or a formula in plain text, there is no answer. The
input is untrusted model output: nothing is evaluated, and only the end of a text is read.
"""

import re
import unicodedata
from collections.abc import Iterator

from recipe.treepo.answers.spelling import normalize, number_of
from recipe.treepo.answers.tables import HAN_UNITS, MULTIPLIERS, PARTS, UNITS, alternatives, rewrite, rewritings
from recipe.treepo.answers.words import read

LONGEST = 4_000
"""Characters at the end of a text that are read."""
MOST_WORDS = 40
"""Characters of an answer in words behind "the answer is"."""
MOST_SENTENCES = 8
"""Sentences at the end of a text that are searched for a value."""

# Answers in tags, behind GSM8K's hashes, and in a frame
_MARKED = (
    re.compile(r"<answer>(.*?)</answer>", re.IGNORECASE | re.DOTALL),
    re.compile(r"^ *####[ \t]*(\S[^\n]*)", re.MULTILINE),
    re.compile(r"\\fbox *\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}"),
)
_PHRASE = re.compile(
    r"\banswer\b[^.\n:=\d$\\]{0,40}?(?:\bis\b|\bare\b|\bequals\b|:|=)\s*:?"
    r"|答案(?:应?[是为选]|[:\uff1a=])\s*|[故应此]选(?:项)?[:\uff1a]?|选项[:\uff1a]?|答[:\uff1a]",
    re.IGNORECASE,
)
_FRACTIONS = re.compile("\\s?([\u00bc-\u00be\u2150-\u215e])")
# A dot ends a sentence only before white space or at the end of the text.
_SENTENCES = re.compile(r"(?<=[.!?])\s+(?!(?<=\d \. )\d)|(?<=[。\uff01\uff1f])|\n+")
# Between digits, two asterisks are a power.
_EMPHASIS = re.compile(r"(?<!\d)(\*\*|__|`)(?=\S)([^*_`\n]{1,200}?)\1(?!\d)")
_STARS = re.compile(r"(?<!\d)\*\*|\*\*(?!\d)|__")
_GROUP = re.compile(r"[(\[{][^()\[\]{}]{3,200}[)\]}]")
_FORMULA = re.compile(r"(?:(\$\$?)|\\(?:(\()|\[))([^$\n]{1,400}?)(?(1)\$\$?|\\(?(2)\)|\]))")
# x = 2 or x = 7, and x = 5, y = 6
_SEVERAL = re.compile(r"[A-Za-z](?:_?\d)?\s*=[^=]*(?:,|;|\bor\b|\band\b)\s*[A-Za-z](?:_?\d)?\s*=")
# Sentences that do not state a result
_OPEN = re.compile(
    r"\b(?:suppose|assum(?:e|ing)|let(?:'s| us| me| [a-z]\b)|whether|consider|probably|possibly|perhaps|maybe|might"
    r"|anything|contradicts?)\b|\?\s*\Z|假设|如果|若|试|验证",
    re.IGNORECASE,
)
# A correction behind an answer
_RETRACTED = re.compile(
    r"\W*(?:or (?:maybe|perhaps|possibly|rather|is|\W*\d)|no(?:,|\.| wait| it)"
    r"|(?:wait|actually|correction|sorry|hmm)\b)",
    re.IGNORECASE,
)
# A value with a condition behind it, and roots in plain text
_CONDITIONAL = re.compile(r"\d(?:[^,;\d]*|\W*)\bif\b", re.IGNORECASE)
_ROOTS = re.compile(r"(?=.*sqrt)(?:sqrt|[-+*/().\d ])+")
_CONDITION = re.compile(r"\bif\b(?!.*\b(?:otherwise|else)\b).*?(?:,(?!\d)|\bthen\b|\Z)", re.IGNORECASE)
_JOINS = re.compile(r";|\b(?:and|but|or|while)\b", re.IGNORECASE)
_NAME = re.compile(r"\s*\\?[A-Za-z]+(?:_\{?\w+\}?)?(?:\([^()]*\))?\s*")
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}[ ,]+[A-Za-z]{2,}")
_COPULA = re.compile(
    r"=|\u2248|:|\b(?:is|are|was|were|equals?|makes?|gives?|gave|made|has|have|totals?|needs?|be)\b|[是为共有]"
)
_REMARK = re.compile(
    r"(?<!\\)\((?!\s*(?:(?:mod|or|maybe|perhaps|possibly|probably)\b|(?:and|not)\b[^()\n]*\d))[^()\n]*[A-Za-z]{2}[^()\n]*\)"
)

_POWERS = alternatives({*MULTIPLIERS, *PARTS})
_MINUS = "-\u2212\u2013"
_VALUE = re.compile(
    rf"(?P<sign>(?:(?:[{_MINUS}负]|\bminus\b|\bnegative\b)\s?)?)"
    r"(?:\d+:\d+(?::\d+)?"  # a ratio or a time
    r"|\d{1,3}(?:(?:,|\{,\}|\\,| |\u00a0|\u202f|')\d{3})+(?![\d,])(?:\.\d+)?"  # in groups of three
    r"|(?<![\d.])\.\d+|\d+(?:\.\d+|,\d{1,2}(?!\d)|,\d{4,})?)"
    r"(?:[ -]\d+/\d+|\s?/\s?\d+"  # a mixed number, a fraction
    r"|[eE][-+]?\d{1,2}(?!\w|\.\d)|\s?(?:x|\*|\u00d7|\\times)\s?10\^\{?[-\u2212]?\d{1,2}\}?"
    r"|\u207b?[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+|[\u2080-\u2089]+|\^\{?-?\d{1,3}\}?|!(?=\s*[.,;)$]))?"
    rf"(?:\s?\\?%|\s+percent\b)?(?:\s*(?:{_POWERS}|repeating|recurring)(?![A-Za-z克米]))?",
    re.IGNORECASE,
)
# Absolute values, signed numbers in brackets, and exponents of units, which are not numbers of their own
_REDUCED = rewritings(
    (rf"\|[{_MINUS}]?(\d+(?:\.\d+)?)\|", r"\1"),
    (rf"(?<![A-Za-z])\(([+{_MINUS}]?\d+(?:\.\d+)?)\)(?!\w)", r" \1"),
    (
        r"(?<![A-Za-z])([cmk]?m|ft|in|feet|inches|units?|met(?:er|re)s?|yards?|miles?) ?\^? ?\{?([23])\}?(?!\w)",
        lambda match: f" {'square' if match[2] == '2' else 'cubic'} {match[1]}",
    ),
)
_VARIABLE = re.compile(r"(?:(?<![A-Za-z])[A-Za-z]\s?|[\d)\]]\s?)\Z")
# Signs and words around a number that make it a part of something else.
_PART_BEFORE = re.compile(
    r"(?:(?![\u4e00-\u9fff])[\w.\\^_{\[]|\\pm\s*"
    r"|[*_/+<>\u00b1\u2264\u2265\u2260\u221a\u00d7\u00f7{\[]\s*|[A-Za-z\d)]\s?[-\u2212]\s?|[A-Za-z]\(|\d\s?:\s?"
    r"|\b(?:least|most|than|about|over|mod|and|or|maybe|perhaps|between|from|times|plus|below|above|under"
    r"|(?<!add )(?<!adds )up to|(?:\d|divided|divisible|multiplied) by|log|ln|sqrt|sin|cos|tan|exp|root|exceeds?|never"
    r"|twice|double|triple|steps?|case|theorem|lemma|equation|figure|part"
    rf"|(?:multiple|{alternatives(PARTS)}|root|factor|sum|square|number|division) (?:of|by))\s+\(?"
    r"|(?:[大小]于|[不零根号分约]|至[少多]|超过?|[不最][多少]|可能)[是为下于号之了]*"
    r"|n[o']t(?:\s+be|\s+equal(?:\s+to)?)?\s+)\Z",
    re.IGNORECASE,
)
# Words before and behind a formula that change its value; a number behind it may be the answer.
_NEGATED = re.compile(r"\b(?:minus|negative)\s*\Z", re.IGNORECASE)
_CHANGED = re.compile(
    rf"\s*(?:{_POWERS}|repeating|recurring|[+/^_\u00b1\u00b7\u00d7\u00f7\u221a\u221e])|.*\d"
    r"|\s+\(?(?:or|not|mod|over|plus|minus|times|squared|cubed|factorial|less|more|fewer|if)\b",
    re.IGNORECASE | re.DOTALL,
)
_ATTACHED = (
    r"\^(?!\s*\{?\s*\\(?:circ|degree))|[_:{\[\u2070-\u209f]|!!"
    r"|\s*(?:[+*/=<>\u00b1\u00b7\u00d7\u00f7\u03b1-\u03bb\u03bd-\u03c8\u2202\u2208-\u220b\u2219-\u222f\u2243-\u22ff]"
    r"|\\(?!text|math|mbox|q?quad|circ|degree|right|end|(?:black)?square|qed)[A-Za-z])"
    r"|\s[-\u2212\u2013]\s|-\d|(?!(?-i:st|nd|rd|th|cm|mm|km|kg|[mgsh])(?![A-Za-z]))[A-Za-z]|,\s?\d|\s+\(\s*mod\b"
    r"|\s+(?:mod|pi|i|x|y|z|squared|cubed)\b"
)
# Names that may be a word or a currency are left out.
_NAMES = alternatives(set(UNITS) - {"in", "unit", "units", "pound", "pounds", "t", "l"})
_UNIT = re.compile(
    rf"\s*(?:(?:(?:square|cubic|sq|cu)\.? )?(?:{_NAMES})(?:(?: per |/)(?:{_NAMES}))?(?: squared| cubed)?"
    rf"|(?:平方|立方)?(?:{alternatives(HAN_UNITS)}))(?!\w|/)"
)
_EQUATED = re.compile(r"(?:\A|=|:\s|\b(?:is|are)\b)\s*(\d[\d.,]*)\s*=\s*\Z")
_PART_OF_RESULT = re.compile(_ATTACHED, re.IGNORECASE)
_PART_BEHIND = re.compile(
    rf"(?:{_ATTACHED}|\s+\(?(?:to|or|and|not|by|out|over|plus|minus|times|factorial|below|above|off|if)\b"
    r"|\s+(?:at (?:least|most)|per (?:thousand|mille)|for some)\b|(?:\s+\w+)?\s+(?:less|more|fewer)\b"
    r"|\s*(?:分之|成|折|左右|以[上下内]|的))",
    re.IGNORECASE,
)
# Spaces behind signs, decimal commas, mixed numbers with a hyphen, and plain signs of multiplication
_SPELLINGS = rewritings(
    (r"^\W\s+(?=\d)", "-"),
    (r"(?<=\d),(?=\d{1,2}(?!\d)|\d{4})", "."),
    (r"(?<=\d)-(?=\d+/)", " "),
    (r"\s*[x*]\s*(?=10\^)", r"\\times "),
)


def stated_answer(text: str) -> str | None:
    """Return the answer that a text without a box states, None if it states none or more than one."""
    text = _FRACTIONS.sub(_written_out, text[-LONGEST:])[-LONGEST:]
    for pattern in _MARKED:
        if marked := pattern.findall(text):
            return marked[-1].strip() or None
    ends = [phrase.end() for phrase in _PHRASE.finditer(text)]
    if ends and (rest := text[ends[-1] :].strip(" \n*_")):
        first, *others = _SENTENCES.split(rest, maxsplit=1)
        return None if others and _RETRACTED.match(others[0]) else _phrase_value(first)
    sentences = [part for part in _SENTENCES.split(text) if part.strip()]
    for sentence in reversed(sentences[-MOST_SENTENCES:]):
        if re.search(r"\d|\$|\\\(|\\\[", sentence):
            return _value(sentence)
    return None


def _written_out(fraction: re.Match[str]) -> str:
    """Return one half as " 1/2": behind an integer, it is a part of a mixed number."""
    return " " + unicodedata.normalize("NFKC", fraction.group(1)).replace("⁄", "/")


def _phrase_value(rest: str) -> str | None:
    """Return the value of the text behind "the answer is": also a group in brackets, a letter or a few words."""
    rest = _STARS.sub("", rest)
    bare = rest.strip(" *_`").rstrip(".。").strip()
    words = len(bare) <= MOST_WORDS and not re.search(r"[\d$\\=<>]", bare)
    if words or _GROUP.fullmatch(bare) or _ROOTS.fullmatch(bare):
        return bare or None
    return None if _CONDITIONAL.search(rest) else _value(rest)


def _value(sentence: str) -> str | None:
    """Return the one value that a sentence names."""
    if emphasized := _EMPHASIS.findall(sentence):
        return _value(emphasized[-1][1])
    sentence = _CONDITION.sub(" ", _REMARK.sub(" ", sentence.replace("\\$", "")))
    if _SEVERAL.search(sentence.replace("$", "")) or _OPEN.search(sentence):
        return None
    formulas = [match for match in _FORMULA.finditer(sentence) if _is_formula(match)]
    # Without formulas, dollars are amounts of money.
    return _formula_value(formulas[-1]) if formulas else _number_value(sentence.replace("$", ""))


def _is_formula(match: re.Match[str]) -> bool:
    """Return whether signs enclose a formula; the dollars of $20 - $5 do not."""
    dollars, _, content = match.groups()
    return not _PROSE.search(content) and (not dollars or content.lstrip().rstrip(" -/,+*=<") == content)


def _formula_value(formula: re.Match[str]) -> str | None:
    """Return the content of a formula, unless the words around it change its value."""
    before = formula.string[max(0, formula.start() - 24) : formula.start()]
    behind = formula.string[formula.end() :]
    if _PART_BEFORE.search(before) or _NEGATED.search(before) or _CHANGED.match(behind):
        return None
    left, _, right = formula.group(3).rpartition("=")
    if number_of(left) is not None or (
        "=" not in left and not _NAME.fullmatch(left) and re.search(r"(?<!\\)\b[a-z]\b", left)
    ):
        right = formula.group(3)  # an equation, not the name of a value
    # A box without braces is not a box, but its macro is no part of the value either.
    right = right.replace("\\boxed", "").strip()
    return right + _unit(behind) if right else None


def _number_value(sentence: str) -> str | None:
    """Return the one number of a sentence without formulas, or the one behind its last equals sign or verb."""
    sentence = rewrite(sentence, _REDUCED)
    found = list(_numbers(sentence))
    verbs = [verb for verb in _COPULA.finditer(sentence) if found and verb.end() <= found[-1][0]]
    if verbs and len({value for *_, value in found}) > 1:
        before = [start for start, *_ in found if start < verbs[-1].start()]
        if before and _JOINS.search(sentence, before[-1], verbs[-1].start()):
            return None  # Ann has 3 and Bob has 5
        found = [number for number in found if number[0] >= verbs[-1].end()]
        left = _EQUATED.search(sentence[: verbs[-1].end()])
        if left and number_of(left.group(1)) != number_of(found[0][2] or ""):
            return None  # 8 = 7
        if verbs[-1].group() == "=" and not sentence[verbs[-1].end() : found[0][0]].strip():
            found = found[:1]  # the result of a computation; a number behind it belongs to the description
    values = {value for *_, value in found}
    value = values.pop() if len(values) == 1 else None
    return value and value + _unit(sentence[found[-1][1] :])


def _unit(behind: str) -> str:
    """Return the unit at the beginning of the text behind a number, empty if it is unknown."""
    unit = _UNIT.match(behind)
    return f"\\text{{ {unit.group().strip()}}}" if unit else ""


def _numbers(sentence: str) -> Iterator[tuple[int, int, str | None]]:
    """Yield start, end and value of each number; None for a part of something else."""
    for match in _VALUE.finditer(sentence):
        before = sentence[max(0, match.start() - 24) : match.start()].rstrip("$")
        part = _PART_BEFORE.search(before) or (match["sign"].startswith(tuple(_MINUS)) and _VARIABLE.search(before))
        behind = _PART_OF_RESULT if before.rstrip().endswith("=") else _PART_BEHIND
        part = part or behind.match(sentence, match.end())
        yield *match.span(), None if part else normalize(read(rewrite(match.group(), _SPELLINGS)))
