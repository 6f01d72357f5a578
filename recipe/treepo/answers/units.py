# SPDX-License-Identifier: Apache-2.0
"""Split an answer into its value and its unit. Standard library only."""

import re

_TRIGONOMETRY = re.compile(r"\\(?:arc)?(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_CURRENCY = re.compile(r"(-?)\s*(\\\$|\\text\{\s*\\\$\s*\}|\\pounds|\u00a3|\u20ac|\\euro)\s*")
_CURRENCIES = {"\\pounds": "pound", "\u00a3": "pound", "\u20ac": "euro", "\\euro": "euro"}
_POWER = r"(?:\s*\^\s*(?:\{\s*(\d)\s*\}|(\d)))?"
_IN_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}" + _POWER + r"\s*\.?\s*\Z")
_BARE = re.compile(r"([A-Za-z][A-Za-z./ ]*)" + _POWER + r"\s*\Z")
# Functions, words between numbers, and words that change or hedge the number before them.
_NOT_UNITS = frozenset(
    "sin cos tan cot sec csc log ln exp max min gcd lcm mod and or to pi sqrt frac "
    "hundred hundreds thousand thousands million millions billion billions trillion dozen dozens factorial "
    "half halves third thirds quarter quarters fourth fourths fifth fifths plus minus times over by "
    "not no is are least most more less than fewer maybe about approximately".split()
)
_UNIT_WORDS = re.compile(r"[^\W\d_]+(?:[-\s./]+[^\W\d_]+)*(?:\^\d|\^\{\d\})?\.?")

_NAMES = {
    "mm": "millimeter millimeters millimetre millimetres",
    "cm": "centimeter centimeters centimetre centimetres",
    "m": "meter meters metre metres",
    "km": "kilometer kilometers kilometre kilometres",
    "in": "inch inches",
    "ft": "foot feet",
    "yd": "yard yards",
    "mi": "mile miles",
    "g": "gram grams",
    "kg": "kilogram kilograms",
    "lb": "pound pounds lbs",
    "oz": "ounce ounces",
    "l": "liter liters litre litres",
    "ml": "milliliter milliliters millilitre millilitres",
    "s": "second seconds sec secs",
    "min": "minute minutes mins",
    "h": "hour hours hr hrs",
    "day": "days",
    "week": "weeks",
    "month": "months",
    "year": "years yr yrs",
    "degree": "degrees deg",
    "rad": "radian radians",
    "dollar": "dollars usd",
    "cent": "cents",
    "euro": "euros eur",
    "percent": "pct",
    "am": "",
    "pm": "",
    "n": "newton newtons",
    "j": "joule joules",
    "w": "watt watts",
    "hz": "hertz",
}
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_CANONICAL = {name: unit for unit, names in _NAMES.items() for name in [unit, *names.split()]}
_SPEEDS = {"mph": "mi/h", "kph": "km/h", "kmh": "km/h", "kmph": "km/h", "mps": "m/s"}
_SQUARE, _CUBE = frozenset({"square", "sq", "squared"}), frozenset({"cubic", "cu", "cubed"})


def split_unit(answer: str) -> tuple[str, str | None]:
    r"""Return value and unit of an answer after `tidy`; the unit is None if there is none.

    A unit is a currency before the value; or, after the value, a percent or degree sign, words in `\text{}`, or bare
    words after white space (three letters or more, or known names). An exponent may follow. Words that change the
    number, such as "million" and "or more", are not units. Spellings of one unit return the same text.
    """
    if match := _CURRENCY.match(answer):
        return match.group(1) + answer[match.end() :], _CURRENCIES.get(match.group(2), "dollar")
    text = answer.rstrip()
    if text.endswith("%"):
        return text[:-1].rstrip(), "percent"
    if text.endswith("^\\circ") and not _TRIGONOMETRY.search(text):
        return text[: -len("^\\circ")].rstrip(), "degree"
    match = _IN_TEXT.search(text) or _BARE.search(text)
    if match is None:
        return answer, None
    start = match.start()
    if match.re is _BARE:
        if text[start - 1 : start] == "\\":  # the letters begin with the name of a macro, as in 24\pi cm
            start = text.find(" ", start)
            if start < 0:
                return answer, None
        if not _is_bare_unit(text[:start], text[start : match.end(1)]):
            return answer, None
    value, words = text[:start].rstrip(), text[start : match.end(1)].removeprefix("\\text").strip(" {")
    if words.strip() and not _UNIT_WORDS.fullmatch(words.strip()):
        return answer, None
    if any(name in _NOT_UNITS for name in re.findall(r"[^\W\d_]+", words.casefold())):
        return answer, None
    if not value or value.endswith((",", "=", "+", "-")):
        return answer, None
    return value, _canonical(words, match.group(2) or match.group(3)) or None


def _is_bare_unit(value: str, words: str) -> bool:
    names = [name for name in re.split(r"[\s/.]+", words) if name]
    if not names:
        return False
    apart = value.endswith(" ") or words.startswith(" ")
    if apart and "/" in words:
        return all(name.casefold() in _CANONICAL for name in names)
    if apart:
        if any(name in _ALPHABET for name in names if len(name) > 2):  # xyz is a product
            return False
        return all(len(name) >= 3 or (len(name) == 2 and name.casefold() in _CANONICAL) for name in names) or (
            words.strip(" .").casefold() in ("a.m", "p.m")
        )
    # Without a space, only names that are unlikely to be a product of variables.
    return words in ("cm", "km", "mm", "kg", "mph") or (len(words) > 4 and words.casefold() in _CANONICAL)


def _lower(match: re.Match[str]) -> str:
    """Lowercase the name of a unit, unless the case distinguishes prefixes: mW is not MW."""
    name: str = match.group()
    known = name.casefold() in _CANONICAL or name.casefold() in _SQUARE | _CUBE
    return name.casefold() if known or len(name) != 2 else name


def _canonical(words: str, power: str | None) -> str:
    """Return one spelling of a unit: "square inches" and "in" with power 2 are both "in^2"."""
    words = re.sub(r"[^\W\d_]+", _lower, words.strip(" ."))
    if words.casefold() in ("a.m", "p.m"):
        words = words.casefold().replace(".", "")
    parts, factor = [], 1
    for name in re.findall(r"[^\W\d_]+|/", words.replace(" per ", " / ")):
        if name in _SQUARE or name in _CUBE:
            factor = 2 if name in _SQUARE else 3
        elif name not in ("unit", "units"):
            name = _SPEEDS.get(name) or _CANONICAL.get(name) or (name.removesuffix("s") if len(name) > 3 else name)
            parts.append(name if factor == 1 else f"{name}^{factor}")
            factor = 1
    if factor > 1 and parts:  # "feet squared"
        power = str(factor)
    return " ".join(parts).replace(" / ", "/") + (f"^{power}" if power and parts else "")
