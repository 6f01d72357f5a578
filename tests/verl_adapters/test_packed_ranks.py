# SPDX-License-Identifier: Apache-2.0
"""Packed training on two data-parallel ranks against verl's engine on the same ranks."""

import tempfile

import torch
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from helpers.packed_models import MODELS, SIZES
from helpers.packed_ranks import one_rank


def test_ranks_make_equally_many_micro_batches_and_the_gradients_of_verls_engine():
    with tempfile.TemporaryDirectory() as folder:
        config, model, options = MODELS["qwen2"]
        torch.manual_seed(0)
        model(config(**SIZES, **options)).save_pretrained(f"{folder}/qwen2")
        # Both ranks are forks of a server that has imported verl, because the import takes longest.
        torch.multiprocessing.get_context("forkserver").set_forkserver_preload([FSDPEngineWithLMHead.__module__])
        torch.multiprocessing.start_processes(one_rank, (folder,), nprocs=2, start_method="forkserver")
        results = [torch.load(f"{folder}/{rank}.pt") for rank in range(2)]
    for loss, expected, distance, *_ in results:
        assert abs(loss - expected) < 1e-6
        assert distance < 1e-5
    (*_, alone, first), (*_, other_alone, second) = results
    assert first == second == max(alone, other_alone) and alone != other_alone
