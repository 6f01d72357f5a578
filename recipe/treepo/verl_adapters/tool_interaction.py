# SPDX-License-Identifier: Apache-2.0
"""verl's tools as an interaction: the steps of ``verl.experimental.agent_loop.tool_agent_loop`` after a turn.

Parser, tool execution, limits and messages are verl's own. The reply to a turn contains the results of its tool calls.
A turn without calls ends the conversation.
"""

import asyncio
import copy
from collections.abc import Mapping
from typing import Any

from verl.experimental.agent_loop.tool_agent_loop import AgentData, ToolAgentLoop
from verl.tools.schemas import ToolResponse

from recipe.treepo.interaction import Interaction, Reply, TurnContext


class ToolInteraction(Interaction):
    """Interaction that calls the tools of ``actor_rollout_ref.rollout.multi_turn``, like verl's ``tool_agent``."""

    def setup(self, agent: ToolAgentLoop) -> None:
        self._agent = agent

    def tool_schemas(self, sample: Mapping[str, Any]) -> list[dict[str, Any]]:
        tools = self._tools(sample).values()
        return [tool.tool_schema.model_dump(exclude_unset=True, exclude_none=True) for tool in tools]

    def stop_token_ids(self) -> list[int]:
        stop_token_ids: list[int] = self._agent.tool_parser.stop_token_ids
        return stop_token_ids

    async def start(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Return an empty state, which tools access as ``agent_data.extra_fields``."""
        return {}

    async def step(self, context: TurnContext) -> Reply | None:
        """Run the tool calls of the turn, at most ``max_parallel_calls``; return None if there are none."""
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
        """Return the tools of a row: all, or those named in its ``extra_info.tool_selection``."""
        selection = (sample.get("extra_info") or {}).get("tool_selection")
        tools: dict[str, Any] = self._agent.tools
        return {name: tools[name] for name in selection if name in tools} if selection else tools

    def _agent_data(self, context: TurnContext, tools: dict[str, Any]) -> AgentData:
        """Return the path in the form that verl's tools expect."""
        data = AgentData(
            messages=context.messages,
            image_data=[],
            video_data=[],
            audio_data=None,
            mm_processor_kwargs=None,
            metrics={},
            # Node names are unique only within a prompt.
            request_id=f"{context.sample['uid']}/{context.node}",
            # All paths share the row; a tool's changes to its arguments must not reach other paths.
            tools_kwargs=copy.deepcopy(context.sample.get("tools_kwargs") or {}),
        )
        data.extra_fields = context.state
        data.response_ids = context.token_ids
        data.assistant_turns, data.user_turns = context.turn, context.turn - 1
        data._active_tools = tools
        return data


def _text(response: ToolResponse, tool: str) -> str:
    if response.image or response.video:
        raise ValueError(f"tool {tool} returned an image or video: trees support text only. Use treepo.sampler=plain.")
    return response.text or ""
