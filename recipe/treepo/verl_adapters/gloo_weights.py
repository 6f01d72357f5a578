# SPDX-License-Identifier: Apache-2.0
"""Weights over TCP to servers in other processes than the training: verl's checkpoint engine ``gloo``.

``treepo_separate_async`` needs one; verl's own need accelerators or RDMA. Importing this module registers it;
``plugin.py`` does so. Select it with ``rollout.checkpoint_engine.backend=gloo``.
"""

import asyncio
import io
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import ray
import torch
from torch.distributed import ProcessGroupGloo, TCPStore  # type: ignore[attr-defined]  # not in __all__
from verl.checkpoint_engine.base import (
    CheckpointEngine,
    CheckpointEngineRegistry,
    TensorMeta,
    merge_weight_chunks,
    split_weight_chunks,
)

TIMEOUT = timedelta(minutes=10)
Address = tuple[str, int]
Chunk = tuple[TensorMeta, torch.Tensor]


@CheckpointEngineRegistry.register("gloo")
class GlooCheckpointEngine(CheckpointEngine):
    """The first training worker broadcasts the weights to all servers, in buckets; see the methods' texts in verl.

    Args:
        bucket_size: Maximum bytes of a bucket.
        is_master: Whether this is the engine of the first training worker.
    """

    def __init__(self, bucket_size: int, is_master: bool = False) -> None:
        self._bucket_size, self._is_master = bucket_size, is_master
        self._store: TCPStore | None = None
        self._group: Any = None

    def prepare(self) -> Address | None:
        """Start a store on the first training worker, at which the group meets; return its address."""
        if not self._is_master:
            return None
        host = ray.util.get_node_ip_address().strip("[]")
        self._store = TCPStore(host, 0, is_master=True, wait_for_workers=False)
        return host, self._store.port

    @classmethod
    def build_topology(
        cls, actor_wg_world_size: int, rollout_world_size: int, metadata: list[Address | None]
    ) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        """Return rank (-1 outside of the group), size and meeting point for each training worker and each server."""
        size = 1 + rollout_world_size

        def arguments(ranks: list[int]) -> dict[str, list[Any]]:
            return {"rank": ranks, "world_size": [size] * len(ranks), "address": [metadata[0]] * len(ranks)}

        return arguments([0] + [-1] * (actor_wg_world_size - 1)), arguments(list(range(1, size)))

    def init_process_group(self, rank: int, world_size: int, address: Address) -> None:
        """Join the group."""
        if rank >= 0:
            store = self._store or TCPStore(*address, is_master=False)
            self._group = ProcessGroupGloo(store, rank, world_size, TIMEOUT)

    def finalize(self) -> None:
        """Leave the group; each transfer has its own."""
        self._group = self._store = None

    @torch.no_grad()
    async def send_weights(self, weights: Iterator[tuple[str, torch.Tensor]], global_steps: int | None = None) -> None:
        """Broadcast the weights, then an empty bucket."""
        if self._group is None:
            for _ in weights:  # sharded weights are put together by all training workers
                pass
            return
        bucket: list[Chunk] = []
        filled = 0
        async for meta, chunk in split_weight_chunks(weights, self._bucket_size):
            if filled + len(chunk) > self._bucket_size:
                await asyncio.to_thread(self._send, bucket)
                bucket, filled = [], 0
            bucket.append((meta, chunk))
            filled += len(chunk)
        if bucket:
            await asyncio.to_thread(self._send, bucket)
        await asyncio.to_thread(self._send, [])

    async def receive_weights(self, global_steps: int | None = None) -> AsyncIterator[tuple[str, torch.Tensor]]:
        """Yield the weights."""
        async for weight in merge_weight_chunks(self._chunks(), self._bucket_size):
            yield weight

    async def _chunks(self) -> AsyncIterator[Chunk]:
        while bucket := await asyncio.to_thread(self._receive):
            for chunk in bucket:
                yield chunk

    def _send(self, bucket: list[Chunk]) -> None:
        stream = io.BytesIO()
        torch.save([vars(meta) for meta, _ in bucket], stream)
        about = torch.frombuffer(bytearray(stream.getvalue()), dtype=torch.uint8)
        self._broadcast(torch.tensor([len(about), sum(len(chunk) for _, chunk in bucket)]))
        self._broadcast(about)
        if bucket:
            self._broadcast(torch.cat([chunk for _, chunk in bucket]).cpu())

    def _receive(self) -> list[Chunk]:
        lengths = self._broadcast(torch.zeros(2, dtype=torch.int64)).tolist()
        about = self._broadcast(torch.empty(lengths[0], dtype=torch.uint8))
        fields = torch.load(io.BytesIO(about.numpy().tobytes()), weights_only=True)
        if not fields:
            return []
        payload = self._broadcast(torch.empty(lengths[1], dtype=torch.uint8))
        metas = [TensorMeta(**each) for each in fields]
        # Copies, because a view as another type must begin at a multiple of its size.
        parts = [part.clone() for part in payload.split([meta.chunk_size for meta in metas])]
        return list(zip(metas, parts, strict=True))

    def _broadcast(self, tensor: torch.Tensor) -> torch.Tensor:
        assert self._group is not None, "the engine is in no group"
        self._group.broadcast(tensor, 0).wait()
        return tensor
