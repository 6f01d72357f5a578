# SPDX-License-Identifier: Apache-2.0
"""One of two data-parallel ranks, in a module that a new process can import by name."""

import os

import torch
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from helpers.packed_models import actor_loss, batch, build, difference, trained
from recipe.treepo.packed.prefix_tree import prefix_order, split
from recipe.treepo.verl_adapters.packed_engine import PackedActorEngine


def one_rank(rank: int, folder: str) -> None:
    """Train both engines on the rows of this rank; the second rank has more tokens."""
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
