# SPDX-License-Identifier: Apache-2.0
r"""Split the text of a problem into words that do not depend on its typesetting; pure Python, linear time.

`word_tokens` ignores case, white space, LaTeX markup, fonts, punctuation, brackets and thousands commas. It keeps
operators and other mathematical signs, digits, decimal points and primes. A Unicode sign and its LaTeX command are the
same word if the tables here list them; an unlisted sign is a word of its own. Drawings ([asy] blocks) are dropped,
because unrelated problems share their boilerplate.

`same_words_key` is equal for duplicates. It also keeps brackets, since 2(x+3) differs from 2x+3, and x^{2+1} from
x^2+1. Braces around a single word, as in x^{2}, are markup.
"""

import re
import unicodedata

# Markup without meaning: sizes, spacing, fonts, math delimiters.
_COMMANDS = (
    "left right big bigl bigr Big Bigl Bigr displaystyle textstyle limits nolimits quad qquad text textbf textit "
    "textrm textsf mathrm mathbf mathsf mathit mathbb mathcal mathfrak boldsymbol rm bf mbox operatorname emph "
    "underline begin end"
)
_MARKUP = re.compile(r"\\(?:" + "|".join(_COMMANDS.split()) + r")(?![A-Za-z])|\\[!,;:> ()\[\]\\]|[$~&]")
_SAME = {
    **dict.fromkeys(("dfrac", "tfrac", "cfrac"), "frac"),
    **dict.fromkeys(("ldots", "cdots", "dotsc", "dotsb", "vdots"), "dots"),
    **dict.fromkeys(("mid", "vert", "lvert", "rvert"), "|"),
    **{"leq": "le", "leqslant": "le", "geq": "ge", "geqslant": "ge", "neq": "ne", "cdot": "times"},
    **{"rightarrow": "to", "bigtriangleup": "triangle", "degrees": "degree"},
    **{"varphi": "phi", "varepsilon": "epsilon", "vartheta": "theta"},
}
_SIGNS = {
    **{"\u2212": "-", "\u2013": "-", "\u2044": "/", "\u2215": "/", "\u2223": "|", "\u2019": "'", "\u2032": "'"},
    **{"\u2264": " le ", "\u2a7d": " le ", "\u2265": " ge ", "\u2a7e": " ge ", "\u2260": " ne ", "\u00f7": " div "},
    **dict.fromkeys("\u00d7\u00b7\u22c5\u2219", " times "),
    **{"\u00b1": " pm ", "\u2213": " mp ", "\u221a": " sqrt ", "\u221b": " sqrt 3 ", "\u221c": " sqrt 4 "},
    **{"\u222a": " cup ", "\u2229": " cap ", "\u2208": " in ", "\u2209": " notin ", "\u2205": " emptyset "},
    **{"\u2282": " subset ", "\u2286": " subseteq ", "\u2211": " sum ", "\u220f": " prod ", "\u222b": " int "},
    **{"\u221e": " infty ", "\u2220": " angle ", "\u25b3": " triangle ", "\u22a5": " perp ", "\u2225": " parallel "},
    **{"\u2245": " cong ", "\u2261": " equiv ", "\u2248": " approx ", "\u223c": " sim ", "\u2192": " to "},
    **{"\u230a": " lfloor ", "\u230b": " rfloor ", "\u2308": " lceil ", "\u2309": " rceil ", "\u00b0": " degree "},
    **{"\u27e8": " langle ", "\u27e9": " rangle "},
    # Greek letters by their Unicode names: "GREEK SMALL LETTER PI" as \pi; case is folded later.
    **{
        letter: f" {unicodedata.name(letter).split()[-1].lower()} "
        for letter in map(chr, range(0x391, 0x3CA))
        if letter.isalpha()
    },
}
_TABLE = str.maketrans(_SIGNS)
_RAISED = "\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207a\u207b\u207f"
_EXPONENT = re.compile(f"[{_RAISED}]+")
_VULGAR_FRACTION = re.compile("(?=[\u00bc-\u00be\u2150-\u215e])")
_THOUSANDS = re.compile(r"(?<=\d)(?:,|\{,\}|,\\!)(?=\d{3}(?!\d))")
_DEGREE = re.compile(r"\^ ?(?:\\circ|\{ ?\\circ ?\})(?![A-Za-z])")
_DOTS = re.compile(r"\.{3,}")
_BARE_POINT = re.compile(r"(?<![\w.])\.(?=\d)")  # .5
_PRIME_COMMAND = re.compile(r"\^ ?(?:\\prime|\{ ?((?:\\prime ?)+)\})(?![A-Za-z])")
# Only after a symbol, bracket or digit; elsewhere it is an apostrophe or quotation mark.
_PRIMES = re.compile(r"((?:\\[A-Za-z]{1,20}|(?<![A-Za-z])(?:[A-Z]{1,4}|[a-z])|[)\]}\d]))('+)(?![a-z])")
# Chinese and Japanese have no spaces: each character is a word, as is each other mathematical sign.
_SIGN_RANGES = "\u2190-\u22ff\u2300-\u23ff\u25a0-\u25ff\u27c0-\u27e5\u27f0-\u27ff\u2980-\u2aff\u00ac"
_BRACKETS = r"\\[{}]|[()\[\]{}]"
_WORD = (
    r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\d_\u3040-\u30ff\u3400-\u9fff]+|\d+(?:\.\d+)?|[-+*/=<>^!|%]"
    f"|[{_SIGN_RANGES}]"
)
_WORDS = re.compile(_WORD)
_WORDS_AND_BRACKETS = re.compile(f"{_BRACKETS}|{_WORD}")


def _without_drawings(text: str) -> str:
    """Remove each [asy]...[/asy]; an unclosed one stays."""
    pieces, position = [], 0
    while (start := text.find("[asy]", position)) >= 0:
        end = text.find("[/asy]", start)
        if end < 0:  # later ones are unclosed, too; stopping here keeps the time linear
            break
        pieces.append(text[position:start])
        position = end + len("[/asy]")
    return " ".join([*pieces, text[position:]])


def _primes(match: re.Match[str]) -> str:
    return match.group(1) + " prime" * len(match.group(2)) + " "


def _plain(text: str) -> str:
    """Return the text in lower case, without markup, with one spelling per sign."""
    text = _EXPONENT.sub(r" ^\g<0> ", _without_drawings(text))
    text = unicodedata.normalize("NFKC", _VULGAR_FRACTION.sub(" ", text)).translate(_TABLE)
    text = _DOTS.sub(" dots ", _DEGREE.sub(" degree ", text))
    text = _PRIME_COMMAND.sub(lambda match: " prime " * max(1, (match.group(1) or "").count("prime")), text)
    text = _PRIMES.sub(_primes, text)
    text = _BARE_POINT.sub("0.", _THOUSANDS.sub("", text))
    return _MARKUP.sub(" ", text).casefold()


def word_tokens(text: str) -> list[str]:
    """Return the words of a problem in order: lower-case words, numbers, operators and other signs."""
    return [_SAME.get(word, word) for word in _WORDS.findall(_plain(text))]


def same_words_key(text: str) -> str:
    """Return a key that is equal for equal words and brackets; a text without words is its own key."""
    words: list[str] = []
    opened: list[int] = []  # positions of open braces in `words`
    for word in _WORDS_AND_BRACKETS.findall(_plain(text)):
        if word == "}" and opened and len(words) - opened[-1] <= 2:
            del words[opened.pop()]  # braces around at most one word
            continue
        if word == "{":
            opened.append(len(words))
        elif word == "}" and opened:
            opened.pop()
        words.append(_SAME.get(word, word))
    return " ".join(words) if any(_WORDS.fullmatch(word) for word in words) else text
