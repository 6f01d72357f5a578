# SPDX-License-Identifier: Apache-2.0
"""Names and types of verl's keys on the command line, compared with the configuration of the chosen groups."""

from collections.abc import Sequence
from dataclasses import replace

from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from recipe.treepo.command_line.arguments import CommandLine, parsed_override
from recipe.treepo.command_line.composition import names_other_configuration, plain_values, without_importing_verl
from recipe.treepo.command_line.mistakes import without_mistakes
from recipe.treepo.settings.schema import GROUPS
from recipe.treepo.settings.verl_keys import unknown_verl_key


def with_known_keys(line: CommandLine) -> CommandLine:
    """Move overrides of unknown keys of verl, and unreadable ones, to the problems; Hydra would stop at the first.

    ``known`` of the returned command line has the default of each key. Where Hydra cannot compose it, the command line
    is returned unchanged, and Hydra reports why.
    """
    line = without_mistakes(line)
    known = None if names_other_configuration(line.arguments) else defaults(_chosen(line.arguments))
    if known is None:
        return line
    arguments, problems = [], []
    added: set[str] = set()
    values = plain_values(known)
    for argument in line.arguments:
        override = parsed_override(argument)
        if override is None or _chooses_group(override.key_or_group):
            arguments.append(argument)
            continue
        key, value = override.key_or_group, None if override.is_delete() else override.value()
        plain = argument[0] not in "+~" and not key.startswith(("hydra.", "treepo.", "evaluation."))
        # a key may have been added by an override of a group above it, or by itself
        inside = any(f"{key}.".startswith(f"{other}.") for other in added)
        problem = unknown_verl_key(key, value, values) if plain and not inside else None
        added |= {key} if not plain or isinstance(value, dict) else set()
        if problem is None:
            arguments.append(argument)
        else:
            problems.append(problem)
    return replace(line, arguments=arguments, name_problems=line.name_problems + problems, known=known)


def _chooses_group(key: str) -> bool:
    return key in (*GROUPS, "model_engine", "evaluation") or "@" in key or "/" in key


def _chosen(arguments: Sequence[str]) -> list[str]:
    """Return the overrides that choose files of groups."""
    return [
        argument
        for argument in arguments
        if (override := parsed_override(argument)) is not None
        and _chooses_group(override.key_or_group)
        and not override.key_or_group.startswith(("hydra", "evaluation"))
    ]


def defaults(chosen: Sequence[str]) -> DictConfig | None:
    """Compose the configuration with the chosen groups and without other overrides; None if Hydra cannot."""
    try:
        with initialize_config_module("recipe.treepo.config", version_base=None):
            known = compose("treepo_trainer", without_importing_verl(chosen))
        OmegaConf.to_container(known, resolve=True)
    except (HydraException, OmegaConfBaseException):
        return None
    return known
