# SPDX-License-Identifier: Apache-2.0
"""A training run with verl: checks that need verl, and ``main_ppo`` itself."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from verl.trainer.main_ppo import TaskRunnerV1, run_ppo
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils.config import validate_config
from verl.utils.device import auto_set_device

from recipe.treepo.console.capture import release
from recipe.treepo.settings.schema import PACKED_VENDOR, Console, TreePOSettings
from recipe.treepo.settings.validate import is_missing_file
from recipe.treepo.settings.values import ConfigError, ConfigProblem
from recipe.treepo.verl_adapters.console import train_with_console
from recipe.treepo.verl_adapters.user_code import interaction_problems, tool_problems


def check_with_verl(config: DictConfig, settings: TreePOSettings) -> None:
    """Load the user's interaction and tools, then check verl's own rules.

    Args:
        config: The whole configuration; the recipe's own rules have been checked.
        settings: Its settings of the recipe. A missing file of an interaction is skipped: in a dry run it may not
            exist yet.

    Raises:
        ConfigError: listing the problems with the user's code, or naming an unknown estimator.
    """
    problems = tool_problems(config)
    if not is_missing_file(settings.interaction.path):
        problems = interaction_problems(settings.interaction) + problems
    if problems:
        raise ConfigError(problems)
    estimator, known = config.algorithm.adv_estimator, sorted(map(str, ADV_ESTIMATOR_REGISTRY))
    if estimator not in known:
        # verl would find out after the first rollouts.
        rule, remedy = "there is no such estimator", f"Use one of {', '.join(known)}."
        raise ConfigError([ConfigProblem("unknown_estimator", "algorithm.adv_estimator", estimator, rule, remedy)])
    # verl's dataclass of the critic loads the model's tokenizer at once, if need be from the hub. No rule reads it.
    config = config.copy()
    config.critic.model = None
    validate_config(config=config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))


def train(config: DictConfig, settings: TreePOSettings, *, early: Path | None = None) -> int:
    """Run verl's V1 trainer with a checked configuration; return the exit status.

    Args:
        early: File with what was printed before, for the run's log.
    """
    if settings.packed_training:
        # verl prefers engines of this vendor, in each of its processes.
        variable = "ray_kwargs.ray_init.runtime_env.env_vars.VERL_ENGINE_VENDOR"
        OmegaConf.update(config, variable, PACKED_VENDOR, force_add=True)
    auto_set_device(config)

    def run() -> None:
        run_ppo(config, task_runner_class=TaskRunnerV1)

    if settings.console is Console.TREEPO:
        return train_with_console(config, settings, run, early=early)
    if early is not None:
        release(early)
    run()
    return 0
