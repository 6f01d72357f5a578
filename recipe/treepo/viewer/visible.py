# SPDX-License-Identifier: Apache-2.0
"""Harmless display of model text: characters without a shape become visible symbols.

These are control characters, lone surrogates, bidirectional and other format marks, line separators of Unicode and
noncharacters. Line feeds and tabs stay. The rest of the text is unchanged.
"""

import re
from typing import Any

# Unicode's categories Cc (except line feed and tab), Cf, Cs, Zl and Zp, the noncharacters, and all of plane 14, which
# has invisible tags and selectors.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\ud800-\udfff\ufdd0-\ufdef\ufeff\ufff0-\ufffb\ufffe\uffff\U000110bd\U000110cd\U00013430-\U0001343f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    + "".join(f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0x10000, 0x110000, 0x10000))
    + "]"
)
_DELETE = 0x7F


def visible(text: str) -> str:
    """Return ``text`` with each hidden character shown as a control picture (``␀``) or as ``⟨U+202E⟩``.

    Works character by character: ``visible(a + b) == visible(a) + visible(b)``.
    """
    return _HIDDEN.sub(_symbol, text)


def visible_values(value: Any) -> Any:
    """Return plain data (mappings, lists, texts, numbers) with all texts and keys visible."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {visible(str(key)): visible_values(below) for key, below in value.items()}
    if isinstance(value, list | tuple):
        return [visible_values(below) for below in value]
    return value


def one_line(text: str, most: int) -> str:
    """Return visible ``text`` on one line, with single spaces, cut to ``most`` characters."""
    # The text may be huge. The factor 4 allows for white space and symbols, which change the length.
    line = " ".join(visible(text[: 4 * most]).split())
    return line if len(line) <= most and len(text) <= 4 * most else f"{line[: most - 1]}…"


def _symbol(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == _DELETE else f"⟨U+{code:04X}⟩"
