# SPDX-License-Identifier: Apache-2.0
"""Rules for the trainer, the estimators and verl's objectives."""

import math
from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from recipe.treepo.packed.support import PACKED_ATTENTIONS, PACKED_STRATEGIES
from recipe.treepo.reward import METRICS, option_problems
from recipe.treepo.settings.schema import (
    CUSTOM_ESTIMATOR,
    TREE_ESTIMATORS,
    TREEPO_TRAINERS,
    MissingSettings,
    RewardErrorSettings,
    Sampler,
    SharedTokenWeight,
    StalePolicy,
    TreePOSettings,
    WatchdogSettings,
)
from recipe.treepo.settings.values import ConfigProblem, is_number

TREE_MANAGER = "recipe.treepo.rollout.TreeAgentLoopManager"
# Reward managers with the overlong penalty
OVERLONG_MANAGERS = ("treepo", "dapo")
# Losses in verl.trainer.ppo.core_algos that ignore rollout_is_weights or reduce it to one weight per sequence.
LOSSES_WITHOUT_TOKEN_WEIGHTS = ("geo_mean", "bypass_mode")


def trainer_problems(settings: TreePOSettings, config: DictConfig) -> list[ConfigProblem]:
    problems = []
    manager = OmegaConf.select(config, "actor_rollout_ref.rollout.agent.agent_loop_manager_class")
    if settings.sampler is not Sampler.PLAIN and manager != TREE_MANAGER:
        key = "actor_rollout_ref.rollout.agent.agent_loop_manager_class"
        rule = f"treepo.sampler={settings.sampler} needs the recipe's rollout manager"
        remedy = f"Use {key}={TREE_MANAGER}, or treepo.sampler=plain."
        problems.append(ConfigProblem("other_manager", key, manager, rule, remedy))
    problems += _mode_problems(settings, config) + _advantage_problems(settings, config) + _server_problems(config)
    if settings.packed_training:
        problems += _packing_problems(config)
    if not OmegaConf.select(config, "trainer.use_v1"):
        rule = "the recipe extends verl's V1 trainer"
        problems.append(ConfigProblem("old_trainer", "trainer.use_v1", False, rule, "Use trainer.use_v1=True."))
    return problems


def _mode_problems(settings: TreePOSettings, config: DictConfig) -> list[ConfigProblem]:
    """Check that settings with a trainer of ours have one."""
    mode = OmegaConf.select(config, "trainer.v1.trainer_mode")
    if mode in TREEPO_TRAINERS:
        return []
    estimator, problems = config.algorithm.adv_estimator, []
    matching = [own for own, verls in TREEPO_TRAINERS.items() if verls == mode]
    own_modes = " or ".join(matching or TREEPO_TRAINERS)
    no_paths = "do not pass tree paths on"
    for needs, what, why, instead in (
        (estimator in TREE_ESTIMATORS, f"algorithm.adv_estimator={estimator}", no_paths, "another adv_estimator"),
        (
            settings.shared_token_weight is SharedTokenWeight.ONCE,
            "treepo.shared_token_weight=once",
            no_paths,
            "treepo.shared_token_weight=per_trajectory",
        ),
        (
            settings.stale_tokens.policy is not StalePolicy.KEEP,
            f"treepo.stale_tokens.policy={settings.stale_tokens.policy}",
            no_paths,
            "treepo.stale_tokens.policy=keep",
        ),
        (
            settings.reward_errors != RewardErrorSettings(),
            "treepo.reward_errors",
            "train on rewards that are not finite",
            "leave treepo.reward_errors out",
        ),
        (
            settings.missing_trajectories != MissingSettings(),
            "treepo.missing_trajectories",
            "do not count missing trajectories",
            "leave treepo.missing_trajectories out",
        ),
        (
            settings.watchdog != WatchdogSettings(),
            "treepo.watchdog",
            "wait without limit",
            "leave treepo.watchdog out",
        ),
    ):
        if needs:
            rule = f"{what} needs a trainer of this recipe, because verl's own {why}"
            remedy = f"Use trainer.v1.trainer_mode={own_modes}, or {instead}."
            problems.append(ConfigProblem("other_trainer", "trainer.v1.trainer_mode", mode, rule, remedy))
    return problems


def _server_problems(config: DictConfig) -> list[ConfigProblem]:
    """Check verl's assertion on GPUs per server before the model is loaded (``engine_workers.py``, ``init_model``)."""
    if "separate" in str(OmegaConf.select(config, "trainer.v1.trainer_mode")):  # servers have their own GPUs
        return []
    rollout, trainer = config.actor_rollout_ref.rollout, config.trainer
    sizes = ("tensor_model_parallel_size", "data_parallel_size", "pipeline_model_parallel_size")
    parts = [rollout.get(size) or 1 for size in sizes]
    machines, each = trainer.get("nnodes") or 1, trainer.get("n_gpus_per_node")
    if not all(isinstance(number, int) for number in (*parts, machines, each)):  # verl_values.py reports it
        return []
    server, gpus = math.prod(parts), machines * each
    if gpus % server == 0:
        return []
    key, rule = f"actor_rollout_ref.rollout.{sizes[0]}", f"{gpus} GPUs cannot be divided into servers of {server}"
    remedy = f"Use {key}=1, or make trainer.nnodes x trainer.n_gpus_per_node a multiple of {server}."
    return [ConfigProblem("gpus_per_server", key, rollout.get(sizes[0]), rule, remedy)]


def _packing_problems(config: DictConfig) -> list[ConfigProblem]:
    """Check the limits of packed training; the engine checks the model."""
    instead, problems = "treepo.packed_training=false", []
    roles, models = ["actor_rollout_ref.actor", "actor_rollout_ref.ref"], ["actor_rollout_ref.model"]
    if has_critic(config):
        roles, models = [*roles, "critic"], [*models, "critic.model"]

    def check(rule_id: str, key: str, allowed: Sequence[object], rule: str) -> None:
        value = OmegaConf.select(config, key)
        if value not in allowed:
            kept = [choice for choice in allowed if choice is not None]
            remedy = f"Use {key}={' or '.join(map(str, kept))}, or {instead}."
            problems.append(ConfigProblem(rule_id, key, value, rule, remedy))

    check("packed_device", "trainer.device", ("cuda", "cpu"), "packed training has no engine for this device")
    distillation = "packed training does not support distillation"
    check("packed_distillation", "distillation.enabled", (None, False), distillation)
    for role in roles:
        engines = "packed training needs verl's FSDP engines"
        check("packed_strategy", f"{role}.strategy", PACKED_STRATEGIES, engines)
        for group in (role, f"{role}.fsdp_config", f"{role}.fsdp"):  # actor and critic use different names
            key = f"{group}.ulysses_sequence_parallel_size"
            check("packed_sequence_parallel", key, (None, 1), "packed training cannot split a row across ranks")
            check("packed_padding", f"{group}.pad_to_length", (None, False), "packed rows have no padding")
    for model in models:
        kernels = "verl's fused kernels do not support packed rows"
        check("packed_fused_kernels", f"{model}.use_fused_kernels", (None, False), kernels)
        on_cpu = OmegaConf.select(config, "trainer.device") == "cpu"
        attentions = [name for name in PACKED_ATTENTIONS if not (on_cpu and name == "flex_attention")]
        where = " and trains on CPU" if on_cpu else ""
        key = f"{model}.override_config.attn_implementation"
        check("packed_attention", key, attentions, f"packed training needs attention that takes a mask{where}")
    return problems


def has_critic(config: DictConfig) -> bool:
    """Evaluate ``verl.trainer.ppo.utils.need_critic``, whose import needs torch."""
    enable = OmegaConf.select(config, "critic.enable")
    return config.algorithm.adv_estimator == "gae" if enable is None else bool(enable)


def _advantage_problems(settings: TreePOSettings, config: DictConfig) -> list[ConfigProblem]:
    problems = []
    estimator, key = config.algorithm.adv_estimator, "treepo.advantage.root_group"
    flat = settings.sampler is not Sampler.TREE or settings.depth == 1
    if estimator in ("treepo", "treepo_segment") and not settings.advantage.root_group and flat:
        rule = "without subtrees the prompt group is the only group, so every advantage would be 0"
        remedy = f"Use {key}=true, or treepo.sampler=tree with treepo.depth of 2 or more."
        problems.append(ConfigProblem("root_group_alone", key, False, rule, remedy))
    own, path = settings.advantage.custom.path, "treepo.advantage.custom.path"
    if (own is None) == (estimator == CUSTOM_ESTIMATOR):
        rule = f"goes with algorithm.adv_estimator={CUSTOM_ESTIMATOR}, but the estimator is {estimator}"
        remedy = f"Use algorithm.adv_estimator={CUSTOM_ESTIMATOR}, or leave treepo.advantage.custom out."
        if own is None:
            rule = f"algorithm.adv_estimator={CUSTOM_ESTIMATOR} needs a class"
            remedy = "Set treepo.advantage.custom.path and name, or use another algorithm.adv_estimator."
        problems.append(ConfigProblem("custom_credit", path, own, rule, remedy))
    for key, value, default in (
        ("treepo.shared_token_weight", settings.shared_token_weight, SharedTokenWeight.PER_TRAJECTORY),
        ("treepo.stale_tokens.policy", settings.stale_tokens.policy, StalePolicy.KEEP),
    ):
        if value is not default:
            problems += _token_weight_problems(config, key, value, f"Use {key}={default}, or")
    return problems


def _token_weight_problems(config: DictConfig, key: str, value: str, remedy: str) -> list[ConfigProblem]:
    """Check that verl's loss reads weights per token, which a key sets."""
    problems = []
    loss_key = "actor_rollout_ref.actor.policy_loss.loss_mode"
    loss = OmegaConf.select(config, loss_key)
    if loss in LOSSES_WITHOUT_TOKEN_WEIGHTS:
        rule = f"verl's policy loss {loss} does not read weights per token"
        problems.append(ConfigProblem("loss_without_weights", key, value, rule, f"{remedy} another {loss_key}."))
    if OmegaConf.select(config, "algorithm.rollout_correction.bypass_mode"):
        rule = "algorithm.rollout_correction.bypass_mode=True replaces the weights"
        remedy = f"{remedy} algorithm.rollout_correction.bypass_mode=False."
        problems.append(ConfigProblem("weights_replaced", key, value, rule, remedy))
    return problems


def objective_problems(config: DictConfig) -> list[ConfigProblem]:
    """Check rules that verl checks only in the first step or never."""
    reward = OmegaConf.select(config, "reward") or OmegaConf.create()
    manager = OmegaConf.select(reward, "reward_manager.name")
    penalty = OmegaConf.select(reward, "reward_kwargs.overlong_buffer_cfg")
    penalty = penalty if penalty and OmegaConf.select(penalty, "enable") else None
    problems = [] if penalty is None else _overlong_problems(penalty, reward, config)
    problems += reward_problems(config)
    filtering = OmegaConf.select(config, "algorithm.filter_groups")
    if filtering and filtering.enable and is_our_reward(config):
        known = ["reward", *METRICS]
        if penalty is not None and manager in OVERLONG_MANAGERS and OmegaConf.select(penalty, "log"):
            known += ["overlong_reward", "overlong"]
        if filtering.metric not in known:
            rule, key = "is not a metric of the recipe's reward", "algorithm.filter_groups.metric"
            remedy = f"Use one of {', '.join(known)}; acc drops groups whose answers are all correct or all wrong."
            problems.append(ConfigProblem("unknown_metric", key, filtering.metric, rule, remedy))
    return problems


def _overlong_problems(penalty: DictConfig, reward: DictConfig, config: DictConfig) -> list[ConfigProblem]:
    problems, name = [], "reward.reward_kwargs.overlong_buffer_cfg"
    manager = OmegaConf.select(reward, "reward_manager.name")
    if manager not in OVERLONG_MANAGERS:
        rule = f"needs one of the reward managers {' and '.join(OVERLONG_MANAGERS)}, not {manager}"
        remedy = f"Use reward.reward_manager.name=treepo, or {name}.enable=false."
        problems.append(ConfigProblem("penalty_manager", f"{name}.enable", True, rule, remedy))
    factor = OmegaConf.select(penalty, "penalty_factor")
    if not is_number(factor) or not 0 < factor < math.inf:
        rule, key = "must be a number above 0; it is the penalty of a response of full length", f"{name}.penalty_factor"
        problems.append(ConfigProblem("penalty_factor", key, factor, rule, f"Use {key}=1.0."))
    longest, length = OmegaConf.select(reward, "reward_kwargs.max_resp_len"), OmegaConf.select(penalty, "len")
    most = OmegaConf.select(config, "data.max_response_length")
    key, remedy = "reward.reward_kwargs.max_resp_len", "Use ${data.max_response_length}."
    if not is_number(longest, int):
        rule = "must be the length of the longest response in tokens; the overlong penalty needs it"
        return [*problems, ConfigProblem("penalty_without_length", key, longest, rule, remedy)]
    if isinstance(most, int) and longest < most:
        rule = f"must not be less than data.max_response_length={most}; otherwise penalties exceed penalty_factor"
        problems.append(ConfigProblem("penalty_beyond_factor", key, longest, rule, remedy))
    if not is_number(length, int) or not 1 <= length <= longest:
        rule = f"must be a whole number from 1 to {key}={longest}"
        remedy = f"Use {name}.len={max(1, longest // 5)} (a fifth, as in DAPO)."
        problems.append(ConfigProblem("penalty_length", f"{name}.len", length, rule, remedy))
    return problems


def reward_problems(config: DictConfig) -> list[ConfigProblem]:
    """Check the options of the recipe's reward function, if it is used."""
    if not is_our_reward(config):
        return []
    options = OmegaConf.select(config, "reward.custom_reward_function.reward_kwargs") or {}
    options = OmegaConf.to_container(OmegaConf.create(options), resolve=True)
    assert isinstance(options, dict)
    return [
        ConfigProblem("reward_option", f"reward.custom_reward_function.reward_kwargs.{option}", value, rule, remedy)
        for option, value, rule, remedy in option_problems(options)
    ]


def is_our_reward(config: DictConfig) -> bool:
    """Return whether the reward function is the recipe's."""
    path = str(OmegaConf.select(config, "reward.custom_reward_function.path"))
    return path.removeprefix("pkg://").removesuffix(".py").replace("/", ".").endswith("recipe.treepo.reward")


def reward_name(config: DictConfig) -> str:
    """Return the name of the reward function or reward model for messages."""
    reward = OmegaConf.select(config, "reward") or OmegaConf.create()
    if path := OmegaConf.select(reward, "custom_reward_function.path"):
        return f"reward function {OmegaConf.select(reward, 'custom_reward_function.name')} of {path}"
    if OmegaConf.select(reward, "reward_model.enable"):
        return f"reward model {OmegaConf.select(reward, 'reward_model.model_path')}"
    return "verl's default reward function"
