# SPDX-License-Identifier: Apache-2.0
"""Compare a configuration with the defaults of verl and of this recipe, for the dry run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from recipe.treepo.command_line.composition import plain_values, verl_config_folder

CONFIG = Path(__file__).parents[1] / "config"


@dataclass(slots=True)
class Differences:
    """The differences between a configuration and the defaults.

    Attributes:
        values: The differing keys with their resolved values, nested like the configuration.
        changed: Number of keys in ``values``.
        same: Number of keys equal to the defaults. Interpolations are compared as written, even if they resolve
        differently.
        removed: Full names of keys and groups of the defaults that are missing in the configuration.
    """

    values: dict[str, Any] = field(default_factory=dict)
    changed: int = 0
    same: int = 0
    removed: list[str] = field(default_factory=list)


def defaults_for(config: DictConfig) -> dict[str, Any]:
    """Return verl's ``ppo_trainer`` and the defaults of our groups in ``config``, with interpolations as written."""
    own = {
        "treepo": OmegaConf.load(CONFIG / "treepo_trainer.yaml").treepo,
        "evaluation": OmegaConf.load(CONFIG / "evaluation/compare.yaml"),
    }
    return plain_values(_verls_defaults()) | {
        group: plain_values(keys) for group, keys in own.items() if group in config
    }


def _verls_defaults() -> DictConfig:
    folder = verl_config_folder()
    running = GlobalHydra.instance().hydra  # Hydra is a singleton, and a dry run already runs inside it
    GlobalHydra.instance().clear()
    try:
        with (
            initialize_config_module("verl.trainer.config", version_base=None)
            if folder is None
            else initialize_config_dir(str(folder), version_base=None)
        ):
            return compose("ppo_trainer")
    finally:
        GlobalHydra.instance().hydra = running


def compare(config: DictConfig, defaults: Mapping[str, Any]) -> Differences:
    """Find the keys of ``config`` that are written differently in ``defaults``."""
    differences = Differences()
    written, resolved = plain_values(config), plain_values(config, resolve=True)
    differences.values = _compare_groups(written, resolved, defaults, "", differences)
    return differences


def dry_run_report(config: DictConfig, *, full: bool, comments: Sequence[str] = ()) -> str:
    """Return the resolved configuration as YAML: the keys that differ from the defaults, or all keys.

    Args:
        comments: Lines to add at the top.
    """
    if full:
        lines, text = [*comments], OmegaConf.to_yaml(config, resolve=True)
    else:
        differences = compare(config, defaults_for(config))
        same = (
            f"{differences.same} keys are as in verl or the recipe (--full prints all), {differences.changed} differ:"
        )
        lines = [f"The configuration is valid. {same}", *comments, *(f"removed: {key}" for key in differences.removed)]
        text = OmegaConf.to_yaml(OmegaConf.create(differences.values))
    return "".join(f"# {line}\n" for line in lines) + text


def _compare_groups(
    written: Mapping[str, Any],
    resolved: Mapping[str, Any],
    base: Mapping[str, Any],
    name: str,
    differences: Differences,
) -> dict[str, Any]:
    values = {}
    for key, value in written.items():
        default = base.get(key)
        if isinstance(value, Mapping) and value:
            inner = default if isinstance(default, Mapping) else {}
            if below := _compare_groups(value, resolved[key], inner, f"{name}{key}.", differences):
                values[key] = below
        elif key in base and repr(value) == repr(default):
            differences.same += 1
        else:
            differences.changed += 1
            values[key] = resolved[key]
    differences.removed += [f"{name}{key}" for key in base if key not in written]
    return values
