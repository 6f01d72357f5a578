# SPDX-License-Identifier: Apache-2.0
"""Rewrite two answers to the same form without changing their meaning. Standard library only.

Each form covers one kind of notation, and is applied to either answer. Inputs are results of `tidy`.
"""

import re

from recipe.treepo.answers.lists import split_list
from recipe.treepo.answers.spelling import number_of

RELATION = re.compile(r"[<>]|\\(?:le|ge|ne|lt|gt)(?![A-Za-z])")
# Left sides of equations that only name a value.
NAME = re.compile(
    r"(?:\\text\s*\{[^{}]*\}|[A-Za-z]'*(?:_\w|_\{\w+\})?(?:\((?:[a-z]|-?\d+)\))?|\([A-Za-z](?:\s*,\s*[A-Za-z])*\)|"
    r"\\frac\{d[A-Za-z]\}\{d[A-Za-z]\}|(?:\\(?:angle|triangle|overline|vec|overrightarrow)(?![A-Za-z]))?[A-Za-z{} ]+)"
)


_BOUND = r"([^][(),]+)"
_CHANGE = "(?:increase|decrease|growth|reduction|discount|profit|loss|rise|drop|chance|probability)"


def _worded(pattern: str) -> str:
    r"""Return a pattern of words with or without `\text{}`."""
    return rf"(?:\\text ?\{{ ?)?{pattern} ?\}}?"


# Pattern, replacement, and what the other answer must not contain.
_REWRITES = tuple(
    (re.compile(pattern, re.IGNORECASE), replacement, unless)
    for pattern, replacement, unless in (
        # sets of real numbers with a condition
        (
            r"\A\\\{ ?[a-z] ?(?:\\in ?\\mathbb ?\{R\})? ?(?:[|:]|\\(?:mid|vert)(?![A-Za-z])) ?"
            rf"([^=]*(?:{RELATION.pattern})[^=]*)\\\}}\Z",
            r"\1",
            None,
        ),
        # systems of equations, and the comma before a case
        (r"\A\\begin ?\{cases\}([^&]*)\\end ?\{cases\}\Z", lambda match: match[1].replace("\\\\", ", "), None),
        (r", ?&", "&", None),
        # French intervals
        (rf"\]{_BOUND},{_BOUND}\[", r"(\1,\2)", None),
        (rf"\A\]{_BOUND},{_BOUND}\]", r"(\1,\2]", None),
        (rf"\[{_BOUND},{_BOUND}\[\Z", r"[\1,\2)", None),
        # names of the items of a list
        (r"\\text\s*\{[^{}]*:\s*\}", "", ":"),
        # a percentage in words
        (
            rf"\A(?:{_worded('an?')} )?(?:{_worded(f'(?:an? )?{_CHANGE} of')} ?)?(\S+ ?%)"
            rf"(?: ?{_worded(f'(?:{_CHANGE}|of .*)')})?\Z",
            r"\1",
            _CHANGE,
        ),
    )
)


def _exact_side(text: str, other: str) -> str:
    r"""Keep the relevant side of `\approx`.

    An exact value with its decimal, `\frac{2}{3} \approx 0.667`, becomes the value. A decimal after a name or after
    nothing stays if the other answer is a decimal too, because that one is rounded as well.
    """
    left, _, right = (part.strip() for part in text.partition("\\approx"))
    if "." not in right or number_of(right) is None:
        return text
    if left and not NAME.fullmatch(left):
        return left
    return right if "." in other and number_of(other) is not None else text


_THOUSANDS = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?!,?\d)", re.ASCII)


def _without_thousands(text: str, other: str) -> str:
    r"""Drop the commas of `1,000\pi`, unless they separate as many items as the other answer has."""
    if _THOUSANDS.search(text) is None:  # most answers
        return text
    rewritten = _THOUSANDS.sub(lambda match: match.group().replace(",", ""), text)
    items, others, rest = (len(split_list(side)[1]) for side in (text, other, rewritten))
    if rest == 1 < items and split_list(text)[0]:  # a pair or an interval
        return text
    return rewritten if items != others or rest == items else text


_ANY = r"(?:any|all|every|each|arbitrary|constants?|reals?|integers?)"
_QUALIFIER = re.compile(
    rf"(.*\S)[,; ]*(?:\\text ?\{{ ?,? ?(?:for|where|with)\b(?:[^{{}}]*\b{_ANY}\b|[^{{}}]*\}}.*\b{_ANY}\b).*"
    r"|\\forall .*|[(,; ] ?[A-Za-z] ?\\in ?(?:\\mathbb ?)?\{?([A-Z])\}? ?\)?)"
)


def _without_qualifier(text: str, other: str) -> str:
    r"""Drop "for any constant c" and `k \in \mathbb{N}` behind an answer, unless they are conditions."""
    match, same = _QUALIFIER.fullmatch(text), _QUALIFIER.fullmatch(other)
    if match is None or (match.group(2) not in ("R", "C") and RELATION.search(text)):  # integers below a bound
        return text
    if same is not None and (match.group(2) is None or match.group(2) != same.group(2)):
        return text
    return match.group(1).rstrip(" ,;(")


_LETTERS = (
    re.compile(r"()[A-Za-z]\(([A-Za-z])\) ?=.*\2"),
    re.compile(r"(.*)\\(?:sum|prod|bigcup|bigcap|lim) ?_ ?\{ ?([A-Za-z]) ?(?:=|\||\\to|\\in).*"),
    re.compile(r"(.*)\\int.*d ?([A-Za-z])\Z"),
    re.compile(r"(.*)[,;(:|] ?([A-Za-z]) ?\\in ?(?:\\mathbb|[A-Z]\b).*"),
)


def _with_same_letter(text: str, other: str) -> str:
    """Rename the argument of f(n)=n, or the index of a sum, to the letter of the other answer."""
    for pattern in _LETTERS:
        match, other_match = pattern.match(text), pattern.match(other)
        if match and other_match and (letter := other_match.group(2)) != (name := match.group(2)):
            if text > other and not re.search(rf"(?<![A-Za-z\\]){letter}(?![A-Za-z])", text):  # one side is renamed
                return re.sub(rf"(?<![A-Za-z\\])(d ?)?{name}(?![A-Za-z])", rf"\g<1>{letter}", text)
    return text


_MATRIX = re.compile(
    r"[(\[]?\s*\\begin ?\{([pb]?matrix|array)\} ?(?:\{[clr| ]*\})?(.*?)\\end ?\{\1\}\s*[)\]]?", re.DOTALL
)
_ANGLES = re.compile(r"\\langle(.*)\\rangle|<(.*,.*)>")
_NESTED = re.compile(r"\[ ?(\[[^][]*\](?: ?, ?\[[^][]*\])+) ?\]")
_HAT = re.compile(r"\\(?:hat|vec|widehat) ?\{? ?(?:\\mathbf ?)?\\?([ijk])(?:math)? ?\}?")
_UNIT_VECTOR = re.compile(r"([+-]?)([^+\-ijk]*)([ijk])")


def _vector(text: str) -> tuple[str, list[list[str]]] | None:
    """Return the notation and the rows of a vector or a matrix."""
    if match := _MATRIX.fullmatch(text):
        return "matrix", [row.split("&") for row in match.group(2).split("\\\\") if row.strip()]
    if match := _ANGLES.fullmatch(text):
        return "angles", [split_list(match.group(1) or match.group(2))[1]]
    if match := _NESTED.fullmatch(text):
        return "nested", [row.split(",") for row in re.findall(r"\[([^][]*)\]", match.group(1))]
    brackets, items = split_list(text)
    if brackets in ("()", "[]") and len(items) > 1:
        return "tuple", [items]
    spaceless = _HAT.sub(r"\1", text).replace(" ", "")
    terms = _UNIT_VECTOR.findall(spaceless)
    if len(terms) > 1 and not _UNIT_VECTOR.sub("", spaceless) and len({name for _, _, name in terms}) == len(terms):
        parts = {name: sign + (number or "1") for sign, number, name in terms}
        return f"unit vectors {_HAT.search(text) is None}", [
            [parts.get(name, "0") for name in ("ijk" if "k" in parts else "ij")]
        ]
    return None


def _as_vector(text: str, other: str) -> str:
    """Write a vector as a tuple, and a matrix as `pmatrix`, if the other answer has another notation."""
    vector, other_vector = _vector(text), _vector(other)
    if vector is None or other_vector is None or vector[0] == other_vector[0]:
        return text
    rows = vector[1]
    if len(rows) == 1 or all(len(row) == 1 for row in rows):
        return f"({','.join(item.strip() for row in rows for item in row)})"
    return "\\begin{pmatrix}" + "\\\\".join("&".join(row) for row in rows) + "\\end{pmatrix}"


_PLUS_MINUS = re.compile(r"\\[pm]{2}(?![A-Za-z])")


def _with_both_signs(text: str, other: str) -> str:
    r"""Write an answer with one `\pm` as a list of two."""
    if len(_PLUS_MINUS.findall(text)) != 1:
        return text
    return ", ".join(_PLUS_MINUS.sub(sign, text) for sign in "+-")


_FORMS = (_with_both_signs, _exact_side, _without_thousands, _with_same_letter, _without_qualifier, _as_vector)


def same_form(answer: str, gold: str) -> tuple[str, str]:
    """Return both texts, each rewritten if the other one allows it."""
    for pattern, replacement, unless in _REWRITES:
        answer, gold = (
            text if unless and re.search(unless, other, re.IGNORECASE) else pattern.sub(replacement, text)
            for text, other in ((answer, gold), (gold, answer))
        )
    for form in _FORMS:
        answer, gold = form(answer, gold), form(gold, answer)
    return answer, gold
