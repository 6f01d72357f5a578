# SPDX-License-Identifier: Apache-2.0
"""Mistakes in verl's keys, each with its rule, its key, and overrides that mend it as the remedy says."""

import json
import pickle
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from helpers.composition import composed

A, R, C, REF = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "critic", "actor_rollout_ref.ref"
MODEL, CORRECTION = "actor_rollout_ref.model", "algorithm.rollout_correction"
V1, MODELS = "trainer.v1", "reward.reward_model"
SEPARATE = (f"{V1}.trainer_mode=treepo_separate_async", f"{V1}.separate_async.parameter_sync_step=1")
SERVERS = (f"{R}.nnodes=1", f"{R}.checkpoint_engine.backend=nccl")
FIXED = (f"{A}.use_dynamic_bsz=False", f"{R}.log_prob_micro_batch_size_per_gpu=1")
TWO = ("trainer.n_gpus_per_node=2", "ray_kwargs.ray_init.num_gpus=2")
GAE = "algorithm.adv_estimator=gae"
OWN = "reward.custom_reward_function"
CLUSTER = "ray_kwargs.ray_init"
QUEUE = "transfer_queue"


@dataclass(frozen=True)
class Mistake:
    """Overrides of the embedded run, and what is wrong with them.

    Attributes:
        overrides: Overrides, separated by spaces.
        rule: Rule id of the only problem.
        key: Key of the problem.
        mended: Overrides after which there is no problem, separated by spaces.
        named: Whether the remedy contains each of them.
    """

    overrides: str
    rule: str
    key: str
    mended: str
    named: bool = True


def words(*parts: str) -> str:
    return " ".join(parts)


MISTAKES = (
    # former keys
    Mistake(
        "custom_reward_function.path=my.py",
        "former_key",
        "custom_reward_function.path",
        f"{OWN}.path=my.py {OWN}.name=score",
        named=False,
    ),
    Mistake(
        "reward_model.reward_manager=dapo",
        "former_key",
        "reward_model.reward_manager",
        "reward.reward_manager.name=dapo",
    ),
    Mistake("reward_model.model.path=m", "former_key", "reward_model.model.path", f"{MODELS}.model_path=m"),
    Mistake("sandbox_fusion.url=http://x", "former_key", "sandbox_fusion.url", "reward.sandbox_fusion.url=http://x"),
    Mistake(
        words(*FIXED, f"{A}.ppo_micro_batch_size=4"),
        "former_micro_batch",
        f"{A}.ppo_micro_batch_size",
        f"{A}.ppo_micro_batch_size=null {A}.ppo_micro_batch_size_per_gpu=4",
    ),
    Mistake(
        f"{GAE} critic.use_dynamic_bsz=False critic.ppo_micro_batch_size=4",
        "former_micro_batch",
        "critic.ppo_micro_batch_size",
        "critic.ppo_micro_batch_size=null critic.ppo_micro_batch_size_per_gpu=4",
    ),
    # numbers
    Mistake(f"{R}.n=0", "verl_number", f"{R}.n", f"{R}.n=8"),
    Mistake(f"{R}.n=True", "verl_number", f"{R}.n", f"{R}.n=8"),
    Mistake(f"{R}.top_p=1.5", "verl_number", f"{R}.top_p", f"{R}.top_p=1.0"),
    Mistake(f"{R}.top_k=-2", "verl_number", f"{R}.top_k", f"{R}.top_k=-1"),
    Mistake(
        f"{R}.gpu_memory_utilization=0", "verl_number", f"{R}.gpu_memory_utilization", f"{R}.gpu_memory_utilization=0.5"
    ),
    Mistake(
        f"{R}.val_kwargs.temperature=-1",
        "verl_number",
        f"{R}.val_kwargs.temperature",
        f"{R}.val_kwargs.temperature=1.0",
    ),
    Mistake(f"{A}.optim.lr=1e-6x", "verl_number", f"{A}.optim.lr", f"{A}.optim.lr=1e-06"),
    Mistake(f"{A}.optim.lr=-1e-6", "verl_number", f"{A}.optim.lr", f"{A}.optim.lr=1e-06"),
    Mistake(
        f"{A}.optim.lr_warmup_steps_ratio=2",
        "verl_number",
        f"{A}.optim.lr_warmup_steps_ratio",
        f"{A}.optim.lr_warmup_steps_ratio=0.0",
    ),
    Mistake(f"{A}.clip_ratio_c=1.0", "verl_number", f"{A}.clip_ratio_c", f"{A}.clip_ratio_c=3.0"),
    Mistake(f"{A}.ppo_epochs=0", "verl_number", f"{A}.ppo_epochs", f"{A}.ppo_epochs=1"),
    Mistake("algorithm.gamma=1.1", "verl_number", "algorithm.gamma", "algorithm.gamma=1.0"),
    Mistake(
        "data.max_prompt_length=0", "verl_number", "data.max_prompt_length", "data.max_prompt_length=192", named=False
    ),
    Mistake("trainer.total_epochs=0", "verl_number", "trainer.total_epochs", "trainer.total_epochs=1"),
    Mistake("trainer.save_freq=often", "verl_number", "trainer.save_freq", "trainer.save_freq=-1"),
    Mistake(f"{GAE} critic.optim.lr=fast", "verl_number", "critic.optim.lr", "critic.optim.lr=1e-06"),
    Mistake(f"{A}.fsdp_config.fsdp_size=0", "fsdp_size", f"{A}.fsdp_config.fsdp_size", f"{A}.fsdp_config.fsdp_size=-1"),
    Mistake(f"{A}.optim.betas=[0.9]", "betas", f"{A}.optim.betas", f"{A}.optim.betas=[0.9,0.999]"),
    Mistake(f"{A}.optim.betas=[0.9,1.0]", "betas", f"{A}.optim.betas", f"{A}.optim.betas=[0.9,0.999]"),
    Mistake(f"{GAE} critic.optim.betas=0.9", "betas", "critic.optim.betas", "critic.optim.betas=[0.9,0.999]"),
    Mistake(f"{R}.seed=null", "verl_number", f"{R}.seed", f"{R}.seed=42"),
    Mistake("trainer.rollout_data_dir=5", "verl_text", "trainer.rollout_data_dir", "trainer.rollout_data_dir=null"),
    Mistake("algorithm.adv_estimator=null", "verl_text", "algorithm.adv_estimator", "algorithm.adv_estimator=grpo"),
    Mistake(
        "trainer.default_local_dir=null",
        "verl_text",
        "trainer.default_local_dir",
        "trainer.default_local_dir=checkpoints",
    ),
    # keys without an effect
    Mistake(f"{R}.enable_sleep_mode=True", "sleep_mode", f"{R}.enable_sleep_mode", f"{R}.enable_sleep_mode=False"),
    Mistake(f"{CLUSTER}.num_cpus=1", "ray_cpus", f"{CLUSTER}.num_cpus", f"{CLUSTER}.num_cpus=16"),
    Mistake(f"{CLUSTER}.num_cpus=4", "ray_cpus", f"{CLUSTER}.num_cpus", f"{CLUSTER}.num_cpus=16"),
    # names
    Mistake(f"{R}.quantization=fp9", "verl_choice", f"{R}.quantization", f"{R}.quantization=fp8", named=False),
    Mistake(
        "transfer_queue.backend.storage_backend=simplestorag",
        "verl_choice",
        f"{QUEUE}.backend.storage_backend",
        "transfer_queue.backend.storage_backend=SimpleStorage",
    ),
    Mistake(f"{R}.dtype=bf16", "verl_choice", f"{R}.dtype", f"{R}.dtype=bfloat16"),
    Mistake(
        f"{MODEL}.override_config.attn_implementation=flash_attn",
        "verl_choice",
        f"{MODEL}.override_config.attn_implementation",
        f"{MODEL}.override_config.attn_implementation=flash_attention_2",
    ),
    Mistake("trainer.device=gpu", "verl_choice", "trainer.device", "trainer.device=cuda"),
    Mistake("trainer.resume_mode=False", "verl_choice", "trainer.resume_mode", "trainer.resume_mode=disable"),
    Mistake("trainer.logger='console,wandb'", "verl_choice", "trainer.logger", "trainer.logger=[console,wandb]"),
    Mistake("trainer.logger=[console,xyz]", "verl_choice", "trainer.logger", "trainer.logger=[console]"),
    Mistake(f"{A}.loss_agg_mode=token_mean", "verl_choice", f"{A}.loss_agg_mode", f"{A}.loss_agg_mode=token-mean"),
    Mistake(
        f"{A}.use_kl_loss=True {A}.kl_loss_type=low_var",
        "verl_choice",
        f"{A}.kl_loss_type",
        f"{A}.kl_loss_type=low_var_kl",
    ),
    Mistake(
        "algorithm.use_kl_in_reward=True algorithm.kl_penalty=full",
        "verl_choice",
        "algorithm.kl_penalty",
        "algorithm.kl_penalty=kl",
        named=False,
    ),
    Mistake("trainer.logger=[console,wandbb]", "verl_choice", "trainer.logger", "trainer.logger=[console,wandb]"),
    Mistake("trainer.resume_mode=autoo", "verl_choice", "trainer.resume_mode", "trainer.resume_mode=auto"),
    Mistake(f"{R}.dtype=floats32", "verl_choice", f"{R}.dtype", f"{R}.dtype=float32"),
    Mistake(f"{R}.load_format=dummy_dtensor", "verl_choice", f"{R}.load_format", f"{R}.load_format=dummy", named=False),
    Mistake(f"{R}.mode=sync", "verl_choice", f"{R}.mode", f"{R}.mode=async"),
    Mistake(
        f"{A}.optim.lr_scheduler_type=cosin",
        "verl_choice",
        f"{A}.optim.lr_scheduler_type",
        f"{A}.optim.lr_scheduler_type=cosine",
    ),
    Mistake(
        f"{A}.checkpoint.save_contents=[models]",
        "verl_choice",
        f"{A}.checkpoint.save_contents",
        f"{A}.checkpoint.save_contents=[model]",
    ),
    Mistake(
        f"{MODEL}.override_config.attn_implementation=spda",
        "verl_choice",
        f"{MODEL}.override_config.attn_implementation",
        f"{MODEL}.override_config.attn_implementation=sdpa",
    ),
    Mistake(f"{A}.strategy=megatron", "strategy", f"{A}.strategy", f"{A}.strategy=fsdp2"),
    Mistake(f"{R}.name=trtllm", "unfit_engine", f"{R}.name", f"{R}.name=vllm"),
    Mistake(
        f"{R}.name=sglang {R}.max_model_len=320",
        "context_too_short",
        f"{R}.max_model_len",
        f"{R}.max_model_len=321",
        False,
    ),
    Mistake(
        f"{R}.name=sglang {R}.max_model_len=null {R}.full_determinism=True",
        "request_seed",
        f"{R}.full_determinism",
        f"{R}.full_determinism=False",
    ),
    # micro-batches
    Mistake(
        words(*FIXED, f"{A}.ppo_micro_batch_size_per_gpu=1 {R}.log_prob_use_dynamic_bsz=True"),
        "dynamic_unequal",
        f"{R}.log_prob_use_dynamic_bsz",
        f"{R}.log_prob_use_dynamic_bsz=False",
    ),
    Mistake(
        words(*FIXED), "micro_batch_missing", f"{A}.ppo_micro_batch_size_per_gpu", f"{A}.ppo_micro_batch_size_per_gpu=1"
    ),
    Mistake(words(*FIXED), "micro_batch_missing", f"{A}.ppo_micro_batch_size_per_gpu", f"{A}.use_dynamic_bsz=True"),
    Mistake(
        words(*FIXED, f"{A}.ppo_micro_batch_size_per_gpu=3"),
        "micro_batch_division",
        f"{A}.ppo_micro_batch_size_per_gpu",
        f"{A}.ppo_micro_batch_size_per_gpu=1",
    ),
    Mistake(
        f"{A}.use_dynamic_bsz=False {A}.ppo_micro_batch_size_per_gpu=1 {R}.log_prob_micro_batch_size_per_gpu=3",
        "micro_batch_division",
        f"{R}.log_prob_micro_batch_size_per_gpu",
        f"{R}.log_prob_micro_batch_size_per_gpu=1",
    ),
    Mistake(
        f"{A}.use_kl_loss=True {REF}.log_prob_use_dynamic_bsz=False {REF}.log_prob_micro_batch_size_per_gpu=3",
        "micro_batch_division",
        f"{REF}.log_prob_micro_batch_size_per_gpu",
        f"{REF}.log_prob_micro_batch_size_per_gpu=1",
    ),
    Mistake(
        f"{A}.use_kl_loss=True {REF}.log_prob_use_dynamic_bsz=False",
        "micro_batch_missing",
        f"{REF}.log_prob_micro_batch_size_per_gpu",
        f"{REF}.log_prob_use_dynamic_bsz=True",
    ),
    Mistake(
        f"{A}.ppo_max_token_len_per_gpu=319",
        "token_limit",
        f"{A}.ppo_max_token_len_per_gpu",
        f"{A}.ppo_max_token_len_per_gpu=320",
    ),
    Mistake(
        f"{GAE} +critic.ppo_infer_max_token_len_per_gpu=319",
        "token_limit",
        "critic.ppo_infer_max_token_len_per_gpu",
        "critic.ppo_infer_max_token_len_per_gpu=320",
    ),
    Mistake(
        words(*FIXED, f"{A}.ppo_micro_batch_size_per_gpu=1 data.train_batch_size=8"),
        "batch_below_mini_batch",
        "data.train_batch_size",
        "data.train_batch_size=16",
    ),
    Mistake("data.gen_batch_size=5", "gen_batch_division", "data.gen_batch_size", "data.gen_batch_size=1"),
    # GPUs
    Mistake(
        "trainer.n_gpus_per_node=3 ray_kwargs.ray_init.num_gpus=3",
        "gpus_mini_batch",
        "trainer.n_gpus_per_node",
        "trainer.n_gpus_per_node=2",
    ),
    Mistake(
        "trainer.n_gpus_per_node=3 ray_kwargs.ray_init.num_gpus=3",
        "gpus_mini_batch",
        "trainer.n_gpus_per_node",
        f"{A}.ppo_mini_batch_size=18 data.train_batch_size=18",
        named=False,
    ),
    Mistake("trainer.n_gpus_per_node=2", "ray_gpus", f"{CLUSTER}.num_gpus", f"{CLUSTER}.num_gpus=2"),
    Mistake(
        words(*TWO, f"{A}.fsdp_config.ulysses_sequence_parallel_size=2"),
        "sequence_parallel_padding",
        f"{A}.fsdp_config.ulysses_sequence_parallel_size",
        f"{MODEL}.use_remove_padding=True",
    ),
    Mistake(
        words(*TWO, f"{A}.ulysses_sequence_parallel_size=4 {MODEL}.use_remove_padding=True"),
        "sequence_parallel_gpus",
        f"{A}.ulysses_sequence_parallel_size",
        f"{A}.ulysses_sequence_parallel_size=2",
    ),
    Mistake(
        words(*TWO, f"{A}.ulysses_sequence_parallel_size=2 {MODEL}.use_remove_padding=True {MODEL}.path=three"),
        "sequence_parallel_heads",
        f"{A}.ulysses_sequence_parallel_size",
        f"{A}.ulysses_sequence_parallel_size=1",
    ),
    Mistake(
        f"trainer.n_gpus_per_node=4 {CLUSTER}.num_gpus=4 {A}.fsdp_config.fsdp_size=3",
        "fsdp_size_gpus",
        f"{A}.fsdp_config.fsdp_size",
        f"{A}.fsdp_config.fsdp_size=1",
    ),
    Mistake(
        words(*TWO, f"{R}.tensor_model_parallel_size=2 {MODEL}.path=three"),
        "tensor_parallel_heads",
        f"{R}.tensor_model_parallel_size",
        f"{R}.tensor_model_parallel_size=1",
    ),
    Mistake(
        f"trainer.n_gpus_per_node=2 {CLUSTER}.num_gpus=2 {R}.pipeline_model_parallel_size=2",
        "pipeline_parallel",
        f"{R}.pipeline_model_parallel_size",
        f"{R}.pipeline_model_parallel_size=1",
    ),
    Mistake(
        f"{R}.expert_parallel_size=3", "expert_parallel", f"{R}.expert_parallel_size", f"{R}.expert_parallel_size=1"
    ),
    Mistake(
        f"+{CLUSTER}.address=1.2.3.4:5",
        "cluster_resources",
        f"{CLUSTER}.num_cpus",
        f"{CLUSTER}.num_cpus=null {CLUSTER}.num_gpus=null",
    ),
    # data and model
    Mistake("data.train_files=null", "no_data_file", "data.train_files", "data.train_files=rows.parquet", named=False),
    Mistake("data.val_files=[]", "no_data_file", "data.val_files", "data.val_files=rows.parquet", named=False),
    Mistake(
        "data.train_files=table.csv", "data_file_type", "data.train_files", "data.train_files=rows.parquet", named=False
    ),
    Mistake(
        'data.train_files=\'["rows.parquet","rows.parquet"]\'',
        "data_file_list",
        "data.train_files",
        "data.train_files=[rows.parquet,rows.parquet]",
        named=False,
    ),
    Mistake(
        "data.train_files=rows.parquet data.train_batch_size=41",
        "batch_beyond_rows",
        "data.train_batch_size",
        "data.train_batch_size=40",
    ),
    Mistake(
        "data.train_files=[rows.parquet,rows.parquet] data.train_max_samples=15",
        "batch_beyond_rows",
        "data.train_batch_size",
        "data.train_batch_size=15",
    ),
    Mistake(
        f"{MODEL}.path=three {R}.max_model_len=null data.max_prompt_length=385",
        "positions_too_few",
        f"{R}.max_model_len",
        "data.max_prompt_length=384",
        named=False,
    ),
    Mistake(
        f"{MODEL}.path=three {R}.max_model_len=513",
        "context_beyond_model",
        f"{R}.max_model_len",
        f"{R}.max_model_len=512",
    ),
    Mistake(
        f"{R}.max_num_batched_tokens=255",
        "batched_tokens",
        f"{R}.max_num_batched_tokens",
        f"{R}.max_num_batched_tokens=256",
    ),
    Mistake(
        f"{MODEL}.lora_rank=8 {MODEL}.target_modules=[q_prj,v_proy] {MODEL}.path=llama",
        "lora_target",
        f"{MODEL}.target_modules",
        f"{MODEL}.target_modules=[q_proj,v_proj]",
    ),
    Mistake(
        f"{MODEL}.lora_rank=8 {MODEL}.target_modules=q_proj {MODEL}.path=llama",
        "lora_target",
        f"{MODEL}.target_modules",
        f"{MODEL}.target_modules=[q_proj]",
    ),
    Mistake(f"{MODEL}.lora.rank=8", "lora_unread", f"{MODEL}.lora.rank", f"{MODEL}.lora.rank=0 {MODEL}.lora_rank=8"),
    Mistake(
        f"{MODEL}.path=mistral treepo.packed_training=True",
        "packed_model",
        "treepo.packed_training",
        "treepo.packed_training=false",
    ),
    Mistake(
        f"{MODEL}.path=windows treepo.packed_training=True",
        "packed_model",
        "treepo.packed_training",
        f"{MODEL}.override_config.use_sliding_window=false",
        named=False,
    ),
    Mistake(f"{MODEL}.lora_rank=600", "lora_rank", f"{MODEL}.lora_rank", f"{MODEL}.lora_rank=512"),
    Mistake(
        f"+{R}.engine_kwargs.vllm.max_num_seqss=3",
        "vllm_argument",
        f"{R}.engine_kwargs.vllm.max_num_seqss",
        f"~{R}.engine_kwargs.vllm.max_num_seqss +{R}.engine_kwargs.vllm.max_num_seqs=3",
        named=False,
    ),
    Mistake(
        f"+{R}.engine_kwargs.vllm.swap_space=0",
        "vllm_argument",
        f"{R}.engine_kwargs.vllm.swap_space",
        f"~{R}.engine_kwargs.vllm.swap_space",
        named=False,
    ),
    Mistake(
        f"+{R}.engine_kwargs.vllm.swap_space=4",
        "vllm_argument",
        f"{R}.engine_kwargs.vllm.swap_space",
        f"~{R}.engine_kwargs.vllm.swap_space",
        named=False,
    ),
    # resuming
    Mistake(
        "trainer.resume_mode=resume_path", "resume_path_missing", "trainer.resume_from_path", "trainer.resume_mode=auto"
    ),
    Mistake(
        "trainer.resume_mode=resume_path trainer.resume_from_path=run",
        "resume_path_name",
        "trainer.resume_from_path",
        "trainer.resume_from_path=run/global_step_5",
        named=False,
    ),
    Mistake(
        "trainer.resume_mode=resume_path trainer.resume_from_path=run/global_step_6",
        "resume_path_absent",
        "trainer.resume_from_path",
        "trainer.resume_from_path=run/global_step_5",
        named=False,
    ),
    Mistake(
        "trainer.default_local_dir=torn",
        "resume_latest",
        "trainer.default_local_dir",
        "trainer.resume_mode=disable",
    ),
    Mistake(
        "trainer.default_local_dir=emptied",
        "resume_latest",
        "trainer.default_local_dir",
        "trainer.resume_mode=disable",
    ),
    Mistake(
        "trainer.default_local_dir=run trainer.total_training_steps=4",
        "resume_past_end",
        "trainer.default_local_dir",
        "trainer.total_training_steps=5",
        named=False,
    ),
    Mistake(
        "trainer.resume_mode=resume_path trainer.resume_from_path=run/global_step_5 trainer.total_training_steps=4",
        "resume_past_end",
        "trainer.resume_from_path",
        "trainer.val_only=True",
    ),
    # the user's code
    Mistake(f"{OWN}.name=computescore", "code_name", f"{OWN}.name", f"{OWN}.name=compute_score"),
    Mistake(f"{OWN}.path=my.py {OWN}.name=scor", "code_name", f"{OWN}.name", f"{OWN}.name=score"),
    Mistake(f"{OWN}.path=my.py {OWN}.name=null", "code_name_missing", f"{OWN}.name", f"{OWN}.name=score", named=False),
    Mistake(f"{OWN}.path=broken.py", "code_syntax", f"{OWN}.path", f"{OWN}.path=my.py {OWN}.name=score", named=False),
    Mistake(
        f"{OWN}.path=pkg://recipe.treepo.rewards",
        "code_module_missing",
        f"{OWN}.path",
        f"{OWN}.path=pkg://recipe.treepo.reward",
        named=False,
    ),
    Mistake(f"{OWN}.path=my.py {OWN}.name=short", "reward_parameters", f"{OWN}.name", f"{OWN}.name=score", named=False),
    Mistake(
        f"{OWN}.path=my.py {OWN}.name=score +{OWN}.reward_kwargs.factor=2",
        "reward_kwarg",
        f"{OWN}.reward_kwargs.factor",
        f"~{OWN}.reward_kwargs.factor",
        named=False,
    ),
    Mistake(
        "data.custom_cls.path=my.py data.custom_cls.name=Row",
        "code_name",
        "data.custom_cls.name",
        "data.custom_cls.name=Rows",
    ),
    Mistake(
        "reward.reward_manager.source=importlib",
        "manager_path",
        "reward.reward_manager.module.path",
        "reward.reward_manager.source=register",
    ),
    Mistake(
        "trainer.checkpoint_callback_class=nowhere.Callback",
        "class_module",
        "trainer.checkpoint_callback_class",
        "trainer.checkpoint_callback_class=null",
        named=False,
    ),
    Mistake(
        "trainer.checkpoint_callback_class=recipe.treepo.reward.Callback",
        "class_name_unknown",
        "trainer.checkpoint_callback_class",
        "trainer.checkpoint_callback_class=null",
        named=False,
    ),
    # algorithms
    Mistake(
        "algorithm.adv_estimator=remax", "estimator_unfed", "algorithm.adv_estimator", "algorithm.adv_estimator=grpo"
    ),
    Mistake(f"{GAE} critic.enable=False", "gae_without_critic", "critic.enable", "critic.enable=True"),
    Mistake(
        "actor_rollout_ref.hybrid_engine=False",
        "hybrid_engine",
        "actor_rollout_ref.hybrid_engine",
        "actor_rollout_ref.hybrid_engine=True",
    ),
    Mistake(
        f"{CORRECTION}.bypass_mode=True {R}.calculate_log_probs=False",
        "no_log_probs",
        f"{CORRECTION}.bypass_mode",
        f"{R}.calculate_log_probs=True",
    ),
    Mistake(
        f"{CORRECTION}.rollout_is=token {CORRECTION}.rollout_is_threshold=0",
        "weight_threshold",
        f"{CORRECTION}.rollout_is_threshold",
        f"{CORRECTION}.rollout_is_threshold=2.0",
    ),
    Mistake(
        f"{CORRECTION}.rollout_rs=seq_k1 {CORRECTION}.rollout_rs_threshold=2",
        "rejection",
        f"{CORRECTION}.rollout_rs",
        f"{CORRECTION}.rollout_rs=seq_mean_k1",
    ),
    Mistake(
        f"{CORRECTION}.rollout_rs=seq_mean_k1",
        "rejection_threshold",
        f"{CORRECTION}.rollout_rs_threshold",
        f"{CORRECTION}.rollout_rs_threshold=2.0",
    ),
    Mistake(
        "trainer.val_only=True trainer.val_before_train=False",
        "val_only",
        "trainer.val_only",
        "trainer.val_before_train=True",
    ),
    Mistake(
        f"algorithm.filter_groups.enable=True algorithm.filter_groups.metric=null {OWN}.path=my.py {OWN}.name=score",
        "filter_metric",
        "algorithm.filter_groups.metric",
        "algorithm.filter_groups.metric=acc",
    ),
    Mistake(
        f"algorithm.filter_groups.enable=True {MODELS}.enable=True {MODELS}.model_path=m {MODELS}.rollout.name=vllm",
        "filter_reward_model",
        "algorithm.filter_groups.enable",
        "algorithm.filter_groups.enable=False",
    ),
    Mistake("distillation.enabled=True", "teacher_gpus", "distillation.nnodes", "distillation.nnodes=1"),
    # servers with GPUs of their own
    Mistake(
        words(*SEPARATE, *SERVERS, "data.train_batch_size=32"),
        "separate_batch",
        "data.train_batch_size",
        "data.train_batch_size=16",
    ),
    Mistake(words(*SEPARATE, SERVERS[1]), "separate_gpus", f"{R}.nnodes", f"{R}.nnodes=1"),
    Mistake(
        words(*SEPARATE, SERVERS[0], f"{R}.checkpoint_engine.backend=naive"),
        "separate_weights",
        f"{R}.checkpoint_engine.backend",
        f"{R}.checkpoint_engine.backend=gloo",
    ),
    Mistake(
        f"{MODELS}.enable=True {MODELS}.rollout.name=vllm",
        "reward_model_path",
        f"{MODELS}.model_path",
        f"{MODELS}.model_path=m",
        named=False,
    ),
    Mistake(
        f"{MODELS}.enable=True {MODELS}.model_path=m",
        "reward_model_engine",
        f"{MODELS}.rollout.name",
        f"{MODELS}.rollout.name=vllm",
    ),
    Mistake(
        f"{MODELS}.enable=True {MODELS}.model_path=m {MODELS}.rollout.name=vllm {MODELS}.enable_resource_pool=True",
        "reward_model_gpus",
        f"{MODELS}.nnodes",
        f"{MODELS}.nnodes=1",
    ),
    Mistake(
        "data.train_batch_size=${nowhere}",
        "unresolved",
        "data.train_batch_size",
        "data.train_batch_size=16",
        named=False,
    ),
)

# Values near those of the mistakes that verl accepts.
FINE = (
    "custom_reward_function.path=null reward_model.enable=False",
    f"{R}.top_p=1 {R}.top_k=0 {R}.temperature=0.1 {R}.gpu_memory_utilization=1",
    f"{A}.optim.lr=0 {A}.optim.weight_decay=0 {A}.optim.lr_warmup_steps=10 {A}.optim.min_lr_ratio=null",
    f"{A}.clip_ratio_low=10 {A}.clip_ratio_high=null {A}.entropy_coeff=-0.001 {A}.clip_ratio=0",
    f"{A}.policy_loss.loss_mode=gspo {A}.clip_ratio_c=1.0 {A}.clip_ratio_low=0.0003",
    f"{A}.kl_loss_type=misspelt algorithm.kl_penalty=full",  # unused
    f"{A}.use_kl_loss=True {A}.kl_loss_type=k3+",
    "trainer.save_freq=0 trainer.test_freq=-1 trainer.total_training_steps=null trainer.max_actor_ckpt_to_keep=0",
    "trainer.val_only=True trainer.total_epochs=0",
    "trainer.logger=console",
    "trainer.logger=[tracking,file]",
    f"{A}.ppo_max_token_len_per_gpu=320 {R}.log_prob_max_token_len_per_gpu=320",
    f"{A}.optim.warmup_style=cosine {A}.fsdp_config.model_dtype=bf16 {A}.loss_agg_mode=seq-mean-token-sum-norm",
    f"{A}.ppo_micro_batch_size_per_gpu=3",  # unused with use_dynamic_bsz
    words(*FIXED, f"{A}.ppo_micro_batch_size_per_gpu=4"),
    words(FIXED[0], f"{A}.ppo_micro_batch_size_per_gpu=1 {R}.log_prob_micro_batch_size_per_gpu=64"),
    f"data.train_batch_size=8 {A}.ppo_mini_batch_size=16",  # verl pads the batch
    words(*TWO, f"{A}.ulysses_sequence_parallel_size=2 {MODEL}.use_remove_padding=True"),
    words(
        *TWO,
        f"{A}.ulysses_sequence_parallel_size=2 {MODEL}.use_remove_padding=True",
        f"{A}.ppo_max_token_len_per_gpu=160",
    ),
    words("trainer.n_gpus_per_node=2", f"{CLUSTER}.num_gpus=null"),
    f"+{CLUSTER}.address=local",
    f"{A}.fsdp_config.fsdp_size=8",
    f"{R}.name=trtllm treepo.sampler=plain",
    f"{R}.name=sglang treepo.sampler=plain",
    f"{R}.name=sglang {R}.max_model_len=321",
    f"{R}.name=sglang {R}.max_model_len=320 {R}.full_determinism=True treepo.sampler=plain",
    f"{MODEL}.path=mistral",
    f"{MODEL}.path=llama treepo.packed_training=True",
    f"{MODEL}.path=mistral {MODEL}.hf_config_path=llama treepo.packed_training=True",  # the engine checks it
    f"{MODEL}.lora_rank=8 {MODEL}.lora.rank=8",
    f"{R}.max_model_len=null {MODEL}.path=Qwen/Qwen2.5-0.5B data.max_prompt_length=4096",
    f"{R}.max_model_len=null {MODEL}.path=three data.max_prompt_length=384",
    f"{R}.max_model_len=null {MODEL}.path=three data.max_prompt_length=500 treepo.sampler=plain",
    "data.train_files=rows.parquet data.train_batch_size=40",
    "data.train_files=[rows.parquet,rows.parquet] data.train_batch_size=80",
    "data.train_files=rows.parquet data.train_batch_size=41 trainer.val_only=True",
    "data.train_files=rows.jsonl data.train_batch_size=4000",
    "data.train_files=table.csv data.val_files=null data.custom_cls.path=my.py data.custom_cls.name=Rows",
    "data.gen_batch_size=4",
    "trainer.resume_mode=resume_path trainer.resume_from_path=run/global_step_5",
    "trainer.resume_mode=disable trainer.resume_from_path=run/global_step_5",
    "trainer.default_local_dir=run trainer.total_training_steps=5",
    f"{OWN}.path=my.py {OWN}.name=score",
    f"{OWN}.path=my.py {OWN}.name=keywords +{OWN}.reward_kwargs.factor=2",
    f"{OWN}.path=my.py {OWN}.name=decorated",
    f"{OWN}.path=dynamic.py {OWN}.name=made",
    f"{OWN}.path=module.py {OWN}.name=made",
    f"{OWN}.path=set.py {OWN}.name=made",
    f"{OWN}.path=absent.py {OWN}.name=f",  # another rule is for missing files
    f"{OWN}.path=null",
    "reward.reward_manager.source=importlib reward.reward_manager.module.path=my.py reward.reward_manager.name=Rows",
    f"{CORRECTION}.rollout_is=sequence {CORRECTION}.rollout_is_threshold=0.5_5.0",
    f"{CORRECTION}.rollout_rs='token_k1,seq_max_k2' {CORRECTION}.rollout_rs_threshold='0.6_1.6,2.5'",
    words(*SEPARATE, *SERVERS),
    f"{GAE} critic.ppo_max_token_len_per_gpu=100",  # verl's trainer reads another key
    f"{MODELS}.enable=True {MODELS}.model_path=m {MODELS}.rollout.name=vllm",
    f"+{R}.engine_kwargs.vllm.max_num_seq=3",  # vLLM's parser accepts the beginning of a name
    f"+{R}.engine_kwargs.vllm.no-enable-chunked-prefill=true +{R}.engine_kwargs.vllm.swap_space=null",
    f"+{R}.engine_kwargs.vllm.swap_space=[]",
    f"{R}.name=sglang treepo.sampler=plain +{R}.engine_kwargs.vllm.swap_space=4",  # unused
    f"{R}.quantization=fp8 transfer_queue.backend.storage_backend=SimpleStorage",
    f"{R}.free_cache_engine=True",  # vLLM ignores it on a CPU
    f"{A}.grad_clip=0.5",  # noted
    f"{MODEL}.lora_rank=8 {MODEL}.lora_alpha=16.0",
    "trainer.project_name=null trainer.experiment_name=null",
    f"{A}.grad_clip=1.0 {A}.optim.clip_grad=0.5",
    f"{A}.optim.betas=[0,0.95] critic.optim.betas=0.9",
    f"{A}.optim.optimizer=SGD {A}.optim.betas=null",
    f"{MODEL}.lora_rank=8 {MODEL}.target_modules=[model.layers.0.self_attn.q_proj] {MODEL}.path=llama",
    f"{MODEL}.lora_rank=8 {MODEL}.target_modules='.*(q|v)_proj' {MODEL}.path=llama",
    f"{MODEL}.lora_rank=8 {MODEL}.target_modules=all-linear {MODEL}.path=llama",
    f"{MODEL}.lora_rank=8 {MODEL}.target_modules=[Wqkv] {MODEL}.path=three",  # an unknown family
    f"{MODEL}.target_modules=[q_prj] {MODEL}.path=llama",  # without LoRA
    f"{CLUSTER}.num_cpus=5",
    f"{CLUSTER}.num_cpus=null",
    "trainer.default_local_dir=run trainer.total_training_steps=6",
    "trainer.default_local_dir=run trainer.total_training_steps=5 trainer.resume_mode=disable",
    "trainer.default_local_dir=torn trainer.resume_mode=disable",
    "trainer.default_local_dir=hdfs://torn",
    f"{MODEL}.override_config.attn_implementation=kernels-community/flash-attn",
    f"{A}.loss_agg_mode=misspelt trainer.val_only=True",
)

FILES = {
    "my.py": """
from typing import Any as Given
def score(data_source, solution_str, ground_truth, extra_info=None): return 1
def keywords(**given): return 1
def short(solution_str): return 1
decorated = print
class Rows: pass
""",
    "broken.py": "def f(:",
    "imports.py": "import os\nfrom nowhere.at_all import f\ndef compute_score(**given): ...",
    "beside.py": "import helper_beside\ndef compute_score(**given): ...",
    "helper_beside.py": "",
    "careful.py": """
from __future__ import annotations
import json, os.path
from xml.dom import minidom
try:
    import nowhere
except ImportError:
    nowhere = None
def compute_score(**given):
    import nowhere_at_all
""",
    "dynamic.py": "globals()['made'] = print",
    "module.py": "import sys\nsys.modules[__name__].made = print",
    "set.py": "import sys\nsetattr(sys.modules[__name__], 'made', print)",
    "site.py": "import site\nsite.addsitedir('lib')\nimport nowhere",
    "table.csv": "a,b",
    "rows.jsonl": '{"a": 1}',
}


def make_files(folder: Path) -> None:
    """Write the files that the overrides name: code, 40 rows, models, a checkpoint, runs without theirs."""
    for name, text in FILES.items():
        (folder / name).write_text(text)
    pd.DataFrame({"prompt": range(40)}).to_parquet(folder / "rows.parquet")
    (folder / "three").mkdir()
    numbers = {"num_attention_heads": 3, "max_position_embeddings": 512, "rope_scaling": {"factor": 4.0}}
    (folder / "three/config.json").write_text(json.dumps(numbers))
    for name, config in {
        "llama": {"model_type": "llama"},
        "mistral": {"model_type": "mistral"},
        "windows": {"model_type": "qwen2", "use_sliding_window": True},
    }.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config))
    (folder / "run/global_step_5/actor").mkdir(parents=True)
    for run, latest in {"run": "5", "torn": "", "emptied": "7"}.items():
        (folder / run).mkdir(exist_ok=True)
        (folder / run / "latest_checkpointed_iteration.txt").write_text(latest)


@cache
def _tiny() -> bytes:
    return pickle.dumps(composed("platform=cpu", "preset=tiny"))  # four times as fast as a deep copy


def tiny_with(overrides: str) -> DictConfig:
    """Return the embedded run with overrides of single keys, without composing it again."""
    return changed(pickle.loads(_tiny()), overrides)


def changed(config: DictConfig, overrides: str) -> DictConfig:
    """Apply overrides of single keys to a configuration and return it."""
    for override in OverridesParser.create().parse_overrides(overrides.split()):
        if override.is_delete():
            group, _, last = override.key_or_group.rpartition(".")
            with open_dict(config):
                del OmegaConf.select(config, group)[last]
        else:
            OmegaConf.update(config, override.key_or_group, override.value(), force_add=True)
    return config
