# SPDX-License-Identifier: Apache-2.0
"""Check a whole configuration (settings, rules between keys, files) and report all problems at once.

Imports no torch, ray or vllm, so all checks run before any of them starts.
"""

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recipe.treepo.settings.schema import GROUPS, TreePOSettings, parse_settings
from recipe.treepo.settings.training_rules import has_critic, objective_problems, trainer_problems
from recipe.treepo.settings.tree_rules import sampler_problems
from recipe.treepo.settings.values import ConfigError, ConfigProblem

LEAST_FREE_BYTES = 64 * 2**20
"""Minimum free disk space for a dump."""


def validate(config: DictConfig, *, check_files: bool = True) -> TreePOSettings:
    """Check the ``treepo`` group, its rules together with verl's keys, and the files.

    Raises:
        ConfigError: listing all problems.
    """
    settings, problems = parse_settings(config)
    problems += _group_problems(config)
    if settings is not None:
        problems += trainer_problems(settings, config) + objective_problems(config)
        problems += sampler_problems(settings, config)
    if check_files:
        problems += file_problems(config, ("data.train_files", "data.val_files"))
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


# --- files -----------------------------------------------------------------------------------------------------


def file_problems(config: DictConfig, data_keys: Sequence[str]) -> list[ConfigProblem]:
    """Return a problem for each missing file (data, code, model), and for data that verl cannot read."""
    made = "Make it with `python -m recipe.treepo.data_prep`, or name another file."
    reward = "Name a Python file, or leave it out for the recipe's reward."
    problems = []
    others = (
        ("reward.custom_reward_function.path", reward),
        ("treepo.interaction.path", "Name a Python file or pkg://module, or leave it out."),
        ("actor_rollout_ref.rollout.multi_turn.function_tool_path", "Name a Python file with tools."),
        ("actor_rollout_ref.rollout.multi_turn.tool_config_path", "Name a YAML file with tools."),
    )
    for key, remedy in (*((key, made) for key in data_keys), *others):
        value = OmegaConf.select(config, key)
        paths = value if OmegaConf.is_list(value) else [value]
        missing = [path for path in paths if is_missing_file(path)]
        problems += [ConfigProblem("missing_file", key, path, "there is no such file", remedy) for path in missing]
    problems += [problem for key in data_keys for problem in _foreign_data(config, key)]
    models = {"actor_rollout_ref.model.path": OmegaConf.select(config, "actor_rollout_ref.model.path")}
    critic = OmegaConf.select(config, "critic.model.path")
    if has_critic(config) and critic not in models.values():
        models["critic.model.path"] = critic
    for key, model in models.items():
        if model is not None and _is_missing_model(str(model)):
            remedy = "Name a folder with a Hugging Face model, or a model of the hub such as Qwen/Qwen2.5-0.5B."
            problems.append(ConfigProblem("missing_model", key, model, "there is no such folder", remedy))
    return problems + _dump_problems(OmegaConf.select(config, "treepo.dump.dir"))


def _dump_problems(folder: Any) -> list[ConfigProblem]:
    """Check that a dump can be written, without writing."""
    if not isinstance(folder, str) or not folder:
        return []
    path = Path(folder).expanduser().absolute()
    parent = next(above for above in (path, *path.parents) if above.exists())
    key, remedy = "treepo.dump.dir", "Name another folder, or null for no dump."
    if not parent.is_dir():
        return [ConfigProblem("dump_folder", key, folder, "a file is in the way", remedy)]
    if not os.access(parent, os.W_OK | os.X_OK):
        return [ConfigProblem("dump_folder", key, folder, "is not writable", remedy)]
    if (free := shutil.disk_usage(parent).free) < LEAST_FREE_BYTES:
        rule = f"its disk has {free >> 20} MiB left, less than {LEAST_FREE_BYTES >> 20}"
        return [ConfigProblem("dump_disk_full", key, folder, rule, remedy)]
    return []


def _foreign_data(config: DictConfig, key: str) -> list[ConfigProblem]:
    """Check the columns of local parquet files; verl reads them only after everything has started."""
    if OmegaConf.select(config, "data.custom_cls.path") is not None:
        return []  # a custom data set class has its own columns
    import pyarrow as pa
    import pyarrow.parquet as pq

    value, problems = OmegaConf.select(config, key), []
    needed = [config.data.get("prompt_key", "prompt"), "data_source", "reward_model"]
    for path in value if OmegaConf.is_list(value) else [value]:
        file = os.path.expanduser(str(path))
        if not file.endswith(".parquet") or not os.path.isfile(file):
            continue
        remedy = f"Prepare it again; for details run `python -m recipe.treepo.data_prep.check {path}`."
        try:
            missing = [name for name in needed if name not in pq.read_schema(file).names]
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            problems.append(
                ConfigProblem("damaged_file", key, path, f"is not a parquet file, or damaged ({reason})", remedy)
            )
            continue
        if missing:
            problems.append(ConfigProblem("missing_column", key, path, f"has no column {', '.join(missing)}", remedy))
    return problems


def is_missing_file(path: Any) -> bool:
    """Return whether ``path`` is a local path without a file."""
    if path is None or re.match(r"\w+://", str(path)):
        return False
    return not os.path.exists(os.path.expanduser(str(path)))


def _is_missing_model(path: str) -> bool:
    """Return whether ``path`` is neither a folder nor possibly a model of the hub (``organization/name``)."""
    if re.match(r"\w+://", path) or os.path.isdir(os.path.expanduser(path)):
        return False
    is_hub_name = re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", path) is not None
    return not is_hub_name or os.path.isdir(path.split("/")[0])
