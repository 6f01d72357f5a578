# SPDX-License-Identifier: Apache-2.0
"""verl's inference servers and reward function for an evaluation; the only file of it that knows Ray and servers."""

import asyncio
from collections.abc import Callable
from typing import Any

import ray
from omegaconf import DictConfig, OmegaConf
from verl.trainer.constants_ppo import get_ppo_ray_runtime_env
from verl.trainer.ppo.reward import get_custom_reward_fn
from verl.utils.reward_score import default_compute_score
from verl.workers.rollout.llm_server import LLMServerClient, LLMServerManager

from recipe.treepo.evaluation.problems import EvaluationProblem
from recipe.treepo.evaluation.settings import Run
from recipe.treepo.search.seeds import derive_seed
from recipe.treepo.verl_adapters.server_engine import ServerEngine, tree_client


class Servers:
    """Servers that stand alone: as many replicas as the machine's GPUs hold, with the model's own weights.

    Attributes:
        client: Of all trees, once they have started.
    """

    def __init__(self, config: DictConfig, eos_token_ids: frozenset[int]) -> None:
        rollout = {
            "nnodes": config.trainer.nnodes,
            "n_gpus_per_node": config.trainer.n_gpus_per_node,
            # In training verl starts servers with random weights and sends them the actor's.
            "load_format": "auto",
        }
        self._config = OmegaConf.merge(config, {"actor_rollout_ref": {"rollout": rollout}})
        self._eos_token_ids = eos_token_ids
        self.client: LLMServerClient | None = None
        self._manager: LLMServerManager | None = None

    async def start(self) -> None:
        """Start Ray and the servers, and wait until they answer."""
        init: Any = OmegaConf.to_container(self._config.ray_kwargs.get("ray_init", {}), resolve=True)
        environment = OmegaConf.merge(get_ppo_ray_runtime_env(self._config), init.pop("runtime_env", {}))
        ray.init(**init, runtime_env=OmegaConf.to_container(environment))
        self._manager = await LLMServerManager.create(self._config)
        self.client = tree_client(self._manager.get_client())
        # The first request of a client starts processes, which is not to be measured.
        await ServerEngine(self.client, {}, seed=None, priority=0).extend([0], max_tokens=1, branch="0")

    async def empty_cache(self) -> None:
        """Forget all prefixes, so that no run finds what another has computed."""
        assert self._manager is not None, "the servers have not started"
        await asyncio.gather(*(replica.clear_kv_cache() for replica in self._manager.get_replicas()))

    def engine(self, run: Run, problem: EvaluationProblem, seed: int | None) -> ServerEngine:
        """Return the engine for one problem."""
        rollout = self._config.actor_rollout_ref.rollout
        sampling = rollout.val_kwargs
        # verl's own sampler knows none, and only vLLM's servers have a tokenizer to see them.
        stop_strings = run.settings.stop_strings if rollout.name == "vllm" and not run.is_plain else ()
        return ServerEngine(
            self.client,
            {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k,
                "repetition_penalty": 1.0,
                "stop_token_ids": sorted(self._eos_token_ids),
            },
            seed=None if seed is None else derive_seed(seed, run.name, problem.data_source, problem.row),
            priority=0,
            stop_strings=stop_strings,
            spread=run.is_plain,
        )

    def stop(self) -> None:
        """Stop the servers and Ray."""
        ray.shutdown()


def reward_function(config: DictConfig) -> Callable[..., Any]:
    """Return the configured reward function, or verl's own; it may be a coroutine function."""
    function: Callable[..., Any] = get_custom_reward_fn(config) or default_compute_score
    return function
