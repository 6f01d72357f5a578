# SPDX-License-Identifier: Apache-2.0
"""Ranges of verl's numbers and lists of verl's names, as tables.

verl 0.9.1 reads these values only after Ray and the models have started, and some it never compares with its own names.
Names in a registry, to which plugins may add, are checked with verl (``verl_adapters/run.py``).
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recipe.treepo.settings.nearest import closest_name
from recipe.treepo.settings.schema import REPLACED_AGENTS, TREE_ESTIMATORS, TREEPO_TRAINERS
from recipe.treepo.settings.training_rules import has_critic
from recipe.treepo.settings.values import ConfigProblem, groups_of, is_number, listed
from recipe.treepo.settings.verl_keys import leaves

ACTOR, REF, ROLLOUT, CRITIC = (
    "actor_rollout_ref.actor",
    "actor_rollout_ref.ref",
    "actor_rollout_ref.rollout",
    "critic",
)
QUEUE = "transfer_queue"
STORAGE = f"{QUEUE}.backend"
ENGINES = ("vllm", "sglang", "trtllm")
Condition = Callable[[DictConfig], Any]


def value(config: DictConfig, key: str) -> Any:
    """Return the resolved value of a key, None if it is missing."""
    return OmegaConf.select(config, key)


def whole(config: DictConfig, key: str, default: int | None = None) -> int | None:
    """Return a whole number of at least 1, ``default`` for null, None for anything else (another rule reports it)."""
    number = value(config, key)
    if number is None:
        return default
    return int(number) if is_number(number, int) and number >= 1 else None


def always(config: DictConfig) -> bool:
    return True


def has_reference(config: DictConfig) -> bool:
    """Evaluate ``verl.trainer.ppo.utils.need_reference_policy``."""
    return bool(value(config, "algorithm.use_kl_in_reward") or value(config, f"{ACTOR}.use_kl_loss"))


def trains(config: DictConfig) -> bool:
    return not value(config, "trainer.val_only")


# --- numbers ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Allowed numbers.

    Attributes:
        above: Whether ``least`` itself is excluded.
        null: Whether null is allowed.
        example: Value of the remedy.
    """

    example: float
    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    whole: bool = False
    null: bool = False

    def holds(self, number: Any) -> bool:
        if number is None:
            return self.null
        if not is_number(number, int if self.whole else int | float) or not math.isfinite(number):
            return False
        return bool(self.least < number if self.above else self.least <= number) and bool(number <= self.most)

    def __str__(self) -> str:
        words = ["must be a whole number" if self.whole else "must be a number"]
        if self.least > -math.inf and self.most < math.inf and not self.above:
            words.append(f"from {self.least} to {self.most}")
        elif self.least > -math.inf:
            words.append(f"{'above' if self.above else 'of at least'} {self.least}")
            words += [f"and at most {self.most}"] if self.most < math.inf else []
        return " ".join(words) + (", or null" if self.null else "")


def _count(example: int, least: int = 1, *, null: bool = False) -> Range:
    return Range(whole=True, least=least, null=null, example=example)


def _share(example: float) -> Range:
    return Range(least=0, most=1, example=example)


NOT_NEGATIVE = Range(least=0, example=0)
POSITIVE = Range(least=0, above=True, example=1.0)
# Allowed numbers of keys, and when verl uses the keys.
NUMBERS: Sequence[tuple[Range, Condition, str]] = (
    (_count(16), always, "data.train_batch_size"),
    (_count(512), always, "data.max_prompt_length data.max_response_length"),
    (_count(512), always, f"{ROLLOUT}.prompt_length {ROLLOUT}.response_length"),
    (_count(16, null=True), always, "data.gen_batch_size"),
    (_count(16, 0, null=True), always, "data.val_batch_size"),
    (_count(0, 0), always, "data.dataloader_num_workers trainer.critic_warmup"),
    (
        _count(1, null=True),
        lambda config: value(config, "data.filter_overlong_prompts"),
        "data.filter_overlong_prompts_workers",
    ),
    (Range(whole=True, example=-1), always, "data.train_max_samples data.val_max_samples"),
    (_count(8), always, f"{ROLLOUT}.n"),
    (_count(1), always, f"{ROLLOUT}.val_kwargs.n"),
    (Range(least=0, example=1.0), always, f"{ROLLOUT}.temperature {ROLLOUT}.val_kwargs.temperature"),
    (Range(least=0, above=True, most=1, example=1.0), always, f"{ROLLOUT}.top_p {ROLLOUT}.val_kwargs.top_p"),
    (_count(-1, -1), always, f"{ROLLOUT}.top_k {ROLLOUT}.val_kwargs.top_k"),
    (Range(least=0, above=True, most=1, example=0.5), always, f"{ROLLOUT}.gpu_memory_utilization"),
    (
        _count(1),
        always,
        f"{ROLLOUT}.tensor_model_parallel_size {ROLLOUT}.data_parallel_size {ROLLOUT}.expert_parallel_size "
        f"{ROLLOUT}.agent.num_workers reward.num_workers trainer.nnodes trainer.n_gpus_per_node "
        "transfer_queue.backend.SimpleStorage.num_data_storage_units",
    ),
    (_count(8192, null=True), always, f"{ROLLOUT}.max_num_batched_tokens"),
    (_count(256, null=True), always, f"{ROLLOUT}.max_num_seqs"),
    (_count(4096, null=True), always, f"{ROLLOUT}.max_model_len"),
    (_count(256), always, f"{ROLLOUT}.checkpoint_engine.update_weights_bucket_megabytes"),
    (_count(16), trains, f"{ACTOR}.ppo_mini_batch_size"),
    (_count(1), trains, f"{ACTOR}.ppo_epochs {ACTOR}.ulysses_sequence_parallel_size"),
    (_count(16384), trains, f"{ACTOR}.ppo_max_token_len_per_gpu {ROLLOUT}.log_prob_max_token_len_per_gpu"),
    (
        _count(1, null=True),
        trains,
        f"{ACTOR}.ppo_micro_batch_size_per_gpu {ROLLOUT}.log_prob_micro_batch_size_per_gpu",
    ),
    (_count(1, null=True), has_reference, f"{REF}.log_prob_micro_batch_size_per_gpu"),
    (_count(16384), has_reference, f"{REF}.log_prob_max_token_len_per_gpu"),
    (_count(16), has_critic, f"{CRITIC}.ppo_mini_batch_size"),
    (_count(1), has_critic, f"{CRITIC}.ppo_epochs"),
    (NOT_NEGATIVE, has_critic, f"{CRITIC}.cliprange_value"),
    (Range(least=0, example=0.2), trains, f"{ACTOR}.clip_ratio"),
    (Range(least=0, null=True, example=0.2), trains, f"{ACTOR}.clip_ratio_low {ACTOR}.clip_ratio_high"),
    (
        Range(least=1, above=True, example=3.0),
        lambda config: trains(config) and value(config, f"{ACTOR}.policy_loss.loss_mode") == "vanilla",
        f"{ACTOR}.clip_ratio_c",
    ),
    (
        Range(least=0, above=True, example=1.0),
        lambda config: value(config, f"{ACTOR}.policy_loss.loss_mode") == "dro",
        f"{ACTOR}.policy_loss.dro_beta",
    ),
    (Range(example=0), trains, f"{ACTOR}.entropy_coeff"),
    (Range(least=0, above=True, null=True, example=512), trains, f"{ACTOR}.loss_scale_factor"),
    (Range(least=0, example=0.001), lambda config: value(config, f"{ACTOR}.use_kl_loss"), f"{ACTOR}.kl_loss_coef"),
    (
        Range(least=0, example=0.001),
        lambda config: value(config, "algorithm.use_kl_in_reward"),
        "algorithm.kl_ctrl.kl_coef",
    ),
    (
        POSITIVE,
        lambda config: (
            value(config, "algorithm.use_kl_in_reward") and value(config, "algorithm.kl_ctrl.type") == "adaptive"
        ),
        "algorithm.kl_ctrl.horizon algorithm.kl_ctrl.target_kl",
    ),
    (_share(1.0), always, "algorithm.gamma algorithm.lam"),
    (_count(1), trains, "trainer.total_epochs"),
    (_count(100, null=True), trains, "trainer.total_training_steps"),
    (Range(whole=True, example=-1), always, "trainer.save_freq trainer.test_freq"),
    (Range(whole=True, example=0), always, "trainer.log_val_generations"),
    (Range(whole=True, null=True, example=1), always, "trainer.max_actor_ckpt_to_keep trainer.max_critic_ckpt_to_keep"),
    (_count(8, null=True), always, "ray_kwargs.ray_init.num_cpus"),
    (Range(least=0, null=True, example=1), always, "ray_kwargs.ray_init.num_gpus"),
    (
        _count(1, null=True),
        always,
        "trainer.v1.sampler.max_off_policy_threshold trainer.v1.separate_async.parameter_sync_step",
    ),
    (NOT_NEGATIVE, always, "trainer.v1.colocate_async.num_warmup_batches trainer.v1.separate_async.num_warmup_batches"),
    (_count(0, 0), always, "actor_rollout_ref.model.lora_rank"),
    (
        Range(least=0, above=True, example=32),
        lambda config: value(config, "actor_rollout_ref.model.lora_rank"),
        "actor_rollout_ref.model.lora_alpha",
    ),
    (Range(whole=True, null=True, example=1), always, "data.seed"),
    (Range(whole=True, example=42), always, f"{ROLLOUT}.seed"),
)
# The same for the optimizers of actor and critic.
OPTIMIZER: Sequence[tuple[Range, str]] = (
    (Range(least=0, example=1e-6), "lr"),
    (Range(least=0, example=0.01), "weight_decay"),
    (_share(0.0), "lr_warmup_steps_ratio"),
    (_count(-1, -1), "lr_warmup_steps"),
    (POSITIVE, "clip_grad"),
    (Range(least=0, most=1, null=True, example=0.0), "min_lr_ratio"),
    (POSITIVE, "num_cycles"),
)


# --- names -----------------------------------------------------------------------------------------------------

AGGREGATIONS = ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")
# core_algos.kl_penalty_forward; a plus sign corrects the gradient
DIVERGENCES = tuple(
    f"{name}{plus}" for plus in ("", "+") for name in ("kl", "k1", "abs", "mse", "k2", "low_var_kl", "k3")
)
SCHEDULES = ("constant", "cosine")
# utils/torch_dtypes.py
PRECISIONS = ("fp32", "float32", 32, "32", "bf16", "bfloat16", "fp16", "float16", 16, "16")
SAVED = ("model", "optimizer", "extra", "hf_model")
REJECTIONS = tuple(
    f"{level}_{name}"
    for level, names in {"token": "k1 k2 k3", "seq_sum": "k1 k2 k3", "seq_mean": "k1 k2 k3", "seq_max": "k2 k3"}.items()
    for name in names.split()
)


def _vllm(config: DictConfig) -> bool:
    return bool(value(config, f"{ROLLOUT}.name") == "vllm")


def _is_fsdp(role: str) -> Condition:
    return lambda config: "FSDP" in str(value(config, f"{role}._target_"))


def _critic_is_fsdp(config: DictConfig) -> bool:
    return has_critic(config) and bool(_is_fsdp(CRITIC)(config))


# Names that verl or its engine compare with a fixed list. The value may be a list of names.
CHOICES: Sequence[tuple[Sequence[object], Condition, str]] = (
    (AGGREGATIONS, trains, f"{ACTOR}.loss_agg_mode"),
    (AGGREGATIONS, has_critic, f"{CRITIC}.loss_agg_mode"),
    (DIVERGENCES, lambda config: value(config, f"{ACTOR}.use_kl_loss"), f"{ACTOR}.kl_loss_type"),
    (DIVERGENCES, lambda config: value(config, "algorithm.use_kl_in_reward"), "algorithm.kl_penalty"),
    (("fixed", "adaptive"), lambda config: value(config, "algorithm.use_kl_in_reward"), "algorithm.kl_ctrl.type"),
    ((None, "token", "sequence"), always, "algorithm.rollout_correction.rollout_is"),
    (
        ("ppo_clip", "reinforce"),
        lambda config: value(config, "algorithm.rollout_correction.bypass_mode"),
        "algorithm.rollout_correction.loss_type",
    ),
    (SCHEDULES, _is_fsdp(ACTOR), f"{ACTOR}.optim.lr_scheduler_type"),
    ((None, *SCHEDULES), _is_fsdp(ACTOR), f"{ACTOR}.optim.warmup_style"),
    (SCHEDULES, _critic_is_fsdp, f"{CRITIC}.optim.lr_scheduler_type"),
    ((None, *SCHEDULES), _critic_is_fsdp, f"{CRITIC}.optim.warmup_style"),
    ((None, *PRECISIONS), always, f"{ACTOR}.fsdp_config.model_dtype"),
    ((None, *PRECISIONS), has_reference, f"{REF}.fsdp_config.model_dtype"),
    ((None, *PRECISIONS), has_critic, f"{CRITIC}.fsdp.model_dtype"),
    *(
        ((None, *PRECISIONS), always, f"{ACTOR}.fsdp_config.mixed_precision.{part}_dtype")
        for part in ("param", "reduce", "buffer")
    ),
    (SAVED, always, f"{ACTOR}.checkpoint.save_contents"),
    (SAVED, always, f"{ACTOR}.checkpoint.load_contents"),
    (("async",), always, f"{ROLLOUT}.mode"),
    (("auto", "half", "float16", "bfloat16", "float", "float32"), _vllm, f"{ROLLOUT}.dtype"),
    (
        (
            *("dummy", "auto", "safetensors", "hf", "pt", "npcache", "mistral", "fastsafetensors", "gguf"),
            *("bitsandbytes", "instanttensor", "ipc_cache", "modelexpress", "runai_streamer"),
            *("runai_streamer_sharded", "sharded_state", "tensorizer"),
        ),
        _vllm,
        f"{ROLLOUT}.load_format",
    ),
    (
        (None, "processed_logprobs", "raw_logprobs", "processed_logits", "raw_logits"),
        _vllm,
        f"{ROLLOUT}.logprobs_mode",
    ),
    ((None, "fcfs", "priority"), _vllm, f"{ROLLOUT}.scheduling_policy"),
    (("left", "right", "middle"), always, f"{ROLLOUT}.multi_turn.tool_response_truncate_side"),
    ((None, "weave", "mlflow", "trackio"), always, f"{ROLLOUT}.trace.backend"),
    # vLLMHttpServer._apply_quantization
    ((None, "fp8", "torchao", "ascend"), _vllm, f"{ROLLOUT}.quantization"),
    # storage managers of transfer_queue
    (("SimpleStorage", "MooncakeStore", "Yuanrong", "RayStore"), always, f"{STORAGE}.storage_backend"),
    (("auto", "disable", "resume_path"), always, "trainer.resume_mode"),
    (("drop", "wait"), always, "trainer.v1.sampler.max_off_policy_strategy"),
    (("register", "importlib"), always, "reward.reward_manager.source"),
    (("cuda", "cpu", "npu", "xpu", "musa"), always, "trainer.device"),
    (
        (None, "nsys", "npu", "torch", "torch_memory", "precision_debugger"),
        always,
        "global_profiler.tool",
    ),
    (
        # utils/tracking.py
        (
            *("console", "wandb", "mlflow", "swanlab", "vemlp_wandb", "tensorboard", "clearml", "trackio", "file"),
            *("rl_insight", "tracking"),
        ),
        always,
        "trainer.logger",
    ),
    (
        ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention", None),
        lambda config: value(config, "actor_rollout_ref.model.external_lib") is None,
        "actor_rollout_ref.model.override_config.attn_implementation",
    ),
    (
        ("torch", "triton"),
        lambda config: value(config, "actor_rollout_ref.model.use_fused_kernels"),
        "actor_rollout_ref.model.fused_kernel_options.impl_backend",
    ),
)
# Strategies of the configuration classes in verl/workers/config, each class with the model_engine that selects it.
STRATEGIES = {
    "FSDP": (("fsdp2", "fsdp", "fsdp_turbo"), "dp"),
    "Mcore": (("megatron",), "megatron"),
    "VeOmni": (("veomni",), "veomni"),
    "TorchTitan": (("torchtitan",), "torchtitan"),
}


# Names in registries of verl, as far as verl itself and this recipe fill them; plugins may add others.
REGISTERED: Mapping[str, Sequence[str | None]] = {
    "algorithm.adv_estimator": (
        *("gae", "grpo", "grpo_vectorized", "grpo_passk", "gdpo", "gpg", "opo", "remax", "rloo", "rloo_vectorized"),
        *("reinforce_plus_plus", "reinforce_plus_plus_baseline", "optimal_token_baseline"),
        *("tir_optimal_token_baseline", *TREE_ESTIMATORS),
    ),
    f"{ACTOR}.policy_loss.loss_mode": (
        *("vanilla", "dppo_tv", "dppo_kl", "gspo", "sapo", "gpg", "clip_cov", "kl_cov", "geo_mean", "dro", "cispo"),
        "bypass_mode",
    ),
    f"{ROLLOUT}.name": ENGINES,
    f"{ROLLOUT}.agent.default_agent_loop": (None, *REPLACED_AGENTS),
    f"{ROLLOUT}.checkpoint_engine.backend": (
        *("naive", "nccl", "nixl", "kimi_ckpt_engine", "mooncake", "delta_sharded", "gloo"),
    ),
    "reward.reward_manager.name": ("treepo", "naive", "dapo", "gdpo", "rate_limited", "remote"),
    "trainer.v1.trainer_mode": (*TREEPO_TRAINERS, *TREEPO_TRAINERS.values()),
}


# Estimators of verl whose inputs verl's V1 trainer does not compute or pass on (trainer_base._compute_advantage).
UNFED = {
    "remax": "a greedy baseline",
    "gdpo": "several rewards",
    "optimal_token_baseline": "sums of squared probabilities",
    "tir_optimal_token_baseline": "sums of squared probabilities",
}
# Names of other trainers and earlier versions, by verl's.
MEANT_NAMES: Mapping[str, Mapping[str, str]] = {
    "algorithm.adv_estimator": {"ppo": "gae", "dapo": "grpo", "gspo": "grpo", "reinforce++": "reinforce_plus_plus"},
    f"{ACTOR}.policy_loss.loss_mode": {"ppo": "vanilla", "grpo": "vanilla", "dapo": "vanilla"},
    f"{ROLLOUT}.dtype": {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"},
    "actor_rollout_ref.model.override_config.attn_implementation": {
        name: "flash_attention_2" for name in ("flash", "flash_attn", "flash_attention", "flash_attn_2", "fa2")
    },
    "trainer.device": {"gpu": "cuda"},
    "trainer.resume_mode": {"never": "disable", "none": "disable", "False": "disable", "latest": "auto"},
}


def foreign_names(config: DictConfig) -> dict[str, Any]:
    """Return the names that are not verl's or this recipe's, by key: only verl's registries show whether they exist."""
    libraries = ("actor_rollout_ref.model.external_lib", f"{ROLLOUT}.checkpoint_engine.custom_backend_module")
    if any(value(config, key) is not None for key in libraries):
        return {}  # verl's workers import them, and they may register any name
    found = {key: value(config, key) for key in REGISTERED}
    if value(config, "reward.reward_manager.source") != "register":
        found.pop("reward.reward_manager.name")
    if value(config, f"{ROLLOUT}.agent.agent_loop_config_path") is not None:
        found.pop(f"{ROLLOUT}.agent.default_agent_loop")  # this file defines others
    return {key: name for key, name in found.items() if name is not None and name not in REGISTERED[key]}


def unregistered_names(
    config: DictConfig, registry: Callable[[str], Iterable[str]] = lambda key: ()
) -> list[ConfigProblem]:
    """Check names of registries, which verl looks up after Ray has started.

    Args:
        registry: Returns the names that plugins have registered under a key.
    """
    problems = []
    for key, name in foreign_names(config).items():
        registered = sorted({*registry(key), *(choice for choice in REGISTERED[key] if choice)})
        if name not in registered:
            rule = "is not a name that verl or a plugin registers"
            remedy = name_remedy(key, name, [found for found in registered if found not in UNFED])
            problems.append(ConfigProblem("unregistered_name", key, name, rule, remedy))
    return problems


# --- rules -----------------------------------------------------------------------------------------------------


def value_problems(config: DictConfig) -> list[ConfigProblem]:
    """Check numbers and names of verl's keys, one by one."""
    return [
        *(*_number_problems(config), *_text_problems(config)),
        *(*_choice_problems(config), *_strategy_problems(config)),
    ]


def type_problems(config: DictConfig, known: DictConfig) -> list[ConfigProblem]:
    """Check that values have the type of their default: verl converts none, and ``no`` is a text that counts as true.

    Args:
        known: The defaults.
    """
    defaults = dict(leaves(OmegaConf.to_container(known, resolve=True)))
    groups = groups_of(defaults)
    problems = []
    for key, found in leaves(OmegaConf.to_container(config, resolve=False)):
        default = defaults.get(key)
        if found is None and key in groups and key in NEEDED:
            rule, remedy = "must be a group of keys", f"Leave it out, or set keys such as {key}.{groups[key][-1]}."
            problems.append(ConfigProblem("verl_group", key, "null", rule, remedy))
        if found is None or key.startswith("treepo.") or "${" in str(found):
            continue
        if key in groups and not isinstance(found, Mapping):
            remedy = f"Keys of {key}: {', '.join(groups[key])}."
            problems.append(ConfigProblem("verl_group", key, found, "must be a group of keys", remedy))
        elif isinstance(default, bool):
            if not isinstance(found, bool) and found not in (0, 1):
                remedy = f"Use {key}=True or {key}=False."
                problems.append(ConfigProblem("verl_boolean", key, found, "must be true or false", remedy))
        elif is_number(default) and not is_number(found) and key not in TEXTS:
            rule = "must be a number"
            problems.append(ConfigProblem("verl_number_type", key, found, rule, f"Use a number, such as {default}."))
    return problems


# Groups that verl and our rules read in every run, so that they cannot be null.
NEEDED = (
    *("data", "actor_rollout_ref", "actor_rollout_ref.model", "actor_rollout_ref.model.override_config", "critic"),
    *(ACTOR, f"{ACTOR}.optim", f"{ACTOR}.policy_loss", f"{ACTOR}.fsdp_config", f"{ACTOR}.checkpoint", REF),
    *(ROLLOUT, f"{ROLLOUT}.val_kwargs", f"{ROLLOUT}.agent", f"{ROLLOUT}.multi_turn", f"{ROLLOUT}.engine_kwargs"),
    *(f"{ROLLOUT}.checkpoint_engine", "algorithm", "trainer", "trainer.v1", "reward", "reward.reward_manager"),
    *("reward.reward_model", "reward.custom_reward_function", "ray_kwargs", "ray_kwargs.ray_init", "transfer_queue"),
    *(STORAGE, "trainer.v1.sampler", "data.custom_cls"),
)
# Numbers by default that may be texts: [lower]_[upper] (rollout_corr_helper.py).
TEXTS = ("algorithm.rollout_correction.rollout_is_threshold",)


def _written(config: DictConfig, key: str) -> bool:
    """Return whether a key exists and is not just a reference to another key, which has the same rule."""
    group, _, last = key.rpartition(".")
    parent = OmegaConf.select(config, group)
    return isinstance(parent, DictConfig) and last in parent and not refers(config, key)


def refers(config: DictConfig, key: str) -> bool:
    """Return whether a key has no value of its own, but that of another key."""
    group, _, last = key.rpartition(".")
    parent = OmegaConf.select(config, group)
    if not isinstance(parent, DictConfig) or last not in parent or not OmegaConf.is_interpolation(parent, last):
        return False
    written = OmegaConf.to_container(parent, resolve=False)
    return isinstance(written, dict) and not str(written[last]).startswith("${oc.env")


def _number_problems(config: DictConfig) -> Iterator[ConfigProblem]:
    rows = [(allowed, used, key) for allowed, used, keys in NUMBERS for key in keys.split()]
    rows += [(allowed, trains, f"{ACTOR}.optim.{name}") for allowed, name in OPTIMIZER]
    rows += [(allowed, has_critic, f"{CRITIC}.optim.{name}") for allowed, name in OPTIMIZER]
    for allowed, used, key in rows:
        if _written(config, key) and used(config) and not allowed.holds(found := value(config, key)):
            remedy = f"Use {key}={allowed.example}, for example."
            rule = f"{allowed}, not a text" if isinstance(found, str) else str(allowed)
            yield ConfigProblem("verl_number", key, "null" if found is None else found, rule, remedy)
    for role, used in ((ACTOR, trains), (CRITIC, has_critic)):
        key = f"{role}.optim.betas"
        found = value(config, key)
        adam = "adam" in str(value(config, f"{role}.optim.optimizer") or "adam").lower()
        if used(config) and adam and _written(config, key) and not _are_betas(found):
            rule = "must be two numbers of at least 0 and below 1"
            yield ConfigProblem("betas", key, "null" if found is None else found, rule, f"Use {key}=[0.9,0.999].")
    for key in (f"{ACTOR}.fsdp_config.fsdp_size", f"{CRITIC}.fsdp.fsdp_size"):
        found = value(config, key)
        if found is not None and (not is_number(found, int) or found == 0):
            rule = "must be a whole number of GPUs, or -1 for all"
            yield ConfigProblem("fsdp_size", key, found, rule, f"Use {key}=-1.")


def _are_betas(found: Any) -> bool:
    return OmegaConf.is_list(found) and len(found) == 2 and all(is_number(beta) and 0 <= beta < 1 for beta in found)


# Texts that every run needs, with an example.
NEEDED_TEXTS: Mapping[str, str] = {
    "actor_rollout_ref.model.path": "Qwen/Qwen2.5-0.5B",
    f"{ROLLOUT}.name": "vllm",
    f"{ROLLOUT}.checkpoint_engine.backend": "naive",
    f"{ACTOR}.policy_loss.loss_mode": "vanilla",
    "algorithm.adv_estimator": "grpo",
    "reward.reward_manager.name": "treepo",
    "trainer.default_local_dir": "checkpoints",
    "trainer.v1.trainer_mode": "sync",
    "data.prompt_key": "prompt",
}


# Texts that may be null.
TEXTS_OR_NULL = (
    *("trainer.rollout_data_dir", "trainer.validation_data_dir", "trainer.checkpoint_callback_class"),
    *("actor_rollout_ref.model.custom_chat_template", "actor_rollout_ref.model.tokenizer_path"),
)


def _text_problems(config: DictConfig) -> Iterator[ConfigProblem]:
    """Check texts that cannot be null or empty."""
    for key, example in NEEDED_TEXTS.items():
        own_data = key.startswith("data.") and value(config, "data.custom_cls.path") is not None
        if _written(config, key) and value(config, key) in (None, "") and not own_data:
            shown = "null" if value(config, key) is None else ""
            yield ConfigProblem("verl_text", key, shown, "must be a text", f"Use {key}={example}, for example.")
    for key in TEXTS_OR_NULL:
        found = value(config, key)
        if found is not None and not isinstance(found, str):
            yield ConfigProblem("verl_text", key, found, "must be a text, or null", f"Use {key}=null.")


def _choice_problems(config: DictConfig) -> Iterator[ConfigProblem]:
    for choices, used, key in CHOICES:
        if not _written(config, key) or not used(config):
            continue
        found = value(config, key)
        names = listed(found)
        for name in names:
            if name not in choices and not ("attn" in key and any(mark in str(name) for mark in "/|")):
                yield _unknown_name(key, found, name, choices)


def _unknown_name(key: str, found: Any, name: Any, choices: Sequence[object]) -> ConfigProblem:
    shown = ", ".join("null" if choice is None else str(choice) for choice in choices)
    subject = f"{name} must be" if OmegaConf.is_list(found) else "must be"
    names = [str(choice) for choice in choices if choice is not None]
    remedy = name_remedy(key, name, names)
    if OmegaConf.is_list(found):  # without the names that are no misspelling
        new = ",".join(
            str(near) for other in found if (near := other if other in names else closest_name(other, names))
        )
        remedy = f"Use {key}=[{new or names[0]}]."
    elif isinstance(found, str) and set(parts := re.split(r"[,\s]+", found)) <= set(names):
        remedy = f"Use {key}=[{','.join(parts)}]."
    return ConfigProblem("verl_choice", key, found, f"{subject} one of {shown}", remedy)


def name_remedy(key: str, name: Any, names: Sequence[str]) -> str:
    """Return a remedy with the name that is meant, or with all names."""
    near = MEANT_NAMES.get(key, {}).get(str(name)) or closest_name(name, names)
    near = near or (names[0] if len(names) == 1 else None)
    return f"Use {key}={near}." if near else f"Use one of {', '.join(names)}."


def _strategy_problems(config: DictConfig) -> list[ConfigProblem]:
    """Check that a training engine fits the keys of its group (``EngineRegistry.get_engine_cls``)."""
    problems = []
    for role, used in ((ACTOR, always), (REF, has_reference), (CRITIC, has_critic)):
        key, target = f"{role}.strategy", str(value(config, f"{role}._target_"))
        fitting = next((names for mark, (names, _) in STRATEGIES.items() if mark in target), None)
        found = value(config, key)
        if fitting is None or found in fitting or not used(config) or not _written(config, key):
            continue
        engine = next((engine for names, engine in STRATEGIES.values() if found in names), None)
        rule = f"must be {' or '.join(fitting)}, because the keys of {role} are those of this engine"
        other = f", or add model_engine={engine}" if engine else ""
        problems.append(ConfigProblem("strategy", key, found, rule, f"Use {key}={fitting[0]}{other}."))
    return problems
