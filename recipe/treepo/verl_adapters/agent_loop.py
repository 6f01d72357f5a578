# SPDX-License-Identifier: Apache-2.0
"""Tree rollouts inside verl's agent loops; the only file that knows verl's workers.

verl starts ``rollout.n`` agent loops ("sessions") per prompt in
``verl.trainer.ppo.v1.agent_loop_tq.AgentLoopWorkerTQ._run_prompt``, and puts what each returns into TransferQueue
under the key ``{uid}_{session}_{index}``. Here one loop per prompt is started, it searches a tree, and each of the n
trajectories that it returns is stored and scored as a session of its own. Paths may be conversations, with an
interaction of the user's or with verl's tools; the loop is therefore one of verl's tool agent, with another ``run``.
"""

import asyncio
import json
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from omegaconf import DictConfig, OmegaConf
from tensordict import TensorDict
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput, register
from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ
from verl.utils.rollout_trace import rollout_trace_op
from verl.utils.tensordict_utils import get_non_tensor_data
from verl.workers.config import HFModelConfig
from verl.workers.rollout.llm_server import LLMServerClient

from recipe.treepo.interaction import Interaction, Message
from recipe.treepo.search import grow_tree
from recipe.treepo.search.conversation import ConversationStart
from recipe.treepo.search.seeds import derive_seed
from recipe.treepo.search.tree import Tree
from recipe.treepo.settings.schema import REPLACED_AGENTS, TOOL_AGENT, Sampler, TreePOSettings, load_settings
from recipe.treepo.settings.validate import validate_trees
from recipe.treepo.settings.values import ConfigError
from recipe.treepo.tools import ToolInteraction
from recipe.treepo.verl_adapters.server_engine import ServerEngine, tree_client
from recipe.treepo.verl_adapters.trajectory import trajectory_fields
from recipe.treepo.verl_adapters.user_code import interaction_class, interaction_problems, tool_problems

TREE_AGENT = "treepo_agent"
# Field of the data set's rows in which the manager numbers the prompts of a step.
TREE_NUMBER = "tree_number"


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeJob:
    """What a worker tells the agent loop of one prompt; it travels among the fields of the data set's row.

    Attributes:
        width: Trajectories wanted.
        settings: How to search.
        progress: How far training is, 0 to 1, for what changes in its course.
        seed: Of this tree, the same in every run.
        eos_token_ids: All end tokens of the model; empty to ignore them.
        independent: Whether the trajectories are loops that share nothing.
        interaction: Class of what the model talks to, None for nobody.
        replaced_agent: The agent that the row asks for.
        validate: Whether the prompt is one of the validation data.
        client: Made by ``tree_client``, once per worker: a client asks the load balancer what it wants to know about
            requests when it sends its first.
    """

    width: int
    settings: TreePOSettings
    progress: float
    seed: int
    eos_token_ids: frozenset[int]
    independent: bool
    interaction: type[Interaction] | None
    replaced_agent: str
    validate: bool
    client: LLMServerClient


@register(TREE_AGENT)
class TreeAgentLoop(ToolAgentLoop):
    """Search a tree over one prompt; verl makes one instance per prompt."""

    @rollout_trace_op
    async def run(  # type: ignore[override]
        self, sampling_params: dict[str, Any], *, tree_job: TreeJob, priority: int = 0, **kwargs: Any
    ) -> list[AgentLoopOutput]:
        """Return the trajectories of one prompt.

        Args:
            sampling_params: Temperature and so on, as verl's own loops get them.
            tree_job: How to search.
            priority: As verl's own loops get it.
            **kwargs: Fields of the data set's row.

        Raises:
            ValueError: if a tree cannot take the place of what the row asks for.
            SearchError: if the trajectories could not be had; verl logs it and gives the prompt up.
        """
        if tree_job.replaced_agent not in REPLACED_AGENTS:
            raise ValueError(
                f"agent_name={tree_job.replaced_agent}: trees take the place of {' and '.join(REPLACED_AGENTS)} only. "
                "Use treepo.sampler=plain, or leave agent_name out of the data set."
            )
        messages = list(kwargs["raw_prompt"])
        if await self.process_multi_modal_info(messages):
            raise ValueError("trees are text only: use treepo.sampler=plain for prompts with images, video or audio")
        interaction = self._interaction(tree_job)
        tools, ends = None, tree_job.eos_token_ids
        if interaction is not None:
            tools = interaction.tool_schemas(kwargs)
            ends |= frozenset(interaction.stop_token_ids())
        prompt_ids = await self.ct_build_initial_tokens(messages, tools=tools)
        engine = self._engine(tree_job, sampling_params, priority, ends)
        conversation = None
        if interaction is not None:
            conversation = self._conversation(tree_job, interaction, messages, kwargs, tools)
        tree = await self._grow(tree_job, prompt_ids, engine, ends, conversation)
        if tree_job.settings.dump_dir is not None:
            name = f"val_step_{kwargs['global_steps']}" if tree_job.validate else f"step_{kwargs['global_steps']}"
            folder = Path(tree_job.settings.dump_dir) / name
            await self.loop.run_in_executor(None, _dump, tree, engine.calls, folder / f"{kwargs['uid']}.json")
        return [
            _trajectory(tree, leaf, fields) for leaf, fields in zip(tree.leaves, trajectory_fields(tree), strict=True)
        ]

    def _interaction(self, job: TreeJob) -> Interaction | None:
        """Return what this prompt's paths talk to."""
        if job.interaction is not None:
            interaction = job.interaction(**job.settings.interaction.options)
        elif job.replaced_agent == TOOL_AGENT:
            interaction = ToolInteraction()
        else:
            return None
        interaction.setup(self)
        return interaction

    def _conversation(
        self,
        job: TreeJob,
        interaction: Interaction,
        messages: list[Message],
        row: dict[str, Any],
        tools: list[dict[str, Any]] | None,
    ) -> ConversationStart:
        limits = self.rollout_config.multi_turn
        return ConversationStart(
            interaction=interaction,
            rules=job.settings.interaction.rules(
                max_assistant_turns=limits.max_assistant_turns, max_user_turns=limits.max_user_turns
            ),
            messages=messages,
            sample=row,
            name=f"prompt {row['uid']}",
            validate=job.validate,
            tokens=self,
            end_token_id=turn_end(self.tokenizer),
            tools=tools,
        )

    async def append(
        self, messages: list[Message], updated: list[Message], token_ids: list[int], tools: list[dict[str, Any]] | None
    ) -> list[int]:
        """See :class:`recipe.treepo.search.conversation.TurnTokens`; verl's builder tokenises what is added only."""
        merge = partial(self.continuous_token_builder.merge_context_tokens, tools=tools)
        result = await self.loop.run_in_executor(None, merge, messages, updated, token_ids)
        return result.token_ids

    def _engine(
        self, job: TreeJob, sampling_params: dict[str, Any], priority: int, ends: frozenset[int]
    ) -> ServerEngine:
        rollout = self.rollout_config
        return ServerEngine(
            job.client,
            {**sampling_params, "stop_token_ids": sorted(ends)},
            seed=job.seed if rollout.full_determinism else None,
            priority=int(priority),
            # verl starts vLLM with a tokenizer, without which an engine cannot see texts; other engines run on to
            # the end of the segment, and the search cuts.
            stop_strings=job.settings.stop_strings if rollout.name == "vllm" else (),
            record=job.settings.dump_dir is not None,
            spread=job.independent,
        )

    async def _grow(
        self,
        job: TreeJob,
        prompt_ids: list[int],
        engine: ServerEngine,
        ends: frozenset[int],
        conversation: ConversationStart | None,
    ) -> Tree:
        response_length = self.rollout_config.response_length
        settings = job.settings.independent(job.width) if job.independent else job.settings
        return await grow_tree(
            prompt_ids,
            engine=engine,
            shape=settings.shape(
                width=job.width,
                response_length=response_length,
                progress=job.progress,
                conversation=conversation is not None,
            ),
            stopping=settings.stopping_rules(
                eos_token_ids=ends,
                response_length=response_length,
                decode=partial(self.tokenizer.decode, skip_special_tokens=True),
            ),
            seed=job.seed,
            conversation=conversation,
        )


def _trajectory(tree: Tree, leaf: int, fields: dict[str, Any]) -> AgentLoopOutput:
    """Return one trajectory in verl's terms; ``extra_fields`` reach the trainer and the reward function."""
    path = tree.path(leaf)
    min_version, max_version = path.versions
    return AgentLoopOutput(
        prompt_ids=tree.prompt_ids,
        response_ids=path.response_ids,
        response_mask=path.response_mask,
        response_logprobs=path.response_logprobs,
        # As verl counts: the prompt, and each turn of either side.
        num_turns=2 + 2 * len(path.replies),
        metrics=AgentLoopMetrics(generate_sequences=tree.counters.search_seconds),
        extra_fields={
            "turn_scores": [],
            "tool_rewards": [reward for reply in path.replies for reward in reply.tool_rewards],
            "min_global_steps": min_version,
            "max_global_steps": max_version,
            **fields,
        },
    )


def _dump(tree: Tree, calls: list[dict[str, Any]], path: Path) -> None:
    """Write a tree and the engine calls that grew it as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nodes = [
        {
            "index": node.index,
            "parent": node.parent,
            "key": node.key,
            "offset": node.offset,
            "token_ids": node.segment.token_ids,
            "logprobs": node.segment.logprobs,
            "messages": None if node.reply is None else node.reply.messages,
            "finish_reason": node.finish_reason,
            "finish_detail": node.finish_detail,
            "dropped": node.dropped,
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


def turn_end(tokenizer: Any) -> int | None:
    """Return the special token with which the chat template ends what the model says, None if it has none there.

    It need not be the tokenizer's own end token: base models with a chat template have another one.
    """
    said = "said"
    chat = [{"role": "user", "content": "asked"}, {"role": "assistant", "content": said}]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    after = tokenizer.encode(text[text.rindex(said) + len(said) :], add_special_tokens=False)
    return after[0] if after and after[0] in tokenizer.all_special_ids else None


def training_progress(config: DictConfig, global_steps: int) -> float:
    """Return how far training is: 0 at its first step, 1 at its last, 0 where its length is not known."""
    total = OmegaConf.select(config, "trainer.total_training_steps")
    if total is None:
        # PPOTrainer._init_dataloader writes the length that follows from the data set into the optimizer's
        # configuration only, counted in updates: parameter_sync_step of them make a step.
        updates = OmegaConf.select(config, "actor_rollout_ref.actor.optim.total_training_steps") or 0
        mode = OmegaConf.select(config, "trainer.v1.trainer_mode")
        total = updates // (OmegaConf.select(config, f"trainer.v1.{mode}.parameter_sync_step") or 1)
    if total < 1:
        return 0.0
    return min(1.0, max(0.0, (global_steps - 1) / max(1, total - 1)))


# Ray refuses to subclass an actor class; what it was made from can be subclassed.
_WorkerBase = AgentLoopWorkerTQ.__ray_metadata__.modified_class


@ray.remote
class TreeAgentLoopWorker(_WorkerBase):
    """verl's agent-loop worker, in which one tree per prompt takes the place of n independent samples."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.settings = load_settings(self.config)
        self.eos_token_ids = frozenset() if self.rollout_config.ignore_eos else eos_token_ids(self.model_config)
        self.tree_client = tree_client(self.llm_client)
        self.interaction = interaction_class(self.settings.interaction)

    async def _run_prompt(
        self, prompt: dict[str, Any], sampling_params: dict[str, Any], trajectory: dict[str, Any], trace: bool = False
    ) -> None:
        # verl hands what is left in the row to its loops and stores it with every trajectory.
        number = int(prompt.pop(TREE_NUMBER))
        validate = trajectory["validate"]
        samples_tree = self._samples_tree(prompt, validate)
        if samples_tree or self._needs_loops(validate):
            job = self._job(prompt, validate, number, independent=not samples_tree)
            prompt = {**prompt, "agent_name": TREE_AGENT, "tree_job": job, "__rollout_n__": 1}
        await super()._run_prompt(prompt, sampling_params, trajectory, trace)

    def _samples_tree(self, prompt: dict[str, Any], validate: bool) -> bool:
        """Tell whether the trajectories of a prompt share what they can."""
        if self.settings.sampler is not Sampler.TREE or (validate and not self.settings.validate_with_tree):
            return False
        # verl asks for a greedy sample beside the others where an estimator (remax) needs a baseline.
        return bool(prompt.get("__do_sample__", True))

    def _needs_loops(self, validate: bool) -> bool:
        """Tell whether what is no tree goes through the search all the same: verl's sampler knows no interaction."""
        return self.interaction is not None or (self.settings.sampler is Sampler.INDEPENDENT and not validate)

    def _job(self, prompt: dict[str, Any], validate: bool, number: int, *, independent: bool) -> TreeJob:
        rollout, step = self.config.actor_rollout_ref.rollout, int(prompt["global_steps"])
        n = rollout.val_kwargs.n if validate else rollout.n
        return TreeJob(
            width=int(prompt.get("__rollout_n__", n)),
            settings=self.settings,
            progress=training_progress(self.config, step),
            # Neither uid nor index will do: verl draws the uid at random, and rows of a data set may have one index.
            seed=derive_seed(rollout.seed, "val" if validate else "train", step, number),
            eos_token_ids=self.eos_token_ids,
            independent=independent,
            interaction=self.interaction,
            replaced_agent=prompt["agent_name"],
            validate=validate,
            client=self.tree_client,
        )

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
        problems = interaction_problems(validate_trees(self.config).interaction) + tool_problems(self.config)
        if problems:
            raise ConfigError(problems)
        self.agent_loop_workers_class = TreeAgentLoopWorker
        self._prompts_of_step: Counter[tuple[bool, int]] = Counter()

    def generate_sequences(self, prompts: TensorDict) -> None:
        """Number the prompts within their step, then dispatch them.

        verl dispatches the prompts of a step in several calls where it refills, and divides each among the workers, so
        that only the manager can number them.
        """
        validate = bool(get_non_tensor_data(prompts, "validate", False))
        step = validate, int(get_non_tensor_data(prompts, "global_steps", None))
        first = self._prompts_of_step[step]
        self._prompts_of_step[step] += len(prompts)
        prompts[TREE_NUMBER] = torch.arange(first, first + len(prompts))
        super().generate_sequences(prompts)
