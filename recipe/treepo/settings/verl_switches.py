# SPDX-License-Identifier: Apache-2.0
"""Choices in verl's keys that need, or exclude, a value of another key; verl checks them late or never."""

import os
import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recipe.treepo.settings.training_rules import has_critic
from recipe.treepo.settings.values import ConfigProblem, is_number
from recipe.treepo.settings.verl_relations import all_gpus
from recipe.treepo.settings.verl_values import ACTOR, REJECTIONS, ROLLOUT, STORAGE, UNFED, trains, value, whole


def switch_problems(config: DictConfig) -> list[ConfigProblem]:
    """Check what the choices of a run need."""
    rules = (
        *(_resume_problems, _estimator_problems, _correction_problems, _separate_problems),
        *(_reward_model_problems, _run_problems, _sleep_problems, _cluster_problems),
    )
    return [problem for rule in rules for problem in rule(config)]


# --- resuming --------------------------------------------------------------------------------------------------


def _resume_problems(config: DictConfig) -> Iterator[ConfigProblem]:
    """Check the checkpoint to resume from (``trainer_base._load_checkpoint``)."""
    key = "trainer.resume_from_path"
    mode, path = value(config, "trainer.resume_mode"), value(config, key)
    if mode == "auto":
        yield from _latest_problems(config)
    if mode != "resume_path":  # verl reads the path in this mode only
        return
    remedy = f"Use {key}=FOLDER/global_step_N of a run, or trainer.resume_mode=auto."
    if not isinstance(path, str):
        rule = "trainer.resume_mode=resume_path needs the folder of a checkpoint"
        yield ConfigProblem("resume_path_missing", key, "null" if path is None else path, rule, remedy)
    elif not re.search(r"global_step_\d+$", path):
        rule = "must end with global_step_N, from which verl reads the number of the step"
        yield ConfigProblem("resume_path_name", key, path, rule, remedy)
    elif not re.match(r"\w+://", path) and not os.path.isdir(os.path.join(path, "actor")):
        rule = "there is no such checkpoint (a folder with a folder actor)"
        yield ConfigProblem("resume_path_absent", key, path, rule, remedy)
    else:
        yield from _last_step_problems(config, key, path)


def _latest_problems(config: DictConfig) -> Iterator[ConfigProblem]:
    """Check the file with the last step (``find_latest_ckpt_path``)."""
    key, folder = "trainer.default_local_dir", value(config, "trainer.default_local_dir")
    if not isinstance(folder, str) or "://" in folder:
        return
    file = os.path.join(folder, "latest_checkpointed_iteration.txt")
    try:
        with open(file, encoding="utf-8", errors="replace") as opened:
            text = opened.read(100)
    except OSError:  # no checkpoint yet
        return
    remedy = f"Write the number of an existing folder global_step_N into {file}, or use trainer.resume_mode=disable."
    try:
        last = os.path.join(folder, f"global_step_{int(text)}")
    except ValueError:
        rule = f"{file} must contain the number of the last step, not {text.strip()!r}"
        yield ConfigProblem("resume_latest", key, folder, rule, remedy)
        return
    if not os.path.isdir(last):
        rule = f"{file} names step {int(text)}, but there is no folder {last}, so verl would start again at step 0"
        yield ConfigProblem("resume_latest", key, folder, rule, remedy)
        return
    yield from _last_step_problems(config, key, last)


def _last_step_problems(config: DictConfig, key: str, folder: str) -> Iterator[ConfigProblem]:
    """Check that the step of a checkpoint does not exceed ``trainer.total_training_steps``.

    A checkpoint of the last step is accepted: verl validates and ends. A run killed at its end leaves one.
    """
    step, total = int(folder.rpartition("global_step_")[2]), whole(config, "trainer.total_training_steps")
    if total and step > total and trains(config):
        rule = f"the checkpoint {folder} is past the last step, trainer.total_training_steps={total}"
        remedy = f"Use trainer.total_training_steps={step} or more, trainer.val_only=True, or another {key}."
        yield ConfigProblem("resume_past_end", key, value(config, key), rule, remedy)


# --- algorithms ------------------------------------------------------------------------------------------------


def _estimator_problems(config: DictConfig) -> Iterator[ConfigProblem]:
    """Check what estimators and the hybrid engine need."""
    key, estimator = "algorithm.adv_estimator", value(config, "algorithm.adv_estimator")
    if estimator in UNFED:
        rule = f"needs {UNFED[estimator]}, which verl's V1 trainer does not pass to it"
        yield ConfigProblem("estimator_unfed", key, estimator, rule, f"Use another estimator, such as {key}=grpo.")
    if estimator == "gae" and value(config, "critic.enable") is False:
        rule, remedy = f"{key}=gae needs the critic", f"Use critic.enable=True, or {key}=grpo."
        yield ConfigProblem("gae_without_critic", "critic.enable", False, rule, remedy)
    if value(config, "actor_rollout_ref.hybrid_engine") is False:
        # Only the trainers with separate servers know it; they fail at a log message (``_setup``).
        key, rule = "actor_rollout_ref.hybrid_engine", "none of verl's V1 trainers starts with it"
        yield ConfigProblem("hybrid_engine", key, False, rule, f"Use {key}=True.")


def _correction_problems(config: DictConfig) -> Iterator[ConfigProblem]:
    """Check the correction for the rollout's policy (``rollout_corr_helper.py``) and the log-probabilities it needs."""
    group, key = "algorithm.rollout_correction", f"{ROLLOUT}.calculate_log_probs"
    for name in ("bypass_mode", "rollout_is", "rollout_rs"):
        if value(config, key) is False and (found := value(config, f"{group}.{name}")):
            yield ConfigProblem("no_log_probs", f"{group}.{name}", found, f"needs {key}=True", f"Use {key}=True.")
    key, limits = f"{group}.rollout_is_threshold", value(config, f"{group}.rollout_is_threshold")
    if value(config, f"{group}.rollout_is") and not _is_threshold(limits):
        rule = "must be a number above 0, or LOWER_UPPER"
        yield ConfigProblem("weight_threshold", key, limits, rule, f"Use {key}=2.0, for example.")
    modes, key = value(config, f"{group}.rollout_rs"), f"{group}.rollout_rs"
    if modes is None:
        return
    names = [name.strip() for name in str(modes).split(",")]
    for name in names:
        if name not in REJECTIONS:
            rule = f"{name} must be one of {', '.join(REJECTIONS)}"
            yield ConfigProblem("rejection", key, modes, rule, f"Use {key}=seq_mean_k1, for example.")
    limits = value(config, f"{key}_threshold")
    parts = [] if limits is None else str(limits).split(",")
    if len(parts) not in (1, len(names)) or not all(_is_threshold(part.strip()) for part in parts):
        rule = f"{key}={modes} needs a number above 0 or LOWER_UPPER, one for all or one for each"
        shown = "null" if limits is None else limits
        remedy = f"Use {key}_threshold=2.0, for example."
        yield ConfigProblem("rejection_threshold", f"{key}_threshold", shown, rule, remedy)


def _is_threshold(found: Any) -> bool:
    if isinstance(found, bool) or not isinstance(found, int | float | str):
        return False
    try:
        limits = [float(limit) for limit in str(found).split("_", 1)]
    except ValueError:
        return False
    return limits[0] > 0 and limits[0] <= limits[-1]


def _separate_problems(config: DictConfig) -> Iterator[ConfigProblem]:
    """Check the assertions of ``PPOTrainerSeparateAsync.__init__``."""
    mode, group = str(value(config, "trainer.v1.trainer_mode")), "trainer.v1.separate_async"
    if "separate" not in mode or value(config, group) is None:
        return
    steps, size = whole(config, f"{group}.parameter_sync_step"), whole(config, f"{ACTOR}.ppo_mini_batch_size")
    batch = whole(config, "data.train_batch_size")
    if steps and size and batch and batch != steps * size:
        rule = f"must be trainer.v1.separate_async.parameter_sync_step={steps} x {ACTOR}.ppo_mini_batch_size={size}"
        remedy = f"Use data.train_batch_size={steps * size}."
        yield ConfigProblem("separate_batch", "data.train_batch_size", batch, rule, remedy)
    for name in ("nnodes", "n_gpus_per_node"):
        if value(config, f"{ROLLOUT}.{name}") in (0, None):
            rule, key = "a trainer with separate servers needs GPUs for them", f"{ROLLOUT}.{name}"
            yield ConfigProblem("separate_gpus", key, value(config, key), rule, f"Use {key}=1, for example.")
    key = f"{ROLLOUT}.checkpoint_engine.backend"
    if value(config, key) == "naive":
        rule, remedy = "a trainer with separate servers cannot share weights in place", _other_backend(config, key)
        yield ConfigProblem("separate_weights", key, "naive", rule, remedy)


def _other_backend(config: DictConfig, key: str) -> str:
    return f"Use {key}={'gloo' if value(config, 'trainer.device') == 'cpu' else 'nccl'}."


def _reward_model_problems(config: DictConfig) -> Iterator[ConfigProblem]:
    """Check the reward model's path and GPUs (``RewardLoopWorker``, ``trainer_base._init_resource_pool_mgr``)."""
    group = "reward.reward_model"
    if not value(config, f"{group}.enable"):
        return
    if value(config, f"{group}.model_path") is None:
        rule, remedy = f"{group}.enable=True needs a model", f"Set {group}.model_path, or use {group}.enable=False."
        yield ConfigProblem("reward_model_path", f"{group}.model_path", "null", rule, remedy)
    if OmegaConf.is_missing(value(config, f"{group}.rollout") or OmegaConf.create(), "name"):
        rule, remedy = f"{group}.enable=True needs an engine", f"Use {group}.rollout.name=vllm."
        yield ConfigProblem("reward_model_engine", f"{group}.rollout.name", "???", rule, remedy)
    for name in ("nnodes", "n_gpus_per_node"):
        if value(config, f"{group}.enable_resource_pool") and value(config, f"{group}.{name}") in (0, None):
            key, rule = f"{group}.{name}", f"{group}.enable_resource_pool=True needs GPUs"
            yield ConfigProblem("reward_model_gpus", key, value(config, key), rule, f"Use {key}=1, for example.")


def _run_problems(config: DictConfig) -> Iterator[ConfigProblem]:
    """Check switches that need another key (``trainer_base``, ``resolve_reward_manager_cls``)."""
    key = "trainer.val_only"
    if value(config, key) is True and value(config, "trainer.val_before_train") is False:
        rule = "verl validates only with trainer.val_before_train=True, and would train"
        yield ConfigProblem("val_only", key, True, rule, "Use trainer.val_before_train=True.")
    group = "reward.reward_manager"
    if value(config, f"{group}.source") == "importlib" and value(config, f"{group}.module.path") is None:
        rule = f"{group}.source=importlib needs a file"
        remedy = f"Set {group}.module.path, or use {group}.source=register."
        yield ConfigProblem("manager_path", f"{group}.module.path", "null", rule, remedy)
    group = "algorithm.filter_groups"
    if value(config, f"{group}.enable") is True:
        if not value(config, f"{group}.metric"):
            rule, remedy = f"{group}.enable=True needs a metric", f"Use {group}.metric=acc, for example."
            yield ConfigProblem("filter_metric", f"{group}.metric", "null", rule, remedy)
        models = "reward.reward_model"
        if value(config, f"{models}.enable") is True and not value(config, f"{models}.enable_resource_pool"):
            rule = f"{models}.enable=True scores after the groups are filtered, unless the model has GPUs of its own"
            remedy = f"Use {models}.enable_resource_pool=True, or {group}.enable=False."
            yield ConfigProblem("filter_reward_model", f"{group}.enable", True, rule, remedy)
    if value(config, "distillation.enabled") is True:
        for key in ("distillation.nnodes", "distillation.n_gpus_per_node"):
            if value(config, key) in (0, None):
                rule = "distillation.enabled=True needs GPUs for the teacher"
                yield ConfigProblem("teacher_gpus", key, value(config, key), rule, f"Use {key}=1, for example.")


def unread_notes(config: DictConfig) -> Iterator[ConfigProblem]:
    """Yield notes on keys that verl declares but does not read."""
    for role, used in ((ACTOR, trains(config)), ("critic", has_critic(config))):
        key, other = f"{role}.grad_clip", f"{role}.optim.clip_grad"
        found = value(config, key)
        if used and found not in (None, 1.0) and value(config, other) not in (None, found):
            rule = f"verl does not read this key, but {other}={value(config, other)}"
            yield ConfigProblem("grad_clip_unread", key, found, rule, f"Use {other}={found}, and leave {key} out.")


def _sleep_problems(config: DictConfig) -> Iterator[ConfigProblem]:
    """Check for a switch that the platform does not have."""
    key = f"{ROLLOUT}.enable_sleep_mode"
    if value(config, "trainer.device") == "cpu" and value(config, f"{ROLLOUT}.name") == "vllm" and value(config, key):
        rule = "vLLM has no sleep mode on a CPU"
        yield ConfigProblem("sleep_mode", key, value(config, key), rule, f"Use {key}=False.")


# --- Ray -------------------------------------------------------------------------------------------------------


def _cluster_problems(config: DictConfig) -> Iterator[ConfigProblem]:
    """Check Ray's resources: a new cluster needs enough, and ``ray.init`` refuses any for a cluster that exists."""
    group = "ray_kwargs.ray_init"
    address = value(config, f"{group}.address") or os.environ.get("RAY_ADDRESS")
    if not address or address == "local":
        slots, gpus = value(config, f"{group}.num_gpus"), all_gpus(config)
        if is_number(slots) and gpus and slots < gpus:
            rule = f"must not be less than the {gpus} GPUs of trainer.nnodes x trainer.n_gpus_per_node"
            yield ConfigProblem("ray_gpus", f"{group}.num_gpus", slots, rule, f"Use {group}.num_gpus={gpus}.")
        yield from _cpu_problems(config, value(config, f"{group}.num_cpus"))
        return
    keys = [f"{group}.{name}" for name in ("num_cpus", "num_gpus") if value(config, f"{group}.{name}") is not None]
    if keys:
        rule = f"Ray accepts it for a new cluster only, not for the cluster {address}, which has its own resources"
        remedy = f"Use {' '.join(f'{key}=null' for key in keys)}."
        yield ConfigProblem("cluster_resources", keys[0], value(config, keys[0]), rule, remedy)


# CPUs that verl reserves for each GPU (ResourcePoolManager.max_colocate_count).
_CPUS_PER_GPU = 3


def _cpu_problems(config: DictConfig, slots: Any) -> Iterator[ConfigProblem]:
    """Check Ray's CPUs: with too few, verl waits for ever.

    They are the GPUs' placement group, one for each storage unit, and one for the storage's controller.
    """
    key, backend = "ray_kwargs.ray_init.num_cpus", STORAGE
    units, gpus = whole(config, f"{backend}.SimpleStorage.num_data_storage_units"), all_gpus(config)
    if value(config, f"{backend}.storage_backend") != "SimpleStorage" or not units or not gpus:
        return
    nodes = whole(config, "trainer.nnodes") or 1
    needed = _CPUS_PER_GPU * gpus + units + 1
    if nodes == 1 and is_number(slots, int) and 1 <= slots < needed:
        rule = f"verl waits for ever with less than {needed} of Ray's CPUs: {_CPUS_PER_GPU} for each GPU ({gpus}), "
        rule += f"{backend}.SimpleStorage.num_data_storage_units={units}, and 1. They may exceed those of the machine"
        yield ConfigProblem("ray_cpus", key, slots, rule, f"Use {key}={max(needed, 16)}.")


def machine_problems(config: DictConfig) -> list[ConfigProblem]:
    """Check the CPUs of this machine, if Ray counts them itself."""
    address = value(config, "ray_kwargs.ray_init.address") or os.environ.get("RAY_ADDRESS")
    own = value(config, "ray_kwargs.ray_init") is not None and value(config, "ray_kwargs.ray_init.num_cpus") is None
    return list(_cpu_problems(config, os.cpu_count())) if own and address in (None, "", "local") else []
