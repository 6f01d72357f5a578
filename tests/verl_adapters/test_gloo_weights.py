# SPDX-License-Identifier: Apache-2.0
"""Weights over TCP: a training worker and two servers as threads of one process."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
import ray
import torch
from verl.checkpoint_engine.base import CheckpointEngineRegistry

from recipe.treepo.verl_adapters.gloo_weights import GlooCheckpointEngine

WEIGHTS = {
    "large": torch.arange(1000, dtype=torch.float32).view(10, 100),  # 4,000 bytes, more than a bucket
    "odd": torch.tensor([True, False, True]),  # 3 bytes, so the next one begins at an odd byte
    "half": torch.arange(7, dtype=torch.bfloat16),
    "scalar": torch.tensor(0.5),
    "exact": torch.arange(250, dtype=torch.int32),  # 1,000 bytes, a whole bucket
}
SERVERS = 2


@pytest.fixture
def engines(monkeypatch) -> list[GlooCheckpointEngine]:
    """Engines of two training workers and of the servers, in one group after another."""
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    assert CheckpointEngineRegistry.get("gloo") is GlooCheckpointEngine
    return [GlooCheckpointEngine(bucket_size=1000, is_master=number == 0) for number in range(2 + SERVERS)]


async def received(engine: GlooCheckpointEngine) -> dict[str, torch.Tensor]:
    return {name: weight async for name, weight in engine.receive_weights(global_steps=1)}


@pytest.mark.parametrize("weights", [WEIGHTS, {}])
def test_all_servers_receive_the_weights_of_the_first_training_worker_each_time(engines, weights):
    with ThreadPoolExecutor(len(engines)) as pool:
        for factor in (1, 2):  # a second transfer has its own group
            sent = {name: weight * factor for name, weight in weights.items()}
            metadata = [engine.prepare() for engine in engines]
            actors, servers = GlooCheckpointEngine.build_topology(2, SERVERS, metadata)
            assert (actors["rank"], servers["rank"]) == ([0, -1], [1, 2])
            joins = [
                pool.submit(engine.init_process_group, rank, size, address)
                for engine, rank, size, address in zip(
                    engines, *(actors[name] + servers[name] for name in ("rank", "world_size", "address")), strict=True
                )
            ]
            for join in joins:
                join.result(timeout=60)
            sending = [pool.submit(asyncio.run, engine.send_weights(iter(sent.items()))) for engine in engines[:2]]
            results = [pool.submit(asyncio.run, received(engine)) for engine in engines[2:]]
            for result in results:
                found = result.result(timeout=60)
                assert list(found) == list(sent)
                for name, weight in sent.items():
                    assert found[name].dtype == weight.dtype
                    torch.testing.assert_close(found[name], weight, rtol=0, atol=0)
            for done in sending:
                done.result(timeout=60)
            for engine in engines:
                engine.finalize()
