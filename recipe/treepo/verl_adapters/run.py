# SPDX-License-Identifier: Apache-2.0
"""A training run with verl: checks that need verl, and the call of ``main_ppo``."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from verl.trainer.main_ppo import TaskRunnerV1, run_ppo
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils.config import validate_config
from verl.utils.device import auto_set_device

from recipe.treepo.console.capture import release
from recipe.treepo.settings.files import is_missing_file
from recipe.treepo.settings.schema import PACKED_VENDOR, Console, TreePOSettings
from recipe.treepo.settings.values import ConfigError, ConfigProblem
from recipe.treepo.verl_adapters.console import train_with_console
from recipe.treepo.verl_adapters.user_code import interaction_problems, tool_problems


def check_with_verl(config: DictConfig, settings: TreePOSettings) -> None:
    """Load the user's interaction and tools, then check verl's own rules.

    Args:
        config: Complete configuration that has passed the recipe's own rules.
        settings: The recipe's settings in it. A missing interaction file is skipped, because it may not exist yet in
            a dry run.

    Raises:
        ConfigError: with the problems in the user's code, or an unknown estimator.
    """
    problems = tool_problems(config)
    if not is_missing_file(settings.interaction.path):
        problems = interaction_problems(settings.interaction) + problems
    if problems:
        raise ConfigError(problems)
    estimator, known = config.algorithm.adv_estimator, sorted(map(str, ADV_ESTIMATOR_REGISTRY))
    if estimator not in known:
        # verl would fail only after the first rollouts.
        rule, remedy = "is not a registered estimator", f"Use one of {', '.join(known)}."
        raise ConfigError([ConfigProblem("unknown_estimator", "algorithm.adv_estimator", estimator, rule, remedy)])
    # verl's critic dataclass loads the model's tokenizer immediately, if needed from the hub. No rule reads it.
    config = config.copy()
    config.critic.model = None
    validate_config(config=config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))


def train(config: DictConfig, settings: TreePOSettings, *, early: Path | None = None) -> int:
    """Run verl's V1 trainer with a checked configuration and return the exit status.

    Args:
        early: File with the output before this call, for the run's log.
    """
    if settings.packed_training:
        # verl prefers engines of this vendor in each of its processes.
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
