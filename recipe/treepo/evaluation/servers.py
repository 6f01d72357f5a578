# SPDX-License-Identifier: Apache-2.0
"""Inference servers of an evaluation."""

from omegaconf import DictConfig

from recipe.treepo.evaluation.problems import EvaluationProblem
from recipe.treepo.evaluation.settings import Run
from recipe.treepo.search.seeds import derive_seed
from recipe.treepo.verl_adapters.server_engine import ServerEngine, output_params
from recipe.treepo.verl_adapters.standalone_servers import StandaloneServers


class Servers(StandaloneServers):
    """verl's servers with one engine per problem and the sampling parameters of ``rollout.val_kwargs``."""

    def __init__(self, config: DictConfig, eos_token_ids: frozenset[int]) -> None:
        super().__init__(config)
        self._eos_token_ids = eos_token_ids

    def engine(self, run: Run, problem: EvaluationProblem, seed: int | None) -> ServerEngine:
        """Return the engine for one problem of a run; ``seed`` is that of the evaluation."""
        rollout = self.config.actor_rollout_ref.rollout
        sampling = rollout.val_kwargs
        return ServerEngine(
            self.client,
            {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k,
                "repetition_penalty": 1.0,
                "stop_token_ids": sorted(self._eos_token_ids),
                # verl's own sampler has no stop strings.
                **output_params(rollout.name, () if run.is_plain else run.settings.stop_strings),
            },
            seed=None if seed is None else derive_seed(seed, run.name, problem.data_source, problem.row),
            priority=0,
            spread=run.is_plain,
        )
