# SPDX-License-Identifier: Apache-2.0
"""Conversations of one tree: a decision after each turn, and one state per turn start.

A *turn start* is a node after which the model may begin a turn: the root or a reply. Its state never changes. At the
end of a turn, a path gets a copy of the state from the start of that turn. Branches therefore never share a state, and
a path that falls back finds the state from that time.
"""

import copy
import json
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from numbers import Real
from os.path import commonprefix
from types import MappingProxyType
from typing import Any, Protocol

from recipe.treepo.interaction import (
    ConversationRules,
    Interaction,
    InteractionError,
    Message,
    OnError,
    Reply,
    Steps,
    TurnContext,
)
from recipe.treepo.search.interaction_calls import InteractionCalls
from recipe.treepo.search.node import ROOT, Node
from recipe.treepo.search.paths import Path
from recipe.treepo.search.stopping import FinishReason, StoppingRules
from recipe.treepo.search.surrogates import without_surrogates
from recipe.treepo.search.tree import Tree

# Builds the error for a reason.
Failure = Callable[[str | BaseException], InteractionError]


class TurnTokens(Protocol):
    """Renders messages as tokens with the model's chat template."""

    async def append(
        self, messages: list[Message], updated: list[Message], token_ids: list[int], tools: list[dict[str, Any]] | None
    ) -> list[int]:
        """Return ``token_ids`` followed by the new messages of ``updated`` and the beginning of the next turn.

        Args:
            messages: Conversation so far.
            updated: Conversation so far and at least one more message.
            token_ids: Tokens of the conversation so far, exactly as sampled.
            tools: Tools shown in the prompt.
        """
        ...


@dataclass(slots=True)
class TurnStart:
    """Start of a turn of the model, or end of a turn after which each branch takes its own step.

    Attributes:
        messages: Conversation so far.
        state: State of the interaction.
        response_ids: Response so far; used only for steps per branch.
        ended: Rule that ended the turn before; used only for steps per branch.
    """

    messages: list[Message]
    state: Any
    response_ids: Sequence[int] = ()
    ended: FinishReason = FinishReason.EOS


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationStart:
    """Start of all conversations of one prompt.

    Attributes:
        interaction: The user's interaction.
        rules: Limits and error handling.
        messages: Messages of the prompt.
        sample: Fields of the data set's row.
        name: Name of the prompt, for error messages.
        validate: Whether the prompt belongs to the validation data.
        tokens: Renderer of messages as tokens.
        end_token_id: Token that closes a turn without an end token; None if the chat template has none.
        tools: Tools shown in the prompt, None for no tools.
    """

    interaction: Interaction
    rules: ConversationRules
    messages: list[Message]
    sample: Mapping[str, Any]
    name: str
    validate: bool
    tokens: TurnTokens
    end_token_id: int | None
    tools: list[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class TurnOutcome:
    """Decision after a turn: the path continues after ``node``, ends there for a ``reason``, or is abandoned.

    Attributes:
        node: Node after which the path continues, or at which it ends.
        reason: Reason for the end, None without an end.
        detail: The interaction's own word for the reason, or the error text.
        abandoned: Whether the interaction failed and the path yields no trajectory.
        error: Failure of the interaction, None without a failure.
    """

    node: Node
    reason: FinishReason | None = None
    detail: str = ""
    abandoned: bool = False
    error: InteractionError | None = None

    @property
    def continues(self) -> bool:
        """Whether sampling continues after ``node``."""
        return self.reason is None and not self.abandoned


class Conversation:
    """Conversations on all paths of one tree.

    Attributes:
        rules: Limits and error handling.
    """

    def __init__(self, start: ConversationStart, tree: Tree, stopping: StoppingRules, seed: int) -> None:
        self.rules = start.rules
        self._start, self._tree, self._stopping, self._seed = start, tree, stopping, seed
        self._sample = MappingProxyType(dict(start.sample))
        self._turn_starts: dict[int, TurnStart] = {}
        self._calls = InteractionCalls(
            start.interaction,
            prompt_name=start.name,
            timeout_seconds=start.rules.timeout_seconds,
            counters=tree.counters,
        )

    async def open(self) -> None:
        """Start the conversation at the root."""
        state = await self._calls.start(self._sample)
        self._turn_starts[ROOT] = TurnStart(copy.deepcopy(self._start.messages), state)

    async def close(self) -> None:
        """Close every state, even if closing one fails."""
        await self._calls.close()

    def tokens_left_in_turn(self, path: Path) -> int:
        """Return the maximum number of further tokens in the turn at the end of ``path``."""
        if self.rules.turn_length is None:
            return self._stopping.response_length
        return self.rules.turn_length - (path.last.end - path.turn_start)

    # --- after a turn ------------------------------------------------------------------------------------------------

    async def end_turn(self, node: Node, ended: FinishReason) -> TurnOutcome:
        """End the turn at ``node``: call the interaction and return its decision.

        Args:
            ended: Rule that ended the turn; LENGTH if the turn reached its own limit.

        Returns:
            The decision. The path continues after the reply, or after ``node`` itself if each branch takes its own
            step.

        Raises:
            InteractionError: if the interaction failed and ``on_error`` is FAIL.
        """
        self._tree.end_turn(node.index)
        try:
            return await self._end_turn(node, ended)
        except InteractionError as error:
            outcome = self._after_failure(node, error)
            if outcome.abandoned:
                self._tree.finish(node.index, FinishReason.ERROR, dropped=True)
            return outcome

    async def begin_branch(self, node: Node, key: str) -> TurnOutcome:
        """Take one branch's own step from ``node``; see :meth:`end_turn`.

        A branch that ends at once gets a final node without tokens.
        """
        try:
            outcome = await self._begin_branch(node, key)
        except InteractionError as error:
            outcome = self._after_failure(node, error)
        if outcome.reason is None:
            return outcome
        return replace(outcome, node=self._tree.add_reply(node.index, [], Reply(messages=[]), key=f"{key}+"))

    def _after_failure(self, node: Node, error: InteractionError) -> TurnOutcome:
        self._calls.warn(error)
        self._tree.counters.failed_steps += 1
        match self.rules.on_error:
            case OnError.FAIL:
                raise error
            case OnError.END:
                return TurnOutcome(node, FinishReason.ERROR, str(error), error=error)
            case OnError.DROP:
                return TurnOutcome(node, abandoned=True, error=error)

    async def _end_turn(self, node: Node, ended: FinishReason) -> TurnOutcome:
        before = self._turn_start_of(node)
        async with self._copied_state(before, node.key) as state:
            response_ids = self._tree.path(node.index).token_ids
            context = self._context(node, before, state, response_ids, ended, name=node.key, draws=f"turn {node.key}")
            detail = await self._calls.call("check_finished", node.key, context)
            if detail is not None:
                if not isinstance(detail, str):  # False would end every path
                    raise self._calls.failure(
                        "check_finished", node.key, f"must return a text or None, not {detail!r:.200}"
                    )
                detail = without_surrogates(detail, self._calls.source("check_finished"))
                return TurnOutcome(node, ended if ended is FinishReason.LENGTH else FinishReason.INTERACTION, detail)
            if (limit := self._limit(node, context)) is not None:
                return TurnOutcome(node, limit)
            if self.rules.steps is Steps.PER_BRANCH:
                messages = [*before.messages, _assistant(context.text)]
                self._turn_starts[node.index] = TurnStart(messages, state, response_ids, ended)
                return TurnOutcome(node)
            return await self._step(node, context, before, ended)

    async def _begin_branch(self, node: Node, key: str) -> TurnOutcome:
        after, before = self._turn_starts[node.index], self._turn_start_of(node)
        async with self._copied_state(after, key) as state:
            # Use the response from the end of the turn: another branch's template may have trimmed the tree since then.
            # A branch shares its name with its first node, so its random numbers need a separate name.
            context = self._context(
                node, before, state, after.response_ids, after.ended, name=key, draws=f"branch {key}"
            )
            return await self._step(node, context, before, after.ended)

    async def _step(self, node: Node, context: TurnContext, before: TurnStart, ended: FinishReason) -> TurnOutcome:
        answer = await self._calls.call("step", context.node, context)
        self._tree.counters.steps += 1
        reply = _checked(answer, self._calls.source("step"), self._step_failure(context))
        if reply is None:
            return TurnOutcome(node, ended)
        turn = reply.assistant or _assistant(context.text)
        messages = [*before.messages, turn]
        updated = [*messages, *reply.messages]
        rendered = await self._render(node, messages, updated, self._step_failure(context))
        if len(rendered) - len(self._tree.prompt_ids) >= self._stopping.response_length:
            return TurnOutcome(node, FinishReason.LENGTH)
        added = self._trim_to_common(node, rendered, self._step_failure(context))
        start = self._tree.add_reply(node.index, added, reply, key=f"{context.node}+")
        self._turn_starts[start.index] = TurnStart(updated, context.state)
        return TurnOutcome(start)

    async def _render(self, node: Node, messages: list[Message], updated: list[Message], failure: Failure) -> list[int]:
        """Return the tokens of ``updated``: those on the path to ``node``, then the reply."""
        token_ids = self._tree.token_ids(node.index).tolist()
        if self._start.end_token_id is not None and not self._stopping.at_end_token(token_ids):
            token_ids = [*token_ids, self._start.end_token_id]
        try:
            return await self._start.tokens.append(messages, updated, token_ids, self._start.tools)
        except Exception as error:  # rejected by the chat template
            raise failure(error) from error

    def _trim_to_common(self, node: Node, rendered: list[int], failure: Failure) -> list[int]:
        """Remove turn tokens that the template renders differently; return the tokens to add after the rest.

        Some templates render the end of a turn as the beginning of the next message, sometimes as another token than
        the model's.
        """
        # Read again: another branch from here may have trimmed the turn while this one waited.
        token_ids = self._tree.token_ids(node.index).tolist()
        kept = len(commonprefix([token_ids, rendered]))
        if cut := len(token_ids) - kept:
            followed = any(self._tree.nodes[child].segment.token_ids for child in node.children)
            if cut >= len(node.segment.token_ids) or followed:
                raise failure(f"the chat template takes back {cut} tokens of the turn")
            self._tree.trim(node.index, len(node.segment.token_ids) - cut)
            self._tree.counters.overrun_tokens += cut
        return rendered[kept:]

    def _limit(self, node: Node, context: TurnContext) -> FinishReason | None:
        """Return the reason why no turn can follow, None if one can."""
        if context.tokens_left < 1:
            return FinishReason.LENGTH
        if node.depth >= self._stopping.depth:
            return FinishReason.DEPTH
        return FinishReason.TURNS if context.turns_left < 1 else None

    # --- turn starts and contexts ------------------------------------------------------------------------------------

    def _turn_start_of(self, node: Node) -> TurnStart:
        """Return the start of the turn that ends at ``node``."""
        return self._turn_starts[self._tree.path(node.index).turn[0].parent]

    def _copied_state(self, start: TurnStart, key: str) -> AbstractAsyncContextManager[Any]:
        """Copy the state of a turn start; close the copy afterwards unless a turn start keeps it."""

        def is_kept(state: Any) -> bool:
            return any(other.state is state for other in self._turn_starts.values())

        return self._calls.copied(start.state, copy.deepcopy(start.messages), key, is_kept=is_kept)

    def _context(
        self,
        node: Node,
        before: TurnStart,
        state: Any,
        response_ids: Sequence[int],
        ended: FinishReason,
        *,
        name: str,
        draws: str,
    ) -> TurnContext:
        path = self._tree.path(node.index)
        turn_ids = list(response_ids[path.turn_start :])
        text = self._stopping.decode(turn_ids)
        thinking = self._stopping.thinking_after(self._tree.prompt_ids + list(response_ids[: path.turn_start]))
        number = 1 + len(path.replies)
        turns_left = self._stopping.depth - node.depth
        if self.rules.max_turns is not None:
            turns_left = min(turns_left, self.rules.max_turns - number)
        return TurnContext(
            messages=copy.deepcopy([*before.messages, _assistant(text)]),
            text=text,
            visible=thinking.visible(text),
            begins_in_thought=thinking.opened,
            response=self._stopping.decode(list(response_ids)),
            token_ids=turn_ids,
            turn=number,
            turns_left=turns_left,
            tokens_left=max(0, self._stopping.response_length - len(response_ids)),
            cut_off=ended is FinishReason.LENGTH,
            depth=node.depth,
            node=name,
            sample=self._sample,
            rng=random.Random(f"{self._seed}/{draws}"),
            validate=self._start.validate,
            state=state,
        )

    def _step_failure(self, context: TurnContext) -> Failure:
        return lambda reason: self._calls.failure("step", context.node, reason)


def _checked(reply: Any, source: str, failure: Failure) -> Reply | None:
    """Return the result of a step as a private Reply, None for the end of the conversation.

    Args:
        source: Class and method that returned it.

    Raises:
        InteractionError: if the result is neither messages nor a Reply, or is not JSON-serializable.
    """
    if reply is None:
        return None
    checked = reply if isinstance(reply, Reply) else Reply(messages=reply)
    if not isinstance(checked.messages, list) or not checked.messages or not all(map(_has_text, checked.messages)):
        # A template would render other types with Python's str(), such as None as "None".
        rule = "must return None, or at least one message with a role and a text as content"
        raise failure(f"{rule}, not {checked.messages!r:.200}")
    if not isinstance(checked.info, dict) or "messages" in checked.info:
        raise failure(f"info must be a dict without the key messages, not {checked.info!r:.200}")
    if not isinstance(checked.tool_rewards, list) or not all(isinstance(r, Real) for r in checked.tool_rewards):
        raise failure(f"tool_rewards must be a list of numbers, not {checked.tool_rewards!r:.200}")
    try:
        json.dumps((checked.messages, checked.info))
        # A caller that changes its reply later must not change the tree.
        own = copy.deepcopy(checked)
    except Exception as error:  # not serializable, or not copyable
        raise failure(error) from error
    texts = {name: getattr(own, name) for name in ("messages", "info", "assistant")}
    return replace(own, **without_surrogates(texts, source))


def _has_text(message: Any) -> bool:
    return isinstance(message, dict) and "role" in message and isinstance(message.get("content"), str)


def _assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}
