# SPDX-License-Identifier: Apache-2.0
"""Read a group of a configuration strictly: unknown keys and wrong values are problems, and all are told at once.

What the keys are and mean is said where they are used (``settings.py``, ``evaluation/settings.py``). Pure.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from typing import Any

# What reads the value of a key (raising ValueError with the rule it breaks), or the same for each key of a group.
Parser = Callable[[Any], Any]
Keys = Mapping[str, Parser | Mapping[str, Parser]]


@dataclass(frozen=True, slots=True)
class Problem:
    """One broken rule, in words for the person who wrote the configuration."""

    key: str
    value: Any
    rule: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.key}={self.value}: {self.rule}. {self.remedy}"


class ConfigError(ValueError):
    """All that is wrong with a configuration."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        lines = "\n".join(f"  {number}. {problem}" for number, problem in enumerate(problems, start=1))
        super().__init__(f"{len(problems)} problem(s) in the configuration:\n{lines}")


# --- values ----------------------------------------------------------------------------------------------------


def integer(minimum: int, maximum: float = math.inf) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            bounds = f"of at least {minimum}" if maximum == math.inf else f"from {minimum} to {maximum}"
            raise ValueError(f"must be a whole number {bounds}")
        return value

    return parse


def optional(parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else parse(value)


def choice(choices: type[StrEnum]) -> Callable[[Any], StrEnum]:
    def parse(value: Any) -> StrEnum:
        if value not in list(choices):
            raise ValueError(f"must be one of {', '.join(choices)}")
        return choices(value)

    return parse


def boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def fraction(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise ValueError("must be a number above 0 and at most 1")
    return float(value)


def positive(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError("must be a number above 0")
    return float(value)


def mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError("must be a group of keys")
    return dict(value)


def path(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("must be a path")
    return value


def class_name(value: Any) -> str:
    if not isinstance(value, str) or not value.isidentifier():
        raise ValueError("must be the name of a class")
    return value


def texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) and text for text in value):
        raise ValueError("must be a list of texts that are not empty")
    return tuple(value)


def int_range(value: Any) -> tuple[int, int]:
    """Read a whole number or [lowest, highest]."""
    bounds = value if isinstance(value, list) else [value, value]
    if len(bounds) != 2 or any(isinstance(b, bool) or not isinstance(b, int) for b in bounds):
        raise ValueError("must be a whole number or a range [lowest, highest] of whole numbers")
    if not 1 <= bounds[0] <= bounds[1]:
        raise ValueError("must keep 1 <= lowest <= highest")
    return bounds[0], bounds[1]


def schedule(value: Any) -> tuple[float, float]:
    """Read a number or [first, last]."""
    ends = value if isinstance(value, list) else [value, value]
    if len(ends) != 2 or any(isinstance(end, bool) or not isinstance(end, int | float) for end in ends):
        raise ValueError("must be a number or [first, last] over training")
    if not all(0 < end < math.inf for end in ends):
        raise ValueError("must be above 0")
    return float(ends[0]), float(ends[1])


# --- groups ----------------------------------------------------------------------------------------------------


def parse_group(name: str, raw: Any, keys: Keys, problems: list[Problem], *, see: str) -> dict[str, Any]:
    """Read the group ``name``; return the values of the keys that are there, and append what is wrong to ``problems``.

    Args:
        raw: A mapping, or None for a group without keys.
        see: File that explains the keys.
    """
    if raw is None:
        return {}
    if not isinstance(raw, Mapping):
        problems.append(Problem(name, raw, "must be a group of keys", f"Keys of {name}: {', '.join(keys)}."))
        return {}
    values = {}
    for key, value in raw.items():
        parser = keys.get(key)
        if parser is None:
            problems.append(unknown_key(f"{name}.{key}", value, {name: keys}))
        elif isinstance(parser, Mapping):
            values[key] = parse_group(f"{name}.{key}", value, parser, problems, see=see)
        else:
            try:
                values[key] = parser(value)
            except ValueError as error:
                remedy = f"See {see} for what the key means."
                problems.append(Problem(f"{name}.{key}", value, str(error), remedy))
    return values


def all_keys(groups: Mapping[str, Keys]) -> dict[str, list[str]]:
    """Return the full names of all groups, the outermost first, with the names of their keys."""
    found = {}
    for name, keys in groups.items():
        found[name] = list(keys)
        found |= all_keys({f"{name}.{key}": inner for key, inner in keys.items() if isinstance(inner, Mapping)})
    return found


def leaf_keys(name: str, keys: Keys) -> list[str]:
    """Return the full names of the keys of the group ``name`` that are no groups themselves, in their order."""
    names = []
    for key, inner in keys.items():
        names += leaf_keys(f"{name}.{key}", inner) if isinstance(inner, Mapping) else [f"{name}.{key}"]
    return names


def unknown_key(key: str, value: Any, groups: Mapping[str, Keys]) -> Problem:
    """Return the problem of a key that none of ``groups`` (name of an outermost group: its keys) has."""
    known = all_keys(groups)
    leaves = [f"{group}.{name}" for group, names in known.items() for name in names]
    group = key.rpartition(".")[0]
    while group and group not in known:
        group = group.rpartition(".")[0]
    group = group or next(iter(groups))
    similar = get_close_matches(key, [name for name in leaves if name not in known], n=1)
    hint = f"Did you mean {similar[0]}? " if similar else ""
    return Problem(key, value, "there is no such key", f"{hint}Keys of {group}: {', '.join(known[group])}.")
