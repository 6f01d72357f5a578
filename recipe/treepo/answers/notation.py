# SPDX-License-Identifier: Apache-2.0
r"""Rewrite Unicode and plain-text mathematics as LaTeX: `√2` and `sqrt(2)` as `\sqrt{2}`. Standard library only."""

import re
import unicodedata

from recipe.treepo.answers.tables import BRACKETS, CHARACTERS, CLOSING, FUNCTIONS, MACROS, NAMES, SIGNS

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
    if unicodedata.category(character) == "Zs":
        return " " if character in " \u3000" else "\\,"
    if kind == "<fraction>":
        top, _, bottom = unicodedata.normalize("NFKC", character).partition("⁄")
        return f"\\frac{{{top}}}{{{bottom or 1}}}"
    if kind in ("<wide>", "<narrow>", "<font>", "<compat>"):
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

_PLAIN = re.compile(
    r"\\(?:text|mathrm|operatorname)\s*\{[^{}]*\}"  # words, which stay
    rf"|(?P<sign>(?<!\d)!=|[<>]=|<>|->)|(?P<power>(?<=[\w)}}])\s?\*\*\s?(?=[\w({{-]))(?P<exponent>-?\w+)?"
    rf"|(?<![A-Za-z\\])(?:(?P<name>{NAMES})(?![A-Za-z])"
    rf"|(?P<function>{FUNCTIONS})(?=\d|[^A-Za-z]|pi)(?:_?(?P<base>\d+)(?=\s?\())?\s*"
    r"(?P<operand>-?\d+(?:\.\d+)?|\\?[A-Za-z]+)?)"
)
_CHOOSE = re.compile(r"(\w+) choose (\w+)|(?<![A-Za-z])C_\{?(\w+)\}?\^\{?(\w+)\}?")
_POWER = re.compile(r"\s*\^\s*(\{[^{}]*\}|\w)")


def from_plain_text(text: str) -> str:
    r"""Replace names and operators of plain text by LaTeX: `2*pi`, `exp(2)`, `x**2`, `x >= 5`, `log2(3)`."""
    text = _CHOOSE.sub(r"\\binom{\1\3}{\2\4}", text) if " choose " in text or "C_" in text else text
    edits: list[tuple[int, int, str]] = []  # start, end, replacement
    closing: dict[int, int] = {}
    for match in _PLAIN.finditer(text):
        if match["sign"] or match["name"]:
            name = "\\" + (match["name"] or "").replace("infinity", "infty") + " "
            edits.append((*match.span(), SIGNS[match["sign"]] if match["sign"] else name))
        elif match["power"] or match["function"]:
            closing = closing or _brackets(text)
            edits += _applied(match, text, closing.get(match.end()))
    done, position = [], 0
    for start, end, latex in sorted(edits):
        if start >= position:
            done += [text[position:start], latex]
            position = end
    return "".join(done) + text[position:]


def _applied(match: re.Match[str], text: str, end: int | None) -> list[tuple[int, int, str]]:
    """Return the edits for a function or a power; `end` is the closing bracket of its operand."""
    bare = match["exponent"] or match["operand"]
    if match["function"] in BRACKETS or match["power"]:
        opening = BRACKETS[match["function"]] if match["function"] else "^{"
        shut = CLOSING.get(opening, "}")
        if bare is not None:
            return [(*match.span(), opening + from_plain_text(bare) + shut)]
        return [] if end is None else [(match.start(), match.end() + 1, opening), (end, end + 1, shut)]
    name = f"\\{match['function']}" + (f"_{{{match['base']}}}" if match["base"] else "")
    power = None if end is None else _POWER.match(text, end + 1)
    edits = [
        (match.start(), match.end(), f"{name}{'^' + power.group(1) if power else ''} {from_plain_text(bare or '')}")
    ]
    return edits + ([(*power.span(), "")] if power else [])  # sin(x)^2


def _brackets(text: str) -> dict[int, int]:
    """Return the position of the closing bracket for each opening one."""
    opened, closing = [], {}
    for position, character in enumerate(text):
        if character in "({":
            opened.append(position)
        elif character in ")}" and opened:
            closing[opened.pop()] = position
    return closing
