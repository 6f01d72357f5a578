# SPDX-License-Identifier: Apache-2.0
"""Tree rollouts inside verl's agent loops; the only file that knows verl's workers and servers.

verl starts ``rollout.n`` agent loops ("sessions") per prompt in
``verl.trainer.ppo.v1.agent_loop_tq.AgentLoopWorkerTQ._run_prompt``, and puts what each returns into TransferQueue
under the key ``{uid}_{session}_{index}``. Here one loop per prompt is started, it searches a tree, and each of the n
trajectories that it returns is stored and scored as a session of its own.
"""

import asyncio
import hashlib
import json
import random
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
from verl.experimental.agent_loop.agent_loop import (
    AgentLoopBase,
    AgentLoopMetrics,
    AgentLoopOutput,
    register,
)
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ
from verl.utils.rollout_trace import rollout_trace_op
from verl.workers.config import HFModelConfig
from verl.workers.rollout.llm_server import LLMServerClient

from recipe.treepo.engine import Segment
from recipe.treepo.search import grow_tree
from recipe.treepo.settings import REPLACED_AGENT, Sampler, TreePOSettings, load_settings, validate_trees
from recipe.treepo.stopping import StoppingRules
from recipe.treepo.tree import Tree

TREE_AGENT = "treepo_agent"


class ServerEngine:
    """Continue prefixes with verl's inference servers, all requests of a tree on one replica.

    Under ``rollout.full_determinism`` verl routes by a hash of the id that it also hands to the engine, and requests
    in flight need ids of their own: with several replicas a tree's requests are then spread over them.
    """

    def __init__(
        self,
        client: LLMServerClient,
        sampling_params: dict[str, Any],
        *,
        seed: int | None,
        priority: int,
        record: bool = False,
    ) -> None:
        """Make the engine of one tree.

        Args:
            client: Routes requests with the same id to the same replica, so that a tree meets its own prefixes in
                the replica's cache.
            sampling_params: As verl's agent loops get them, with the stop tokens added.
            seed: Seed of the tree where ``rollout.full_determinism`` is on: each request then gets a seed and an id
                of its own, derived from this and its node, because verl gives all requests one seed and passes the
                id through to the engine. None to leave sampling to the engine's generator.
            priority: Priority of the tree's requests in the engine's queue, as verl sets it.
            record: Whether to keep all calls in ``calls``.
        """
        self._record = record
        self._client = client
        self._sampling_params = {**sampling_params, "logprobs": True}
        self._seed = seed
        self._priority = priority
        self._tree_id = uuid4().hex
        self.calls: list[dict[str, Any]] = []

    async def extend(self, input_ids: list[int], *, max_tokens: int, node: int) -> Segment:
        """See :class:`recipe.treepo.engine.SegmentEngine`."""
        params = {**self._sampling_params, "max_tokens": max_tokens}
        request_id = self._tree_id
        if self._seed is not None:
            params["seed"] = derive_seed(self._seed, node) % 2**31
            request_id = f"tree-{self._seed:x}-{node}"
        output = await self._client.generate(
            request_id=request_id, prompt_ids=input_ids, sampling_params=params, priority=self._priority
        )
        if output.stop_reason in ("aborted", "abort"):
            raise RuntimeError(f"the engine aborted the request for node {node}")
        fields = output.extra_fields
        if self._record:
            self.calls.append({"node": node, "input_ids": input_ids, "output_ids": list(output.token_ids)})
        return Segment(
            token_ids=list(output.token_ids),
            logprobs=list(output.log_probs or []),
            cached_tokens=fields.get("num_cached_tokens") or 0,
            min_version=fields.get("min_global_steps"),
            max_version=fields.get("max_global_steps"),
        )


def derive_seed(*parts: Any) -> int:
    """Return 64 bits that depend on all ``parts`` and on nothing else, equal in every process."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big")


@dataclass(frozen=True, slots=True)
class TreeJob:
    """What a worker tells the agent loop of one prompt; it travels among the fields of the data set's row."""

    width: int
    settings: TreePOSettings
    eos_token_ids: frozenset[int]
    replaced_agent: str


@register(TREE_AGENT)
class TreeAgentLoop(AgentLoopBase):
    """Search a tree over one prompt; verl makes one instance per prompt."""

    @rollout_trace_op
    async def run(  # type: ignore[override]
        self, sampling_params: dict[str, Any], *, tree_job: TreeJob, priority: int = 0, **kwargs: Any
    ) -> list[AgentLoopOutput]:
        """Return exactly ``tree_job.width`` trajectories of one prompt.

        Args:
            sampling_params: Temperature and so on, as verl's own loops get them.
            tree_job: How to search.
            priority: As verl's own loops get it.
            **kwargs: Fields of the data set's row.
        """
        if tree_job.replaced_agent != REPLACED_AGENT:
            raise ValueError(
                f"agent_name={tree_job.replaced_agent}: trees take the place of {REPLACED_AGENT} only. "
                "Use treepo.sampler=plain, or leave agent_name out of the data set."
            )
        messages = list(kwargs["raw_prompt"])
        if await self.process_multi_modal_info(messages):
            raise ValueError("trees are text only: use treepo.sampler=plain for prompts with images, video or audio")
        prompt_ids = await self.ct_build_initial_tokens(messages)
        settings, rollout = tree_job.settings, self.rollout_config
        seed = derive_seed(rollout.seed, int(kwargs["global_steps"]), str(kwargs.get("index")), prompt_ids)
        engine = ServerEngine(
            self.server_manager,
            {**sampling_params, "stop_token_ids": sorted(tree_job.eos_token_ids)},
            seed=seed if rollout.full_determinism else None,
            priority=int(priority),
            record=settings.dump_dir is not None,
        )
        tree = await grow_tree(
            prompt_ids,
            engine=engine,
            shape=settings.shape(width=tree_job.width, response_length=rollout.response_length),
            stopping=StoppingRules(
                order=settings.stopping,
                eos_token_ids=tree_job.eos_token_ids,
                response_length=rollout.response_length,
                depth=settings.depth,
                decode=partial(self.tokenizer.decode, skip_special_tokens=True),
            ),
            rng=random.Random(seed),
        )
        if settings.dump_dir is not None:
            folder = Path(settings.dump_dir) / f"step_{kwargs['global_steps']}"
            await self.loop.run_in_executor(None, _dump, tree, engine.calls, folder / f"{kwargs['uid']}.json")
        statistics = tree.statistics()
        return [_trajectory(tree, leaf, statistics) for leaf in tree.leaves]


def _trajectory(tree: Tree, leaf: int, statistics: dict[str, Any]) -> AgentLoopOutput:
    """Return one trajectory in verl's terms; ``extra_fields`` reach the trainer and the reward function."""
    response_ids = tree.response_ids(leaf)
    min_version, max_version = tree.versions(leaf)
    return AgentLoopOutput(
        prompt_ids=tree.prompt_ids,
        response_ids=response_ids,
        response_mask=[1] * len(response_ids),
        response_logprobs=tree.response_logprobs(leaf),
        num_turns=2,
        metrics=AgentLoopMetrics(generate_sequences=tree.counters.search_seconds),
        extra_fields={
            "turn_scores": [],
            "tool_rewards": [],
            "min_global_steps": min_version,
            "max_global_steps": max_version,
            "tree_path": tree.tree_path(leaf),
            "tree_finish_reason": str(tree.nodes[leaf].finish_reason),
            "tree_statistics": statistics,
        },
    )


def _dump(tree: Tree, calls: list[dict[str, Any]], path: Path) -> None:
    """Write a tree and the engine calls that grew it as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nodes = [
        {
            "index": node.index,
            "parent": node.parent,
            "offset": node.offset,
            "token_ids": node.segment.token_ids,
            "logprobs": node.segment.logprobs,
            "finish_reason": node.finish_reason,
        }
        for node in tree.nodes
    ]
    document = {"prompt_ids": tree.prompt_ids, "nodes": nodes, "leaves": tree.leaves, "calls": calls}
    path.write_text(json.dumps(document))


def eos_token_ids(model: HFModelConfig) -> frozenset[int]:
    """Return all end tokens of a model: the tokenizer's, and those in its config and generation config."""
    ids: set[int] = set()
    for holder in (model.tokenizer, model.hf_config, model.generation_config):
        value = getattr(holder, "eos_token_id", None)
        ids.update([value] if isinstance(value, int) else value or [])
    return frozenset(ids)


# Ray refuses to subclass an actor class; what it was made from can be subclassed.
_WorkerBase = AgentLoopWorkerTQ.__ray_metadata__.modified_class


@ray.remote
class TreeAgentLoopWorker(_WorkerBase):
    """verl's agent-loop worker, in which one tree per prompt takes the place of n independent samples."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.settings = load_settings(self.config)
        self.eos_token_ids = frozenset() if self.rollout_config.ignore_eos else eos_token_ids(self.model_config)

    async def _run_prompt(
        self, prompt: dict[str, Any], sampling_params: dict[str, Any], trajectory: dict[str, Any], trace: bool = False
    ) -> None:
        if self._samples_tree(prompt, trajectory["validate"]):
            rollout = self.config.actor_rollout_ref.rollout
            n = rollout.val_kwargs.n if trajectory["validate"] else rollout.n
            job = TreeJob(
                width=int(prompt.get("__rollout_n__", n)),
                settings=self.settings,
                eos_token_ids=self.eos_token_ids,
                replaced_agent=prompt["agent_name"],
            )
            prompt = {**prompt, "agent_name": TREE_AGENT, "tree_job": job, "__rollout_n__": 1}
        await super()._run_prompt(prompt, sampling_params, trajectory, trace)

    def _samples_tree(self, prompt: dict[str, Any], validate: bool) -> bool:
        if self.settings.sampler is not Sampler.TREE or (validate and not self.settings.validate_with_tree):
            return False
        # verl asks for a greedy sample beside the others where an estimator (remax) needs a baseline.
        return bool(prompt.get("__do_sample__", True))

    async def _agent_loop_postprocess(
        self, output: AgentLoopOutput | list[AgentLoopOutput], validate: bool, **kwargs: Any
    ) -> None:
        """Score and store every trajectory of a tree on its own; verl scores only the last of a list."""
        if kwargs.pop("tree_job", None) is None:
            return await super()._agent_loop_postprocess(output, validate, **kwargs)
        del kwargs["session_id"]
        store = super()._agent_loop_postprocess
        results = await asyncio.gather(
            *(store(trajectory, validate, session_id=rank, **kwargs) for rank, trajectory in enumerate(output)),
            return_exceptions=True,
        )
        # Like verl with its sessions: report a failure only when nothing is left that could still write.
        for result in results:
            if isinstance(result, BaseException):
                raise result


class TreeAgentLoopManager(AgentLoopManagerTQ):
    """verl's agent-loop manager with our workers; the override that switches a run to trees names this class."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        validate_trees(self.config)
        self.agent_loop_workers_class = TreeAgentLoopWorker
