# SPDX-License-Identifier: Apache-2.0
"""Conversations between the model and an environment or user: subclass :class:`Interaction`.

A *turn* is the model's message. After each turn, ``check_finished`` may end the path. Otherwise ``step`` returns a
*reply* (messages of a user, results of tools) or ends the conversation. Reply tokens are part of the response but are
not trained. After a reply the model generates its next turn. ``docs/how_to/conversations.md`` has examples.

This module imports no verl, torch or ray.
"""

import copy
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Message = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnContext:
    """The turn that just ended, as seen by the interaction. Safe to store or modify, except ``sample``.

    Attributes:
        messages: Conversation up to and including this turn. Turns read as their decoded text, or as
            ``Reply.assistant``.
        text: Text of the turn without special tokens.
        visible: The part of ``text`` behind its thoughts (``treepo.thinking``); None if a thought is unfinished.
        begins_in_thought: Whether the turn begins inside a thought, because the chat template opens one.
        response: Text of the response up to and including this turn, with all replies. A reward function would get this
            text if the path ended here.
        token_ids: Tokens of the turn, including an end token.
        turn: Number of the turn on the path, from 1.
        turns_left: Maximum number of further turns; turns of several segments leave room for fewer.
        tokens_left: Response tokens available after this turn, for replies and turns.
        cut_off: Whether the turn was cut off at ``treepo.interaction.turn_length``.
        depth: Segments on the path.
        node: Name of the path's last node, unique in the tree and the same if the tree is grown again. With
            ``treepo.interaction.steps=per_branch``, ``step`` gets the name of its branch.
        sample: Fields of the data set's row (``data_source``, ``reward_model``, ``extra_info`` and so on). Read-only.
        rng: Random generator that depends only on the run's seed, the prompt and ``node``.
        validate: Whether the prompt belongs to the validation data.
        state: State from ``start`` with the changes made on this path. Paths never share the object.
    """

    messages: list[Message]
    text: str
    visible: str | None
    begins_in_thought: bool
    response: str
    token_ids: list[int]
    turn: int
    turns_left: int
    tokens_left: int
    cut_off: bool
    depth: int
    node: str
    sample: Mapping[str, Any]
    rng: random.Random
    validate: bool
    state: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """Messages that a step adds to the conversation, with data for reward functions.

    Attributes:
        messages: One or more messages with roles that the model's chat template can append: user, tool or system.
        info: Data for reward functions, which find it in ``tree_turns``. Must be JSON-serializable, like the messages,
            and must not contain the key ``messages``.
        tool_rewards: Numbers for verl's field of that name.
        assistant: Record of the model's turn among the messages, for turns with more than text (tool calls); None for
            ``{"role": "assistant", "content": text}``. The turn's tokens stay unchanged.
    """

    messages: list[Message]
    info: dict[str, Any] = field(default_factory=dict)
    tool_rewards: list[float] = field(default_factory=list)
    assistant: Message | None = None


class Interaction:
    """Environment or user that replies to the model. One instance serves all paths of one prompt's tree.

    ``setup``, ``tool_schemas`` and ``stop_token_ids`` are plain functions, called once before the search. Each other
    method may be a coroutine or a plain function. Plain functions run in threads, up to 64 at a time per process. Keep
    the data of a path in its state, never in the instance.
    """

    def setup(self, agent: Any) -> None:
        """Store objects that only verl provides. Called before all other methods.

        Args:
            agent: verl's ``ToolAgentLoop`` of this prompt, with ``tokenizer``, ``tools``, ``config`` and so on.
        """

    def tool_schemas(self, sample: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        """Return the tools that the chat template shows to the model, None for no tools."""
        return None

    def stop_token_ids(self) -> list[int]:
        """Return tokens that end a turn, in addition to the model's end tokens."""
        return []

    async def start(self, sample: Mapping[str, Any]) -> Any:
        """Return the state of a new conversation for a row of the data set."""
        return None

    async def check_finished(self, context: TurnContext) -> str | None:
        """Return a reason to end the path after this turn, or None to continue.

        The metrics count paths by reason: use one or two words. The default ends the path if its turn was cut off.
        """
        return "cut_off" if context.cut_off else None

    async def step(self, context: TurnContext) -> Reply | list[Message] | None:
        """Return the messages to add after this turn, or None to end the conversation.

        Not called if no further turn is possible. May modify ``context.state``.
        """
        return None

    async def copy_state(self, state: Any, messages: list[Message]) -> Any:
        """Return a copy of a state for another path.

        An environment with snapshots can take one here. Without snapshots, start anew and replay the messages.

        Args:
            state: State to copy. Do not modify it: other paths are copied from it, too.
            messages: Conversation that led to the state. With ``treepo.interaction.steps=per_branch`` it may end with a
                turn that ``check_finished`` has seen and ``step`` has not.
        """
        return copy.deepcopy(state)

    async def close_state(self, state: Any) -> None:
        """Release the resources of a state. Called once for every state that ``start`` and ``copy_state`` returned."""


class Steps(StrEnum):
    """Number of steps after a turn with several branches."""

    SHARED = "shared"  # one step, whose reply all branches share
    PER_BRANCH = "per_branch"  # one step for each branch


class OnError(StrEnum):
    """Handling of a path whose interaction failed."""

    DROP = "drop"  # no trajectory; its width is sampled again
    END = "end"  # the path ends there, as a trajectory
    FAIL = "fail"  # the whole prompt fails


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationRules:
    """Limits and error handling of conversations.

    Attributes:
        turn_length: Maximum tokens of a turn, None for no limit.
        max_turns: Maximum turns on a path, None for no limit.
        steps: Number of steps after a turn with several branches.
        on_error: Handling of a path whose interaction failed.
        timeout_seconds: Maximum seconds of one call of the interaction, None for no limit.
    """

    turn_length: int | None = None
    max_turns: int | None = None
    steps: Steps = Steps.SHARED
    on_error: OnError = OnError.DROP
    timeout_seconds: float | None = None


class InteractionError(RuntimeError):
    """Failure of an interaction. The message names its class, the prompt and the node."""
