# SPDX-License-Identifier: Apache-2.0
"""verl's inference servers without a trainer."""

import asyncio
from typing import Any

import ray
from omegaconf import DictConfig, OmegaConf
from verl.trainer.constants_ppo import get_ppo_ray_runtime_env
from verl.workers.rollout.llm_server import LLMServerClient, LLMServerManager

from recipe.treepo.verl_adapters.server_engine import ServerEngine, tree_client


class StandaloneServers:
    """Inference servers with the model's own weights, as many replicas as the GPUs hold.

    Attributes:
        config: Complete configuration, changed for servers without a trainer.
        client: Client of all trees, None until the servers have started.
    """

    def __init__(self, config: DictConfig) -> None:
        rollout = {
            "nnodes": config.trainer.nnodes,
            "n_gpus_per_node": config.trainer.n_gpus_per_node,
            # In training, servers start with random weights and receive the actor's.
            "load_format": "auto",
        }
        self.config = OmegaConf.merge(config, {"actor_rollout_ref": {"rollout": rollout}})
        self.client: LLMServerClient | None = None
        self._manager: LLMServerManager | None = None

    async def start(self) -> None:
        """Start Ray and the servers, and wait for their first response."""
        init: Any = OmegaConf.to_container(self.config.ray_kwargs.get("ray_init", {}), resolve=True)
        environment = OmegaConf.merge(get_ppo_ray_runtime_env(self.config), init.pop("runtime_env", {}))
        ray.init(**init, runtime_env=OmegaConf.to_container(environment))
        self._manager = await LLMServerManager.create(self.config)
        self.client = tree_client(self._manager.get_client())
        # The first request of a client starts processes; measurements must not include them.
        await ServerEngine(self.client, {}, seed=None, priority=0).extend([0], max_tokens=1, branch="0")

    async def empty_cache(self) -> None:
        """Empty the prefix cache, so that no run reuses prefixes of another."""
        assert self._manager is not None, "the servers have not started"
        await asyncio.gather(*(replica.clear_kv_cache() for replica in self._manager.get_replicas()))

    def stop(self) -> None:
        """Stop the servers and Ray."""
        ray.shutdown()
