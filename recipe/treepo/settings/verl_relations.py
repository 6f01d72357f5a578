# SPDX-License-Identifier: Apache-2.0
"""Sizes in verl's keys that have to fit each other, the data and the model; verl checks them late or never.

A rule whose numbers are missing or wrong is silent: ``verl_values.py`` reports them.
"""

import math
import os
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from recipe.treepo.packed.support import model_problem
from recipe.treepo.settings.data_files import is_list_text, paths_of
from recipe.treepo.settings.data_reading import SUFFIXES, DataFileError, open_rows
from recipe.treepo.settings.model_files import model_config
from recipe.treepo.settings.nearest import closest_name
from recipe.treepo.settings.support import STRATEGIES
from recipe.treepo.settings.training_rules import has_critic
from recipe.treepo.settings.values import ConfigProblem, is_number, listed, written
from recipe.treepo.settings.verl_values import (
    ACTOR,
    CRITIC,
    ENGINES,
    REF,
    ROLLOUT,
    has_reference,
    refers,
    trains,
    value,
    whole,
)

MAX_LORA_RANK = 512  # vllm.config.lora.MaxLoRARanks


def relation_problems(config: DictConfig) -> list[ConfigProblem]:
    """Check the relations between verl's keys."""
    rules = (
        *(_micro_batch_problems, _token_limit_problems, _gpu_problems, _parallel_problems),
        *(_batch_problems, _data_file_problems, _position_problems, _lora_problems, _lora_engine_problems),
        *(_packed_model_problems, _engine_problems),
    )
    return [problem for rule in rules for problem in rule(config)]


def all_gpus(config: DictConfig) -> int | None:
    """Return the GPUs of the trainer on all nodes, None if the numbers are wrong."""
    machines, each = whole(config, "trainer.nnodes"), whole(config, "trainer.n_gpus_per_node")
    return machines * each if machines and each else None


def _sequence_parallel(config: DictConfig, role: str) -> int | None:
    """Return verl's sequence-parallel size of an FSDP engine (``FSDPActorConfig.__post_init__``), else None."""
    engine = f"{role}.fsdp_config" if role != CRITIC else f"{role}.fsdp"
    if value(config, engine) is None:
        return None
    size = whole(config, f"{engine}.ulysses_sequence_parallel_size", 1)
    former = whole(config, f"{role}.ulysses_sequence_parallel_size", 1) if role != CRITIC else 1
    return former if former and former > 1 else size


def _data_parallel(config: DictConfig, role: str) -> int | None:
    """Return the number of ranks with different data, None if it is unknown."""
    gpus = all_gpus(config)
    if gpus is None:
        return None
    if value(config, f"{role}.strategy") == "megatron":
        names = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size")
        sizes = [whole(config, f"{role}.megatron.{name}", 1) for name in names]
        parts = math.prod(size for size in sizes if size) if all(sizes) else None
    else:
        parts = _sequence_parallel(config, role)
    return gpus // parts if parts and gpus % parts == 0 else None


def _roles(config: DictConfig) -> list[str]:
    return [role for role, used in ((ACTOR, trains(config)), (CRITIC, has_critic(config))) if used]


# --- micro-batches ---------------------------------------------------------------------------------------------


def _micro_batch_problems(config: DictConfig) -> Iterator[ConfigProblem]:
    """Check the sizes of micro-batches without ``use_dynamic_bsz`` (``ActorConfig``, ``engine_workers.init_model``)."""
    dynamic, key = value(config, f"{ACTOR}.use_dynamic_bsz"), f"{ROLLOUT}.log_prob_use_dynamic_bsz"
    if dynamic is None:
        return
    other = value(config, key)
    if other is not None and bool(other) != bool(dynamic):
        rule = f"must be equal to {ACTOR}.use_dynamic_bsz={dynamic}"
        yield ConfigProblem("dynamic_unequal", key, other, rule, f"Use {key}={dynamic}.")
    sizes = []
    if not dynamic:
        sizes += [(ACTOR, "ppo_micro_batch_size", "use_dynamic_bsz")]
        sizes += [(ROLLOUT, "log_prob_micro_batch_size", "log_prob_use_dynamic_bsz")]
    if has_reference(config) and not value(config, f"{REF}.log_prob_use_dynamic_bsz"):
        sizes += [(REF, "log_prob_micro_batch_size", "log_prob_use_dynamic_bsz")]
    if has_critic(config) and not value(config, f"{CRITIC}.use_dynamic_bsz"):
        sizes += [(CRITIC, "ppo_micro_batch_size", "use_dynamic_bsz")]
    for group, name, switch in sizes:
        former, size = value(config, f"{group}.{name}"), value(config, f"{group}.{name}_per_gpu")
        if former is not None:
            rule = f"verl's engines do not read this former key, which is now {group}.{name}_per_gpu"
            remedy = f"Use {group}.{name}=null {group}.{name}_per_gpu={size or former}."
            yield ConfigProblem("former_micro_batch", f"{group}.{name}", former, rule, remedy)
        elif size is None:
            rule = f"must be set, because {group}.{switch}=False makes micro-batches of equal numbers of sequences"
            remedy = f"Use {group}.{name}_per_gpu=1, for example, or {_dynamic(config, group, switch)}."
            yield ConfigProblem("micro_batch_missing", f"{group}.{name}_per_gpu", "null", rule, remedy)


def _dynamic(config: DictConfig, group: str, switch: str) -> str:
    """Return the overrides that make micro-batches by tokens; unless set, the rollout's switch is the actor's."""
    if group in (REF, CRITIC):
        return f"{group}.{switch}=True"
    both, other = f"{ACTOR}.use_dynamic_bsz=True", f"{ROLLOUT}.log_prob_use_dynamic_bsz"
    return both if refers(config, other) else f"{both} {other}=True"


def _token_limit_problems(config: DictConfig) -> Iterator[ConfigProblem]:
    """Check that a micro-batch holds the longest sequence (``seqlen_balancing.rearrange_micro_batches``)."""
    prompt, response = whole(config, f"{ROLLOUT}.prompt_length"), whole(config, f"{ROLLOUT}.response_length")
    if prompt is None or response is None:
        return
    limits: list[tuple[str, str, int | None]] = []
    if value(config, f"{ACTOR}.use_dynamic_bsz") and trains(config):
        limits += [(f"{ACTOR}.ppo_max_token_len_per_gpu", ACTOR, None)]
        limits += [(f"{ROLLOUT}.log_prob_max_token_len_per_gpu", ACTOR, None)]
    if has_reference(config) and value(config, f"{REF}.log_prob_use_dynamic_bsz"):
        limits += [(f"{REF}.log_prob_max_token_len_per_gpu", REF, None)]
    if has_critic(config):
        # verl 0.9.1 gives the critic this limit and not ppo_max_token_len_per_gpu (trainer_base._setup)
        limits += [(f"{CRITIC}.ppo_infer_max_token_len_per_gpu", CRITIC, 32768)]
    for key, role, default in limits:
        limit, parts = whole(config, key, default), _sequence_parallel(config, role) or 1
        if limit is None or refers(config, key) or limit * parts >= prompt + response:
            continue
        least = -(-(prompt + response) // parts)
        rule = f"must hold the longest sequence: {prompt} tokens of a prompt and {response} of a response"
        rule += f", on {parts} GPUs" if parts > 1 else ""
        plus = "+" if value(config, key) is None else ""
        yield ConfigProblem("token_limit", key, limit, rule, f"Use at least {plus}{key}={least}, or shorter lengths.")


# --- GPUs ------------------------------------------------------------------------------------------------------


def _gpu_problems(config: DictConfig) -> Iterator[ConfigProblem]:
    """Check that a mini-batch can be divided among the GPUs (``TrainingWorker.train_mini_batch``)."""
    n = whole(config, f"{ROLLOUT}.n")
    for role in _roles(config):
        size, ranks = whole(config, f"{role}.ppo_mini_batch_size"), _data_parallel(config, role)
        if n is None or size is None or ranks is None:
            continue
        rows, key = size * n, "trainer.n_gpus_per_node"
        if rows % ranks:
            fitting = -(-size // ranks) * ranks
            each = whole(config, key) or 1
            fewer = [count for count in range(each - 1, 0, -1) if rows * each % (ranks * count) == 0]
            rule = f"a mini-batch of {rows} sequences ({role}.ppo_mini_batch_size={size} x {ROLLOUT}.n={n}) "
            rule += f"cannot be divided among {ranks} GPUs"
            remedy = f"Use {key}={fewer[0]}, or " if fewer else "Use "
            remedy += f"{_mini_batch(config, role)}={fitting} and a multiple of it as data.train_batch_size."
            yield ConfigProblem("gpus_mini_batch", key, value(config, key), rule, remedy)
        elif role == ACTOR:  # verl 0.9.1 makes the critic's micro-batches by tokens in any case
            yield from _division_problems(config, rows, ranks)


def _division_problems(config: DictConfig, rows: int, ranks: int) -> Iterator[ConfigProblem]:
    """Check that micro-batches of equal numbers divide a mini-batch and a batch (``prepare_micro_batches``).

    Args:
        rows: Sequences of a mini-batch on all GPUs; verl pads a batch to a multiple.
        ranks: Number of GPUs that divide the sequences among them.
    """
    batch, n = whole(config, "data.train_batch_size"), whole(config, f"{ROLLOUT}.n")
    padded = -(-batch * n // rows) * rows if batch and n else rows
    sizes = []
    if not value(config, f"{ACTOR}.use_dynamic_bsz"):
        sizes.append((f"{ACTOR}.ppo_micro_batch_size_per_gpu", rows, "mini-batch"))
        if not value(config, "algorithm.rollout_correction.bypass_mode"):
            sizes.append((f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu", padded, "batch"))
    if has_reference(config) and not value(config, f"{REF}.log_prob_use_dynamic_bsz"):
        sizes.append((f"{REF}.log_prob_micro_batch_size_per_gpu", padded, "batch"))
    for key, whole_rows, name in sizes:
        micro, own = whole(config, key), whole_rows // ranks
        # trainers with separate servers and critics have other batches
        if micro and own % micro and (name == "mini-batch" or not _has_other_batches(config)):
            rule, remedy = (
                f"must divide the {own} sequences of a {name} on each GPU",
                f"Use {key}={math.gcd(micro, own)}.",
            )
            yield ConfigProblem("micro_batch_division", key, micro, rule, remedy)


def _has_other_batches(config: DictConfig) -> bool:
    return has_critic(config) or "separate" in str(value(config, "trainer.v1.trainer_mode"))


def _mini_batch(config: DictConfig, role: str) -> str:
    """Return the key that sets the size of mini-batches; the critic's default is the actor's."""
    own = f"{role}.ppo_mini_batch_size"
    return f"{ACTOR}.ppo_mini_batch_size" if refers(config, own) else own


def _parallel_problems(config: DictConfig) -> Iterator[ConfigProblem]:
    """Check the sizes of parallel groups (``FSDPEngine.__init__``, ``create_device_mesh``, ``RolloutConfig``)."""
    gpus, model = all_gpus(config), "actor_rollout_ref.model"
    heads = model_config(config).get("num_attention_heads")
    for role in _roles(config):
        engine = f"{role}.fsdp" if role == CRITIC else f"{role}.fsdp_config"
        size, key = _sequence_parallel(config, role), f"{engine}.ulysses_sequence_parallel_size"
        if size is not None and size > 1:
            if whole(config, key, 1) != size:
                key = f"{role}.ulysses_sequence_parallel_size"
            own = f"{CRITIC}.model" if role == CRITIC else model
            if value(config, f"{own}.use_remove_padding") is False:
                rule = f"needs {own}.use_remove_padding=True, because verl splits packed sequences"
                remedy = f"Use {key}=1, or {own}.use_remove_padding=True."
                yield ConfigProblem("sequence_parallel_padding", key, size, rule, remedy)
            if gpus and gpus % size:
                rule = f"must divide the {gpus} GPUs of trainer.nnodes x trainer.n_gpus_per_node"
                yield ConfigProblem("sequence_parallel_gpus", key, size, rule, f"Use {key}={math.gcd(size, gpus)}.")
            if isinstance(heads, int) and heads % size:
                rule = f"must divide the {heads} attention heads of the model"
                remedy = f"Use {key}={math.gcd(size, heads)}."
                yield ConfigProblem("sequence_parallel_heads", key, size, rule, remedy)
        shards = value(config, f"{engine}.fsdp_size")
        if is_number(shards, int) and gpus and 0 < shards < gpus and gpus % shards:
            rule = f"must divide the {gpus} GPUs of trainer.nnodes x trainer.n_gpus_per_node"
            remedy = f"Use {engine}.fsdp_size={math.gcd(shards, gpus)}, or -1 for all."
            yield ConfigProblem("fsdp_size_gpus", f"{engine}.fsdp_size", shards, rule, remedy)
    size, key = whole(config, f"{ROLLOUT}.tensor_model_parallel_size"), f"{ROLLOUT}.tensor_model_parallel_size"
    if size and isinstance(heads, int) and heads % size:
        rule = f"must divide the {heads} attention heads of the model"
        yield ConfigProblem("tensor_parallel_heads", key, size, rule, f"Use {key}={math.gcd(size, heads)}.")
    key = f"{ROLLOUT}.pipeline_model_parallel_size"
    if (stages := value(config, key)) not in (None, 1) and value(config, f"{ROLLOUT}.name") in ENGINES:
        rule = "verl's engines support no pipeline parallelism in the rollout"
        yield ConfigProblem("pipeline_parallel", key, stages, rule, f"Use {key}=1.")


# --- data ------------------------------------------------------------------------------------------------------


def _batch_problems(config: DictConfig) -> Iterator[ConfigProblem]:
    """Check the batch against mini-batches (``ActorConfig.validate``) and rows (``trainer_base._init_dataloader``)."""
    key, batch = "data.train_batch_size", whole(config, "data.train_batch_size")
    if batch is None or not trains(config):
        return
    for role in _roles(config):
        size = whole(config, f"{role}.ppo_mini_batch_size")
        if size and batch < size and value(config, f"{role}.use_dynamic_bsz") is False:
            rule = f"must not be less than {role}.ppo_mini_batch_size={size}"
            remedy = f"Use {key}={size}, or {_mini_batch(config, role)}={batch}."
            yield ConfigProblem("batch_below_mini_batch", key, batch, rule, remedy)
    group = whole(config, "data.gen_batch_size")
    # the other trainers, and these two keys, make verl fetch single prompts
    exact = [
        value(config, key) for key in ("algorithm.filter_groups.enable", "trainer.v1.sampler.sync_refill_failed_groups")
    ]
    if group and batch % group and not any(exact) and "async" not in str(value(config, "trainer.v1.trainer_mode")):
        rule = f"must divide {key}={batch}"
        remedy = f"Use data.gen_batch_size={math.gcd(group, batch)}, or null."
        yield ConfigProblem("gen_batch_division", "data.gen_batch_size", group, rule, remedy)
    rows = _rows(config)
    if rows and batch > rows:  # an empty file is named by itself
        rule = f"must not exceed the {rows} rows of data.train_files"
        if is_number(most := value(config, "data.train_max_samples"), int) and most == rows:
            rule = f"must not exceed data.train_max_samples={rows}"
        rule += ", because an epoch would have no step"
        remedy = f"Use {key}={rows} or less, or more data."
        yield ConfigProblem("batch_beyond_rows", key, batch, rule, remedy)


def _rows(config: DictConfig) -> int | None:
    """Return the rows that verl selects from local parquet files, None if a file does not show their number."""
    rows = 0
    for file in paths_of(config, "data.train_files"):
        path = os.path.expanduser(file)
        if not path.endswith(".parquet") or not os.path.isfile(path) or value(config, "data.custom_cls.path"):
            return None
        try:
            with open_rows(Path(path)) as opened:
                rows += opened.num_rows or 0
        except DataFileError:
            return None
    most = value(config, "data.train_max_samples")
    return min(rows, most) if is_number(most, int) and most > 0 else rows


def _data_file_problems(config: DictConfig) -> Iterator[ConfigProblem]:
    """Check the names of data files (``RLHFDataset._read_files_and_tokenize``)."""
    if value(config, "data") is None or value(config, "data.custom_cls.path") is not None:
        return
    made = "Make one with `python -m recipe.treepo.data_prep`."
    for key in ("data.train_files", "data.val_files"):
        files = value(config, key)
        names = listed(files)
        if not names or None in names:
            rule = "verl needs a parquet or JSON file, or a list of them"
            yield ConfigProblem("no_data_file", key, "null", rule, made)
            continue
        if is_list_text(files):
            meant = ",".join(name.strip(" '\"") for name in files[1:-1].split(","))
            rule, remedy = "is a text in quotes, not a list", f"Use {key}=[{meant}], without a second pair of quotes."
            yield ConfigProblem("data_file_list", key, files, rule, remedy)
            continue
        for name in names:
            if not str(name).endswith(SUFFIXES):
                rule = "verl reads files named .parquet, .json and .jsonl only"
                yield ConfigProblem("data_file_type", key, name, rule, made)


# --- model -----------------------------------------------------------------------------------------------------


def _position_problems(config: DictConfig) -> Iterator[ConfigProblem]:
    """Check the engine's context against the model's positions (``vLLMHttpServer._validate_configs``).

    verl compares with ``max_position_embeddings`` as written, without the scaling of rotary embeddings.
    """
    positions, key = model_config(config).get("max_position_embeddings"), f"{ROLLOUT}.max_model_len"
    changed = value(config, "actor_rollout_ref.model.override_config.max_position_embeddings") is not None
    separate = value(config, "actor_rollout_ref.model.hf_config_path") is not None
    if not isinstance(positions, int) or changed or separate or value(config, f"{ROLLOUT}.name") != "vllm":
        return
    context = value(config, key)
    prompt, response = whole(config, f"{ROLLOUT}.prompt_length"), whole(config, f"{ROLLOUT}.response_length")
    if prompt and response and prompt + response > positions:
        cuts = value(config, "treepo.sampler") == "plain"  # verl's sampler shortens what does not fit
        if context is None and not cuts or is_number(context, int) and context > positions:
            rule = f"the model has {positions} positions, but data.max_prompt_length={prompt} and "
            rule += f"data.max_response_length={response} need {prompt + response}"
            remedy = "Use shorter lengths, or a model with more positions."
            yield ConfigProblem("positions_too_few", key, "null" if context is None else context, rule, remedy)
    elif is_number(context, int) and context > positions:
        rule = f"must not exceed the {positions} positions of the model"
        yield ConfigProblem("context_beyond_model", key, context, rule, f"Use {key}={positions}, or null.")


# Linear layers of model families without experts: names that PEFT can find (``check_target_module_exists``).
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "smollm3", "olmo2")
LAYERS = (
    *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    *("lm_head", "embed_tokens"),
)


def _lora_problems(config: DictConfig) -> Iterator[ConfigProblem]:
    """Check the names of layers with LoRA; PEFT refuses a model with none of them."""
    group = "actor_rollout_ref.model"
    key, found = f"{group}.target_modules", value(config, f"{group}.target_modules")
    ours = model_config(config).get("model_type") in FAMILIES and not value(config, f"{group}.trust_remote_code")
    if not whole(config, f"{group}.lora_rank") or not ours or value(config, f"{group}.target_parameters"):
        return
    names = [str(name) for name in found] if OmegaConf.is_list(found) else []
    if isinstance(found, str) and found != "all-linear" and found.isidentifier():
        near = closest_name(found, LAYERS) or LAYERS[0]
        rule = "a single text is a pattern of full names of layers, and none has this name"
        yield ConfigProblem("lora_target", key, found, rule, f"Use {key}=[{near}], or all-linear.")
    elif names and not any(name.rpartition(".")[2] in LAYERS for name in names):
        meant = [known for name in names if (known := closest_name(name, LAYERS))]
        rule = f"the model has none of these layers, but {', '.join(LAYERS[:7])}"
        yield ConfigProblem(
            "lora_target", key, found, rule, f"Use {key}=[{','.join(meant) or LAYERS[0]}], or all-linear."
        )


def _lora_engine_problems(config: DictConfig) -> Iterator[ConfigProblem]:
    """Check that the training engine reads the rank of LoRA; verl would train all weights without a word."""
    group, strategy = "actor_rollout_ref.model", value(config, f"{ACTOR}.strategy")
    for name in ("lora_rank", "lora.rank") if strategy in STRATEGIES else ():
        key, own = f"{group}.{name}", STRATEGIES[strategy]
        if (rank := whole(config, key)) and name != own and not (own and whole(config, f"{group}.{own}")):
            rule = f"verl's engine {strategy} does not read it, and would train all weights"
            remedy = f"Use {key}=0 {group}.{own}={rank}." if own else f"Use {key}=0, or model_engine=dp."
            yield ConfigProblem("lora_unread", key, rank, rule, remedy)


def _packed_model_problems(config: DictConfig) -> Iterator[ConfigProblem]:
    """Check a model that is here for packed training; the engine checks every model after it is loaded."""
    group, found = "actor_rollout_ref.model", model_config(config)
    if not found or value(config, "treepo.packed_training") is not True or value(config, f"{group}.hf_config_path"):
        return
    found |= value(config, f"{group}.override_config") or {}
    if problem := model_problem(found.get("model_type"), found.get("use_sliding_window")):
        yield ConfigProblem("packed_model", "treepo.packed_training", "true", *problem)


# --- the engine ------------------------------------------------------------------------------------------------


def _engine_problems(config: DictConfig) -> Iterator[ConfigProblem]:
    """Check vLLM's own relations (``vllm/config``) and names of its arguments."""
    if value(config, f"{ROLLOUT}.name") != "vllm":
        return
    key, tokens = f"{ROLLOUT}.max_num_batched_tokens", whole(config, f"{ROLLOUT}.max_num_batched_tokens")
    sequences = whole(config, f"{ROLLOUT}.max_num_seqs")
    if tokens and sequences and tokens < sequences:
        rule = f"must not be less than {ROLLOUT}.max_num_seqs={sequences}"
        remedy = f"Use {key}={sequences}, or {ROLLOUT}.max_num_seqs={tokens}."
        yield ConfigProblem("batched_tokens", key, tokens, rule, remedy)
    key, experts = f"{ROLLOUT}.expert_parallel_size", whole(config, f"{ROLLOUT}.expert_parallel_size", 1)
    tensors, data = (whole(config, f"{ROLLOUT}.{name}_parallel_size", 1) for name in ("tensor_model", "data"))
    if experts and tensors and data and experts not in (1, tensors * data):
        rule = f"must be 1, or {ROLLOUT}.tensor_model_parallel_size x data_parallel_size={tensors * data}"
        yield ConfigProblem("expert_parallel", key, experts, rule, f"Use {key}={tensors * data}.")
    key, rank = "actor_rollout_ref.model.lora_rank", whole(config, "actor_rollout_ref.model.lora_rank")
    if rank and rank > MAX_LORA_RANK and not value(config, "actor_rollout_ref.model.lora.merge"):
        rule = f"must not exceed {MAX_LORA_RANK}, vLLM's largest"
        yield ConfigProblem("lora_rank", key, rank, rule, f"Use {key}={MAX_LORA_RANK} or less.")
    arguments = value(config, f"{ROLLOUT}.engine_kwargs.vllm")
    for name in arguments if OmegaConf.is_dict(arguments) else ():
        known, plain, found = _vllm_arguments(), str(name).replace("-", "_"), arguments[name]
        # verl passes neither null, False nor []; vLLM's parser accepts the beginning of a name and --no-NAME
        dropped = found is None or found is False or (OmegaConf.is_list(found) and not found)
        if dropped or any(own.startswith(plain.removeprefix("no_")) for own in known) or not known:
            continue
        group, near = f"{ROLLOUT}.engine_kwargs.vllm", closest_name(plain, known)
        remedy = f"Use +{group}.{near}={written(found)}." if near else "Leave it out."
        yield ConfigProblem("vllm_argument", f"{group}.{name}", found, "vLLM has no such argument", remedy)


@cache
def _vllm_arguments() -> frozenset[str]:
    """Return the names of arguments in vLLM's source, without importing it; empty if it is not installed."""
    spec = find_spec("vllm")
    folder = Path(spec.origin).parent if spec is not None and spec.origin else None
    files = [] if folder is None else [folder / "engine/arg_utils.py", *folder.glob("entrypoints/**/cli_args.py")]
    text = "".join(file.read_text(encoding="utf-8") for file in files if file.is_file())
    names = re.findall(r'"--([a-z][a-z0-9-]*)"|^    (\w+): ', text, re.MULTILINE)
    return frozenset((option or field).replace("-", "_") for option, field in names)
