# SPDX-License-Identifier: Apache-2.0
"""Contract with verl, vLLM, transformers, Ray and torch: every part of them that our code depends on.

A failure names in one line the missing part and our files that use it. ``docs/design/versions.md`` describes the move
to another version of verl. The tests at the end find uses without a row in the table.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec
from importlib.metadata import distributions
from types import ModuleType
from typing import Any

import pytest

from helpers.touch_points import (
    Kind,
    NotInstalled,
    TouchPoint,
    digest,
    imported_names,
    inherited_names,
    keys_of_ours,
    our_classes,
    our_sources,
    overrides,
    private_names,
    problem,
    quoted_names,
    resolve,
    used_by,
)


def names(module: str, members: str) -> list[TouchPoint]:
    """Return rows for members of a module that we import or name."""
    return [TouchPoint(Kind.NAME, f"{module}.{member}") for member in members.split()]


def call(path: str, parameters: str = "") -> TouchPoint:
    """Return the row of a function or class that we call: positional parameters, then keywords after ``*``."""
    return TouchPoint(Kind.CALL, path, parameters)


def override(path: str, parameters: str = "") -> TouchPoint:
    """Return the row of a method that we override, with all its parameters."""
    return TouchPoint(Kind.OVERRIDE, path, parameters)


def attributes(path: str, members: str) -> list[TouchPoint]:
    """Return rows for attributes and fields of a class, public or not, that we read or set."""
    return [TouchPoint(Kind.ATTRIBUTE, path, member) for member in members.split()]


def texts(path: str, *wanted: str, ours: str = "") -> list[TouchPoint]:
    """Return rows for parts of a source: field names, tags, environment variables, metric names."""
    return [TouchPoint(Kind.TEXT, path, text, ours) for text in wanted]


def source(path: str, digest: str, *, ours: str = "") -> TouchPoint:
    """Return the row of a source that we re-implement (``ours``: our name for it), or whose internals we rely on."""
    return TouchPoint(Kind.SOURCE, path, digest, ours)


AGENT_LOOP = "verl.experimental.agent_loop.agent_loop"
TOOL_LOOP = "verl.experimental.agent_loop.tool_agent_loop"
LOOP = f"{TOOL_LOOP}.ToolAgentLoop"
TOOL_PARSER = "verl.experimental.agent_loop.tool_parser"
MANAGERS = "verl.experimental.reward_loop.reward_manager"
WORKER = "verl.trainer.ppo.v1.agent_loop_tq.AgentLoopWorkerTQ"
SEPARATE = "verl.trainer.ppo.v1.trainer_separate_async.PPOTrainerSeparateAsync"
MANAGER = "verl.trainer.ppo.v1.agent_loop_tq.AgentLoopManagerTQ"
TRAINER = "verl.trainer.ppo.v1.trainer_base.PPOTrainer"
CLIENT = "verl.workers.rollout.llm_server.LLMServerClient"
ASYNC_CLIENT = "verl.workers.rollout.llm_server.FullyAsyncLLMServerClient"
SERVERS = "verl.workers.rollout.llm_server.LLMServerManager"
REPLICA = "verl.workers.rollout.replica"
BUILDER = "verl.utils.tokenizer.continuous_token.ContinuousTokenBuilder"
FSDP = "verl.workers.engine.fsdp.transformer_impl"
MERGER = "verl.model_merger.fsdp_model_merger.FSDPModelMerger"
ENGINE = f"{FSDP}.FSDPEngine"
LM_ENGINE = f"{FSDP}.FSDPEngineWithLMHead"
VALUE_ENGINE = f"{FSDP}.FSDPEngineWithValueHead"
REGISTRY = "verl.workers.engine.base.EngineRegistry"
TENSORS = "verl.utils.tensordict_utils"
CONFIGS = "verl.workers.config"
PLATFORM = "verl.plugin.platform.platform_base.PlatformBase"
VLLM_ROLLOUT = "verl.workers.rollout.vllm_rollout"
SGLANG_ROLLOUT = "verl.workers.rollout.sglang_rollout"
TRTLLM_ROLLOUT = "verl.workers.rollout.trtllm_rollout"
EXTENSION = f"{VLLM_ROLLOUT}.utils.vLLMColocateWorkerExtension"
HEADS = "vllm.model_executor.layers.vocab_parallel_embedding"

ROLLOUT = [
    *names(AGENT_LOOP, "AgentLoopMetrics AgentLoopOutput DictConfigWrap ToolListWrap register"),
    *names(TOOL_LOOP, "AgentData ToolAgentLoop"),
    *names("verl.trainer.ppo.v1.agent_loop_tq", "AgentLoopManagerTQ AgentLoopWorkerTQ"),
    *names("verl.utils.rollout_trace", "rollout_trace_op"),
    *attributes(
        f"{AGENT_LOOP}.AgentLoopOutput",
        "prompt_ids response_ids response_mask response_logprobs num_turns metrics extra_fields",
    ),
    *attributes(f"{AGENT_LOOP}.AgentLoopMetrics", "generate_sequences"),
    call(f"{AGENT_LOOP}.register", "agent_name"),
    override(f"{LOOP}.run", "sampling_params, priority, **kwargs"),
    source(f"{LOOP}.run", "61cb3eb918"),
    call(f"{LOOP}.process_multi_modal_info", "messages"),
    call(f"{LOOP}.ct_build_initial_tokens", "messages, *, tools"),
    override(f"{AGENT_LOOP}.AgentLoopBase._cap_text_prompt_length", "prompt_ids"),
    source(f"{AGENT_LOOP}.AgentLoopBase._cap_text_prompt_length", "6b5758e5d7"),
    *texts(f"{AGENT_LOOP}.AgentLoopBase.ct_build_initial_tokens", "return self._cap_text_prompt_length(prompt_ids)"),
    source(f"{AGENT_LOOP}.AgentLoopBase.ct_merge_context_msg", "306393c91e", ours="merge_context_tokens"),
    call(f"{BUILDER}.merge_context_tokens", "previous_messages, updated_messages, runtime_token_ids, *, tools"),
    call(f"{BUILDER}.build_initial_tokens", "messages"),
    *attributes("verl.utils.tokenizer.continuous_token.MergeResult", "token_ids"),
    *attributes(LOOP, "config continuous_token_builder data_config loop max_parallel_calls rollout_config tokenizer"),
    *attributes(LOOP, "apply_chat_template_kwargs tool_parser tools"),
    override(f"{WORKER}._run_prompt", "prompt, sampling_params, trajectory, trace"),
    source(f"{WORKER}._run_prompt", "7655f30bb4"),
    *texts("verl.trainer.ppo.v1.agent_loop_tq", "logger = logging.getLogger(__name__)"),
    *texts(f"{WORKER}._run_prompt", '"__rollout_n__"', '"__do_sample__"', 'trajectory["validate"]'),
    override(f"{AGENT_LOOP}.AgentLoopWorker._compute_score", "outputs, kwargs"),
    *texts(f"{WORKER}._agent_loop_postprocess", "self._compute_score(outputs, kwargs=kwargs)"),
    override(f"{WORKER}._agent_loop_postprocess", "output, validate, **kwargs"),
    source(f"{WORKER}._agent_loop_postprocess", "f4ee0caf37"),
    *texts(f"{WORKER}._agent_loop_postprocess", 'kwargs["session_id"]', 'f"{uid}_{session_id}_{i}"'),
    *texts(f"{WORKER}._agent_loop_postprocess", '"prompt_len"', '"response_len"', '"seq_len"'),
    source(f"{WORKER}.generate_sequences", "e747060541"),
    *texts(f"{WORKER}.generate_sequences", '"agent_name"', '"global_steps"', "default_agent_loop"),
    source(f"{AGENT_LOOP}.AgentLoopWorker._run_agent_loop", "b5c5020c22", ours="_run_prompt"),
    *texts(f"{AGENT_LOOP}.AgentLoopWorker._compute_score", '"tool_extra_fields"', '"__num_turns__"'),
    *attributes(WORKER, "config llm_client model_config rollout_config tools reward_loop_worker_handles"),
    override(f"{MANAGER}.generate_sequences", "prompts"),
    source(f"{MANAGER}.generate_sequences", "25986ecad4"),
    *attributes(MANAGER, "agent_loop_workers_class config"),
    *texts("ray.actor", "__ray_metadata__"),
    *attributes("ray.actor._ActorClassMetadata", "modified_class"),
]

TOOLS = [
    call(
        f"{TOOL_LOOP}.AgentData",
        "* messages, image_data, video_data, audio_data, mm_processor_kwargs, metrics, request_id, tools_kwargs",
    ),
    *attributes(f"{TOOL_LOOP}.AgentData", "assistant_turns extra_fields messages response_ids tool_calls tools_kwargs"),
    *attributes(f"{TOOL_LOOP}.AgentData", "user_turns"),
    call(f"{LOOP}._call_tool", "tool_call, tools_kwargs, agent_data"),
    source(f"{LOOP}._call_tool", "9844596f61"),
    call(f"{LOOP}._build_assistant_message", "content, agent_data"),
    source(f"{LOOP}._build_assistant_message", "c88c6a955d"),
    source(f"{LOOP}._handle_generating_state", "1bcbca25db", ours="extract_tool_calls"),
    source(f"{LOOP}._handle_processing_tools_state", "f1175768b3", ours="_call_tool"),
    *texts(LOOP, '"_active_tools"', '"tool_selection"', '"turn_scores"', '"tool_rewards"'),
    *texts(f"{LOOP}._call_tool", "Unknown function '", "Invalid JSON in arguments"),
    *names(TOOL_PARSER, "FunctionCall ToolParser"),
    *attributes(f"{TOOL_PARSER}.ToolParser", "_registry stop_token_ids tokenizer"),
    call(f"{TOOL_PARSER}.ToolParser.extract_tool_calls", "responses_ids, tools"),
    *attributes(f"{TOOL_PARSER}.FunctionCall", "arguments name tool_call_id"),
    *names("verl.tools.schemas", "OpenAIFunctionToolSchema ToolResponse"),
    *attributes("verl.tools.schemas.ToolResponse", "image text video"),
    *attributes("verl.tools.schemas.OpenAIFunctionToolSchema", "model_dump model_validate"),
    *names("verl.tools.function_tool", "FunctionTool"),
    *attributes("verl.tools.function_tool.FunctionTool", "fn is_async tool_schema"),
    *attributes("verl.tools.base_tool.BaseTool", "tool_schema"),
    call("verl.tools.function_tool.function_tool", "name"),
    call("verl.tools.function_tool.load_function_tools_from_path", "path"),
    call("verl.tools.tool_registry.ToolType", "value"),
    call("verl.tools.tool_registry.get_tool_class", "cls_name"),
    source("verl.tools.tool_registry.initialize_tools_from_config", "2707343f14"),
    call("verl.utils.import_utils.load_module", "module_path"),
    call("verl.utils.import_utils.resolve_config_path", "config_path"),
]

CLIENTS = [
    *names("verl.workers.rollout.llm_server", "FullyAsyncLLMServerClient LLMServerClient LLMServerManager"),
    *names(REPLICA, "TokenOutput"),
    *attributes(f"{REPLICA}.TokenOutput", "extra_fields log_probs stop_reason token_ids"),
    override(f"{CLIENT}._acquire_server", "request_id, **extra"),
    override(f"{CLIENT}._vllm_request_id", "request_id"),
    call(f"{CLIENT}._release_server", "server_id, *, request_id"),
    override(f"{CLIENT}._release_server", "server_id, request_id"),
    *attributes(CLIENT, "_lb_require_acquire_fields"),
    call(f"{CLIENT}.generate", "* request_id, prompt_ids, sampling_params"),
    source(f"{CLIENT}._acquire_server", "305295a30e"),
    source(f"{CLIENT}._release_server", "8367c46302"),
    source(f"{CLIENT}._vllm_request_id", "187ce16a31"),
    source(f"{CLIENT}.generate", "ad5317be68"),
    source(f"{ASYNC_CLIENT}._acquire_server", "501a0a677c", ours="TreeClient"),
    source(f"{ASYNC_CLIENT}.generate", "82d739ff1c", ours="TreeClient"),
    *texts(f"{CLIENT}.generate", '"priority"', '"min_global_steps"', '"max_global_steps"'),
    *texts(f"{VLLM_ROLLOUT}.vllm_async_server", '"num_cached_tokens"', 'stop_reason="aborted"'),
    # Reasons for rules of support.py and tree_rules.py.
    *texts(f"{TRTLLM_ROLLOUT}.trtllm_async_server", 'sampling_params["max_tokens"] = max_tokens', ours="trtllm"),
    *texts(f"{SGLANG_ROLLOUT}.async_sglang_server", "self.config.max_model_len - len(prompt_ids) - 1", ours="sglang"),
    call(f"{SERVERS}.create"),
    call(SERVERS, "config"),
    call(f"{SERVERS}.get_client"),
    call(f"{SERVERS}.get_replicas"),
    call(f"{REPLICA}.RolloutReplica.clear_kv_cache"),
    call("ray.cancel", "ray_waitable"),
    call("ray.init", "* num_cpus, num_gpus, include_dashboard, runtime_env"),
    *names("ray", "ObjectRef is_initialized remote shutdown"),
    *names("ray", "_private"),
    *names("ray._private.worker", "_global_node"),
    *attributes("ray._private.node.Node", "get_logs_dir_path is_head"),
    *texts("ray._private.ray_constants", '"RAY_DEDUP_LOGS"'),
]

TRAINING = [
    *names("verl.trainer.ppo.v1.trainer_base", "PPOTrainer register_trainer"),
    *names("verl.trainer.ppo.v1.trainer_sync", "PPOTrainerSync"),
    *names("verl.trainer.ppo.v1.trainer_colocate_async", "PPOTrainerColocateAsync"),
    *names("verl.trainer.ppo.v1.trainer_separate_async", "PPOTrainerSeparateAsync"),
    *names("verl.trainer.ppo.v1.replay_buffer", "ReplayBuffer"),
    call("verl.trainer.ppo.v1.trainer_base.register_trainer", "name"),
    call(TRAINER, "config"),
    override(f"{TRAINER}._build_replay_buffer"),
    override(f"{TRAINER}._validate"),
    override(f"{TRAINER}.init"),
    override(f"{TRAINER}.fit", "agent_loop_manager"),
    override(f"{TRAINER}._save_checkpoint"),
    *(
        override(f"{SEPARATE}.on_{moment}")
        for moment in ("init_end", "train_begin", "sample_begin", "sample_end", "step_end")
    ),
    *texts(TRAINER, "self.on_train_begin()", "self.logger = Tracking("),
    *attributes("verl.utils.tracking.Tracking", "logger"),
    *texts(TRAINER, "self.on_sample_begin()", "self.on_sample_end()", "self.on_step_end()", ours="on_sample_end"),
    call("verl.trainer.ppo.v1.replay_buffer.ReplayBuffer._wait_for_next_poll", "partition_id, last_debug_time"),
    *attributes("verl.trainer.ppo.v1.replay_buffer.ReplayBuffer", "partitions running_keys finished_keys failure_keys"),
    *names("verl.experimental.agent_loop", "AgentLoopManager"),
    *attributes("verl.experimental.agent_loop.AgentLoopManager", "agent_loop_workers"),
    *attributes("verl.experimental.reward_loop.reward_loop.RewardLoopManager", "reward_loop_workers"),
    *attributes("verl.single_controller.ray.base.RayWorkerGroup", "workers"),
    *attributes(f"{REPLICA}.RolloutReplica", "servers workers"),
    *attributes("vllm.v1.engine.async_llm.AsyncLLM", "errored vllm_config"),
    *attributes("vllm.config.CacheConfig", "block_size enable_prefix_caching mamba_block_size"),
    *texts("verl.workers.rollout.vllm_rollout.vllm_async_server", "self.engine = ", ours="_of_vllm"),
    *texts("ray.actor", "__ray_call__"),
    override(f"{TRAINER}._balance_batch", "batch, metrics, logging_prefix, keep_minibatch"),
    override(f"{TRAINER}._compute_advantage", "batch, metrics"),
    override(f"{TRAINER}._maybe_log_val_generations", "inputs, outputs, scores"),
    override(f"{TRAINER}._dump_generations", "inputs, outputs, gts, scores, reward_extra_infos_dict, dump_path"),
    override(
        f"{TRAINER}._val_metrics_update",
        "data_sources, sample_uids, reward_extra_infos_dict, sample_turns, expected_acc_counts",
    ),
    *texts(f"{TRAINER}._compute_reward_colocate", '"raw_prompt"'),
    override(f"{TRAINER}._compute_metrics", "batch, metrics, timing_raw, global_steps, epoch"),
    source(f"{TRAINER}._balance_batch", "dc0466dd58"),
    source(f"{TRAINER}._compute_advantage", "7d2ef67151"),
    source(f"{TRAINER}._init_dataloader", "68fd9503e6"),
    source("verl.trainer.ppo.ray_trainer.compute_advantage", "6db086feda"),
    source("verl.workers.utils.losses.ppo_loss", "2fa5dacc6a"),
    *attributes(TRAINER, "actor_rollout_wg global_steps logger"),
    *attributes("verl.trainer.ppo.v1.replay_buffer.ReplayBuffer", "poll_interval"),
    *attributes("verl.single_controller.base.worker_group.WorkerGroup", "_dispatch_info"),
    *texts("verl.trainer.ppo.padding_utils", "is_padding"),
    *texts("verl.workers.utils.losses.ppo_loss", '"rollout_is_weights"'),
    *texts("verl.trainer.ppo.core_algos", '"geo_mean"', '"bypass_mode"'),
    *texts(
        "verl.workers.engine_workers.ActorRolloutRefWorker",
        "self.world_size % infer_world_size == 0",
        ours="tensor_model_parallel_size",
    ),
    *names("transfer_queue", "KVBatchMeta"),
    *attributes("transfer_queue.KVBatchMeta", "keys partition_id tags"),
    call("transfer_queue.KVBatchMeta.reorder", "indexes"),
    call("transfer_queue.KVBatchMeta.select_keys", "keys_to_select"),
    call("transfer_queue.kv_clear", "* keys, partition_id"),
    call("transfer_queue.kv_batch_get", "* keys, partition_id, select_fields"),
    call("transfer_queue.kv_batch_put", "* keys, partition_id, fields"),
    call("tensordict.TensorDict", "source, *, batch_size"),
    call("verl.trainer.ppo.core_algos.register_adv_est", "name_or_enum"),
    *names("verl.trainer.ppo.core_algos", "ADV_ESTIMATOR_REGISTRY POLICY_LOSS_REGISTRY"),
    *names("verl.trainer.ppo.v1.trainer_base", "TRAINER_REGISTRY"),
    *names("verl.experimental.reward_loop.reward_manager.registry", "REWARD_MANAGER"),
    *names(AGENT_LOOP, "_agent_loop_registry"),
    *attributes("verl.checkpoint_engine.CheckpointEngineRegistry", "_registry"),
    *names("verl", "checkpoint_engine"),
    *names("verl.checkpoint_engine", "CheckpointEngineRegistry"),
    *names("verl.checkpoint_engine.base", "CheckpointEngine CheckpointEngineRegistry TensorMeta"),
    *names("verl.checkpoint_engine.base", "merge_weight_chunks split_weight_chunks"),
    call("verl.checkpoint_engine.base.split_weight_chunks", "weights, bucket_size"),
    call("verl.checkpoint_engine.base.merge_weight_chunks", "chunks, bucket_size"),
    *(
        override(f"verl.checkpoint_engine.base.CheckpointEngine.{method}", parameters)
        for method, parameters in (
            ("prepare", ""),
            ("build_topology", "actor_wg_world_size, rollout_world_size, metadata"),
            ("init_process_group", "**kwargs"),
            ("finalize", ""),
            ("send_weights", "weights, global_steps"),
            ("receive_weights", "global_steps"),
        )
    ),
    *attributes(f"{REPLICA}.RolloutReplicaRegistry", "_registry"),
    *names(REPLICA, "RolloutReplicaRegistry"),
    # what the rules for verl's keys foresee
    *texts(f"{SEPARATE}._setup", "flush=True", ours="hybrid_engine"),
    *texts(f"{TRAINER}._load_checkpoint", '"global_step_" in', ours="resume_from_path"),
    *texts("verl.utils.checkpoint.checkpoint_manager.find_latest_ckpt_path", "int(f.read().decode())"),
    *texts("verl.single_controller.ray.base.ResourcePoolManager", "max_colocate_count: int = 3"),
    *texts(
        "verl.workers.engine_workers.ActorRolloutRefWorker.init_model",
        'ref.pop("log_prob_use_dynamic_bsz"',
        ours="log_prob_use_dynamic_bsz",
    ),
    *texts("verl.workers.config.model", 'get("attn_implementation", "flash_attention_2")', ours="HFModelConfig"),
    *texts(
        "verl.workers.rollout.vllm_rollout.vllm_async_server.vLLMHttpServer._apply_quantization",
        '["fp8", "torchao", "ascend"]',
    ),
    *texts(f"{TRAINER}._setup", "max_token_len_per_gpu = critic_cfg.ppo_infer_max_token_len_per_gpu"),
    *texts("verl.utils.dataset.rl_dataset.RLHFDataset._read_files_and_tokenize", 'endswith(".jsonl")'),
    *texts("verl.utils.seqlen_balancing.rearrange_micro_batches", "max_token_len >=", ours="ppo_max_token_len_per_gpu"),
    *texts(
        "verl.workers.engine.utils.prepare_micro_batches",
        "micro_batch_size_per_gpu) == 0",
        ours="prepare_micro_batches",
    ),
    *texts(
        "verl.workers.engine_workers.TrainingWorker.train_mini_batch",
        "mini_batch_size % self.engine.get_data_parallel_size() == 0",
        ours="train_mini_batch",
    ),
    *texts(
        "verl.trainer.ppo.v1.trainer_separate_async.PPOTrainerSeparateAsync.__init__",
        'backend != "naive"',
        ours="checkpoint_engine",
    ),
    *texts(
        "verl.workers.rollout.vllm_rollout.vllm_async_server.vLLMHttpServer._validate_configs",
        "self.config.max_model_len > max_position_embeddings",
    ),
    call("verl.utils.seqlen_balancing.log_seqlen_unbalance", "* seqlen_list, partitions, prefix"),
    call("verl.workers.utils.padding.response_to_nested", "tensor, response_mask"),
    call(f"{TENSORS}.get_non_tensor_data", "* data, key, default"),
    call("verl.trainer.main_ppo.run_ppo", "config, *, task_runner_class"),
    *names("verl.trainer.main_ppo", "TaskRunnerV1"),
    *names("verl.trainer", "main_ppo"),
    *texts("verl.trainer.ppo.v1.trainer_base.PPOTrainer._save_checkpoint", '"latest_checkpointed_iteration.txt"'),
    call("verl.trainer.ppo.utils.need_critic", "config"),
    source("verl.trainer.ppo.utils.need_critic", "8ce98f8994"),
    call("verl.trainer.ppo.utils.need_reference_policy", "config"),
    call("verl.utils.config.validate_config", "* config, use_reference_policy, use_critic"),
    call("verl.utils.device.auto_set_device", "config"),
    *texts("verl", "VERL_USE_EXTERNAL_MODULES", "VERL_USE_EXTERNAL_PLUGINS", '"verl.plugins"', ours="verl.plugins"),
    *names("verl.trainer", "config"),
    *names("verl.trainer.ppo", "core_algos v1"),
]

REWARDS = [
    *names("verl", "DataProto"),
    *names("verl.experimental.reward_loop", "reward_manager"),
    *names(MANAGERS, "DAPORewardManager register"),
    *attributes("verl.DataProto", "non_tensor_batch"),
    call(f"{MANAGERS}.register", "name"),
    override(f"{MANAGERS}.dapo.DAPORewardManager.run_single", "data"),
    source(f"{MANAGERS}.dapo.DAPORewardManager.run_single", "48799e83d7"),
    source(f"{MANAGERS}.naive.NaiveRewardManager.run_single", "b2bdcd71f0"),
    *texts(f"{MANAGERS}.dapo.DAPORewardManager", '"reward_kwargs"', '"overlong_buffer_cfg"', '"max_resp_len"'),
    *texts(f"{MANAGERS}.dapo.DAPORewardManager", '"overlong_reward"', '"overlong"', "penalty_factor"),
    *texts(f"{MANAGERS}.dapo.DAPORewardManager", '"reward_score"', '"reward_extra_info"'),
    *texts(f"{MANAGERS}.dapo.DAPORewardManager", '"reward_router_address"', '"reward_model_tokenizer"'),
    *texts(f"{MANAGERS}.naive.NaiveRewardManager", '"num_turns"', '"rollout_reward_scores"', '"reward_scores"'),
    call("verl.trainer.ppo.reward.get_custom_reward_fn", "config"),
    call(
        "verl.utils.reward_score.default_compute_score",
        "* data_source, solution_str, ground_truth, extra_info, "
        "sandbox_fusion_url, concurrent_semaphore, memory_limit_mb",
    ),
]

ENGINES = [
    *names(FSDP, "FSDPEngineWithLMHead FSDPEngineWithValueHead"),
    *names("verl.workers.engine.fsdp", "transformer_impl"),
    *names("verl.workers.engine.base", "EngineRegistry"),
    call(f"{REGISTRY}.register", "* model_type, backend, device, vendor"),
    source(f"{REGISTRY}.get_engine_cls", "5713d1d3f4"),
    *texts("verl.workers.engine.base", '"VERL_ENGINE_DEVICE"', '"VERL_ENGINE_VENDOR"'),
    override(f"{ENGINE}._build_module"),
    override(f"{ENGINE}.forward_backward_batch", "data, loss_function, forward_only"),
    override(f"{LM_ENGINE}.prepare_model_inputs", "micro_batch"),
    override(f"{LM_ENGINE}.prepare_model_outputs", "output, output_args, micro_batch, logits_processor_func"),
    override(f"{VALUE_ENGINE}.prepare_model_outputs", "output, output_args, micro_batch, logits_processor_func"),
    source(f"{ENGINE}._build_module", "248804fcf6"),
    source(f"{ENGINE}.forward_backward_batch", "c7a76f4bfe"),
    source("verl.workers.engine.utils.prepare_micro_batches", "adc9bee320", ours="max_token_len_per_gpu"),
    source(f"{LM_ENGINE}.prepare_model_inputs", "1746325c55"),
    source(f"{LM_ENGINE}.prepare_model_outputs", "3b0ac6836a"),
    source(f"{LM_ENGINE}.forward_step", "40e6d59ac8"),
    source(f"{VALUE_ENGINE}.prepare_model_outputs", "c729b5e6ac"),
    source("verl.utils.model.load_valuehead_model", "ccf7a466e1"),
    *texts(f"{LM_ENGINE}.prepare_model_outputs", '"input_ids_rmpad_rolled"', '"temperature_rmpad"', '"pad_size"'),
    *texts(f"{LM_ENGINE}.prepare_model_outputs", '"temperature_is_one"', '"calculate_entropy"'),
    *texts(f"{LM_ENGINE}.prepare_model_outputs", '"calculate_sum_pi_squared"', '"use_remove_padding"'),
    *texts(FSDP, '"distillation_use_topk"', '"distillation_only"', ours="distillation_"),
    # bytes per logit in scripts/memory_page.py
    source("verl.utils.torch_functional.entropy_from_logits", "4e5a4efbea"),
    source("verl.utils.torch_functional.logprobs_from_logits_v2", "2447aac036"),
    *texts(f"{ENGINE}.forward_backward_batch", '"return_model_output"', "batch_num_tokens=", "dp_size="),
    *texts("verl.workers.engine.utils", '"max_token_len_per_gpu"', '"micro_batch_size_per_gpu"', '"use_dynamic_bsz"'),
    call(f"{ENGINE}.forward_step", "micro_batch, *, loss_function, forward_only"),
    call(f"{ENGINE}._gradient_sync_context", "* is_last_micro_batch"),
    call(f"{ENGINE}._build_model_optimizer"),
    call(f"{ENGINE}.eval_mode"),
    call(f"{ENGINE}.train_mode"),
    call(f"{ENGINE}.infer_batch", "data"),
    call(f"{ENGINE}.train_batch", "data, loss_function"),
    call(LM_ENGINE, "* model_config, engine_config, optimizer_config, checkpoint_config"),
    *attributes(ENGINE, "_autocast_dtype engine_config get_data_parallel_group get_data_parallel_size model_config"),
    *attributes(ENGINE, "module optimizer_zero_grad pad_to_length scaler use_ulysses_sp"),
    call("verl.workers.engine.utils.postprocess_batch_func", "* output_lst, indices, data"),
    source("verl.workers.engine.utils.postprocess_batch_func", "05f7a13f71"),
    call(f"{TENSORS}.assign_non_tensor", "tensor_dict"),
    call(f"{TENSORS}.get_tensordict", "tensor_dict, *, non_tensor_dict"),
    call(f"{TENSORS}.index_select_tensor_dict", "batch, indices"),
    call("verl.utils.model.extract_multi_modal_inputs", "batch_data"),
    *names("verl.utils.device", "get_device_id get_device_name get_torch_device"),
    call(
        f"{CONFIGS}.HFModelConfig",
        "* path, model_type, load_tokenizer, override_config, use_remove_padding, enable_gradient_checkpointing",
    ),
    *attributes(f"{CONFIGS}.HFModelConfig", "generation_config hf_config model_type tokenizer"),
    call(f"{CONFIGS}.FSDPEngineConfig", "* strategy, model_dtype, use_torch_compile, mixed_precision"),
    *attributes(f"{CONFIGS}.FSDPEngineConfig", "use_fused_kernels"),
    call(f"{CONFIGS}.FSDPOptimizerConfig", "* lr, total_training_steps"),
    call(
        f"{CONFIGS}.FSDPActorConfig",
        "* strategy, rollout_n, ppo_micro_batch_size_per_gpu, use_kl_loss, entropy_coeff",
    ),
    call("verl.workers.utils.losses.ppo_loss", "config, model_output, data"),
    *texts("verl.utils.distributed", '"DIST_INIT_METHOD"'),
    call("verl.utils.distributed.initialize_global_process_group_ray"),
]

EVALUATION = [
    call(
        "verl.trainer.ppo.utils.create_rl_dataset",
        "data_paths, data_config, tokenizer, processor, * is_train, max_samples",
    ),
    *texts("verl.utils.dataset.rl_dataset.RLHFDataset", '"raw_prompt"', '"dummy_tensor"'),
    call(
        "verl.utils.tokenizer.continuous_token_wiring.create_continuous_token_builder",
        "tokenizer, * hf_model_type, chat_template_kwargs, mm_processor_kwargs, processor",
    ),
    call("verl.utils.config.omega_conf_to_dataclass", "config, *, dataclass_type"),
    call("verl.trainer.constants_ppo.get_ppo_ray_runtime_env", "config"),
]

# Names of metrics that benchmarks and tests read from verl's records.
METRICS = [
    *texts("verl.trainer.ppo.metric_utils", '"critic/rewards/mean"', '"critic/advantages/max"', '"num_turns/mean"'),
    *texts("verl.trainer.ppo.metric_utils", 'f"timing_s/{name}"'),
    *texts("verl.trainer.ppo.metric_utils", 'f"mean@{n_resps}"', ours="mean@"),
    *texts("verl.trainer.ppo.v1.trainer_base", '"training/global_step"', '"val-core"', '"gen"', '"old_log_prob"'),
    *texts("verl.trainer.ppo.v1.trainer_base", '"adv"', '"update_actor"', '"step"'),
    *texts("verl.trainer.ppo.v1.trainer_sync", '"update_weights"'),
    *texts("verl.workers.utils.losses", '"actor/pg_loss"'),
    *texts("verl.utils.debug.metrics", '"training/rollout_probs_diff_max"'),
    *texts("verl.utils.tracking", '"VERL_FILE_LOGGER_PATH"', '"VERL_FILE_LOGGER_ROOT"'),
    *names("verl.utils.tracking", "Tracking"),
    *texts("verl.utils.tracking", 'self.logger["tensorboard"]', 'self.logger["wandb"]', "self.writer"),
]

CPU_PLATFORM = [
    *texts("verl.single_controller.ray.base", '"RAY_LOCAL_WORLD_SIZE"'),
    *texts("ray._private.utils.set_omp_num_threads_if_unset", "OMP_NUM_THREADS"),
    *names("verl.plugin.platform", "PlatformBase PlatformRegistry"),
    call("verl.plugin.platform.PlatformRegistry.get", "name"),
    call("verl.plugin.platform.PlatformRegistry.register", "* platform"),
    source("verl.plugin.platform.platform_manager._detect_platform_name", "78d265bf43"),
    *texts("verl.plugin.platform.platform_manager", '"VERL_PLATFORM"'),
    *(override(f"{PLATFORM}.{name}") for name in ("device_module", "device_name", "vendor_name")),
    *(override(f"{PLATFORM}.{name}") for name in ("communication_backend_name", "cudart", "current_device")),
    *(override(f"{PLATFORM}.{name}") for name in ("device_count", "empty_cache", "is_available", "is_ipc_supported")),
    *(override(f"{PLATFORM}.{name}") for name in ("profiler_start", "profiler_stop", "ray_noset_envvars")),
    *(override(f"{PLATFORM}.{name}") for name in ("ray_resource_name", "rollout_env_vars", "visible_devices_envvar")),
    *(
        override(f"{PLATFORM}.{name}", "device_index")
        for name in ("get_device_capability", "set_device", "synchronize")
    ),
    *(override(f"{PLATFORM}.{name}", "seed") for name in ("manual_seed", "manual_seed_all")),
    override(f"{PLATFORM}.is_platform_available", "use_smi_check"),
    override(f"{PLATFORM}.nvtx_range", "msg"),
    override(f"{PLATFORM}.set_allocator_settings", "settings"),
    call("torch.distributed.init_process_group", "backend"),
    source("verl.utils.distributed.initialize_global_process_group", "5f46d4b0df"),
    source("verl.utils.distributed.initialize_global_process_group_ray", "c6da4a1785"),
    call("importlib.metadata.version", "distribution_name"),
    source("verl.third_party.vllm.get_version", "66603724ca"),
    source("verl.utils.vllm.vllm_quant_utils._get_vllm_version", "eb5fca9a26"),
    *names("verl.workers.config", "FSDPOptimizerConfig"),
]

CPU_WEIGHTS = [
    *names(f"{VLLM_ROLLOUT}.utils", "vLLMColocateWorkerExtension VLLM_LORA_INT_ID"),
    override(f"{EXTENSION}.update_weights_from_ipc", "peft_config, base_sync_done, use_shm"),
    source(f"{EXTENSION}.update_weights_from_ipc", "d0d2013479"),
    source(f"{EXTENSION}._update_weights", "6947d33cca"),
    call("verl.utils.vllm.resolve_weight_name", "model, name, model_weight_names"),
    *names("verl.utils.vllm", "resolve_weight_name"),
    *texts("verl.utils.vllm.utils", "get_unstacked_mapper()"),
    *names("vllm.model_executor.models.utils", "WeightsMapper"),
    call("vllm.model_executor.models.utils.WeightsMapper.get_rename_mapper"),
    call(f"{EXTENSION}._get_zmq_handle"),
    call("vllm.v1.worker.cpu_worker.CPUWorker.remove_lora", "lora_id"),
    call(f"{VLLM_ROLLOUT}.bucketed_weight_transfer.BucketedWeightSender", "zmq_handle"),
    *names(f"{VLLM_ROLLOUT}.bucketed_weight_transfer", "BucketedWeightSender"),
    call(f"{VLLM_ROLLOUT}.bucketed_weight_transfer.BucketedWeightSender.async_send_weights", "weights"),
    *texts(f"{VLLM_ROLLOUT}.utils", "rl-colocate-zmq-"),
    *names(VLLM_ROLLOUT, "bucketed_weight_transfer"),
    *names("verl.workers", "engine_workers"),
    call("verl.workers.engine_workers.TrainingWorker.train_batch", "data"),
    call(f"{VLLM_ROLLOUT}.bucketed_weight_transfer.BucketedWeightReceiver", "* zmq_handle, device, use_shm"),
    call(f"{VLLM_ROLLOUT}.bucketed_weight_transfer.BucketedWeightReceiver.receive_weights", "* on_bucket_received"),
    source(f"{VLLM_ROLLOUT}.bucketed_weight_transfer.BucketedWeightReceiver.receive_weights", "8df1904421"),
    call(f"{VLLM_ROLLOUT}.weight_update_utils.split_buffer_updates", "model, weights"),
    call(f"{VLLM_ROLLOUT}.weight_update_utils.apply_buffer_updates", "model, buffer_updates"),
    *names(HEADS, "ParallelLMHead UnquantizedEmbeddingMethod"),
    *attributes(f"{HEADS}.ParallelLMHead", "quant_method"),
    call(f"{HEADS}.UnquantizedEmbeddingMethod.process_weights_after_loading", "layer"),
    source(f"{HEADS}.UnquantizedEmbeddingMethod.process_weights_after_loading", "911831c698"),
    source("vllm.model_executor.layers.utils.dispatch_cpu_unquantized_gemm", "6488d5b01b"),
    source("vllm.model_executor.model_loader.reload.layerwise.finalize_layerwise_processing", "1c797c3d8d"),
    *texts("vllm.model_executor.model_loader.reload.layerwise", "Failed to load weights"),
    *names("vllm.model_executor.model_loader.reload", "layerwise"),
    *attributes("vllm.v1.worker.cpu_worker.CPUWorker", "device model_runner reload_weights"),
    call("vllm.v1.worker.gpu_model_runner.GPUModelRunner.reload_weights", "* weights_iterator"),
    call("vllm.v1.worker.gpu_model_runner.GPUModelRunner.get_model"),
    source("vllm.platforms.vllm_version_matches_substr", "6cc0150cfe"),
    *texts("vllm.envs", '"VLLM_CPU_KVCACHE_SPACE"', '"VLLM_BATCH_INVARIANT"'),
]

MODELS = [
    *names("verl.model_merger", "fsdp_model_merger __main__"),
    *names("verl.model_merger.fsdp_model_merger", "FSDPModelMerger"),
    *names("verl.model_merger.__main__", "main"),
    override(f"{MERGER}._load_and_merge_state_dicts", "world_size, total_shards, mesh_shape, mesh_dim_names"),
    override("verl.model_merger.base_model_merger.BaseModelMerger.save_hf_model_and_tokenizer", "state_dict"),
    *texts("verl.model_merger.fsdp_model_merger", "tensor.bfloat16()", ours="FullPrecisionMerger"),
    *texts("verl.model_merger.base_model_merger", '"lora_adapter"', '"lora_alpha"', '"lora_train_meta.json"'),
    *names(
        "transformers", "AutoModelForCausalLM AttentionInterface AutoTokenizer GenerationConfig PreTrainedTokenizerBase"
    ),
    *names("transformers", "PreTrainedTokenizerFast LlamaConfig LlamaForCausalLM Qwen2Config Qwen2ForCausalLM"),
    *names("transformers", "Qwen3Config Qwen3ForCausalLM"),
    *names("transformers.models.auto.configuration_auto", "CONFIG_MAPPING"),
    call("transformers.DynamicCache", "* config"),
    call("transformers.DynamicCache.update", "key_states, value_states, layer_idx"),
    call("transformers.AttentionInterface.register", "key, value"),
    call("transformers.integrations.sdpa_attention.repeat_kv", "hidden_states, n_rep"),
    source("transformers.integrations.sdpa_attention.sdpa_attention_forward", "29994cc48f", ours="chain_attention"),
    call("hydra._internal.config_loader_impl.ConfigLoaderImpl._apply_overrides_to_config", "overrides, cfg"),
    *attributes("transformers.PreTrainedConfig", "_attn_implementation architectures num_labels"),
    call("transformers.PreTrainedModel.set_attn_implementation", "attn_implementation"),
    call("transformers.utils.logging.disable_progress_bar", ""),
    *texts("transformers.models.qwen2.modeling_qwen2", "logits_to_keep", "num_key_value_groups"),
    call("transformers.PreTrainedTokenizerBase.apply_chat_template", "conversation, *, tokenize"),
    *attributes("transformers.PreTrainedTokenizerBase", "all_special_ids decode encode"),
    call(
        "transformers.utils.chat_template_utils.render_jinja_template",
        "* conversations, chat_template, add_generation_prompt",
    ),
    *names("torch._dynamo.config", "recompile_limit"),
    *names("torch.nested", "as_nested_tensor nested_tensor_from_jagged"),
    call(
        "torch.nn.attention.flex_attention.BlockMask.from_kv_blocks",
        "kv_num_blocks, kv_indices, full_kv_num_blocks, full_kv_indices, BLOCK_SIZE, mask_mod, *, seq_lengths",
    ),
]

VLLM = [
    *attributes("vllm.engine.arg_utils.EngineArgs", "block_size worker_extension_cls"),
    call("vllm.LLM", "model, * dtype"),
    call("vllm.SamplingParams", "* max_tokens, temperature, logprobs, stop_token_ids, output_kind"),
    *names("vllm", "TokensPrompt"),
    *attributes("vllm.TokensPrompt", "prompt_token_ids"),
    *attributes("vllm.sampling_params.RequestOutputKind", "FINAL_ONLY"),
    *names("vllm.sampling_params", "RequestOutputKind"),
    *names("vllm", "AsyncEngineArgs"),
    *attributes("vllm.AsyncEngineArgs", "block_size disable_log_stats dtype enable_prefix_caching enforce_eager model"),
    *names("vllm.v1.engine.async_llm", "AsyncLLM"),
    call("vllm.v1.engine.async_llm.AsyncLLM.from_engine_args", "engine_args"),
    call("vllm.v1.engine.async_llm.AsyncLLM.generate", "prompt, sampling_params, *, request_id"),
    *attributes("vllm.v1.engine.async_llm.AsyncLLM", "reset_prefix_cache shutdown"),
    *attributes("vllm.outputs.RequestOutput", "num_cached_tokens outputs"),
    *attributes("vllm.outputs.CompletionOutput", "logprobs token_ids"),
]

# Keys that our sources do not name in full; FOUND contains the others.
KEYS = [
    TouchPoint(Kind.KEY, f"{group}.{key}")
    for group, keys in (
        ("actor_rollout_ref.rollout", "prompt_length response_length temperature top_p top_k data_parallel_size"),
        ("actor_rollout_ref.rollout", "pipeline_model_parallel_size max_num_batched_tokens max_num_seqs nnodes"),
        ("actor_rollout_ref.rollout", "enable_chunked_prefill scheduling_policy enable_rollout_routing_replay"),
        ("actor_rollout_ref.rollout", "load_format n_gpus_per_node"),
        ("actor_rollout_ref.rollout.val_kwargs", "top_k"),
        ("actor_rollout_ref.rollout.multi_turn", "max_assistant_turns max_user_turns max_parallel_calls"),
        ("actor_rollout_ref.model", "use_fused_kernels"),
        ("actor_rollout_ref.actor", "kl_loss_coef loss_agg_mode loss_scale_factor clip_ratio_low clip_ratio_high"),
        ("actor_rollout_ref.actor.fsdp_config", "ulysses_sequence_parallel_size pad_to_length"),
        ("critic.fsdp", "ulysses_sequence_parallel_size pad_to_length"),
        ("trainer.v1.separate_async", "parameter_sync_step"),
        ("data", "shuffle prompt_key val_max_samples apply_chat_template_kwargs"),
        ("distillation", "enabled"),
    )
    for key in keys.split()
]

TABLE = [
    *(*ROLLOUT, *TOOLS, *CLIENTS, *TRAINING, *REWARDS, *ENGINES, *EVALUATION, *METRICS, *CPU_PLATFORM, *CPU_WEIGHTS),
    *(*MODELS, *VLLM, *KEYS),
]

# Rows for vLLM's CPU build, which has another version.
CPU_BUILD = {point for point in CPU_WEIGHTS if point.path.startswith("vllm.")}
LISTED = {point.path for point in TABLE if point.kind is Kind.KEY}
FOUND = [TouchPoint(Kind.KEY, key) for key in sorted(keys_of_ours()) if key not in LISTED]
# Other names in our sources: a group of entry points, a function of the standard library.
KNOWN = {"verl.plugins", "_exit"}


@pytest.mark.parametrize("point", [*TABLE, *FOUND], ids=str)
def test_every_touch_point_exists(point: TouchPoint) -> None:
    if point in CPU_BUILD and not list(distributions(name="vllm-cpu")):
        pytest.skip("vllm-cpu is not installed")
    try:
        found = problem(point)
    except NotInstalled as error:
        pytest.skip(str(error))
    if found is not None:
        pytest.fail(found, pytrace=False)


def require_rows(uses: Iterable[str], listed: set[str], what: str) -> None:
    """Fail in one line if any of our uses has no row."""
    if lacking := sorted(set(uses) - listed - KNOWN):
        pytest.fail(f"{what}: {', '.join(lacking)}; add rows to the table", pytrace=False)


def test_each_row_is_used() -> None:
    assert len(set(TABLE)) == len(TABLE)
    if unused := [str(point) for point in TABLE if not used_by(point)]:
        pytest.fail(f"rows that no file of ours uses: {', '.join(unused)}; delete them", pytrace=False)


def test_each_import_and_each_quoted_name_has_a_row() -> None:
    listed = {point.name for point in TABLE}
    require_rows(imported_names(), listed, "imported")
    require_rows(quoted_names(), listed, "named in strings")


def test_each_override_and_each_inherited_name_has_a_row() -> None:
    classes = our_classes()
    methods = {point.path for point in TABLE if point.kind is Kind.OVERRIDE}
    require_rows(overrides(classes), methods, "overridden by our classes")
    words = {point.name.rpartition(".")[2] for point in TABLE}
    require_rows(inherited_names(classes), words, "inherited and used by our classes")


def test_each_private_name_has_a_row() -> None:
    words = {word for point in TABLE for word in re.findall(r"\w+", f"{point.name} {point.detail}")}
    require_rows(private_names(), words, "private names of other packages")


# --- the checks themselves -------------------------------------------------------------------------------------


class Theirs:
    """Stand-in for a class of another package."""

    def __init__(self) -> None:
        self.field = "unseen"

    def unheard_of(self, first: int, second: int = 0, *, third: int = 0) -> None:
        """Do nothing."""


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Path of the class in its own module; nothing about it stays cached."""
    module: Any = ModuleType("some_package")
    module.Theirs, module.__spec__ = Theirs, ModuleSpec("some_package", None)
    monkeypatch.setitem(sys.modules, "some_package", module)
    resolve.cache_clear()
    yield "some_package.Theirs"
    resolve.cache_clear()


def test_an_unchanged_member_is_not_a_problem(theirs: str) -> None:
    points = [
        call(f"{theirs}.unheard_of", "first, *, second, third"),
        override(f"{theirs}.unheard_of", "first, second, third"),
        *attributes(theirs, "field unheard_of"),
        *texts(theirs, '"unseen"'),
    ]
    assert [problem(point) for point in points] == [None] * len(points)


@pytest.mark.parametrize(
    ("member", "detail", "kind", "line"),
    [
        (".unheard_of_2", "", Kind.NAME, ".unheard_of_2 is gone"),
        (".unheard_of", "first, *, fourth", Kind.CALL, ".unheard_of: parameter 'fourth' is gone"),
        (
            ".unheard_of",
            "second",
            Kind.CALL,
            ".unheard_of: parameters begin with (first, second), no longer (second)",
        ),
        (
            ".unheard_of",
            "first",
            Kind.OVERRIDE,
            ".unheard_of: parameter 'second' is new, and our method does not take it",
        ),
        (".unheard_of", "first, second, third, fourth", Kind.OVERRIDE, ".unheard_of: parameter 'fourth' is gone"),
        ("", "field_2", Kind.ATTRIBUTE, ".field_2 is gone"),
        ("", '"unseen_2"', Kind.TEXT, ': "unseen_2" is gone from its source'),
    ],
)
def test_a_missing_name_is_reported_in_one_line(theirs: str, member: str, detail: str, kind: Kind, line: str) -> None:
    assert problem(TouchPoint(kind, f"{theirs}{member}", detail)) == f"{theirs}{line}; used by no file"


def test_a_method_that_verl_renames_is_named_with_the_files_that_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    client = resolve(CLIENT)
    monkeypatch.setattr(client, "_give_server_back", client._release_server, raising=False)
    monkeypatch.delattr(client, "_release_server")
    resolve.cache_clear()
    found = problem(call(f"{CLIENT}._release_server", "server_id, *, request_id"))
    resolve.cache_clear()
    files = [file for file, text in our_sources().items() if "_release_server(" in text]
    assert files and found == f"{CLIENT}._release_server is gone; used by {', '.join(files)}"


def test_a_changed_source_is_noticed_and_a_changed_comment_is_not(theirs: str) -> None:
    assert problem(source(f"{theirs}.unheard_of", digest(Theirs.unheard_of))) is None
    changed = problem(source(f"{theirs}.unheard_of", "0"))
    assert changed is not None and changed.startswith(f"{theirs}.unheard_of: the source that we rely on has changed (")


def test_a_missing_package_has_its_own_message() -> None:
    with pytest.raises(NotInstalled, match="no_such_package is not installed"):
        problem(TouchPoint(Kind.NAME, "no_such_package.module.function"))


def test_a_key_that_verl_does_not_have_is_named() -> None:
    assert problem(TouchPoint(Kind.KEY, "trainer.v1.no_such_key")) == (
        "verl's configuration: key trainer.v1.no_such_key is gone; used by no file"
    )
