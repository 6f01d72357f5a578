# SPDX-License-Identifier: Apache-2.0
"""Rewrite answers to a common spelling and read plain numbers. Standard library only.

The input is untrusted: nothing is evaluated, and numbers are exact fractions of bounded size. The run time is at worst
quadratic in the length, so callers limit the length first.
"""

import re
from fractions import Fraction
from functools import lru_cache

from recipe.treepo.answers.boxes import scan_boxes
from recipe.treepo.answers.notation import from_unicode
from recipe.treepo.answers.tables import SYNONYMS, alternatives, rewrite, rewritings

_WRAPPERS = "text|textbf|textit|textrm|textsf|texttt|mathrm|mathbf|mathsf|mathit|boldsymbol|mbox|operatorname"
_WRAPPED = re.compile(r"\\(?:" + _WRAPPERS + r")\s*\{([^{}]*)\}")
_UNIT_LETTERS = tuple("mgshlLNJWVK")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
PLAIN_NUMBER = re.compile(r"-?\d{1,300}(?:\.\d{1,300})?", re.ASCII)
"""A number without any markup, as most answers and ground truths are."""
_E_NOTATION = re.compile(r"(?<![\w.\\])(\d+(?:\.\d+)?)[eE]([+-]?\d{1,2})(?![\w.])", re.ASCII)
# Braces around digits do not print: {7} is 7, and {1}{2} is 12.
_BRACED_DIGITS = re.compile(r"[-+]?[\d{}.,]*", re.ASCII)

# Most items of lists
_UNMARKED = re.compile(r"[-+\w/^=<>()]*|-?\d+\.\d+", re.ASCII)


def power_of_ten(answer: str) -> str:
    r"""Write numbers such as 2e-4 as `2\times 10^{-4}`. With spaces, `2e - 4` is a difference."""
    return _E_NOTATION.sub(lambda match: f"{match.group(1)}\\times 10^{{{int(match.group(2))}}}", answer)


def _unwrap(match: re.Match[str]) -> str:
    content: str = match.group(1)
    if content.strip() in _UNIT_LETTERS and match.group().startswith(("\\text{", "\\mathrm")):
        return f"\\text{{{content}}}"
    if len(content.strip()) <= 1 or re.fullmatch(r"[-+\d.,/() ]*|\s*\(\w\)\s*|\s*\\\$\s*", content):
        return content
    return f"\\text{{{content}}}"


# Patterns and replacements, in this order
_MARKUP = rewritings(
    (r"\.\.\.+", r"\\ldots "),
    (r"\A\s*\*\*([^*]*)\*\*\s*\Z", r"\1"),  # Markdown
    (r"(\\\\)\s*\[\d+(?:pt|em|ex|mm)\]", r"\1"),  # space between rows
    (r"\\lg(?![A-Za-z])", r"\\log_{10}"),
    (r"\\[hv]?phantom ?\{[^{}]*\}", ""),
    (r"\\dot ?\{(\d)\}(?:(\d*)\\dot ?\{(\d)\})?", r"\\overline{\1\2\3}"),
    # degrees Celsius, and negative exponents of units
    (r"(\^ ?\{?\\circ ?\}?) ?(?:\\(?:text|mathrm) ?\{ ?)?C\b ?\}?", r"\1 "),
    (r"(?<=[a-z]) ?\\cdot ?([a-z]+) ?\^ ?\{-(?:1|(\d))\}", lambda m: f"/{m[1]}" + (f"^{m[2]}" if m[2] else "")),
    # Line breaks and escapes match too, so that their second character cannot begin a match.
    (r"(\\\\|\\\$)|\$|\\[()\[\]]", r"\1"),
    (rf"\\({alternatives(SYNONYMS)})(?![A-Za-z])", lambda match: "\\" + SYNONYMS[match[1]]),
    (r"\^?\\degree(?![A-Za-z])", r"^\\circ"),
    (r"\{\\circ\}", r"\\circ"),
    (r"\\colon(?![A-Za-z])", ":"),
    (
        r"\\(?:(?:left|right|middle|[bB]igg?[lr]?|displaystyle|textstyle|tiny|small|large|Large|LARGE|huge|Huge"
        r"|underline)(?![A-Za-z])|(?:text)?color ?\{[A-Za-z]*\})",
        "",
    ),
    (r"\\%", "%"),
    (r"(?<=\d)(?:\{,\}|,\\!)(?=\d{3}(?!\d))", ""),
    (r"\{,\}", ","),
    (r"(?<![A-Za-z])\{:\}", ":"),
    # Thin and negative spaces stand between the digits of one number, as in 1\,000 and 1,\!000.
    (r"(?<=[\d,])\\!(?=\d)", ""),
    (r"(?a:(?<![\d.,])\d{1,3}(?:(?: |\\[,;:>]|')\d{3})+(?![\d']| ?/))", lambda match: re.sub(r"\D", "", match[0])),
    (r"(\\\\)|\\[!,;:> ]|~|\\q?quad(?![A-Za-z])", lambda match: match[1] or " "),
    (_WRAPPED.pattern, _unwrap),
    (r"\\text\{([^{}]*\w) +(and|or) *\}", r"\\text{\1}\\text{ \2 }"),
    # With single spaces, patterns with optional spaces at several places stay linear.
    (r"\s+", " "),
    (r"(\\pmod|\\sqrt ?\[[^][]*\]) ?(\w)(?!\w)", r"\1{\2}"),
    (r"\\text\{([^{}]*)\} ?/ ?\\text\{([^{}]*)\}", r"\\text{\1/\2}"),  # a quotient of units
)


def tidy(answer: str) -> str:
    r"""Drop LaTeX markup without meaning, and unify synonyms.

    Words stay apart from mathematics: the content of `\text{}`, `\mathrm{}` and similar macros is returned in
    `\text{}`. Numbers, and single characters other than units, lose the macro.
    """
    answer = rewrite(from_unicode(answer), _MARKUP).strip()
    if _BRACED_DIGITS.fullmatch(answer):
        answer = answer.replace("{", "").replace("}", "")
    return answer.removesuffix(".").rstrip()


@lru_cache(maxsize=128)
def plain(text: str) -> str:
    r"""Drop the macros around words: `14\text{ March}` as "14 March"."""
    return re.sub(r"\s+", " ", re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", text)).strip(" .")


def _normalize_once(answer: str) -> str:
    answer = _WRAPPED.sub(r"\1", tidy(answer))
    box = scan_boxes(answer) if answer.startswith("\\boxed") and answer.endswith("}") else None
    if box is not None and answer == f"\\boxed{{{box.content}}}":
        answer = box.content
    if _THOUSANDS.fullmatch(answer):
        answer = answer.replace(",", "")
    # White space between two digits stays: "2 3" is not 23. A list keeps ", ", so that "1, 234" is not 1234.
    answer = re.sub(r"(?<=\d)\s+(?=\d)", "\0", answer)
    return re.sub(r",\s*", ", ", re.sub(r"\s+", "", answer)).replace("\0", " ").strip()


@lru_cache(maxsize=128)
def normalize(answer: str) -> str:
    r"""Rewrite an answer so that spellings of the same thing become equal; idempotent.

    Drops `$`, `\(`, `\text{}` and similar macros, `\left`, spacing and one trailing period. `\dfrac` becomes `\frac`;
    characters such as the degree sign become macros. Thousands commas are dropped if the whole answer is one number.
    Letters keep their case.
    """
    # Removing one piece of markup may join others into a new one. Each round that changes more than separators
    # shortens the text or replaces a spelling by its only other one, so the loop ends.
    previous = answer if _UNMARKED.fullmatch(answer) else None
    while answer != previous:
        previous, answer = answer, _normalize_once(answer)
    return answer


_UNSIGNED = r"(?:\d+(?:\.\d*)?|\.\d+)"
_SIGNED = rf"[-+]?{_UNSIGNED}"
_FRACTION = re.compile(rf"\\frac(?:\{{({_SIGNED})\}}|(\d))(?:\{{({_SIGNED})\}}|(\d))", re.ASCII)
_NUMBER = re.compile(
    rf"(?:(?:(?P<whole>\d+) (?![-+]))?(?P<top>{_SIGNED})/(?P<bottom>{_SIGNED})"
    r"|(?P<fixed>\d*\.\d*)\\overline(?:\{(?P<digits>\d+)\}|(?P<digit>\d))"
    rf"|(?P<plain>{_UNSIGNED})(?:\\(?:times|cdot)10\^(?:\{{(?P<power>[-+]?\d{{1,2}})\}}|(?P<square>\d)))?)",
    re.ASCII,
)


def read_number(answer: str) -> Fraction | None:
    r"""Return the exact value of a normalized answer that is one plain number, else None.

    Reads integers, decimals (also repeating ones with `\overline{}`), a/b, `\frac{a}{b}`, mixed numbers, and a decimal
    times a power of ten with at most two digits in the exponent; each with an optional sign. Returns None for more than
    1,000 characters.
    """
    if len(answer) > 1_000 or not re.search(r"\d", answer, re.ASCII):
        return None
    sign = -1 if answer.startswith("-") else 1
    match = _NUMBER.fullmatch(_FRACTION.sub(r" \1\2/\3\4", answer[answer[0] in "+-" :]).strip())
    if match is None:
        return None
    if match["top"]:
        top, bottom = (Fraction(match[name]) for name in ("top", "bottom"))
        if not bottom or (match["whole"] and ("." in match.group() or not 0 < top < bottom)):
            return None
        return sign * (int(match["whole"] or 0) + top / bottom)
    if repeated := match["digits"] or match["digit"]:
        period = Fraction(int(repeated), (10 ** len(repeated) - 1) * 10 ** len(match["fixed"].partition(".")[2]))
        return sign * (Fraction(f"0{match['fixed']}0") + period)
    value = sign * Fraction(match["plain"])
    return value * Fraction(10) ** int(power) if (power := match["power"] or match["square"]) else value


def number_of(text: str) -> Fraction | None:
    """Return the value of an answer that is one plain number, else None."""
    return read_number(normalize(text))
