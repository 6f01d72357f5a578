# SPDX-License-Identifier: Apache-2.0
r"""Find the final answer in the text of a solution. Standard library only.

The input is untrusted model output: nothing is evaluated, and the run time is linear in the length of the text.
`spelling.py` and `compare.py` interpret the answer.

A *box* is `\boxed{...}` with balanced braces; `\{` and `\}` do not count as braces. `\\boxed{...}` (an escaped
backslash, typical of models trained on JSON) and `\boxed {...}` are boxes too; `\boxed 5` is not.
"""

import re
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

BOX = "\\boxed"
"""First characters of a box."""

# At most two backslashes before "boxed": an unlimited run would make the search quadratic.
_BRACES = re.compile(r"\\\\?boxed\s*\{|\\[\s\S]|[{}]")

# What joins two boxes: $x=\\boxed{2}$ and $y=\\boxed{3}$
_JOINT = re.compile(r"\$?,?\s*(?:,|\b(?:and|or)\b)\s*\$?(?:[A-Za-z]\s*=\s*)?")
MOST_BETWEEN = 40
"""Characters between joined boxes."""


class BoxState(Enum):
    """State of the last box of a text."""

    ABSENT = "absent"  # the text opens no box
    UNCLOSED = "unclosed"  # a box is opened after the last complete one and never closed
    EMPTY = "empty"  # the last box is closed and holds only white space
    COMPLETE = "complete"  # the last box is closed and holds something


class BoxScan(NamedTuple):
    """State of the last box, and its content without the outer braces (empty unless COMPLETE)."""

    state: BoxState
    content: str


def _boxes(text: str) -> Iterator[tuple[int, int, int | None]]:
    """Yield (start, content start, content end) of each box as it closes, then the unclosed ones with end None."""
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
    """Find the last box of `text`; of boxes joined by commas, "and" or "or", all contents as a list.

    A box inside another box is part of the outer content. An unclosed box does not hide the complete boxes after it. If
    it opens after the last complete box, the answer was cut off.
    """
    joined: list[str] = []  # contents of the last box and of those joined to it
    first, end = -1, -1
    last_unclosed = -1
    for start, content_start, content_end in _boxes(text):
        if content_end is None:
            last_unclosed = start
            continue
        # A box that closes later is not inside an earlier one.
        follows = 0 <= end <= start <= end + MOST_BETWEEN and _JOINT.fullmatch(text[end + 1 : start])
        joined = [*joined, text[content_start:content_end]] if follows else [text[content_start:content_end]]
        first, end = start, content_end
    if not joined or last_unclosed > first:
        return BoxScan(BoxState.ABSENT if last_unclosed < 0 else BoxState.UNCLOSED, "")
    if not joined[-1].strip():
        return BoxScan(BoxState.EMPTY, "")
    return BoxScan(BoxState.COMPLETE, ", ".join(dict.fromkeys(joined)))


def last_boxed(text: str) -> str | None:
    """Return the content of the last box; None if the box is absent, unclosed or empty."""
    scan = scan_boxes(text)
    return scan.content if scan.state is BoxState.COMPLETE else None


def unboxed(truth: str) -> str:
    """Remove the box around a ground truth, if there is one."""
    truth = truth.strip()
    return (last_boxed(truth) or truth).strip() if truth.startswith(BOX) else truth


def has_complete_box(text: str) -> bool:
    r"""Return whether `text` has a closed, non-empty box: the stopping rule of the search.

    An empty `\boxed{}` does not count, so a model that repeats the instruction may continue.
    """
    # Called at every segment boundary, mostly for texts without a box. Text before the first box is irrelevant:
    # braces left open there close after the box, and a box stays one after any number of backslashes.
    first = text.find(BOX)
    if first < 0:
        return False
    text = text[first:]
    return any(
        content_end is not None and text[content_start:content_end].strip() != ""
        for _, content_start, content_end in _boxes(text)
    )
