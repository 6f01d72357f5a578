# SPDX-License-Identifier: Apache-2.0
"""Columns of JSON lines as ``datasets``, which reads them for verl, derives them from the beginning of a file; pure.

Objects with different keys at the same place, and values of different types, have no fixed type. Elsewhere later rows
must not add a key or change a type. A column of ISO dates becomes a column of times.
"""

import datetime
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

FIRST_BYTES = 10 * 2**20
"""Bytes from which the columns are derived (``datasets.packaged_modules.json``); the line at the end is included."""

_TIME = re.compile(r"\d{4}-\d\d-\d\d(?:[ T]\d\d(?::\d\d(?::\d\d)?)?(?:Z|[+-]\d\d:?\d\d)?)?", re.ASCII)


class Kind(Enum):
    """Type of a column's values."""

    NOTHING = "null"
    TEXT = "text"
    TIME = "dates"
    INTEGER = "whole numbers"
    NUMBER = "numbers"
    BOOLEAN = "true or false"
    ANY = "values of any type"


Shape = Kind | dict[str, Any] | list[Any]
"""Type of values: for objects the shape of each key, for lists that of all elements."""


def shape_of(values: Sequence[Any], *, is_root: bool = False) -> Shape:
    """Return the shape of values at one place; rows (``is_root``) may lack keys."""
    values = [value for value in values if value is not None]
    if not values:
        return Kind.NOTHING
    if all(isinstance(value, dict) for value in values):
        if not is_root and (not values[0] or any(value.keys() != values[0].keys() for value in values)):
            return Kind.ANY
        names = dict.fromkeys(name for value in values for name in value)
        return {name: shape_of([value[name] for value in values if name in value]) for name in names}
    if all(isinstance(value, list) for value in values):
        return [shape_of([element for value in values for element in value])]
    kinds = {_kind(value) for value in values}
    if kinds == {Kind.TEXT}:
        return Kind.TIME if all(map(is_time, values)) else Kind.TEXT
    if kinds == {Kind.INTEGER, Kind.NUMBER}:
        return Kind.NUMBER
    return kinds.pop() if len(kinds) == 1 else Kind.ANY


def _kind(value: Any) -> Kind:
    match value:
        case bool():
            return Kind.BOOLEAN
        case int():
            return Kind.INTEGER if -(2**63) <= value < 2**63 else Kind.NUMBER
        case float():
            return Kind.NUMBER
        case str():
            return Kind.TEXT
    return Kind.ANY


def is_time(text: str) -> bool:
    """Return whether a text is an ISO date or time."""
    if _TIME.fullmatch(text) is None:
        return False
    try:
        datetime.datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def is_mixed(shape: Shape) -> bool:
    """Return whether some values have no fixed type."""
    parts = shape.values() if isinstance(shape, dict) else shape if isinstance(shape, list) else ()
    return shape is Kind.ANY or any(map(is_mixed, parts))


def misfit(shape: Shape, value: Any, place: str = "") -> str | None:
    """Return a reason why a later value does not fit, None if it does.

    Args:
        place: Keys that lead to the value, such as ``extra_info.index``.
    """
    if isinstance(shape, dict) and isinstance(value, Mapping):
        for name, below in value.items():
            inner = f"{place}.{name}" if place else name
            if name not in shape:
                return f"key {inner} is new"
            if (reason := misfit(shape[name], below, inner)) is not None:
                return reason
    elif isinstance(shape, list) and isinstance(value, list):
        return next((reason for one in value if (reason := misfit(shape[0], one, place)) is not None), None)
    elif isinstance(shape, Kind) and not _fits(shape, value):
        return f"{place} is not null" if shape is Kind.NOTHING else f"{place} is not one of the {shape.value}"
    return None


def _fits(kind: Kind, value: Any) -> bool:
    """Return whether ``datasets`` can convert a value. Only certain failures count."""
    if value is None:
        return True
    if kind is Kind.TIME:
        return not isinstance(value, str) or is_time(value)
    if kind is Kind.INTEGER and isinstance(value, float):
        return value.is_integer()
    if kind in (Kind.INTEGER, Kind.NUMBER) and isinstance(value, str):
        return (
            re.fullmatch(r"\s*[-+]?[\d.]+(?:[eE][-+]?\d+)?\s*|.*(?:nan|inf).*", value.casefold(), re.ASCII) is not None
        )
    return kind is not Kind.NOTHING
