# SPDX-License-Identifier: Apache-2.0
"""Find mistakes in the form of the command line. Hydra would stop at the first one, with a message of many lines."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files

from hydra.core.override_parser.types import Override

from recipe.treepo.command_line.arguments import HELP_FLAGS, HYDRA_ONLY_FLAGS, CommandLine, parsed_override
from recipe.treepo.command_line.composition import (
    FLAGS_WITH_VALUE,
    OTHER_CONFIG_FLAGS,
    names_other_configuration,
    verl_config_folder,
)
from recipe.treepo.settings.nearest import closest_name
from recipe.treepo.settings.schema import GROUPS
from recipe.treepo.settings.values import ConfigProblem

MODEL_ENGINE = "model_engine"
OWN_FLAGS = ("--dry-run", "--full")
FLAGS = (
    *(*OWN_FLAGS, *HELP_FLAGS, *HYDRA_ONLY_FLAGS, *OTHER_CONFIG_FLAGS),
    *("--resolve", "--package", "-p", "--run", "-r"),
)

# Keys whose value may be a list, in full or by their last name.
LISTS = (
    *("logger", "train_files", "val_files", "betas", "target_modules", "exclude_modules", "target_parameters"),
    *("save_contents", "load_contents", "contents", "stopping", "stop_strings", "external_lib", "ranks"),
    *("ignore_patterns", "cudagraph_capture_sizes", "global_profiler.steps"),
)


def without_mistakes(line: CommandLine) -> CommandLine:
    """Move unknown options, unreadable overrides, lists without brackets and unknown choices to the problems."""
    if line.for_hydra_only:
        return line  # Hydra's own commands, or several runs
    arguments: list[str] = []
    problems: list[ConfigProblem] = []
    for argument, is_value in _with_places(line.arguments):
        found = None if is_value else _problem(argument, line.arguments)
        if found is None:
            arguments.append(argument)
            continue
        problems.append(found)
        if found.rule_id == "unknown_choice" and found.remedy.startswith(f"Use {found.key}="):
            arguments.append(found.remedy.removeprefix("Use ").rstrip("."))  # all other rules need the group
    return replace(line, arguments=arguments, name_problems=line.name_problems + problems)


def _with_places(arguments: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Yield each argument, and whether it is the value of the flag before it."""
    before = ""
    for argument in arguments:
        begins = before.startswith("--") and any(flag.startswith(before) for flag in FLAGS_WITH_VALUE)
        yield argument, begins or before in FLAGS_WITH_VALUE
        before = argument


def _problem(argument: str, arguments: Sequence[str]) -> ConfigProblem | None:
    if argument.startswith("-"):
        return _unknown_option(argument)
    override = parsed_override(argument)
    if override is None:
        return _unreadable(argument)
    if override.is_sweep_override():
        return _list_without_brackets(argument, override)
    return None if names_other_configuration(arguments) else _unknown_choice(override)


def _unknown_option(argument: str) -> ConfigProblem | None:
    """Return the problem of an option that neither this recipe nor Hydra has; Hydra accepts the beginning of a name."""
    flag, _, given = argument.partition("=")
    hydras = [known for known in FLAGS if known not in OWN_FLAGS]
    short = [known for known in FLAGS if not known.startswith("--")]
    if any(known.startswith(flag) for known in hydras) or (flag[:2] != "--" and flag.startswith(tuple(short))):
        return None
    near = closest_name(flag.lstrip("-"), [known.lstrip("-") for known in FLAGS if known.startswith("--")])
    remedy = f"Use --{near}." if near else f"Use one of {', '.join((*OWN_FLAGS, '--help'))}, or KEY=VALUE."
    return ConfigProblem("unknown_option", flag, given or True, "there is no such option", remedy)


def _unreadable(argument: str) -> ConfigProblem:
    key, equals, value = argument.partition("=")
    if not equals:
        return ConfigProblem("not_an_override", key, "", "must be KEY=VALUE", "Add = and the value, or leave it out.")
    home = value.replace("~/", "$HOME/")
    if home != value and parsed_override(f"{key}={home.replace('$HOME', '/home')}") is not None:
        rule = "Hydra cannot read the sign ~ in a value, and the shell does not replace it there"
        return ConfigProblem("unreadable_value", key, value, rule, f"Use {key}={home}.")
    rule = "Hydra cannot read the value: a bracket or quote is open, or it has characters such as ( ) : { }"
    remedy = f"Close it, or write the text in two kinds of quotes: '{key}=\"VALUE\"'."
    return ConfigProblem("unreadable_value", key, value, rule, remedy)


def _list_without_brackets(argument: str, override: Override) -> ConfigProblem:
    key, value = override.key_or_group, argument.partition("=")[2]
    rule = "values separated by commas start several runs, which needs --multirun"
    if not override.is_choice_sweep() or "(" in value or not (key in LISTS or key.rpartition(".")[2] in LISTS):
        return ConfigProblem("sweep", key, value, rule, "Add --multirun, or use a single value.")
    return ConfigProblem("sweep", key, value, rule, f"Use {key}=[{value}] for a list, or a single value.")


def _unknown_choice(override: Override) -> ConfigProblem | None:
    """Return the problem of a file that a group of this recipe or of verl does not have."""
    key, value = override.key_or_group, override.value()
    if (
        not key.isidentifier()
        or key == "hydra"
        or not choices(key)
        or override.is_delete()
        or not isinstance(value, str)
        or value in choices(key)
    ):
        return None
    near = closest_name(value, choices(key))
    remedy = f"Use {key}={near}." if near else f"Use one of {', '.join(choices(key))}."
    return ConfigProblem("unknown_choice", key, value, f"must be one of {', '.join(choices(key))}", remedy)


@cache
def choices(group: str) -> tuple[str, ...]:
    """Return the names of the files in a group; empty if there is no such group, or verl is not a plain folder."""
    verls = verl_config_folder()
    if group == MODEL_ENGINE:
        actors = verls.glob("actor/*_actor.yaml") if verls is not None else ()
        return tuple(sorted(file.name.removesuffix("_actor.yaml") for file in actors))
    folder = files("recipe.treepo.config") / group if group in GROUPS or verls is None else verls / group
    if not folder.is_dir():
        return ()
    return tuple(sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml")))
