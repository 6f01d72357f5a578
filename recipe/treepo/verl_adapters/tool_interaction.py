# SPDX-License-Identifier: Apache-2.0
"""verl's tools as an interaction: the steps of ``verl.experimental.agent_loop.tool_agent_loop`` after a turn.

Parser, tool execution, limits and messages are verl's own, with two exceptions: calls inside a thought are not run, and
an exit of a tool fails its path (``tool_exits.py``). The reply to a turn contains the results of its tool calls. A turn
without calls ends the conversation.
"""

import asyncio
import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from verl.experimental.agent_loop.tool_agent_loop import AgentData, ToolAgentLoop
from verl.experimental.agent_loop.tool_parser import FunctionCall
from verl.tools.schemas import ToolResponse

from recipe.treepo.answers.thinking import Thinking
from recipe.treepo.interaction import Interaction, Reply, TurnContext
from recipe.treepo.search.user_errors import named
from recipe.treepo.verl_adapters.tool_exits import ToolExit, contained_tool


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
        thinking = replace(self._agent.thinking, opened=context.begins_in_thought)
        content, calls = await self._parse(context.token_ids, tools, thinking)
        if not calls:
            return None
        data = self._agent_data(context, tools)
        data.tool_calls = calls
        assistant = agent._build_assistant_message(content, data)
        data.messages[-1] = assistant
        calls = calls[: agent.max_parallel_calls]
        # All calls end before the first failure is raised, so none still uses the state or its tool.
        results = []
        for result in await asyncio.gather(*(self._call(call, data) for call in calls), return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
            results.append(result)
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

    async def _parse(
        self, token_ids: list[int], tools: Mapping[str, Any], thinking: Thinking
    ) -> tuple[str, list[FunctionCall]]:
        """Return the text and the tool calls of a turn; calls inside a thought stay text."""
        parser, schemas = copy.copy(self._agent.tool_parser), [tool.tool_schema for tool in tools.values()]
        for is_text in (True, False):  # an unclosed tag is text inside the arguments of a call
            decoder = _ThoughtlessDecoder(self._agent.tokenizer, thinking, is_text=is_text)
            parser.tokenizer = decoder
            content, calls = await parser.extract_tool_calls(token_ids, schemas)
            if decoder.unclosed is None or any(decoder.unclosed in call.arguments for call in calls):
                break
        return decoder.restore(content), [decoder.restore_call(call) for call in calls]

    async def _call(self, call: FunctionCall, data: AgentData) -> tuple[ToolResponse, float | None, dict[str, Any]]:
        """Call a tool. verl returns an ``Exception`` to the model as text; other exceptions fail the path.

        Raises:
            RuntimeError: for these, naming the tool.
        """
        try:
            result: tuple[ToolResponse, float | None, dict[str, Any]]
            result = await self._agent._call_tool(call, data.tools_kwargs, data)
            return result
        except Exception as error:  # raised by the tool's release()
            raise RuntimeError(f"tool {call.name}: {named(error)}") from error
        except ToolExit as carried:
            raise RuntimeError(f"tool {call.name}: {named(carried.error)}") from carried

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
        data._active_tools = {name: contained_tool(tool) for name, tool in tools.items()}
        return data


class _ThoughtlessDecoder:
    """Tokenizer that decodes each thought of a turn as one placeholder, for parsers of tool calls.

    Parsers thus see a turn with its thoughts, which some remove, and no call inside one.

    Args:
        thinking: Tags of thoughts in this turn.
        is_text: Whether an opening tag of the model without its end is text.

    Attributes:
        unclosed: Placeholder of such a tag if it is text, else None.
    """

    def __init__(self, tokenizer: Any, thinking: Thinking, *, is_text: bool = False) -> None:
        self._tokenizer, self._thinking, self._is_text = tokenizer, thinking, is_text
        self._hidden: dict[str, str] = {}
        self.unclosed: str | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def decode(self, *arguments: Any, **named_arguments: Any) -> str:
        """Decode tokens; thoughts become placeholders."""
        text: str = self._tokenizer.decode(*arguments, **named_arguments)
        used, parts, after, tag = set(text), [], 0, self._thinking.open
        free = (character for character in map(chr, range(0xF0000, 0xFFFFE)) if character not in used)  # private use
        self._hidden, self.unclosed = {}, None
        for begin, end in self._thinking.thoughts(text):
            placeholder = next(free)
            if self._is_text and end == len(text) and text[:begin].endswith(tag):
                begin, end, self.unclosed = begin - len(tag), begin, placeholder
            self._hidden[placeholder] = text[begin:end]
            parts += [text[after:begin], placeholder]
            after = end
        return "".join([*parts, text[after:]])

    def restore(self, text: str, convert: Callable[[str], str] = str) -> str:
        """Return a text with thoughts in place of placeholders, each through ``convert``."""
        for placeholder in self._hidden.keys() & set(text):
            text = text.replace(placeholder, convert(self._hidden[placeholder]))
        return text

    def restore_call(self, call: FunctionCall) -> FunctionCall:
        """Return a call whose arguments contain a thought as the model wrote it."""
        arguments = self.restore(call.arguments)
        if arguments != call.arguments and not _is_json(arguments):  # the format of the call does not escape texts
            arguments = self.restore(call.arguments, lambda text: json.dumps(text, ensure_ascii=False)[1:-1])
        return call.model_copy(update={"arguments": arguments})


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _text(response: ToolResponse, tool: str) -> str:
    if response.image or response.video:
        raise ValueError(f"tool {tool} returned an image or video: trees support text only. Use treepo.sampler=plain.")
    return response.text or ""
