# SPDX-License-Identifier: Apache-2.0
"""Check a whole configuration (settings, rules between keys, files) and report all problems at once.

Imports no torch, ray or vllm, so all checks run before any of them starts.
"""

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from recipe.treepo.settings.code_rules import code_problems, package_problems
from recipe.treepo.settings.files import file_problems
from recipe.treepo.settings.schema import GROUPS, TreePOSettings, parse_settings
from recipe.treepo.settings.support import never_run_note
from recipe.treepo.settings.thinking_rules import thinking_problems
from recipe.treepo.settings.training_rules import objective_problems, trainer_problems
from recipe.treepo.settings.tree_rules import sampler_problems
from recipe.treepo.settings.values import ConfigError, ConfigProblem
from recipe.treepo.settings.verl_keys import former_key_problems, leaves
from recipe.treepo.settings.verl_relations import relation_problems
from recipe.treepo.settings.verl_switches import machine_problems, switch_problems, unread_notes
from recipe.treepo.settings.verl_values import value_problems


def validate(
    config: DictConfig, *, check_files: bool = True, notes: list[ConfigProblem] | None = None
) -> TreePOSettings:
    """Check the ``treepo`` group, verl's keys, the rules between them, and the files.

    Args:
        notes: Receives findings that do not stop a run; none without ``check_files``.

    Raises:
        ConfigError: listing all problems.
    """
    settings, problems = parse_settings(config)
    try:
        problems += _rule_problems(settings, config)
    except OmegaConfBaseException:
        raise ConfigError(problems + _unresolved(config)) from None
    if check_files:
        problems += file_problems(config, ("data.train_files", "data.val_files"), notes)
        problems += thinking_problems(config) + package_problems(config) + machine_problems(config)
        if notes is not None:
            notes += [*unread_notes(config), *filter(None, [never_run_note(config)])]
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


def _rule_problems(settings: TreePOSettings | None, config: DictConfig) -> list[ConfigProblem]:
    """Check verl's keys, and with correct settings of ours the rules between both."""
    problems = _group_problems(config) + former_key_problems(config) + value_problems(config)
    wrong = {problem.key for problem in problems}
    if settings is not None:
        problems += trainer_problems(settings, config) + objective_problems(config)
        # the same value may be wrong in several tables
        problems += [problem for problem in sampler_problems(settings, config) if problem.key not in wrong]
    return problems + relation_problems(config) + switch_problems(config) + code_problems(config)


def _unresolved(config: DictConfig) -> list[ConfigProblem]:
    """Return the interpolations outside the ``treepo`` group that cannot be resolved."""
    problems = []
    for key, found in leaves(OmegaConf.to_container(config, resolve=False)):
        if isinstance(found, str) and "${" in found and not key.startswith("treepo."):
            try:
                OmegaConf.select(config, key)
            except OmegaConfBaseException as error:
                rule = f"cannot be resolved ({' '.join(str(error).partition('full_key')[0].split())})"
                problems.append(ConfigProblem("unresolved", key, found, rule, "Correct the interpolation."))
    return problems


def _group_problems(config: DictConfig) -> list[ConfigProblem]:
    """Check that Hydra found the recipe's groups; without its search path, ``+tree=NAME`` only sets a key ``tree``."""
    rule = "Hydra read the name as a value, because the recipe's groups are not on its search path"
    remedy = "Add hydra.searchpath=[pkg://recipe.treepo.config]."
    return [
        ConfigProblem("group_not_found", name, value, rule, remedy)
        for name in GROUPS
        if isinstance(value := OmegaConf.select(config, name), str)
    ]
