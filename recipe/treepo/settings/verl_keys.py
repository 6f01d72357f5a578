# SPDX-License-Identifier: Apache-2.0
"""verl's keys: former names, names of other trainers, and unknown names with the nearest known ones."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from recipe.treepo.settings.nearest import is_near, near_names
from recipe.treepo.settings.schema import OWN_PATHS
from recipe.treepo.settings.values import ConfigProblem, written

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
    "reward_model.overlong_buffer": "reward.reward_kwargs.overlong_buffer_cfg",
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
    "actor_rollout_ref.rollout.n_agent": "actor_rollout_ref.rollout.n",
    "actor_rollout_ref.rollout.val_temperature": "actor_rollout_ref.rollout.val_kwargs.temperature",
    "actor_rollout_ref.rollout.val_top_p": "actor_rollout_ref.rollout.val_kwargs.top_p",
    "actor_rollout_ref.rollout.val_top_k": "actor_rollout_ref.rollout.val_kwargs.top_k",
    "actor_rollout_ref.rollout.val_n": "actor_rollout_ref.rollout.val_kwargs.n",
    "actor_rollout_ref.actor.micro_batch_size": "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu",
    "actor_rollout_ref.actor.kl_coef": "actor_rollout_ref.actor.kl_loss_coef",
    "critic.model.fsdp_config": "critic.fsdp",
}
# Former keys whose value has another form now: the overrides that mean the same, by the value (None: any).
REPLACED: Mapping[str, Mapping[Any, str]] = {
    "actor_rollout_ref.actor.use_token_level_loss": {
        True: "actor_rollout_ref.actor.loss_agg_mode=token-mean",
        False: "actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-mean",
    },
    "actor_rollout_ref.actor.tis_imp_ratio_cap": {
        None: "algorithm.rollout_correction.rollout_is=token algorithm.rollout_correction.rollout_is_threshold={}"
    },
}
# Former keys without a successor.
REMOVED = {
    "reward_model.launch_reward_fn_async": "verl's V1 trainer computes all rewards asynchronously",
    "reward_model.micro_batch_size": "an engine serves the reward model",
    "reward_model.micro_batch_size_per_gpu": "an engine serves the reward model",
    "algorithm.rollout_is_level": "the level is a part of the name in algorithm.rollout_correction.rollout_is",
}
# Names of other trainers (TRL, OpenRLHF, ms-swift), by verl's; the group in which they are written does not matter.
_ACTOR, _ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
MEANT = {
    "learning_rate": f"{_ACTOR}.optim.lr",
    "warmup_ratio": f"{_ACTOR}.optim.lr_warmup_steps_ratio",
    "warmup_steps": f"{_ACTOR}.optim.lr_warmup_steps",
    "max_grad_norm": f"{_ACTOR}.optim.clip_grad",
    "kl_beta": f"{_ACTOR}.kl_loss_coef",
    "gradient_checkpointing": "actor_rollout_ref.model.enable_gradient_checkpointing",
    "model_name_or_path": "actor_rollout_ref.model.path",
    "num_generations": f"{_ROLLOUT}.n",
    "rollout_n": f"{_ROLLOUT}.n",
    "gpu_memory_util": f"{_ROLLOUT}.gpu_memory_utilization",
    "vllm_gpu_memory_utilization": f"{_ROLLOUT}.gpu_memory_utilization",
    "max_completion_length": "data.max_response_length",
    "max_new_tokens": "data.max_response_length",
    "max_tokens": "data.max_response_length",
    "batch_size": "data.train_batch_size",
    "num_train_epochs": "trainer.total_epochs",
    "num_epochs": "trainer.total_epochs",
    "epochs": "trainer.total_epochs",
    "max_steps": "trainer.total_training_steps",
    "total_steps": "trainer.total_training_steps",
    "save_steps": "trainer.save_freq",
    "save_interval": "trainer.save_freq",
    "eval_steps": "trainer.test_freq",
    "eval_freq": "trainer.test_freq",
    "val_freq": "trainer.test_freq",
    "output_dir": "trainer.default_local_dir",
    "run_name": "trainer.experiment_name",
    "report_to": "trainer.logger",
    "num_gpus": "trainer.n_gpus_per_node",
    "n_gpus": "trainer.n_gpus_per_node",
    "num_nodes": "trainer.nnodes",
}
# Groups whose keys verl passes on to others, so that any may be added.
FREE = (
    *("engine_kwargs", "override_config", "override_optimizer_config", "apply_chat_template_kwargs"),
    *("mm_processor_kwargs", "reward_kwargs", "sampler_kwargs", "override_transformer_config", "ray_init"),
    "mixed_precision",
)
# Ends of keys that objects of verl 0.9.1 have although its files do not declare them: a plus sign sets them.
ADDABLE = (
    *("rollout.limit_images", "rollout.repetition_penalty", "rollout.checkpoint_manager_class"),
    *("model.load_tokenizer", "model.target_parameters", "checkpoint.save_lora_only", "actor.use_rollout_log_probs"),
)
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
    for name in key.split("."):
        if not isinstance(group, Mapping):
            return None  # part of a list or of a value; Hydra knows
        if name not in group:
            break
        group = group[name]
    else:
        return None
    if found := known_remedy(key, value, known):
        return ConfigProblem("former_key" if is_former(key) else "unknown_verl_key", key, value, *found)
    if any(part in FREE for part in key.split(".")[:-1]) or key.endswith(ADDABLE):
        remedy = f"To add it, use +{key}={written(value)}."
        return ConfigProblem("unknown_verl_key", key, value, "the group has no such key yet", remedy)
    shown = meant_keys(key, known)
    remedy = f"Did you mean {' or '.join(shown)}? " if shown else ""
    if not key.startswith(("actor_rollout_ref.", "critic.")) and not _is_mistake(key, value, known):
        remedy += f"To add the key nevertheless, use +{key}={written(value)}."
    elif not shown:
        remedy = "Leave it out."
    return ConfigProblem("unknown_verl_key", key, value, "verl has no such key", remedy.strip())


# Groups in which verl ignores keys that it does not know; it refuses them in actor_rollout_ref and algorithm.
UNCHECKED = ("data.", "trainer.")
# Keys of these groups that verl 0.9.1 reads although its files do not declare them.
UNDECLARED = (
    *("data.cache_dir", "data.chat_template_func", "data.filter_prompts", "data.need_tools_kwargs"),
    *("trainer.wandb_proxy", "trainer.remove_previous_ckpt_in_save", "data.output_path"),
)


# Keys that name code of the user, which may read any key.
USER_CODE = (
    *("data.custom_cls.path", "trainer.v1.sampler.custom_sampler.path", "actor_rollout_ref.model.external_lib"),
    *("actor_rollout_ref.rollout.agent.agent_loop_config_path", "trainer.checkpoint_callback_class"),
    *("actor_rollout_ref.rollout.agent.agent_loop_manager_class", "reward.reward_manager.module.path"),
    *OWN_PATHS,
)


def unread_key_problems(config: DictConfig, known: DictConfig) -> list[ConfigProblem]:
    """Check for added keys (``+KEY=VALUE``) that verl ignores: former and foreign names, and misspelt ones.

    Code of the user may read other keys, so they are not checked with such code. A plugin may, too.

    Args:
        known: The configuration without overrides of single keys.
    """
    own = [(OmegaConf.select(config, key), OmegaConf.select(known, key)) for key in USER_CODE]
    if any(found not in (None, default) for found, default in own):
        return []
    declared = cast(Mapping[str, Any], OmegaConf.to_container(known, resolve=False))
    problems = []
    for key, value in leaves(OmegaConf.to_container(config, resolve=False)):
        if key.startswith(UNCHECKED) and key not in UNDECLARED and not any(part in FREE for part in key.split(".")):
            problem = unknown_verl_key(key, value, declared)
            if problem is not None and _is_mistake(key, value, declared):
                rule = "verl does not read this key"
                problems.append(ConfigProblem("unread_key", key, value, rule, problem.remedy))
    return problems


def _is_mistake(key: str, value: Any, known: Mapping[str, Any]) -> bool:
    """Return whether a key of ``data`` or ``trainer`` is a former or foreign name, or a misspelt key of the group."""
    return key.startswith(UNCHECKED) and bool(known_remedy(key, value, known) or _misspelt(key, known))


def is_former(key: str) -> bool:
    """Return whether an earlier version of verl had the key."""
    return new_name(key) is not None or key in REPLACED or key in REMOVED


def known_remedy(key: str, value: Any, known: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return rule and remedy for a former key, or one of another trainer; None for any other key."""
    if key in REMOVED:
        return f"verl ignores this former key: {REMOVED[key]}", "Leave it out."
    if (forms := REPLACED.get(key)) is not None:
        overrides = forms.get(value, forms.get(None)) if isinstance(value, bool) else forms.get(None)
        if overrides is not None:
            return "verl ignores this former key", f"Use {overrides.format(written(value))}."
    if (new := new_name(key)) and _has(known, new):
        problem = _former(key, value, new)
        return problem.rule, problem.remedy
    new = MEANT.get(key.rpartition(".")[2])
    if new is not None and key.startswith("critic."):
        new = new.replace(_ACTOR, "critic") if new.startswith(_ACTOR) else None
    if new is not None and _has(known, new):
        return "verl has no such key", f"Use {new}={written(value)}."
    return None


def _has(known: Mapping[str, Any], key: str) -> bool:
    """Return whether a configuration has a key, or a group to which any key may be added."""
    group: Any = known
    for name in key.split("."):
        if name in FREE:
            return True
        if not isinstance(group, Mapping) or name not in group:
            return False
        group = group[name]
    return True


def meant_keys(key: str, known: Mapping[str, Any]) -> list[str]:
    """Return at most three keys that a misspelt one may stand for: near in every part, or at another place."""
    names = _names(known)
    parts, last = key.split("."), key.rpartition(".")[2]
    alike = _misspelt(key, known)
    inner = [name for name in names if name.endswith(f".{key}")]
    same = [name for name in names if name.rpartition(".")[2] == last]
    found = alike or inner or sorted(same, key=lambda name: _apart(parts, name.split(".")))[:2]
    if not found and len(last) > 4:  # misspelt, and at another place
        lasts = {name.rpartition(".")[2] for name in names}
        close = [near for near in near_names(last, lasts) if abs(len(near) - len(last)) <= 2][:1]
        found = sorted(
            (name for name in names if name.rpartition(".")[2] in close),
            key=lambda name: _apart(parts, name.split(".")),
        )[:2]
    return found[:3]


def _names(known: Mapping[str, Any]) -> list[str]:
    return [name for name, _ in leaves(known) if not name.startswith(LEGACY_GROUPS)]


def _misspelt(key: str, known: Mapping[str, Any]) -> list[str]:
    """Return the keys that are near in every part."""
    return [name for name in _names(known) if _is_alike(key.split("."), name.split("."))]


def _is_alike(parts: list[str], known: list[str]) -> bool:
    pairs = list(zip(parts, known, strict=False))
    return len(parts) == len(known) and all(part == other or is_near(part, other) for part, other in pairs)


def _apart(parts: list[str], known: list[str]) -> int:
    """Return the number of parts that only one of two keys has; of two places alike, the actor's is meant."""
    return len(set(parts) ^ set(known)) + 2 * (known[0] == "critic" != parts[0])


def leaves(values: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield full name and value of each key in a group; lists and empty groups are values."""
    if isinstance(values, Mapping) and values:
        for key, below in values.items():
            yield from leaves(below, f"{name}.{key}" if name else str(key))
    else:
        yield name, values


def _former(key: str, value: Any, new: str) -> ConfigProblem:
    rule = f"verl ignores this former key, which is now {new}"
    remedy = "Leave it out." if value is None else f"Use {new}={written(value)}."
    return ConfigProblem("former_key", key, value, rule, remedy)
