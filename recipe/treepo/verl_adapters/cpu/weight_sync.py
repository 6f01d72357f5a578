# SPDX-License-Identifier: Apache-2.0
"""Weight sync into vLLM's CPU worker: :data:`CpuWorkerExtension`.

``rollout.engine_kwargs.vllm.worker_extension_cls`` selects the class; nothing is patched. This module imports neither
verl nor vLLM at its top, because vLLM's worker imports it before verl.
"""

import functools
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from recipe.treepo.verl_adapters.cpu.patches import patch_weights_mapper

_RELOAD_LOGGER = "vllm.model_executor.model_loader.reload.layerwise"


@contextmanager
def _without_expected_warnings() -> Iterator[None]:
    """Hide vLLM's "Failed to load weights" for layers without a weight of their own.

    These layers are tied heads (:func:`repack_tied_heads`) and rotary embeddings, which hold a computed table.
    """

    def keep(record: logging.LogRecord) -> bool:
        arguments = record.args
        return not (
            isinstance(arguments, tuple) and arguments and arguments[0] in ("ParallelLMHead", "RotaryEmbedding")
        )

    reload_logger = logging.getLogger(_RELOAD_LOGGER)
    reload_logger.addFilter(keep)
    try:
        yield
    finally:
        reload_logger.removeFilter(keep)


def repack_tied_heads(model: torch.nn.Module) -> int:
    """Pack the output heads of ``model`` again from their current weights; return the number of heads.

    vLLM's CPU linear keeps a packed copy of each weight
    (``vllm.model_executor.layers.utils.dispatch_cpu_unquantized_gemm``). A reload has no weight for a head that is tied
    to the embedding, so ``finalize_layerwise_processing`` restores its old tensors and does not pack again. The shared
    weight is then new but the packed copy is stale: vLLM samples from stale logits without any error.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, UnquantizedEmbeddingMethod

    heads = [m for m in model.modules() if isinstance(m, ParallelLMHead)]
    heads = [head for head in heads if isinstance(head.quant_method, UnquantizedEmbeddingMethod)]
    for head in heads:
        head.quant_method.process_weights_after_loading(head)
    return len(heads)


def reload_weights(worker: Any, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Load a complete set of new weights into ``worker`` (a vLLM ``CPUWorker``), under verl's names for LoRA or not.

    ``verl...vLLMColocateWorkerExtension._update_weights`` calls ``model.load_weights`` per bucket. On the CPU backend
    that fails, because packing has dropped the original parameters and their ``weight_loader``. vLLM's own layer-wise
    reload restores them, but once per sync, so it needs all weights at once.
    """
    from verl.utils.vllm import resolve_weight_name
    from verl.workers.rollout.vllm_rollout.weight_update_utils import apply_buffer_updates, split_buffer_updates

    model = worker.model_runner.get_model()
    parameters, buffers, _ = split_buffer_updates(model, list(weights))
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    parameters = [
        (resolve_weight_name(model, name, names) if ".base_layer." in name else name, weight)
        for name, weight in parameters
    ]
    with _without_expected_warnings():
        worker.reload_weights(weights_iterator=iter(parameters))
    repack_tied_heads(model)
    apply_buffer_updates(model, buffers)


def receive_weights(worker: Any, use_shm: bool) -> list[tuple[str, torch.Tensor]]:
    """Receive all buckets of one weight sync as tensors that own their memory.

    On the CPU ``verl...BucketedWeightReceiver`` yields views of the shared buffer (``tensor.to("cpu")`` does not copy)
    and then closes the buffer.
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
    """Build the worker extension class in a function, because importing its base imports verl and vLLM."""
    # verl's vLLM server sets this variable for rollout.full_determinism. It needs Triton's kernels, so the CPU engine
    # would crash at its first batch. vLLM's workers resolve this class before they read the variable.
    os.environ.pop("VLLM_BATCH_INVARIANT", None)
    from verl.workers.rollout.vllm_rollout.utils import VLLM_LORA_INT_ID, vLLMColocateWorkerExtension

    patch_weights_mapper()

    class CpuWorkerExtension(vLLMColocateWorkerExtension):
        """``vLLMColocateWorkerExtension`` whose weight sync works on vLLM's CPU backend."""

        def update_weights_from_ipc(
            self, peft_config: dict[str, Any] | None = None, base_sync_done: bool = False, use_shm: bool = False
        ) -> None:
            """Replace the running model's weights, or its LoRA adapter, by those from the trainer."""
            weights = receive_weights(self, use_shm)
            if peft_config and base_sync_done:
                self.remove_lora(VLLM_LORA_INT_ID)
                self._update_weights(weights, peft_config=peft_config, base_sync_done=True)
            else:
                reload_weights(self, weights)

    return CpuWorkerExtension


def __getattr__(name: str) -> Any:
    """Make ``CpuWorkerExtension`` importable by name, because vLLM resolves ``worker_extension_cls`` by name."""
    if name == "CpuWorkerExtension":
        return _worker_extension_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
