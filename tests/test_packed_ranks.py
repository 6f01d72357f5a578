# SPDX-License-Identifier: Apache-2.0
"""Packed training on two data-parallel ranks, against verl's engine on the same two."""

import os
import tempfile

import torch
from test_packed_engine import MODELS, SIZES, actor_loss, batch, build, difference, trained
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from recipe.treepo.packed_engine import PackedActorEngine
from recipe.treepo.packing import prefix_order, split


def one_rank(rank: int, folder: str) -> None:
    """Train both engines on rows of this rank's own, of which the second rank has more tokens."""
    torch.set_num_threads(1)
    os.environ["VERL_ENGINE_DEVICE"] = "cuda"
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    data = batch(rank, prompts=2, width=6, depth=2 + 12 * rank, max_token_len_per_gpu=90)
    counts = []

    class Counted(PackedActorEngine):
        def forward_step(self, micro_batch, *args, **kwargs):
            counts[-1] += 1
            return super().forward_step(micro_batch, *args, **kwargs)

    results = []
    for engine_class in (Counted, FSDPEngineWithLMHead):
        counts.append(0)
        engine = build(engine_class, f"{folder}/qwen2")
        results.append(trained(engine, data, actor_loss()))
    (loss, ours), (expected, theirs) = results
    alone = len(split(prefix_order([tokens.numpy() for tokens in data["input_ids"].unbind()]), 90))
    torch.save((loss, expected, difference(ours, theirs), alone, counts[0]), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_ranks_make_equally_many_micro_batches_and_the_gradients_of_verls_engine():
    with tempfile.TemporaryDirectory() as folder:
        config, model, options = MODELS["qwen2"]
        torch.manual_seed(0)
        model(config(**SIZES, **options)).save_pretrained(f"{folder}/qwen2")
        # Both ranks are copies of a process that has imported verl, which takes longest.
        torch.multiprocessing.get_context("forkserver").set_forkserver_preload([FSDPEngineWithLMHead.__module__])
        torch.multiprocessing.start_processes(one_rank, (folder,), nprocs=2, start_method="forkserver")
        results = [torch.load(f"{folder}/{rank}.pt") for rank in range(2)]
    for loss, expected, distance, *_ in results:
        assert abs(loss - expected) < 1e-6
        assert distance < 1e-5
    (*_, alone, first), (*_, other_alone, second) = results
    assert first == second == max(alone, other_alone) and alone != other_alone
