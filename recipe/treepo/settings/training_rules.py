# SPDX-License-Identifier: Apache-2.0
"""The rules for trainer, estimators and verl's objectives. Called by ``validation.py``."""

import math
from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from recipe.treepo.packed.support import PACKED_ATTENTIONS, PACKED_STRATEGIES
from recipe.treepo.reward import METRICS, option_problems
from recipe.treepo.settings.schema import (
    TREE_ESTIMATORS,
    TREEPO_TRAINERS,
    Sampler,
    SharedTokenWeight,
    TreePOSettings,
)
from recipe.treepo.settings.values import Problem

TREE_MANAGER = "recipe.treepo.rollout.TreeAgentLoopManager"
# Reward managers that know the overlong penalty
OVERLONG_MANAGERS = ("treepo", "dapo")
# Losses in verl.trainer.ppo.core_algos that make one weight per sequence of rollout_is_weights, or do not read it.
LOSSES_WITHOUT_TOKEN_WEIGHTS = ("geo_mean", "bypass_mode")


def trainer_problems(settings: TreePOSettings, config: DictConfig) -> list[Problem]:
    problems = []
    manager = OmegaConf.select(config, "actor_rollout_ref.rollout.agent.agent_loop_manager_class")
    if settings.sampler is not Sampler.PLAIN and manager != TREE_MANAGER:
        key = "actor_rollout_ref.rollout.agent.agent_loop_manager_class"
        rule = f"treepo.sampler={settings.sampler} needs the recipe's rollout manager"
        problems.append(Problem(key, manager, rule, f"Use {key}={TREE_MANAGER}, or treepo.sampler=plain."))
    problems += _mode_problems(settings, config) + _advantage_problems(settings, config) + _server_problems(config)
    if settings.packed_training:
        problems += _packing_problems(config)
    if not OmegaConf.select(config, "trainer.use_v1"):
        problems.append(
            Problem("trainer.use_v1", False, "the recipe extends verl's V1 trainer", "Use trainer.use_v1=True.")
        )
    return problems


def _mode_problems(settings: TreePOSettings, config: DictConfig) -> list[Problem]:
    """Check that verl's trainer is one of ours where something needs it."""
    mode = OmegaConf.select(config, "trainer.v1.trainer_mode")
    if mode in TREEPO_TRAINERS:
        return []
    estimator, problems = config.algorithm.adv_estimator, []
    ours = " or ".join([ours for ours, verls in TREEPO_TRAINERS.items() if verls == mode] or TREEPO_TRAINERS)
    for needs, what, instead in (
        (estimator in TREE_ESTIMATORS, f"algorithm.adv_estimator={estimator}", "another adv_estimator"),
        (
            settings.shared_token_weight is SharedTokenWeight.ONCE,
            "treepo.shared_token_weight=once",
            "treepo.shared_token_weight=per_trajectory",
        ),
    ):
        if needs:
            rule = f"{what} needs a trainer that knows the tree paths"
            remedy = f"Use trainer.v1.trainer_mode={ours}, or {instead}."
            problems.append(Problem("trainer.v1.trainer_mode", mode, rule, remedy))
    return problems


def _server_problems(config: DictConfig) -> list[Problem]:
    """Check what verl asserts when it has loaded the model (``engine_workers.py``, ``init_model``)."""
    if "separate" in (OmegaConf.select(config, "trainer.v1.trainer_mode") or ""):  # servers have GPUs of their own
        return []
    rollout, trainer = config.actor_rollout_ref.rollout, config.trainer
    sizes = ("tensor_model_parallel_size", "data_parallel_size", "pipeline_model_parallel_size")
    parts = [rollout.get(size) or 1 for size in sizes]
    machines, each = trainer.get("nnodes") or 1, trainer.get("n_gpus_per_node")
    if not all(isinstance(number, int) for number in (*parts, machines, each)):  # verl says so
        return []
    server, gpus = math.prod(parts), machines * each
    if gpus % server == 0:
        return []
    key, rule = f"actor_rollout_ref.rollout.{sizes[0]}", f"servers of {server} GPUs each do not divide {gpus} GPUs"
    remedy = f"Use {key}=1, or as many GPUs in trainer.nnodes and trainer.n_gpus_per_node as servers take."
    return [Problem(key, rollout.get(sizes[0]), rule, remedy)]


def _packing_problems(config: DictConfig) -> list[Problem]:
    """Check what packed training cannot do; the engine looks at the model itself."""
    instead, problems = "treepo.packed_training=false", []
    roles, models = ["actor_rollout_ref.actor", "actor_rollout_ref.ref"], ["actor_rollout_ref.model"]
    if has_critic(config):
        roles, models = [*roles, "critic"], [*models, "critic.model"]

    def refuse(key: str, allowed: Sequence[object], rule: str) -> None:
        value = OmegaConf.select(config, key)
        if value not in allowed:
            kept = [choice for choice in allowed if choice is not None]
            remedy = f"Use {key}={' or '.join(map(str, kept))}, or {instead}."
            problems.append(Problem(key, value, rule, remedy))

    refuse("trainer.device", ("cuda", "cpu"), "packed training has no engine for this device")
    refuse("distillation.enabled", (None, False), "packed training knows no distillation")
    for role in roles:
        refuse(f"{role}.strategy", PACKED_STRATEGIES, "packed training extends verl's FSDP engines")
        for group in (role, f"{role}.fsdp_config", f"{role}.fsdp"):  # actor and critic name it differently
            key = f"{group}.ulysses_sequence_parallel_size"
            refuse(key, (None, 1), "packed training cannot divide a row among ranks")
            refuse(f"{group}.pad_to_length", (None, False), "packed rows have no padding")
    for model in models:
        refuse(f"{model}.use_fused_kernels", (None, False), "verl's fused kernels know no packed rows")
        on_cpu = OmegaConf.select(config, "trainer.device") == "cpu"
        attentions = [name for name in PACKED_ATTENTIONS if not (on_cpu and name == "flex_attention")]
        where = " that trains on a CPU" if on_cpu else ""
        key = f"{model}.override_config.attn_implementation"
        refuse(key, attentions, f"packed training needs attention with a mask{where}")
    return problems


def has_critic(config: DictConfig) -> bool:
    """Say what ``verl.trainer.ppo.utils.need_critic`` says, which cannot be imported without torch."""
    enable = OmegaConf.select(config, "critic.enable")
    return config.algorithm.adv_estimator == "gae" if enable is None else bool(enable)


def _advantage_problems(settings: TreePOSettings, config: DictConfig) -> list[Problem]:
    problems = []
    estimator, key = config.algorithm.adv_estimator, "treepo.advantage.root_group"
    flat = settings.sampler is not Sampler.TREE or settings.depth == 1
    if estimator in ("treepo", "treepo_segment") and not settings.advantage.root_group and flat:
        rule = "without sub-trees the prompt group is the only group, so every advantage would be zero"
        remedy = f"Use {key}=true, or treepo.sampler=tree with treepo.depth of 2 or more."
        problems.append(Problem(key, False, rule, remedy))
    if settings.shared_token_weight is SharedTokenWeight.ONCE:
        key, remedy = "treepo.shared_token_weight", "Use treepo.shared_token_weight=per_trajectory, or"
        loss_key = "actor_rollout_ref.actor.policy_loss.loss_mode"
        loss = OmegaConf.select(config, loss_key)
        if loss in LOSSES_WITHOUT_TOKEN_WEIGHTS:
            rule = f"verl's policy loss {loss} takes no weight of a single token"
            problems.append(Problem(key, "once", rule, f"{remedy} another {loss_key}."))
        if OmegaConf.select(config, "algorithm.rollout_correction.bypass_mode"):
            rule = "algorithm.rollout_correction.bypass_mode=True computes weights of its own and reads no others"
            problems.append(Problem(key, "once", rule, f"{remedy} algorithm.rollout_correction.bypass_mode=False."))
    return problems


def objective_problems(config: DictConfig) -> list[Problem]:
    """Check what verl would find out in the first step only, or not at all."""
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
            rule = "the recipe's reward has no such metric"
            remedy = f"Use one of {', '.join(known)}; acc leaves out groups whose answers are all right or all wrong."
            problems.append(Problem("algorithm.filter_groups.metric", filtering.metric, rule, remedy))
    return problems


def _overlong_problems(penalty: DictConfig, reward: DictConfig, config: DictConfig) -> list[Problem]:
    problems, name = [], "reward.reward_kwargs.overlong_buffer_cfg"
    manager = OmegaConf.select(reward, "reward_manager.name")
    if manager not in OVERLONG_MANAGERS:
        rule = f"only the reward managers treepo and dapo know this penalty, and reward.reward_manager.name={manager}"
        remedy = f"Use reward.reward_manager.name=treepo, or {name}.enable=false."
        problems.append(Problem(f"{name}.enable", True, rule, remedy))
    factor = OmegaConf.select(penalty, "penalty_factor")
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < math.inf:
        rule = "must be a number above 0, what a response of full length loses"
        problems.append(Problem(f"{name}.penalty_factor", factor, rule, f"Use {name}.penalty_factor=1.0."))
    longest, length = OmegaConf.select(reward, "reward_kwargs.max_resp_len"), OmegaConf.select(penalty, "len")
    most = OmegaConf.select(config, "data.max_response_length")
    if not isinstance(longest, int) or isinstance(longest, bool):
        rule = "the penalty needs the tokens of the longest response"
        remedy = "Use ${data.max_response_length}."
        problems.append(Problem("reward.reward_kwargs.max_resp_len", longest, rule, remedy))
        return problems
    if isinstance(most, int) and longest < most:
        rule = f"is less than data.max_response_length={most}: a longer response would lose more than penalty_factor"
        problems.append(Problem("reward.reward_kwargs.max_resp_len", longest, rule, "Use ${data.max_response_length}."))
    if isinstance(length, bool) or not isinstance(length, int) or not 1 <= length <= longest:
        rule = f"must be 1 to reward.reward_kwargs.max_resp_len={longest} tokens"
        problems.append(Problem(f"{name}.len", length, rule, f"DAPO has a fifth: {name}.len={max(1, longest // 5)}."))
    return problems


def reward_problems(config: DictConfig) -> list[Problem]:
    """Check the options of the recipe's reward function; those of others are their own business."""
    if not is_our_reward(config):
        return []
    options = OmegaConf.select(config, "reward.custom_reward_function.reward_kwargs") or {}
    options = OmegaConf.to_container(OmegaConf.create(options), resolve=True)
    return [
        Problem(f"reward.custom_reward_function.reward_kwargs.{option}", value, rule, remedy)
        for option, value, rule, remedy in option_problems(options)
    ]


def is_our_reward(config: DictConfig) -> bool:
    """Tell whether the recipe's reward function scores."""
    path = str(OmegaConf.select(config, "reward.custom_reward_function.path"))
    return path.removeprefix("pkg://").removesuffix(".py").replace("/", ".").endswith("recipe.treepo.reward")
