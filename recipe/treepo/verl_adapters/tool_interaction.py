# SPDX-License-Identifier: Apache-2.0
"""verl's tools as an interaction: the steps of ``verl.experimental.agent_loop.tool_agent_loop`` after a turn.

Parser, tool execution, limits and messages are verl's own. The results of a turn's tool calls are added as messages. A
turn without calls ends the conversation.
"""

import asyncio
import copy
from collections.abc import Mapping
from typing import Any

from verl.experimental.agent_loop.tool_agent_loop import AgentData, ToolAgentLoop
from verl.tools.schemas import ToolResponse

from recipe.treepo.interaction import Interaction, Reply, TurnContext


class ToolInteraction(Interaction):
    """Calls the tools that ``actor_rollout_ref.rollout.multi_turn`` names, as verl's ``tool_agent`` does."""

    def setup(self, agent: ToolAgentLoop) -> None:
        self._agent = agent

    def tool_schemas(self, sample: Mapping[str, Any]) -> list[dict[str, Any]]:
        tools = self._tools(sample).values()
        return [tool.tool_schema.model_dump(exclude_unset=True, exclude_none=True) for tool in tools]

    def stop_token_ids(self) -> list[int]:
        stop_token_ids: list[int] = self._agent.tool_parser.stop_token_ids
        return stop_token_ids

    async def start(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Return what tools may keep in ``agent_data.extra_fields``."""
        return {}

    async def step(self, context: TurnContext) -> Reply | None:
        """Call the tools that the turn asks for, at most ``max_parallel_calls``; None if it asks for none."""
        agent, tools = self._agent, self._tools(context.sample)
        schemas = [tool.tool_schema for tool in tools.values()]
        content, calls = await agent.tool_parser.extract_tool_calls(context.token_ids, schemas)
        if not calls:
            return None
        data = self._agent_data(context, tools)
        data.tool_calls = calls
        assistant = agent._build_assistant_message(content, data)
        data.messages[-1] = assistant
        calls = calls[: agent.max_parallel_calls]
        results = await asyncio.gather(*(agent._call_tool(call, data.tools_kwargs, data) for call in calls))
        messages, said = [], []
        for call, (response, _, _) in zip(calls, results, strict=True):
            text = _text(response, call.name)
            message = {"role": "tool", "content": text}
            if call.tool_call_id is not None:
                message["tool_call_id"] = call.tool_call_id
            messages.append(message)
            said.append({"name": call.name, "arguments": call.arguments, "response": text})
        return Reply(
            messages=messages,
            info={"tool_calls": said},
            tool_rewards=[reward for _, reward, _ in results if reward is not None],
            assistant=assistant,
        )

    def _tools(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Return the tools of a row: all, or those that its ``extra_info.tool_selection`` names."""
        selection = (sample.get("extra_info") or {}).get("tool_selection")
        tools: dict[str, Any] = self._agent.tools
        return {name: tools[name] for name in selection if name in tools} if selection else tools

    def _agent_data(self, context: TurnContext, tools: dict[str, Any]) -> AgentData:
        """Return the path as verl's tools know it."""
        data = AgentData(
            messages=context.messages,
            image_data=[],
            video_data=[],
            audio_data=None,
            mm_processor_kwargs=None,
            metrics={},
            # Nodes of other prompts have the same names.
            request_id=f"{context.sample['uid']}/{context.node}",
            # The row is that of all paths; what a tool does to its arguments must not reach another one.
            tools_kwargs=copy.deepcopy(context.sample.get("tools_kwargs") or {}),
        )
        data.extra_fields = context.state
        data.response_ids = context.token_ids
        data.assistant_turns, data.user_turns = context.turn, context.turn - 1
        data._active_tools = tools
        return data


def _text(response: ToolResponse, tool: str) -> str:
    if response.image or response.video:
        raise ValueError(f"tool {tool} returned an image or a video, and trees are text only")
    return response.text or ""
