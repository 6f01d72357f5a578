# SPDX-License-Identifier: Apache-2.0
"""Entry point: ``python -m recipe.treepo.main_treepo KEY=VALUE ...``, verl's ``main_ppo`` with trees.

The whole configuration is checked before Ray or a model is started. ``--dry-run`` prints it, resolved, and stops;
files that are still to be made are then only named.
"""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from recipe.treepo.config_values import ConfigError, Problem, all_keys, unknown_key
from recipe.treepo.settings import FREE_GROUP, KEYS, PACKED_VENDOR, known_keys, load_settings
from recipe.treepo.validation import is_missing_file, validate


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[Problem], bool]:
    """Take what Hydra cannot handle well out of the command line.

    Returns:
        The arguments for Hydra; a problem for each override of a ``treepo`` key that does not exist (Hydra would
        stop at the first, with the advice to add it); whether ``--dry-run`` was given.
    """
    rest, problems, groups = [], [], {"treepo": KEYS}
    parser = OverridesParser.create()
    known = {*known_keys(), *all_keys(groups)}
    for argument in arguments:
        if argument == "--dry-run":
            continue
        key, value = argument.lstrip("+~"), None
        try:
            override = parser.parse_override(argument)
            key, value = override.key_or_group, override.value()
        except HydraException:
            key = key.partition("=")[0]
        ours = key == "treepo" or key.startswith("treepo.")
        if ours and key not in known and not key.startswith(f"{FREE_GROUP}."):
            problems.append(unknown_key(key, value, groups))
        elif argument[0] != "~" and (_holds(key, FREE_GROUP) or _holds(FREE_GROUP, key)):
            rest.append(f"++{argument.lstrip('+')}")  # no key of it is declared, so Hydra has to add them
        elif key in known and argument.startswith("+"):
            rest.append(argument.lstrip("+"))  # as verl's own entry point needs it; here the key is declared
        else:
            rest.append(argument)
    return rest, problems, "--dry-run" in arguments


def _holds(group: str, key: str) -> bool:
    return f"{key}.".startswith(f"{group}.")


def prepare(config: DictConfig, problems: list[Problem], *, dry_run: bool) -> None:
    """Check the recipe's rules, then verl's own.

    Raises:
        ConfigError: listing all problems, those found on the command line first.
    """
    try:
        settings = validate(config, check_files=not dry_run)
    except ConfigError as error:
        problems = problems + error.problems
    if problems:
        raise ConfigError(problems)
    from recipe.treepo.interaction_loading import interaction_problems, tool_problems

    problems = tool_problems(config)
    if not is_missing_file(settings.interaction.path):  # in a dry run it may be still to be made
        problems = interaction_problems(settings.interaction) + problems
    if problems:
        raise ConfigError(problems)
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    estimator, known = config.algorithm.adv_estimator, sorted(map(str, ADV_ESTIMATOR_REGISTRY))
    if estimator not in known:
        # verl would find out after the first rollouts.
        rule, remedy = "there is no such estimator", f"Use one of {', '.join(known)}."
        raise ConfigError([Problem("algorithm.adv_estimator", estimator, rule, remedy)])
    # verl's dataclass of the critic loads the model's tokenizer as soon as it is made, from the hub if need be; the
    # rules do not look at the model.
    config = config.copy()
    config.critic.model = None
    validate_config(config=config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))


def run(config: DictConfig, problems: list[Problem], *, dry_run: bool) -> None:
    """Check the configuration and train, or print it if ``dry_run``."""
    try:
        prepare(config, problems, dry_run=dry_run)
    except ConfigError as error:
        sys.exit(f"error: {error}")
    if dry_run:
        print(OmegaConf.to_yaml(config, resolve=True))
        for problem in _files_to_be_made(config):
            print(f"note: {problem}", file=sys.stderr)
        return
    if load_settings(config).packed_training:
        # verl asks for an engine of this vendor first, in each of its processes.
        variable = "ray_kwargs.ray_init.runtime_env.env_vars.VERL_ENGINE_VENDOR"
        OmegaConf.update(config, variable, PACKED_VENDOR, force_add=True)
    from verl.trainer.main_ppo import TaskRunnerV1, run_ppo
    from verl.utils.device import auto_set_device

    auto_set_device(config)
    run_ppo(config, task_runner_class=TaskRunnerV1)


def _files_to_be_made(config: DictConfig) -> list[Problem]:
    try:
        validate(config)
    except ConfigError as error:
        return error.problems
    return []


def use_plugin() -> None:
    """Have verl load our plugin where the recipe is a folder of a checkout, not an installed package."""
    if not any(entry.value == "treepo_verl_plugin" for entry in entry_points(group="verl.plugins")):
        modules = os.environ.get("VERL_USE_EXTERNAL_MODULES", "")
        os.environ["VERL_USE_EXTERNAL_MODULES"] = ",".join(filter(None, [modules, "recipe.treepo.plugin"]))


def main() -> None:
    """Run with the command line's arguments."""
    use_plugin()
    arguments, problems, dry_run = split_arguments(sys.argv[1:])
    sys.argv[1:] = arguments

    @hydra.main(config_path="config", config_name="treepo_trainer", version_base=None)
    def hydra_main(config: DictConfig) -> None:
        reported.append(True)
        run(config, problems, dry_run=dry_run)

    reported: list[bool] = []
    try:
        hydra_main()
    finally:
        if problems and not reported:  # Hydra stopped at another override
            print(f"error: {ConfigError(problems)}", file=sys.stderr)


if __name__ == "__main__":
    main()
