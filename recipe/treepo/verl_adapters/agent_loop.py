# SPDX-License-Identifier: Apache-2.0
"""Agent loop of one prompt: search a tree and return its trajectories as verl's outputs.

The loop replaces ``run`` of verl's ``ToolAgentLoop``. Paths may be conversations, with a user's interaction or with
verl's tools. ``worker.py`` starts one loop per prompt.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput, register
from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop
from verl.utils.rollout_trace import rollout_trace_op
from verl.workers.rollout.llm_server import LLMServerClient

from recipe.treepo.answers.thinking import Thinking
from recipe.treepo.interaction import Interaction, InteractionError, Message
from recipe.treepo.policies import Policies, PolicyContext
from recipe.treepo.search import grow_tree
from recipe.treepo.search.conversation import ConversationStart
from recipe.treepo.search.policy_calls import PolicyError
from recipe.treepo.search.tree import Tree
from recipe.treepo.search.user_errors import is_from_user_code, named
from recipe.treepo.settings.schema import REPLACED_AGENTS, TOOL_AGENT, TreePOSettings
from recipe.treepo.verl_adapters.model_tokens import turn_end
from recipe.treepo.verl_adapters.server_engine import ServerEngine, output_params
from recipe.treepo.verl_adapters.tool_interaction import ToolInteraction
from recipe.treepo.verl_adapters.trajectory import CUT_FIELD, trajectory_fields, with_thinking
from recipe.treepo.verl_adapters.tree_dump import SampledTree

TREE_AGENT = "treepo_agent"


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeRequest:
    """Parameters of the search for one prompt. The worker adds them to the fields of the data set's row.

    Attributes:
        width: Number of trajectories.
        settings: Settings of the search.
        progress: Training progress from 0 to 1, for schedules.
        number: Number of the prompt within its step.
        seed: Seed of this tree, the same in every run.
        eos_token_ids: All end tokens of the model; empty to ignore them.
        independent: Whether the trajectories are separate loops without shared tokens.
        interaction: Class of the user's interaction; None for single-turn prompts and for verl's tools.
        policies: The user's policies.
        step: Training step, from 1; 0 for validation.
        on_fault: Receives an error of the user's policies.
        replaced_agent: ``agent_name`` of the row.
        validate: Whether the prompt belongs to the validation data.
        sampled: Receives the tree for the dump; None for a tree that is not dumped.
        on_tree: Receives the finished tree.
        client: Client from ``tree_client``, one per worker: the first request of each client queries the load
            balancer for its required fields.
    """

    width: int
    settings: TreePOSettings
    progress: float
    number: int
    seed: int
    eos_token_ids: frozenset[int]
    independent: bool
    interaction: type[Interaction] | None
    policies: Policies
    step: int
    on_fault: Callable[[PolicyError], None]
    replaced_agent: str
    validate: bool
    sampled: SampledTree | None
    on_tree: Callable[[Tree], None]
    client: LLMServerClient


@register(TREE_AGENT)
class TreeAgentLoop(ToolAgentLoop):
    """Agent loop that searches one tree. verl makes one instance per prompt.

    Attributes:
        prompt_is_cut: Whether the beginning of the prompt was cut off.
        thinking: Tags of the model's thoughts.
    """

    prompt_is_cut = False
    thinking = Thinking()

    @rollout_trace_op
    async def run(
        self, sampling_params: dict[str, Any], *, tree_request: TreeRequest, priority: int = 0, **kwargs: Any
    ) -> list[AgentLoopOutput]:
        """Return the trajectories of one prompt.

        Args:
            sampling_params: Sampling parameters such as the temperature, as in verl's own loops.
            tree_request: Parameters of the search.
            priority: Priority in the engine's queue, as in verl's own loops.
            **kwargs: Fields of the data set's row.

        Raises:
            ValueError: if a tree cannot replace the row's agent, the prompt has images, video or audio, or it is too
                long with data.truncation=error.
            SearchError: if the search yields no trajectory; verl logs it and abandons the prompt.
            PolicyError: if a policy of the user fails; the run ends.
            InteractionError: if a method that prepares the interaction exits.
        """
        agent = tree_request.replaced_agent
        if agent not in REPLACED_AGENTS:
            raise ValueError(
                f"agent_name={agent}: trees replace only {' and '.join(REPLACED_AGENTS)}. "
                "Use treepo.sampler=plain, or leave agent_name out of the data set."
            )
        self.thinking = tree_request.settings.tags
        messages = list(kwargs["raw_prompt"])
        if await self.process_multi_modal_info(messages):
            raise ValueError("prompt with images, video or audio: trees support text only. Use treepo.sampler=plain.")
        tools, ends = None, tree_request.eos_token_ids
        try:
            interaction = self._interaction(tree_request)
            if interaction is not None:
                tools = interaction.tool_schemas(kwargs)
                ends |= frozenset(interaction.stop_token_ids())
        except BaseException as error:
            # SystemExit would leave the task and end the worker's event loop.
            if isinstance(error, Exception) or not is_from_user_code(error, asyncio.current_task()):
                raise
            raise InteractionError(f"the interaction of prompt {kwargs['uid']} failed: {named(error)}") from error
        prompt_ids = await self.ct_build_initial_tokens(messages, tools=tools)
        engine = self._engine(tree_request, sampling_params, priority, ends)
        conversation = None
        if interaction is not None:
            thinking = tree_request.settings.known_thinking(prompt_ids, self._decode)
            row = kwargs if thinking is None else with_thinking(kwargs, thinking)
            conversation = self._conversation(tree_request, interaction, messages, row, tools)
        context = PolicyContext(
            prompt=f"prompt {kwargs['uid']}", row=kwargs, step=tree_request.step, progress=tree_request.progress
        )
        try:
            tree = await self._grow(tree_request, prompt_ids, engine, ends, conversation, context)
        except PolicyError as error:
            tree_request.on_fault(error)
            raise
        tree_request.on_tree(tree)
        if tree_request.sampled is not None:
            tree_request.sampled.tree, tree_request.sampled.calls = tree, engine.calls
        fields = trajectory_fields(tree)
        more = {CUT_FIELD: self.prompt_is_cut}
        return [trajectory_output(tree, leaf, own | more) for leaf, own in zip(tree.leaves, fields, strict=True)]

    def _cap_text_prompt_length(self, prompt_ids: list[int]) -> list[int]:
        """Cut a prompt that is too long from the left, as verl does, but not with data.truncation=error.

        verl applies that setting, its default, to images only. A cut text loses its system message and the header of
        its chat template.
        """
        most = self.rollout_config.prompt_length
        self.prompt_is_cut = len(prompt_ids) > most
        if self.prompt_is_cut and self.data_config.get("truncation", "error") == "error":
            raise ValueError(
                f"data.max_prompt_length={most}: a prompt has {len(prompt_ids)} tokens, and data.truncation=error. "
                "Use data.filter_overlong_prompts=true, a larger limit, or data.truncation=left."
            )
        capped: list[int] = super()._cap_text_prompt_length(prompt_ids)
        return capped

    def _interaction(self, request: TreeRequest) -> Interaction | None:
        """Return a new interaction for this prompt, None for single-turn prompts."""
        if request.interaction is not None:
            interaction = request.interaction(**request.settings.interaction.options)
        elif request.replaced_agent == TOOL_AGENT:
            interaction = ToolInteraction()
        else:
            return None
        interaction.setup(self)
        return interaction

    def _conversation(
        self,
        request: TreeRequest,
        interaction: Interaction,
        messages: list[Message],
        row: dict[str, Any],
        tools: list[dict[str, Any]] | None,
    ) -> ConversationStart:
        limits = self.rollout_config.multi_turn
        return ConversationStart(
            interaction=interaction,
            rules=request.settings.interaction.rules(
                max_assistant_turns=limits.max_assistant_turns, max_user_turns=limits.max_user_turns
            ),
            messages=messages,
            sample=row,
            name=f"prompt {row['uid']}",
            validate=request.validate,
            tokens=self,
            end_token_id=turn_end(self.tokenizer),
            tools=tools,
        )

    async def append(
        self, messages: list[Message], updated: list[Message], token_ids: list[int], tools: list[dict[str, Any]] | None
    ) -> list[int]:
        """Tokenize the added messages with verl; see :class:`recipe.treepo.search.conversation.TurnTokens`."""
        merge = partial(self.continuous_token_builder.merge_context_tokens, tools=tools)
        result = await self.loop.run_in_executor(None, merge, messages, updated, token_ids)
        merged: list[int] = result.token_ids
        return merged

    def _decode(self, token_ids: list[int]) -> str:
        text: str = self.tokenizer.decode(token_ids, skip_special_tokens=True)
        return text

    def _engine(
        self, request: TreeRequest, sampling_params: dict[str, Any], priority: int, ends: frozenset[int]
    ) -> ServerEngine:
        rollout = self.rollout_config
        output = output_params(rollout.name, request.settings.stop_strings)
        return ServerEngine(
            request.client,
            {**sampling_params, "stop_token_ids": sorted(ends), **output},
            seed=request.seed if rollout.full_determinism else None,
            priority=int(priority),
            record=request.sampled is not None and request.settings.dump.calls,
            spread=request.independent,
        )

    async def _grow(
        self,
        request: TreeRequest,
        prompt_ids: list[int],
        engine: ServerEngine,
        ends: frozenset[int],
        conversation: ConversationStart | None,
        context: PolicyContext,
    ) -> Tree:
        response_length = self.rollout_config.response_length
        settings = request.settings.independent(request.width) if request.independent else request.settings
        return await grow_tree(
            prompt_ids,
            engine=engine,
            shape=settings.shape(
                width=request.width,
                response_length=response_length,
                progress=request.progress,
                conversation=conversation is not None,
            ),
            stopping=settings.stopping_rules(
                eos_token_ids=ends,
                response_length=response_length,
                decode=self._decode,
            ),
            seed=request.seed,
            conversation=conversation,
            policies=Policies() if request.independent else request.policies,
            context=context,
        )


def trajectory_output(tree: Tree, leaf: int, fields: dict[str, Any]) -> AgentLoopOutput:
    """Return one trajectory as verl's output; ``extra_fields`` reach the trainer and the reward function."""
    path = tree.path(leaf)
    min_version, max_version = path.versions
    return AgentLoopOutput(
        prompt_ids=tree.prompt_ids,
        response_ids=path.response_ids,
        response_mask=path.response_mask,
        response_logprobs=path.logprobs,
        # verl counts the prompt and the turns of both sides.
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
