# SPDX-License-Identifier: Apache-2.0
"""Compose the configuration with Hydra: without importing verl if possible, and without output in a dry run."""

import functools
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, ListConfig, OmegaConf

from recipe.treepo.command_line.arguments import CommandLine
from recipe.treepo.settings.values import ConfigError

# Hydra writes no folder with the date, no copy of the configuration and no log.
WRITE_NOTHING = ("hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=stdout")
LOG_TO_STDERR = "hydra.job_logging.handlers.console.stream=ext://sys.stderr"
_OUTPUT_KEYS = ("hydra.run.dir", "hydra.output_subdir", "hydra/job_logging", "hydra.job_logging")
OTHER_CONFIG_FLAGS = ("--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd")
FLAGS_WITH_VALUE = (*OTHER_CONFIG_FLAGS, "--package", "-p", "--cfg", "-c", "--info", "-i", "--experimental-rerun")


def call_with_config(line: CommandLine, arguments: Sequence[str], task: Callable[[DictConfig], None]) -> None:
    """Compose the configuration from ``arguments`` and call ``task`` with it.

    If Hydra stops earlier, which it reports itself, the problems with our own keys are reported, too.

    Args:
        task: A plain function of the entry point; Hydra names the job after its file.
    """
    problems = line.name_problems + line.value_problems
    if line.dry_run and line.for_hydra_only:
        sys.exit(f"error: {ConfigError(problems)}")
    composed = []

    @functools.wraps(task)
    def hydra_main(config: DictConfig) -> None:
        composed.append(True)
        task(config)

    sys.argv[1:] = arguments
    main = hydra.main(config_path="pkg://recipe.treepo.config", config_name="treepo_trainer", version_base=None)
    try:
        main(hydra_main)()
    finally:
        if problems and not composed:
            print(f"error: {ConfigError(problems)}", file=sys.stderr)


def without_output(arguments: Sequence[str]) -> list[str]:
    """Return arguments with which Hydra writes nothing and logs to stderr, regardless of the given ones."""
    kept = [argument for argument in arguments if not argument.lstrip("+~").startswith(_OUTPUT_KEYS)]
    return add_overrides(kept, [*WRITE_NOTHING, LOG_TO_STDERR])


def without_importing_verl(arguments: Sequence[str]) -> list[str]:
    """Return arguments with which Hydra reads verl's yaml files from their folder.

    The search path ``pkg://verl.trainer.config`` would import verl. Arguments that name other configurations or another
    search path are returned unchanged.
    """
    folder = verl_config_folder()
    if folder is None or names_other_configuration(arguments):
        return list(arguments)
    quoted = f"file://{folder}".replace("'", "\\'")
    return add_overrides(arguments, [f"hydra.searchpath=['{quoted}']"])


def names_other_configuration(arguments: Sequence[str]) -> bool:
    """Return whether the arguments name another configuration than this recipe's, or another search path."""
    other = (*OTHER_CONFIG_FLAGS, "hydra.searchpath")
    return any(argument.lstrip("+").partition("=")[0] in other for argument in arguments)


def add_overrides(arguments: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """Insert overrides before the others: Hydra's parser accepts only one contiguous block."""
    place = len(arguments)
    for number, argument in enumerate(arguments):
        if not argument.startswith("-") and (number == 0 or arguments[number - 1] not in FLAGS_WITH_VALUE):
            place = number
            break
    return [*arguments[:place], *overrides, *arguments[place:]]


def plain_values(config: DictConfig | ListConfig, *, resolve: bool = False) -> dict[str, Any]:
    """Return a group as a dictionary, with interpolations as written unless ``resolve``."""
    values = OmegaConf.to_container(config, resolve=resolve)
    assert isinstance(values, dict), "a list is not a group"
    return {str(key): value for key, value in values.items()}


def verl_config_folder() -> Path | None:
    """Return the folder of verl's yaml files without importing verl, None if verl is not a plain folder."""
    spec = find_spec("verl")
    folder = Path(spec.origin).parent / "trainer/config" if spec is not None and spec.origin else None
    return folder if folder is not None and (folder / "ppo_trainer.yaml").is_file() else None
