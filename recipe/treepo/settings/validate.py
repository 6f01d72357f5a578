# SPDX-License-Identifier: Apache-2.0
"""Check a whole configuration (settings, rules between keys, files) and report all problems at once.

Imports no torch, ray or vllm, so all checks run before any of them starts.
"""

from omegaconf import DictConfig, OmegaConf

from recipe.treepo.settings.files import file_problems
from recipe.treepo.settings.schema import GROUPS, TreePOSettings, parse_settings
from recipe.treepo.settings.training_rules import objective_problems, trainer_problems
from recipe.treepo.settings.tree_rules import sampler_problems
from recipe.treepo.settings.values import ConfigError, ConfigProblem


def validate(
    config: DictConfig, *, check_files: bool = True, notes: list[ConfigProblem] | None = None
) -> TreePOSettings:
    """Check the ``treepo`` group, its rules together with verl's keys, and the files.

    Args:
        notes: Receives findings in the files that do not stop a run.

    Raises:
        ConfigError: listing all problems.
    """
    settings, problems = parse_settings(config)
    problems += _group_problems(config)
    if settings is not None:
        problems += trainer_problems(settings, config) + objective_problems(config)
        problems += sampler_problems(settings, config)
    if check_files:
        problems += file_problems(config, ("data.train_files", "data.val_files"), notes)
    if problems:
        raise ConfigError(problems)
    assert settings is not None
    return settings


def validate_trees(config: DictConfig) -> TreePOSettings:
    """Check the ``treepo`` group and that the trees fit the rollout; for runs of verl's own entry point.

    Raises:
        ConfigError: listing all problems.
    """
    settings, problems = parse_settings(config)
    problems += _group_problems(config)
    if settings is not None:
        problems += sampler_problems(settings, config)
    if problems:
        raise ConfigError(problems)
    assert settings is not None
    return settings


def _group_problems(config: DictConfig) -> list[ConfigProblem]:
    """Check that Hydra found the recipe's groups; without its search path, ``+tree=NAME`` only sets a key ``tree``."""
    rule = "Hydra read the name as a value, because the recipe's groups are not on its search path"
    remedy = "Add hydra.searchpath=[pkg://recipe.treepo.config]."
    return [
        ConfigProblem("group_not_found", name, value, rule, remedy)
        for name in GROUPS
        if isinstance(value := OmegaConf.select(config, name), str)
    ]
