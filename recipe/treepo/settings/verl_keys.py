# SPDX-License-Identifier: Apache-2.0
"""verl's keys: former names, and unknown names with the nearest known ones."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recipe.treepo.settings.values import ConfigProblem

# Former keys and groups, by their new names. The first three groups are in verl's legacy_reward_impl.yaml, but only
# verl's fully async trainer reads them (migrate_legacy_reward_impl in verl/experimental/reward_loop/reward_loop.py).
FORMER = {
    "custom_reward_function": "reward.custom_reward_function",
    "reward_model": "reward.reward_model",
    "sandbox_fusion": "reward.sandbox_fusion",
    "reward_model.num_workers": "reward.num_workers",
    "reward_model.reward_manager": "reward.reward_manager.name",
    "reward_model.reward_loop_source": "reward.reward_manager.source",
    "reward_model.reward_loop_module_path": "reward.reward_manager.module.path",
    "reward_model.reward_loop_class_name": "reward.reward_manager.name",
    "reward_model.reward_kwargs": "reward.reward_kwargs",
    "reward_model.sandbox_fusion": "reward.sandbox_fusion",
    "reward_model.model.path": "reward.reward_model.model_path",
    "ray_init": "ray_kwargs.ray_init",
    "ray_init.timeline_json_file": "ray_kwargs.timeline_json_file",
    "trainer.val_generations_to_log_to_wandb": "trainer.log_val_generations",
    "trainer.profile_steps": "global_profiler.steps",
    "trainer.worker_nsight_options": "global_profiler.global_tool_config.nsys.worker_nsight_options",
    "trainer.controller_nsight_options": "global_profiler.global_tool_config.nsys.controller_nsight_options",
    "algorithm.rollout_is": "algorithm.rollout_correction.rollout_is",
    "algorithm.rollout_is_threshold": "algorithm.rollout_correction.rollout_is_threshold",
    "actor_rollout_ref.rollout.micro_batch_size": "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu",
    "actor_rollout_ref.rollout.multi_turn.max_turns": "actor_rollout_ref.rollout.multi_turn.max_assistant_turns",
    "actor_rollout_ref.ref.micro_batch_size": "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu",
    "critic.model.fsdp_config": "critic.fsdp",
}
LEGACY_GROUPS = ("custom_reward_function", "reward_model", "sandbox_fusion")


def new_name(key: str) -> str | None:
    """Return the new name of a former key, None for any other key."""
    group, rest = key, ""
    while group:
        if group in FORMER:
            return FORMER[group] + rest
        group, dot, last = group.rpartition(".")
        rest = f"{dot}{last}{rest}"
    return None


def former_key_problems(config: DictConfig) -> list[ConfigProblem]:
    """Check that no value is at a place that verl declares for compatibility but does not read.

    A value that is also at the new place is accepted.
    """
    problems = []
    for group in LEGACY_GROUPS:
        values = OmegaConf.select(config, group)
        for key, value in leaves(values, group):
            new = new_name(key)
            if value is not None and new and OmegaConf.select(config, new) != value:
                problems.append(_former(key, value, new))
    return problems


def unknown_verl_key(key: str, value: Any, known: Mapping[str, Any]) -> ConfigProblem | None:
    """Return the problem of a key that the configuration does not declare, None for any other key.

    Args:
        known: Complete configuration with the chosen groups.
    """
    group: Any = known
    parts = key.split(".")
    for name in parts:
        if not isinstance(group, Mapping):
            return None  # part of a list or of a value; Hydra knows
        if name not in group:
            break
        group = group[name]
    else:
        return None
    if new := new_name(key):
        return _former(key, value, new)
    names = [name for name, _ in leaves(known)]
    similar = [name for name in names if name.endswith(f".{key}")] + _same_ending(parts[-1], names, key)
    if name == parts[-1]:  # a misspelt last name
        place = key.rpartition(".")[0]
        similar = [f"{place}.{name}".lstrip(".") for name in get_close_matches(name, group, n=2, cutoff=0.7)] + similar
    similar += get_close_matches(key, names, n=2, cutoff=0.8)
    shown = list(dict.fromkeys(similar))[:3]
    remedy = f"Did you mean {' or '.join(shown)}? " if shown else ""
    if not key.startswith(("actor_rollout_ref.", "critic.")):  # verl's dataclasses refuse others there
        remedy += f"To add the key nevertheless, use +{key}={value}."
    elif not shown:
        remedy = "Leave it out."
    return ConfigProblem("unknown_verl_key", key, value, "verl has no such key", remedy)


def leaves(values: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield full name and value of each key in a group; lists and empty groups are values."""
    if isinstance(values, Mapping) and values:
        for key, below in values.items():
            yield from leaves(below, f"{name}.{key}" if name else str(key))
    else:
        yield name, values


def _same_ending(last: str, names: list[str], key: str) -> list[str]:
    """Return the keys with the same or a similar last name elsewhere, nearest path first."""
    same = [name for name in names if name.rpartition(".")[2] == last]
    if not same:
        close = get_close_matches(last, {name.rpartition(".")[2] for name in names}, n=1, cutoff=0.85)
        same = [name for name in names if name.rpartition(".")[2] in close]
    return get_close_matches(key, same, n=2, cutoff=0)


def _former(key: str, value: Any, new: str) -> ConfigProblem:
    rule = f"verl ignores this former key, which is now {new}"
    remedy = "Leave it out." if value is None else f"Use {new}={value}."
    return ConfigProblem("former_key", key, value, rule, remedy)
