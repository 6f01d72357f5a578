# SPDX-License-Identifier: Apache-2.0
"""Split a command line into our own flags, problems with our own keys, and arguments for Hydra."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig

from recipe.treepo.settings.schema import FREE_GROUPS, GROUPS, KEYS
from recipe.treepo.settings.schema import SEE as SEE_TREEPO
from recipe.treepo.settings.values import ConfigProblem, Keys, groups_of, read_group, unknown_key

SEARCH_PATH, OWN_CONFIG = "hydra.searchpath", "pkg://recipe.treepo.config"
HELP_FLAGS = ("--help", "-h")
# Flags that make Hydra show something or compose several configurations.
HYDRA_ONLY_FLAGS = (
    *("--hydra-help", "--version", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc"),
    *("--experimental-rerun", "--multirun", "-m"),
)


@dataclass(frozen=True, slots=True)
class OwnGroup:
    """A group of keys of this recipe.

    Attributes:
        free: Full names of its subgroups with keys that the user defines.
        see: File that explains the keys, relative to the repository.
    """

    name: str
    keys: Keys
    free: tuple[str, ...]
    see: str

    def is_free(self, key: str) -> bool:
        """Return whether ``key`` is one that the user defines."""
        return any(key != group and holds(group, key) for group in self.free)


TREEPO = OwnGroup("treepo", KEYS, FREE_GROUPS, SEE_TREEPO)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
    """A parsed command line.

    Attributes:
        arguments: Arguments for Hydra.
        name_problems: Unknown keys of our groups (absent from ``arguments``), and wrong combinations of flags.
        value_problems: Wrong values in our groups; needed only if Hydra cannot compose, since composing finds them,
        too.
        for_hydra_only: Whether Hydra only shows something, or composes several configurations.
        known: Configuration of the chosen groups without other overrides, None if it was not composed.
    """

    arguments: list[str]
    name_problems: list[ConfigProblem]
    value_problems: list[ConfigProblem]
    asks_help: bool
    dry_run: bool
    full: bool
    for_hydra_only: bool
    known: DictConfig | None = None


def read_command_line(arguments: Sequence[str], groups: Sequence[OwnGroup] = (TREEPO,)) -> CommandLine:
    """Remove our flags and our unknown keys from the command line; Hydra would stop at the first of them."""
    own_flags = {"--dry-run", "--full", *HELP_FLAGS}
    flags = {argument.partition("=")[0] for argument in arguments if argument.startswith("-")}
    if "hydra.mode=MULTIRUN" in arguments:
        flags.add("--multirun")
    rest: list[str] = []
    problems = _flag_problems(flags)
    values: dict[str, Any] = {}
    for argument in arguments:
        if argument in own_flags:
            continue
        override = parsed_override(argument)
        key, value = (override.key_or_group, override.value()) if override else (_key(argument), None)
        group = next((group for group in groups if holds(group.name, key)), None)
        if group is None:
            rest += _without_marks_of_verls_entry_point(argument, key, value)
        elif not _is_known(key, group):
            problems.append(
                unknown_key(key, value, {name: found for own in groups for name, found in own.keys.items()})
            )
        else:
            rest.append(_as_hydra_needs_it(argument, key))
            if _is_plain_value(override, group):
                _put(values, key, value)
    return CommandLine(
        arguments=rest,
        name_problems=problems,
        value_problems=_value_problems(values, groups),
        asks_help=not flags.isdisjoint(HELP_FLAGS),
        dry_run="--dry-run" in flags,
        full="--full" in flags,
        for_hydra_only=not flags.isdisjoint(HYDRA_ONLY_FLAGS),
    )


def holds(group: str, key: str) -> bool:
    """Return whether ``key`` is ``group`` or inside it."""
    return f"{key}.".startswith(f"{group}.")


def _flag_problems(flags: set[str]) -> list[ConfigProblem]:
    problems = []
    if "--full" in flags and "--dry-run" not in flags:
        rule = "has no effect without --dry-run"
        problems.append(ConfigProblem("full_without_dry_run", "--full", True, rule, "Add --dry-run."))
    if "--dry-run" in flags and (others := sorted(flags.intersection(HYDRA_ONLY_FLAGS))):
        rule = f"checks a single configuration, so it cannot be combined with {others[0]}"
        problems.append(ConfigProblem("dry_run_conflict", "--dry-run", True, rule, "Leave one of them out."))
    return problems


def parsed_override(argument: str) -> Override | None:
    """Return the parsed override, None for a flag or what Hydra's grammar rejects."""
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None


def _key(argument: str) -> str:
    return argument.lstrip("+~").partition("=")[0]


def _is_known(key: str, group: OwnGroup) -> bool:
    return key in group.keys or key in groups_of(group.keys) or group.is_free(key)


def _without_marks_of_verls_entry_point(argument: str, key: str, value: Any) -> list[str]:
    """Return an override of a verl run as this entry point needs it.

    Its configuration declares keys and groups that a run of verl's entry point adds with a plus sign, and its search
    path has the groups.
    """
    if key == SEARCH_PATH and value == [OWN_CONFIG]:
        return []
    if key in GROUPS:
        return [argument.lstrip("+")]
    if argument.startswith("+") and not argument.startswith("++") and "." in key:
        return [f"+{argument}"]
    return [argument]


def _as_hydra_needs_it(argument: str, key: str) -> str:
    """Return the override with the plus signs that fit the declared keys of ``treepo``."""
    if argument[0] == "~" or not holds(TREEPO.name, key):
        return argument
    if any(holds(key, free) or holds(free, key) for free in FREE_GROUPS):
        return f"++{argument.lstrip('+')}"  # it declares no keys, so Hydra must add them
    return argument.lstrip("+")  # needed for verl's own entry point; here the key is declared


# --- values without a composed configuration -------------------------------------------------------------------


def _is_plain_value(override: Override | None, group: OwnGroup) -> bool:
    """Return whether the value can be checked alone: no interpolation, sweep or choice of a file of the group."""
    if override is None or override.is_delete() or override.is_sweep_override() or "${" in (override.input_line or ""):
        return False
    key = override.key_or_group
    if any(holds(free, key) for free in group.free):
        return False
    return isinstance(override.value(), Mapping) or key not in groups_of(group.keys)


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *groups, last = key.split(".")
    for group in groups:
        if not isinstance(values.get(group), dict):
            values[group] = {}
        values = values[group]
    values[last] = value


def _value_problems(values: Mapping[str, Any], groups: Sequence[OwnGroup]) -> list[ConfigProblem]:
    problems: list[ConfigProblem] = []
    for group in groups:
        read_group(group.name, values.get(group.name), group.keys, problems, see=group.see)
    return problems
