# SPDX-License-Identifier: Apache-2.0
"""What a conversation with the model is made of: subclass :class:`Interaction`.

A *turn* is what the model writes until it ends its message. After each turn the interaction is asked whether the path
has ended (``check_finished``) and, if not, what to add to the conversation (``step``): messages of a user, results of
tools. What it adds becomes response tokens that are not trained; then the model writes its next turn.
``docs/how_to/conversations.md`` has examples. Pure: imports no verl, torch or ray.
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
    """What an interaction gets to know about a turn that has just ended. All of it is the caller's to keep.

    Attributes:
        messages: The conversation up to this turn and with it, as the data set and the interaction wrote it and as the
            model's tokens read. Changes to it change nothing.
        text: The turn, special tokens left out.
        response: The response up to this turn and with it, what was added to it included: what a reward function would
            be given if the path ended here.
        token_ids: Its tokens, an end token included.
        turn: Its number on the path, 1 for the first.
        turns_left: Most turns that may follow it; fewer where turns take several segments.
        tokens_left: Response tokens that may follow it, those of added messages included.
        cut_off: Whether it was cut off at ``treepo.interaction.turn_length``.
        depth: Segments on the path.
        node: Name of its last node, unique in the tree and the same whenever the tree is grown again; with
            ``treepo.interaction.steps=per_branch`` the name of the branch that the step is for.
        sample: Fields of the data set's row (``data_source``, ``reward_model``, ``extra_info`` and so on); not to be
            changed.
        rng: Random numbers that depend on the run's seed, the prompt and ``node`` only.
        validate: Whether the prompt is one of the validation data.
        state: What ``start`` returned, as the steps on this path have changed it; no other path has the same object.
    """

    messages: list[Message]
    text: str
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
    """What a step adds to a conversation.

    Attributes:
        messages: At least one, of a role that the model's chat template can append: user, tool or system.
        info: For reward functions, which find it in ``tree_turns``; plain data that can be written as JSON, like the
            messages, and without the key ``messages``.
        tool_rewards: Numbers for verl's field of that name.
        assistant: How the model's turn is recorded among the messages, where its text alone does not say it all (tool
            calls); None for ``{"role": "assistant", "content": text}``. Its tokens stay what they are.
    """

    messages: list[Message]
    info: dict[str, Any] = field(default_factory=dict)
    tool_rewards: list[float] = field(default_factory=list)
    assistant: Message | None = None


class Interaction:
    """What the model talks to. One instance serves one prompt, all paths of its tree.

    The first three methods are plain functions that are called once, before the search. Each of the others may be a
    coroutine or a plain function; plain ones run in threads, up to 64 at a time in a process. Whatever belongs to one
    path goes into the state, never into the instance.
    """

    def setup(self, agent: Any) -> None:
        """Take what only verl knows, before anything else is called.

        Args:
            agent: verl's ``ToolAgentLoop`` of this prompt: its ``tokenizer``, ``tools``, ``config`` and so on.
        """

    def tool_schemas(self, sample: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        """Return the tools that the chat template shows to the model, None for no tools."""
        return None

    def stop_token_ids(self) -> list[int]:
        """Return tokens that end a turn like the model's end tokens."""
        return []

    async def start(self, sample: Mapping[str, Any]) -> Any:
        """Return the state of a new conversation about a row of the data set."""
        return None

    async def check_finished(self, context: TurnContext) -> str | None:
        """Return why the path ends with this turn, in a word or two that are counted in the metrics, or None.

        The default ends what was cut off.
        """
        return "cut_off" if context.cut_off else None

    async def step(self, context: TurnContext) -> Reply | list[Message] | None:
        """Return what to add after this turn, or None to end the conversation.

        It is not asked where no turn may follow. May change ``context.state``.
        """
        return None

    async def copy_state(self, state: Any, messages: list[Message]) -> Any:
        """Return a copy of a state for another path.

        An environment with snapshots takes one here; one without can start anew and replay.

        Args:
            state: Not to be changed: other paths are copied from it, too.
            messages: The conversation that has led to it. With ``treepo.interaction.steps=per_branch`` it may end with
                a turn: ``check_finished`` has seen it, and its step is still to be taken.
        """
        return copy.deepcopy(state)

    async def close_state(self, state: Any) -> None:
        """Give back what a state holds. Called once for every state that ``start`` and ``copy_state`` returned."""


class Steps(StrEnum):
    """How often a step is taken after a turn from which several branches go on."""

    SHARED = "shared"  # once: the branches share what it added
    PER_BRANCH = "per_branch"  # by every branch for itself


class OnError(StrEnum):
    """What becomes of a path where the interaction failed."""

    DROP = "drop"  # it is no trajectory, and its width is given back
    END = "end"  # it ends there, as a trajectory
    FAIL = "fail"  # the whole prompt fails


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationRules:
    """How conversations are led.

    Attributes:
        turn_length: Most tokens of a turn, None for no limit.
        max_turns: Most turns on a path, None for no limit.
        steps: How often a step is taken.
        on_error: What becomes of a path where the interaction failed.
        timeout_seconds: Most seconds of one call of the interaction, None for no limit.
    """

    turn_length: int | None = None
    max_turns: int | None = None
    steps: Steps = Steps.SHARED
    on_error: OnError = OnError.DROP
    timeout_seconds: float | None = None


class InteractionError(RuntimeError):
    """An interaction failed; the message names its class, the prompt and the node."""
