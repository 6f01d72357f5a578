# SPDX-License-Identifier: Apache-2.0
r"""Rewrite Unicode and plain-text mathematics as LaTeX: `√2` and `sqrt(2)` as `\sqrt{2}`. Standard library only."""

import re
import unicodedata

from recipe.treepo.answers.tables import APPLIED, CHARACTERS, FUNCTIONS, MACROS, NAMES, SIGNS

_RAISED = re.compile("[⁰¹²³⁴-⁹⁺⁻⁽⁾ⁿⁱ]+")
_LOWERED = re.compile("[₀-₎ₐₑₒₓₕ-ₜᵢ]+")


class _Latex(dict[int, str | None]):
    """LaTeX of a character, found when it is first asked for."""

    def __missing__(self, code: int) -> str:
        self[code] = latex = _latex(chr(code))
        return latex


def _latex(character: str) -> str:
    kind, _, _ = unicodedata.decomposition(character).partition(" ")
    if unicodedata.category(character) == "Cf":  # zero width
        return ""
    if kind == "<fraction>":
        top, _, bottom = unicodedata.normalize("NFKC", character).partition("⁄")
        return f"\\frac{{{top}}}{{{bottom or 1}}}"
    if kind in ("<wide>", "<narrow>", "<font>", "<compat>", "<noBreak>"):
        character = unicodedata.normalize("NFKC", character)
    name = unicodedata.name(character, "") if len(character) == 1 else ""
    if match := re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (\w+)", name):
        letter = match.group(2).lower().replace("lamda", "lambda")
        return f"\\{letter if match.group(1) == 'SMALL' else letter.capitalize()} "
    return character


_CHARACTERS = _Latex({ord(character): latex for character, latex in CHARACTERS.items()})
_CHARACTERS.update({ord(character): f"\\{macro} " for character, macro in MACROS.items()})


def from_unicode(text: str) -> str:
    """Replace characters beyond ASCII by LaTeX; full-width ones by ASCII, and Chinese conjunctions by English ones."""
    if text.isascii():
        return text
    text = _RAISED.sub(lambda run: f"^{{{unicodedata.normalize('NFKC', run.group())}}}", text)
    text = _LOWERED.sub(lambda run: f"_{{{unicodedata.normalize('NFKC', run.group())}}}", text)
    return text.translate(_CHARACTERS)


# --- plain text ------------------------------------------------------------------------------------------------


def _nested(brackets: str) -> str:
    """Return a pattern of brackets with at most three pairs inside each other."""
    opening, closing = map(re.escape, brackets)
    inside = other = f"[^{opening}{closing}]"
    for _ in range(2):
        inside = rf"(?:{other}|{opening}{inside}*{closing})"
    return f"{opening}{inside}*{closing}"


_OPERAND = rf"(?:{_nested('()')}|{_nested('{}')}|-?\d+(?:\.\d+)?|-?\\?[A-Za-z]+)"
_PLAIN = re.compile(
    r"\\(?:text|mathrm|operatorname)\s*\{[^{}]*\}"  # words, which stay
    rf"|(?P<sign>(?<!\d)!=|[<>]=|<>|->)|(?<![A-Za-z\\])(?P<name>{NAMES})(?![A-Za-z])"
    rf"|(?:(?<=[\w)}}])\s?(?P<power>\*\*)\s?|(?<![A-Za-z\\])(?P<function>{FUNCTIONS})(?=[^A-Za-z]|pi)"
    r"(?:_?(?P<base>\d+)(?=\s?\())?\s*)"
    rf"(?P<operand>{_OPERAND})?(?P<tower>(?(power)(?:\s?\*\*\s?{_OPERAND})*))"
    r"(?P<exponent>(?<=\))\s*\^\s*(?:\{[^{}]*\}|\w))?"
)
_CHOOSE = re.compile(r"(\w+) choose (\w+)|(?<![A-Za-z])C_\{?(\w+)\}?\^\{?(\w+)\}?")


def from_plain_text(text: str) -> str:
    r"""Replace names and operators of plain text by LaTeX: `2*pi`, `exp(2)`, `x**2`, `x >= 5`, `log2(3)`."""
    text = _CHOOSE.sub(r"\\binom{\1\3}{\2\4}", text) if " choose " in text or "C_" in text else text
    return _PLAIN.sub(_from_plain, text)


def _from_plain(match: re.Match[str]) -> str:
    if match["sign"] or match["name"]:
        return SIGNS.get(match["sign"]) or f"\\{match['name'].replace('infinity', 'infty')} "
    operand, exponent = from_plain_text("".join(filter(None, match.group("operand", "tower")))), match["exponent"] or ""
    form = APPLIED.get(match["power"] or match["function"])
    if form and operand:
        return form % (operand[1:-1] if operand[0] in "({" and not match["tower"] else operand) + exponent
    base = f"_{{{match['base']}}}" if match["base"] else ""
    return match.group() if form or not match["function"] else f"\\{match['function']}{base}{exponent} {operand}"
