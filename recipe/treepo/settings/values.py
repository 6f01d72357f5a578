# SPDX-License-Identifier: Apache-2.0
"""Read a group of a configuration into a dataclass: strict types, no unknown keys, all problems at once. Pure.

The dataclass is the only declaration of its keys: a field's type selects the reader. Its metadata may narrow the reader
(``least``, ``most``: bounds of a number) or replace it (``read``). Readers raise :class:`WrongValue`.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from enum import StrEnum
from types import NoneType, UnionType
from typing import Any, get_args, get_type_hints

from omegaconf import OmegaConf


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One violated rule, in words for the author of the configuration.

    Attributes:
        rule_id: Stable name of the rule; ``tests/settings/messages.txt`` has an example of each.
    """

    rule_id: str
    key: str
    value: Any
    rule: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.key}={'null' if self.value is None else self.value}: {self.rule}. {self.remedy}"


class ConfigError(ValueError):
    """All problems of a configuration."""

    def __init__(self, problems: list[ConfigProblem]) -> None:
        self.problems = problems
        lines = "\n".join(f"  {number}. {problem}" for number, problem in enumerate(problems, start=1))
        super().__init__(f"{len(problems)} problem(s) in the configuration:\n{lines}")

    def __reduce__(self) -> tuple[type["ConfigError"], tuple[list[ConfigProblem]]]:
        return type(self), (self.problems,)  # Ray pickles errors; the default rebuilds an exception from its message


class WrongValue(ValueError):
    """A value violates the rule of its key."""

    def __init__(self, rule_id: str, rule: str) -> None:
        super().__init__(rule)
        self.rule_id = rule_id


# --- values ----------------------------------------------------------------------------------------------------

Reader = Callable[[Any], Any]


def reader(rule_id: str, rule: str, holds: Callable[[Any], Any], convert: Reader = lambda value: value) -> Reader:
    """Return a reader that rejects values for which ``holds`` is false and converts the others."""

    def read(value: Any) -> Any:
        if not holds(value):
            raise WrongValue(rule_id, rule)
        return convert(value)

    return read


def written(value: Any) -> str:
    """Return a value as in an override on a shell's command line."""
    text = _hydra_text(value)
    return f"'{text}'" if isinstance(value, Mapping) else text


def _hydra_text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_hydra_text(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{','.join(map(_hydra_text, value))}]"
    return str(value)


def listed(value: Any) -> list[Any]:
    """Return a value that may be a list as a list."""
    return list(value) if OmegaConf.is_list(value) else [value]


def is_number(value: Any, kinds: type | UnionType = int | float) -> bool:
    """Return whether a value is a number; booleans are not."""
    return isinstance(value, kinds) and not isinstance(value, bool)


def integer(least: int = 1, most: float = math.inf) -> Reader:
    bounds = f"of at least {least}" if most == math.inf else f"from {least} to {most}"
    return reader(
        "integer", f"must be a whole number {bounds}", lambda value: is_number(value, int) and least <= value <= most
    )


def positive(most: float = math.inf) -> Reader:
    limit = "" if most == math.inf else f" and at most {most}"
    rule = f"must be a number above 0{limit}"
    return reader(
        "positive_number", rule, lambda value: is_number(value) and 0 < value <= most and value < math.inf, float
    )


def choice(choices: type[StrEnum]) -> Reader:
    return reader("choice", f"must be one of {', '.join(choices)}", lambda value: value in list(choices), choices)


def pair(value: Any) -> list[Any]:
    """Return [lowest, highest] or [first, last]; a single value stands for both."""
    return value if isinstance(value, list) else [value, value]


def _is_range(bounds: list[Any]) -> bool:
    return len(bounds) == 2 and all(is_number(bound, int) for bound in bounds) and 1 <= bounds[0] <= bounds[1]


finite = reader("finite_number", "must be a number", lambda value: is_number(value) and math.isfinite(value), float)
class_name = reader(
    "class_name", "must be the name of a class", lambda value: isinstance(value, str) and value.isidentifier()
)
_READERS: dict[Any, Reader] = {
    bool: reader("boolean", "must be true or false", lambda value: isinstance(value, bool)),
    str: reader("path", "must be a non-empty path", lambda value: isinstance(value, str) and value),
    Mapping[str, Any]: reader(
        "group",
        "must be a group of keys",
        lambda value: isinstance(value, Mapping) and all(isinstance(key, str) for key in value),
        dict,
    ),
    tuple[int, int]: reader(
        "integer_range",
        "must be a whole number of at least 1, or a range [lowest, highest] of them",
        lambda value: _is_range(pair(value)),
        lambda value: tuple(pair(value)),
    ),
    tuple[float, float]: reader(
        "schedule",
        "must be a number above 0, or [first, last] over training",
        lambda value: len(pair(value)) == 2 and all(is_number(end) and 0 < end < math.inf for end in pair(value)),
        lambda value: tuple(map(float, pair(value))),
    ),
    tuple[str, ...]: reader(
        "texts",
        "must be a list of non-empty texts",
        lambda value: isinstance(value, list) and all(isinstance(text, str) and text for text in value),
        tuple,
    ),
}


def _reader(hint: Any, metadata: Mapping[str, Any]) -> Reader:
    """Return the reader for a field's type."""
    read: Reader
    if isinstance(hint, UnionType):
        *inner, none = get_args(hint)
        assert none is NoneType, f"{hint}: the last part must be None"
        assert len(inner) == 1 or "read" in metadata, f"{hint}: needs a reader"
        read = _reader(inner[0], metadata)
        return lambda value: None if value is None else read(value)
    if "read" in metadata:
        read = metadata["read"]
        return read
    if hint in (int, float):
        return integer(**metadata) if hint is int else positive(**metadata)
    return choice(hint) if isinstance(hint, type) and issubclass(hint, StrEnum) else _READERS[hint]


# --- keys ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a configuration.

    Attributes:
        field: Path of the field for its value, ``branching.budget``.
    """

    field: str
    read: Reader


Keys = Mapping[str, Key]  # by full name


def keys_of(name: str, group: type, places: Mapping[str, str | None] | None = None, path: str = "") -> dict[str, Key]:
    """Return the keys that a dataclass declares.

    Args:
        name: Full name of the group.
        places: Full name of the key by the path of its field, if the two differ; None for a field without a key.
    """
    keys: dict[str, Key] = {}
    hints, places = get_type_hints(group), places or {}
    for field in fields(group):
        own, hint = f"{path}{field.name}", hints[field.name]
        if isinstance(hint, type) and is_dataclass(hint):
            keys |= keys_of(f"{name}.{field.name}", hint, places, f"{own}.")
        elif key := places.get(own, f"{name}.{field.name}"):
            keys[key] = Key(own, _reader(hint, field.metadata))
    return keys


def groups_of(keys: Iterable[str]) -> dict[str, list[str]]:
    """Return the full names of all groups, outer before inner, with the names in each."""
    groups: dict[str, dict[str, None]] = defaultdict(dict)
    for key in keys:
        parts = key.split(".")
        for depth in range(1, len(parts)):
            groups[".".join(parts[:depth])][parts[depth]] = None
    return {group: list(names) for group, names in groups.items()}


# Renamed keys and values.
RENAMED = {
    "treepo.width": "actor_rollout_ref.rollout.n",
    "treepo.run_on": "treepo.max_segments_per_request",
    "treepo.dump_dir": "treepo.dump.dir",
    "treepo.branching.favour": "treepo.branching.favor",
    "treepo.branching.budget=node": "treepo.search=by_path",
}


def unknown_key(key: str, value: Any, keys: Keys) -> ConfigProblem:
    """Return the problem of a key that is not in ``keys``."""
    if new := RENAMED.get(key):
        remedy = "Leave it out." if value is None else f"Use {new}={written(value)}."
        return ConfigProblem("renamed_key", key, value, f"was renamed to {new}", remedy)
    groups = groups_of(keys)
    group = key.rpartition(".")[0]
    while group and group not in groups:
        group = group.rpartition(".")[0]
    group = group or next(iter(groups))
    similar = get_close_matches(key, keys, n=1)
    hint = f"Did you mean {similar[0]}? " if similar else ""
    return ConfigProblem(
        "unknown_key", key, value, "there is no such key", f"{hint}Keys of {group}: {', '.join(groups[group])}."
    )


def read_group(name: str, raw: Any, keys: Keys, problems: list[ConfigProblem], *, see: str) -> dict[str, Any]:
    """Return the values of a group by the paths of their fields; append problems to ``problems``.

    Args:
        name: Full name of the group.
        raw: A mapping, or None for a group without keys.
        see: File that explains the keys.
    """
    groups = groups_of(keys)
    values: dict[str, Any] = {}

    def visit(key: str, value: Any) -> None:
        if key in keys:
            try:
                values[keys[key].field] = keys[key].read(value)
            except WrongValue as error:
                problems.append(_wrong_value(key, value, error, see))
        elif key not in groups:
            problems.append(unknown_key(key, value, keys))
        elif isinstance(value, Mapping):
            for inner, below in value.items():
                name = f"{key}.{inner}"
                if "." in str(inner):  # not a nested key, despite the period
                    problems.append(unknown_key(name, below, keys))
                else:
                    visit(name, below)
        elif value is not None:
            remedy = f"Keys of {key}: {', '.join(groups[key])}."
            problems.append(ConfigProblem("group", key, value, "must be a group of keys", remedy))

    visit(name, raw)
    return values


def _wrong_value(key: str, value: Any, error: WrongValue, see: str) -> ConfigProblem:
    if new := RENAMED.get(f"{key}={value}"):
        return ConfigProblem("renamed_value", key, value, f"was renamed to {new}", f"Use {new}, and leave {key} out.")
    return ConfigProblem(error.rule_id, key, value, str(error), f"See {see}.")


def build(group: type, values: Mapping[str, Any]) -> Any:
    """Make a dataclass from values by the paths of their fields."""
    own: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = defaultdict(dict)
    for path, value in values.items():
        name, _, rest = path.partition(".")
        if rest:
            inner[name][rest] = value
        else:
            own[name] = value
    hints = get_type_hints(group)
    return group(**own, **{name: build(hints[name], below) for name, below in inner.items()})
