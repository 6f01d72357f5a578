# SPDX-License-Identifier: Apache-2.0
"""verl's platform ``cpu``: FSDP2 actor and vLLM rollout on machines without an accelerator.

:func:`activate` changes a process only if it belongs to a CPU-only installation (:func:`is_selected`). Then it

1. registers the platform ``cpu``, an extension point of verl;
2. sets ``VERL_ENGINE_DEVICE=cuda`` unless set: ``verl.workers.engine.base.EngineRegistry.get_engine_cls`` has FSDP
   engines only for ``cuda`` and ``npu``, and the ``cuda`` engine is device-agnostic;
3. applies the patches of ``patches.py``;
4. gives a training worker its share of the cores.

``weight_sync.py`` runs inside vLLM's worker. This module imports neither verl nor vLLM at its top, because
``import verl`` imports it.
"""

import os
import resource
import sys
from contextlib import nullcontext
from types import ModuleType
from typing import Any

import torch

from recipe.treepo.verl_adapters.cpu import patches

PLATFORM_NAME = "cpu"
# GiB for vLLM's KV cache unless the user sets VLLM_CPU_KVCACHE_SPACE; vLLM itself would take a share of all memory.
DEFAULT_KV_CACHE_GIB = 1


def torch_has_accelerator() -> bool:
    """Return whether this torch build supports an accelerator.

    The build decides, not the visible devices: a Ray actor without a GPU on a GPU machine sees no device, but is not a
    CPU-only installation.
    """
    if any(getattr(torch.version, name, None) for name in ("cuda", "hip", "xpu")):
        return True
    return hasattr(torch, "npu")


def is_selected() -> bool:
    """Return whether this process runs on the platform ``cpu``.

    ``VERL_PLATFORM`` decides if set, as in ``verl.plugin.platform.platform_manager._detect_platform_name``. Otherwise
    the torch build decides.
    """
    requested = os.environ.get("VERL_PLATFORM", "").strip().lower()
    if requested:
        return requested == PLATFORM_NAME
    return not torch_has_accelerator()


def activate() -> bool:
    """Register the platform and apply the patches if selected; return whether it is selected. Idempotent."""
    if not is_selected():
        return False
    _register_platform()
    os.environ.setdefault("VERL_ENGINE_DEVICE", "cuda")
    patches.apply()
    _use_cores()
    return True


def _use_cores() -> None:
    """Let a training worker of verl compute with its share of the machine's cores.

    Ray sets ``OMP_NUM_THREADS=1`` unless the user sets another number (``ray._private.utils``).
    """
    workers = int(os.environ.get("RAY_LOCAL_WORLD_SIZE", 0))  # of verl's worker groups; absent in other processes
    if workers and os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // workers))


class CpuDeviceModule(ModuleType):
    """Stand-in for ``torch.cuda``: ``torch.cpu`` plus the functions that verl calls on every device.

    It compares equal to ``torch.cpu``, because ``verl.utils.profiler.performance`` and
    ``verl.utils.flops_counter`` recognize the CPU by that comparison. ``is_available`` is False,
    because verl takes True for "there is device memory to manage".
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
        """Return the peak resident size of this process in bytes, which verl logs as device memory."""
        del device
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    max_memory_reserved = max_memory_allocated


_DEVICE_MODULE = CpuDeviceModule()


class CpuPlatformMethods:
    """Methods of verl's ``PlatformBase`` for the CPU; :func:`_register_platform` adds the base class."""

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
        """Return Ray's logical ``GPU``; ``ray_kwargs.ray_init.num_gpus`` sets the number of slots."""
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        """Return False, so that weights reach vLLM through shared memory."""
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
