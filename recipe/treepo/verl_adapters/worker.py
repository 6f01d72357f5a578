# SPDX-License-Identifier: Apache-2.0
"""verl's agent-loop worker and manager with trees.

verl starts ``rollout.n`` agent loops ("sessions") per prompt in
``verl.trainer.ppo.v1.agent_loop_tq.AgentLoopWorkerTQ._run_prompt``. It puts the output of each into TransferQueue
under the key ``{uid}_{session}_{index}``. This worker starts one loop per prompt (``agent_loop.py``). It scores and
stores each of the n trajectories of that loop as a separate session.
"""

import asyncio
import logging
from collections import Counter
from functools import partial
from typing import Any

import ray
import torch
from omegaconf import DictConfig, OmegaConf
from tensordict import TensorDict
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ
from verl.utils.tensordict_utils import get_non_tensor_data

from recipe.treepo.search.policy_calls import PolicyError
from recipe.treepo.search.seeds import derive_seed
from recipe.treepo.search.surrogates import without_surrogates
from recipe.treepo.search.thought_tokens import thinking_tokens
from recipe.treepo.search.user_errors import named, remote_cause
from recipe.treepo.settings.data_files import first_row
from recipe.treepo.settings.schema import Sampler, load_settings
from recipe.treepo.settings.support import never_run_note
from recipe.treepo.settings.training_rules import reward_name
from recipe.treepo.settings.tree_rules import unused_cache_block
from recipe.treepo.settings.validate import validate_trees
from recipe.treepo.settings.values import ConfigError
from recipe.treepo.verl_adapters.agent_loop import TREE_AGENT, TreeRequest
from recipe.treepo.verl_adapters.failed_prompts import shorten_reports
from recipe.treepo.verl_adapters.model_tokens import eos_token_ids, with_tags
from recipe.treepo.verl_adapters.prefix_cache import MissingPrefixes, PrefixCache, prefix_cache_of, usable_block
from recipe.treepo.verl_adapters.reward_errors import REASON, number_of
from recipe.treepo.verl_adapters.server_engine import CancellableServer, tree_client
from recipe.treepo.verl_adapters.tool_exits import contained_tool
from recipe.treepo.verl_adapters.trajectory import THINKING_TOKENS, with_thinking
from recipe.treepo.verl_adapters.tree_dump import DUMP_FIELD, SampledTree, TreeDump
from recipe.treepo.verl_adapters.user_code import (
    interaction_class,
    interaction_problems,
    own_policies,
    policy_problems,
    tool_problems,
)

logger = logging.getLogger(__name__)
# Field of the data set's rows that holds a prompt's number within its step.
TREE_NUMBER = "tree_number"


def training_progress(config: DictConfig, global_steps: int) -> float:
    """Return the training progress: 0 at the first step, 1 at the last; 0 if the number of steps is unknown."""
    total = OmegaConf.select(config, "trainer.total_training_steps")
    if total is None:
        # PPOTrainer._init_dataloader derives the number from the data set and writes it only into the optimizer's
        # configuration, as a number of updates: parameter_sync_step updates make a step.
        updates = OmegaConf.select(config, "actor_rollout_ref.actor.optim.total_training_steps") or 0
        mode = OmegaConf.select(config, "trainer.v1.trainer_mode")
        total = updates // (OmegaConf.select(config, f"trainer.v1.{mode}.parameter_sync_step") or 1)
    if total < 1:
        return 0.0
    return min(1.0, max(0.0, (global_steps - 1) / max(1, int(total) - 1)))


# Ray does not allow subclasses of an actor class, only of the class inside.
_WorkerBase: Any = AgentLoopWorkerTQ.__ray_metadata__.modified_class


@ray.remote
class TreeAgentLoopWorker(_WorkerBase):
    """verl's agent-loop worker with one tree per prompt instead of n independent samples."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        shorten_reports(_WorkerBase.__module__)
        self.settings = with_tags(load_settings(self.config), self.tokenizer)
        self.eos_token_ids = frozenset() if self.rollout_config.ignore_eos else eos_token_ids(self.model_config)
        self.tree_client = tree_client(self.llm_client)
        self._prefix_cache: asyncio.Task[PrefixCache | None] | None = None
        self._missing_prefixes = MissingPrefixes()
        self.interaction, self.policies = interaction_class(self.settings.interaction), own_policies(self.settings)
        self.fault: str | None = None
        self.tools: list[Any] = [contained_tool(tool) for tool in self.tools]  # also for verl's own tool agent
        self.dump = TreeDump(self.config, self.settings, self.tokenizer.decode)

    def _report_fault(self, error: PolicyError) -> None:
        """Keep an error of the user's policies, with which the watchdog ends the run."""
        self.fault = self.fault or str(error).rstrip(".")

    @property
    def finished_requests(self) -> int:
        """Number of requests for trees that returned, as a sign of life; see watchdog.py."""
        return CancellableServer.finished_requests

    async def _run_prompt(
        self, prompt: dict[str, Any], sampling_params: dict[str, Any], trajectory: dict[str, Any], trace: bool = False
    ) -> None:
        # Removed from the row, because verl passes the row to its loops and stores it with each trajectory.
        number = int(prompt.pop(TREE_NUMBER))
        validate = trajectory["validate"]
        samples_tree = self._samples_tree(prompt, validate)
        if samples_tree or self._needs_loops(validate):
            cache = await self._cache()
            request = self._request(prompt, validate, number, cache, independent=not samples_tree)
            prompt = {**prompt, "agent_name": TREE_AGENT, "tree_request": request, "__rollout_n__": 1}
        await super()._run_prompt(prompt, sampling_params, trajectory, trace)

    async def _cache(self) -> PrefixCache | None:
        """Return the engine's prefix cache, for which the first prompt asks a server."""
        if self._prefix_cache is None:
            self._prefix_cache = asyncio.create_task(prefix_cache_of(self.tree_client, self.rollout_config.name))
        return await asyncio.shield(self._prefix_cache)

    def _samples_tree(self, prompt: dict[str, Any], validate: bool) -> bool:
        """Return whether one tree samples the prompt."""
        if self.settings.sampler is not Sampler.TREE or (validate and not self.settings.validate_with_tree):
            return False
        # verl adds a greedy sample for estimators that need a baseline (remax).
        return bool(prompt.get("__do_sample__", True))

    def _needs_loops(self, validate: bool) -> bool:
        """Return whether prompts without a tree need independent loops: verl's own sampler has no interactions."""
        return self.interaction is not None or (self.settings.sampler is Sampler.INDEPENDENT and not validate)

    def _request(
        self, prompt: dict[str, Any], validate: bool, number: int, cache: PrefixCache | None, *, independent: bool
    ) -> TreeRequest:
        rollout, step = self.config.actor_rollout_ref.rollout, int(prompt["global_steps"])
        n = rollout.val_kwargs.n if validate else rollout.n
        is_dumped = self.dump.takes(validate=validate, step=step, number=number)
        return TreeRequest(
            width=int(prompt.get("__rollout_n__", n)),
            settings=self.settings.with_cache_block(usable_block(cache)),
            progress=training_progress(self.config, step),
            number=number,
            # Neither uid nor index: verl draws the uid at random, and rows may share an index.
            seed=derive_seed(rollout.seed, "val" if validate else "train", step, number),
            eos_token_ids=self.eos_token_ids,
            independent=independent,
            interaction=self.interaction,
            policies=self.policies,
            step=0 if validate else step,
            on_fault=self._report_fault,
            replaced_agent=prompt["agent_name"],
            validate=validate,
            sampled=SampledTree() if is_dumped else None,
            on_tree=partial(self._missing_prefixes.count, cache),
            client=self.tree_client,
        )

    async def _compute_score(self, outputs: list[AgentLoopOutput], kwargs: dict[str, Any]) -> None:
        """Score a trajectory; a failed reward becomes NaN with the reason, see reward_errors.py."""
        final, seconds = outputs[-1], self.settings.reward_errors.timeout_seconds
        timer = asyncio.timeout(seconds)
        try:
            async with timer:
                await super()._compute_score(outputs, kwargs)
        except Exception as error:  # of the reward function, which Ray wraps, or of the process that ran it
            number: float | str = f"raised {named(remote_cause(error))}"
            if timer.expired():  # the function may raise TimeoutError, too
                number = f"did not return in time: {seconds:g} seconds"
        else:
            if self.reward_loop_worker_handles is None and final.reward_score is None:
                return  # the trainer computes the rewards later
            number = number_of(final.reward_score)
        if isinstance(number, str):
            final.reward_score, final.extra_fields["reward_extra_info"] = float("nan"), {REASON: number}
        else:
            final.reward_score = number
        if info := final.extra_fields.get("reward_extra_info"):
            final.extra_fields["reward_extra_info"] = without_surrogates(info, reward_name(self.config))

    def _with_thinking(self, outputs: list[AgentLoopOutput], row: dict[str, Any]) -> dict[str, Any]:
        """Count the tokens inside thoughts; return the row with the tags for the reward function."""
        decode = partial(self.tokenizer.decode, skip_special_tokens=True)
        thinking = self.settings.known_thinking(outputs[-1].prompt_ids, decode) if outputs else None
        if thinking is None:
            return row
        for output in outputs if thinking.close else ():
            count = thinking_tokens(output.response_ids, output.response_mask, thinking, decode)
            output.extra_fields[THINKING_TOKENS] = count
        return with_thinking(row, thinking)

    async def _agent_loop_postprocess(
        self, output: AgentLoopOutput | list[AgentLoopOutput], validate: bool, **kwargs: Any
    ) -> None:
        """Score and store each trajectory separately; verl scores only the last of a list."""
        request: TreeRequest | None = kwargs.pop("tree_request", None)
        loop = asyncio.get_running_loop()
        outputs = output if isinstance(output, list) else [output]
        kwargs = await loop.run_in_executor(None, self._with_thinking, outputs, kwargs)
        if request is None:
            await super()._agent_loop_postprocess(output, validate, **kwargs)
            return
        del kwargs["session_id"]
        store = super()._agent_loop_postprocess
        assert isinstance(output, list)
        if request.sampled is not None:
            for trajectory in output:
                trajectory.extra_fields[DUMP_FIELD] = self.dump.report
        results = await asyncio.gather(
            *(store(trajectory, validate, session_id=rank, **kwargs) for rank, trajectory in enumerate(output)),
            return_exceptions=True,
        )
        if request.sampled is not None:
            write = partial(self.dump.write, request.sampled, kwargs, output, validate=validate, number=request.number)
            await loop.run_in_executor(None, write)
        # Like verl's sessions: raise a failure after all have finished, so that none is still writing.
        for result in results:
            if isinstance(result, BaseException):
                raise result


class TreeAgentLoopManager(AgentLoopManagerTQ):
    """verl's agent-loop manager with our workers, for ``rollout.agent.agent_loop_manager_class``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        settings = validate_trees(self.config)
        row = partial(first_row, self.config, "data.train_files")
        problems = interaction_problems(settings.interaction) + policy_problems(settings, row)
        if problems := problems + tool_problems(self.config):
            raise ConfigError(problems)
        for note in (unused_cache_block(settings, self.config), never_run_note(self.config)):
            if note is not None:
                logger.warning("%s", note)
        self.agent_loop_workers_class = TreeAgentLoopWorker
        self._prompts_of_step: Counter[tuple[bool, int]] = Counter()

    def generate_sequences(self, prompts: TensorDict) -> None:
        """Number the prompts within their step, then dispatch them.

        verl may dispatch a step in several calls and divides each among the workers. Only the manager sees all prompts.
        """
        validate = bool(get_non_tensor_data(prompts, "validate", False))
        step = validate, int(get_non_tensor_data(prompts, "global_steps", None))
        first = self._prompts_of_step[step]
        self._prompts_of_step[step] += len(prompts)
        prompts[TREE_NUMBER] = torch.arange(first, first + len(prompts))
        super().generate_sequences(prompts)
