# SPDX-License-Identifier: Apache-2.0
"""A training run with verl: checks that need verl, and the call of ``main_ppo``."""

import inspect
import os
import re
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import ray
from hydra.errors import InstantiationException
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from verl.checkpoint_engine import CheckpointEngineRegistry
from verl.experimental.agent_loop.agent_loop import _agent_loop_registry
from verl.trainer.main_ppo import TaskRunnerV1, run_ppo
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils.config import omega_conf_to_dataclass, validate_config
from verl.utils.device import auto_set_device
from verl.workers.rollout.replica import RolloutReplicaRegistry

from recipe.treepo.console.capture import release
from recipe.treepo.console.failures import RESTARTABLE, failure_of
from recipe.treepo.settings.data_files import first_row
from recipe.treepo.settings.files import is_missing_file
from recipe.treepo.settings.nearest import closest_name
from recipe.treepo.settings.schema import PACKED_VENDOR, RUN_VARIABLE, Console, TreePOSettings
from recipe.treepo.settings.training_rules import has_critic
from recipe.treepo.settings.values import ConfigError, ConfigProblem, written
from recipe.treepo.settings.verl_keys import known_remedy, leaves
from recipe.treepo.settings.verl_values import ACTOR, REF, ROLLOUT, name_remedy, unregistered_names
from recipe.treepo.verl_adapters.console import train_with_console
from recipe.treepo.verl_adapters.user_code import interaction_problems, policy_problems, tool_problems

MODEL = "actor_rollout_ref.model"
# Keys of the reference that verl renames before it builds the object (ActorRolloutRefWorker.init_model).
REFERENCE = (
    *("log_prob_micro_batch_size", "log_prob_micro_batch_size_per_gpu", "log_prob_use_dynamic_bsz"),
    "log_prob_max_token_len_per_gpu",
)


def name_problems(config: DictConfig) -> list[ConfigProblem]:
    """Check names against verl's registries, to which plugins add; verl looks them up after Ray has started."""
    return unregistered_names(config, _registered)


def _registered(key: str) -> list[str]:
    """Return the names in the registry of a key. Some imports take seconds, so they wait until a name needs them."""
    registry: Iterable[Any]
    match key.rpartition(".")[2]:
        case "adv_estimator":
            registry = ADV_ESTIMATOR_REGISTRY
        case "loss_mode":
            registry = POLICY_LOSS_REGISTRY
        case "default_agent_loop":
            registry = _agent_loop_registry
        case "backend":
            registry = CheckpointEngineRegistry._registry
        case "trainer_mode":
            from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY

            registry = TRAINER_REGISTRY
        case _ if key == "reward.reward_manager.name":
            from verl.experimental.reward_loop.reward_manager.registry import REWARD_MANAGER

            registry = REWARD_MANAGER
        case _:
            registry = RolloutReplicaRegistry._registry
    return [str(name) for name in registry]


def check_with_verl(config: DictConfig, settings: TreePOSettings) -> None:
    """Load the user's interaction and tools, then check verl's own rules.

    Args:
        config: Complete configuration that has passed the recipe's own rules.
        settings: The recipe's settings in it. Missing files of the user's classes are skipped, because they may not
            exist yet in a dry run.

    Raises:
        ConfigError: with the problems in the user's code, or those that verl finds.
    """
    problems = tool_problems(config)
    if not is_missing_file(settings.interaction.path):
        problems = interaction_problems(settings.interaction) + problems
    if not any(is_missing_file(own.path) for own in settings.policy_classes.values()):
        problems = policy_problems(settings, partial(first_row, config, "data.train_files")) + problems
    if problems := problems + dataclass_problems(config) + list(call_problems(config)):
        raise ConfigError(problems)
    # verl's critic dataclass loads the model's tokenizer immediately, if needed from the hub. No rule reads it.
    config = config.copy()
    config.critic.model = None
    try:
        validate_config(
            config=config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config)
        )
    except Exception as error:  # verl raises several types, most without the key
        raise ConfigError([_verls_problem(config, "", error)]) from error


def dataclass_problems(config: DictConfig) -> list[ConfigProblem]:
    """Build verl's configuration objects, as its workers do after Ray has started.

    An object with an unknown key is not built.
    """
    groups = [ACTOR, ROLLOUT, "algorithm", "trainer.v1.separate_async.hybrid_rollout"]
    groups += ["critic"] if has_critic(config) else []
    problems = []
    for name in groups:
        group = OmegaConf.select(config, name)
        if not OmegaConf.is_dict(group) or not str(group.get("_target_")).startswith("verl."):
            continue
        group = group.copy()
        if name == "critic":
            group.model = None  # see check_with_verl
        found = list(_undeclared(config, group, name))
        if not found:
            try:
                omega_conf_to_dataclass(group)
            except Exception as error:  # verl raises several types, most without the key
                found = [_verls_problem(config, name, error)]
        problems += found
    # Building the model would load its files; verl ignores wrong keys of the others unless it needs them.
    for name in (MODEL, REF, *(() if has_critic(config) else ("critic",))):
        group = OmegaConf.select(config, name)
        if OmegaConf.is_dict(group) and str(group.get("_target_")).startswith("verl."):
            problems += _undeclared(config, group, name)
    return problems


def call_problems(config: DictConfig) -> Iterator[ConfigProblem]:
    """Check names that verl passes to Ray and looks up in the optimizer's module."""
    key, allowed = "ray_kwargs.ray_init", list(inspect.signature(ray.init).parameters)
    for name in OmegaConf.select(config, key) or ():
        if name not in allowed and not str(name).startswith("_"):
            near = closest_name(name, allowed)
            value = config.ray_kwargs.ray_init[name]
            remedy = f"Use +{key}.{near}={written(value)}." if near else "Leave it out."
            yield ConfigProblem("ray_argument", f"{key}.{name}", value, "ray.init has no such argument", remedy)
    for key in (f"{ACTOR}.optim", *(["critic.optim"] if has_critic(config) else [])):
        module, name = (OmegaConf.select(config, f"{key}.{part}") for part in ("optimizer_impl", "optimizer"))
        if module is None or OmegaConf.select(config, "actor_rollout_ref.model.external_lib") is not None:
            continue  # other engines than FSDP have their own optimizers
        try:
            loaded = import_module(module)
        except ImportError as error:
            rule = f"cannot be imported ({' '.join(str(error).split())})"
            yield ConfigProblem(
                "optimizer_module", f"{key}.optimizer_impl", module, rule, f"Use {key}.optimizer_impl=torch.optim."
            )
            continue
        if not hasattr(loaded, name):
            remedy = name_remedy(f"{key}.optimizer", name, [found for found in vars(loaded) if found[:1].isupper()])
            yield ConfigProblem("optimizer_name", f"{key}.optimizer", name, f"{module} has no such optimizer", remedy)


def _undeclared(config: DictConfig, group: DictConfig, name: str) -> Iterator[ConfigProblem]:
    """Yield the keys that verl's dataclass of the group or of a group inside it does not have."""
    target = group.get("_target_")
    known = [field.name for field in fields(get_class(target))] if target else None
    for key in group:
        if OmegaConf.is_missing(group, key) or key == "_target_":
            continue
        inner, full = group[key], f"{name}.{key!s}"
        if known is not None and key not in known and not (name == REF and key in REFERENCE):
            remedy = _remedy(config, name, str(key), known)
            yield ConfigProblem("undeclared_key", full, inner, "verl has no such key", remedy)
        elif OmegaConf.is_dict(inner) and inner.get("_target_"):
            yield from _undeclared(config, inner, full)


def _remedy(config: DictConfig, group: str, key: str, known: list[str]) -> str:
    """Return the remedy for a key that verl's object does not have: a former key's new name, or the only near one."""
    value = OmegaConf.select(config, group)[key]
    if found := known_remedy(f"{group}.{key}", value, cast(Mapping[str, Any], config)):
        return found[1]
    near = closest_name(key, known)
    plus = "" if near in OmegaConf.select(config, group) else "+"
    return f"Use {plus}{group}.{near}={written(value)}." if near else "Leave it out."


def _verls_problem(config: DictConfig, group: str, error: Exception) -> ConfigProblem:
    """Return an error of verl as a problem of the key that its message names, or else of the group."""
    found = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
    text, _, place = str(found).partition("full_key:")  # errors of omegaconf
    rule = " ".join(text.split()).rstrip(".") or f"verl raises {type(found).__name__}"
    keys = [key for key, _ in leaves(OmegaConf.to_container(config)) if f"{key}.".startswith(group)]
    words = re.findall(r"[\w.]+", rule)
    named = place.split()[:1] + [key for word in words for key in keys if key == word or key.endswith(f".{word}")]
    key = next(iter(named), group or "verl")
    value = OmegaConf.select(config, key)
    shown = "..." if value is None or OmegaConf.is_config(value) else value
    return ConfigProblem("verls_rule", key, shown, rule, "Change this key, or those named in the rule.")


def train(config: DictConfig, settings: TreePOSettings, *, early: Path | None = None) -> int:
    """Run verl's V1 trainer with a checked configuration and return the exit status.

    Args:
        early: File with the output before this call, for the run's log.
    """
    variables = {RUN_VARIABLE: uuid4().hex[:8]}
    # The processes of a running cluster do not have our environment.
    variables |= {
        name: os.environ[name] for name in ("TENSORBOARD_DIR", "VERL_USE_EXTERNAL_MODULES") if name in os.environ
    }
    if settings.packed_training:
        variables["VERL_ENGINE_VENDOR"] = PACKED_VENDOR  # verl prefers engines of this vendor in each of its processes
    for name, text in variables.items():
        OmegaConf.update(config, f"ray_kwargs.ray_init.runtime_env.env_vars.{name}", text, force_add=True)
    auto_set_device(config)

    def run() -> None:
        run_ppo(config, task_runner_class=TaskRunnerV1)

    if settings.console is Console.TREEPO:
        return train_with_console(config, settings, run, early=early)
    if early is not None:
        release(early)
    try:
        run()
    except Exception as error:
        if not failure_of(error).is_death:
            raise
        traceback.print_exc()
        return RESTARTABLE
    return 0
