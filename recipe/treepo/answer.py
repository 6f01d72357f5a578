# SPDX-License-Identifier: Apache-2.0
r"""Find and compare final answers in the text of a solution; pure text, no imports beyond the standard library.

Everything here runs on untrusted model output: nothing is evaluated, and finding takes time linear in the
length of the text. `normalise` is quadratic at worst, so callers bound the length first.

A *box* is `\boxed{...}` with balanced braces, where `\{` and `\}` do not count. `\\boxed{...}` (an escaped
backslash, as models that were trained on JSON write it) and `\boxed {...}` are boxes too; `\boxed 5` is not.
"""

import re
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

# At most two backslashes before "boxed": an open-ended run of them would make the search quadratic.
_BRACES = re.compile(r"\\\\?boxed\s*\{|\\[\s\S]|[{}]")
# A number, not preceded by something that makes it a part of a name, a decimal or a longer number.
_NUMBER = re.compile(r"(?<![\w.])(?:(?<![)\]}])[-\u2212])?(?<![\w.])\d+(?:,\d{3})*(?:\.\d+)?(?:/\d+)?")


class BoxState(Enum):
    """What became of the last box of a text."""

    ABSENT = "absent"  # the text opens no box
    UNCLOSED = "unclosed"  # a box is opened after the last complete one and never closed
    EMPTY = "empty"  # the last box is closed and holds only white space
    COMPLETE = "complete"  # the last box is closed and holds something


class BoxScan(NamedTuple):
    """State of the last box, and its content without the outer braces (empty unless COMPLETE)."""

    state: BoxState
    content: str


def _boxes(text: str) -> Iterator[tuple[int, int, int | None]]:
    """Yield (start, content start, content end) of each box where it closes, then those left open with end None."""
    open_braces: list[tuple[int, int, bool]] = []  # (start, content start, is a box)
    for match in _BRACES.finditer(text):
        token = match.group()
        if token.endswith("{") and len(token) != 2:  # "{" or a box; two characters are the escape "\{"
            open_braces.append((match.start(), match.end(), len(token) > 1))
        elif token == "}" and open_braces:
            start, content_start, is_box = open_braces.pop()
            if is_box:
                yield start, content_start, match.start()
    for start, content_start, is_box in open_braces:
        if is_box:
            yield start, content_start, None


def scan_boxes(text: str) -> BoxScan:
    r"""Find the last box of `text`.

    A box inside another box is part of the outer one's content. An unclosed box does not swallow the complete
    boxes that follow it, but one that opens after the last complete box decides: the answer was cut off.
    """
    last: tuple[int, int, int] | None = None
    last_unclosed = -1
    for start, content_start, content_end in _boxes(text):
        if content_end is None:
            last_unclosed = start
        else:
            last = (start, content_start, content_end)  # closes last, hence is not inside an earlier one
    if last is None or last_unclosed > last[0]:
        return BoxScan(BoxState.ABSENT if last_unclosed < 0 else BoxState.UNCLOSED, "")
    content = text[last[1] : last[2]]
    return BoxScan(BoxState.COMPLETE, content) if content.strip() else BoxScan(BoxState.EMPTY, "")


def last_boxed(text: str) -> str | None:
    """Return the content of the last box, or None where it is absent, unclosed or empty."""
    scan = scan_boxes(text)
    return scan.content if scan.state is BoxState.COMPLETE else None


def has_complete_box(text: str) -> bool:
    r"""Tell whether any box of `text` is closed and not empty: the stopping rule of the search.

    An empty `\boxed{}` does not count, so that a model which repeats the instruction may go on.
    """
    # Asked at every segment boundary, mostly of texts without a box. What comes before the first one cannot matter:
    # braces that are open there close after the box, and it is a box however many backslashes stand before its own.
    first = text.find("\\boxed")
    if first < 0:
        return False
    text = text[first:]
    return any(
        content_end is not None and text[content_start:content_end].strip() != ""
        for _, content_start, content_end in _boxes(text)
    )


def last_number(text: str) -> str | None:
    """Return the last plain number of `text` (thousands commas, decimals and a/b included), or None.

    A minus sign belongs to the number unless it follows a letter, a digit or a closing bracket (subtraction).
    """
    found = None
    for match in _NUMBER.finditer(text):
        found = match.group()
    return None if found is None else found.replace("\u2212", "-")


_WRAPPERS = re.compile(r"\\(?:text|textbf|textit|textrm|textsf|mathrm|mathbf|mathsf|mbox|operatorname)\s*\{([^{}]*)\}")
_SIZES = re.compile(r"\\(?:left|right|displaystyle)(?![A-Za-z])")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_DECIMAL = re.compile(r"([+-]?)(\d*)(?:\.(\d*))?")
_CHOICE = re.compile(r"\(?([A-Za-z])(?:\)[.:]?|[.:])?")


def _strip_markup(answer: str) -> str:
    """Drop LaTeX markup that does not change the meaning; never makes the text longer."""
    answer = answer.replace("\u2212", "-").replace("$", "").replace("\\%", "%").replace("{,}", ",")
    answer = re.sub(r"\\[()\[\]]", "", answer)
    answer = re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", answer)
    answer = _SIZES.sub("", _WRAPPERS.sub(r"\1", answer))
    answer = re.sub(r"\\[!,;:> ]", "", answer)
    answer = re.sub(r"~|\\q?quad(?![A-Za-z])", " ", answer)
    return answer.strip().removesuffix(".").rstrip()


def _canonical_number(answer: str) -> str:
    """Rewrite a plain decimal ("+007.50" becomes "7.5"); anything else comes back unchanged."""
    match = _DECIMAL.fullmatch(answer)
    if match is None or not any(character.isdigit() for character in answer):
        return answer
    sign, whole, fraction = match.group(1), match.group(2).lstrip("0") or "0", (match.group(3) or "").rstrip("0")
    number = f"{whole}.{fraction}" if fraction else whole
    return f"-{number}" if sign == "-" and number != "0" else number


def _normalise_once(answer: str) -> str:
    answer = _strip_markup(answer)
    box = scan_boxes(answer) if answer.startswith("\\boxed") and answer.endswith("}") else None
    if box is not None and answer == f"\\boxed{{{box.content}}}":
        answer = box.content
    if _THOUSANDS.fullmatch(answer):
        answer = answer.replace(",", "")
    # White space between two digits stays: "2 3" is not 23. A list keeps ", ", so that "1, 234" is not 1234.
    answer = re.sub(r"(?<=\d)\s+(?=\d)", "\0", answer)
    answer = re.sub(r",\s*", ", ", re.sub(r"\s+", "", answer)).replace("\0", " ").strip()
    choice = _CHOICE.fullmatch(answer)
    return choice.group(1) if choice is not None else _canonical_number(answer)


def normalise(answer: str) -> str:
    r"""Rewrite an answer so that spellings of the same thing become equal; idempotent.

    Drops `$`, `\(`, `\text{}` and its kin, `\left`, spacing and one trailing period; `\dfrac` becomes `\frac`;
    thousands commas go where the whole answer is one number; plain decimals lose redundant zeros and a plus;
    "(A)", "A." and "A:" become "A". Letters keep their case. Quadratic time at worst: bound the length first.
    """
    # Removing one piece of markup may join others into a new one. Each round that changes anything beyond
    # separators shortens the text, so this ends.
    previous = None
    while answer != previous:
        previous, answer = answer, _normalise_once(answer)
    return answer


def compare_text(answer: str, gold: str) -> bool | None:
    """Decide by text alone whether two answers agree; None where it takes mathematics.

    True: equal after `normalise`, words without regard to case. False: one is empty, both are integers, or the
    gold answer is a single letter (a choice), "no" or a word of three letters and more, which a mathematics parser
    would read as a product and so accept in any order of letters.
    """
    answer, gold = normalise(answer), normalise(gold)
    if not answer or not gold:
        return False
    if answer == gold or (len(gold) > 1 and gold.isalpha() and answer.casefold() == gold.casefold()):
        return True
    # Two letters may well be a product, as in "ab" and "ba".
    if gold.isascii() and gold.isalpha() and (len(gold) != 2 or gold.casefold() == "no"):
        return False
    if re.fullmatch(r"-?\d+", answer, re.ASCII) and re.fullmatch(r"-?\d+", gold, re.ASCII):
        return False
    return None
