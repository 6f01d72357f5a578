# SPDX-License-Identifier: Apache-2.0
r"""Turn the text of a problem into words that do not depend on how it is typeset; pure Python, linear time.

Two problems are the same "by words" where only case, white space, LaTeX markup and spacing, punctuation, brackets or
thousands commas differ. Operators and digits stay: x + 1 = 0 and x - 1 = 0 are two problems. Drawings ([asy] blocks)
are left out, because problems that have nothing else in common share their boilerplate.
"""

import re
import unicodedata

# Markup without meaning: sizes, spacing, fonts, math delimiters.
_COMMANDS = (
    "left right big bigl bigr Big Bigl Bigr displaystyle textstyle limits nolimits quad qquad text textbf textit "
    "textrm textsf mathrm mathbf mathsf mathit mbox operatorname emph underline begin end"
)
_MARKUP = re.compile(r"\\(?:" + "|".join(_COMMANDS.split()) + r")(?![A-Za-z])|\\[!,;:> ()\[\]\\]|[$~&]")
_SAME = {"dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "leq": "le", "geq": "ge", "neq": "ne", "cdot": "times"}
_SIGNS = str.maketrans(
    {"\u2212": "-", "\u2013": "-", "\u2264": " le ", "\u2265": " ge ", "\u2260": " ne ", "\u00d7": " times "}
)
_THOUSANDS = re.compile(r"(?<=\d)(?:,|\{,\}|,\\!)(?=\d{3}(?!\d))")
# Chinese and Japanese are written without spaces: each character is a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\d_\u3040-\u30ff\u3400-\u9fff]+|\d+|[-+*/=<>^!|%]")


def _without_drawings(text: str) -> str:
    """Cut out each [asy]...[/asy]; one that is not closed stays."""
    pieces, position = [], 0
    while (start := text.find("[asy]", position)) >= 0:
        end = text.find("[/asy]", start)
        if end < 0:  # nor is any later one closed: each character is looked at once
            break
        pieces.append(text[position:start])
        position = end + len("[/asy]")
    return " ".join([*pieces, text[position:]])


def word_tokens(text: str) -> list[str]:
    """Return the words of a problem, in order: words in lower case, runs of digits, operators."""
    text = unicodedata.normalize("NFKC", _without_drawings(text)).translate(_SIGNS)
    text = _MARKUP.sub(" ", _THOUSANDS.sub("", text)).casefold()
    return [_SAME.get(word, word) for word in _WORD.findall(text)]


def same_words_key(text: str) -> str:
    """Return what is equal for problems that are the same by words; the text itself where it has no words."""
    return " ".join(word_tokens(text)) or text
