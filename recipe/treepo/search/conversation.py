# SPDX-License-Identifier: Apache-2.0
"""Lead the conversations of one tree: ask the interaction after each turn, and keep a state for each place.

A *place* is where the model may begin a turn: the root, or a node that the interaction added. Its state is never
changed; a path that gets to the end of a turn takes a copy of the state of the place where the turn began. So branches
cannot meet each other's states, and a path that falls back finds the state as it was there.
"""

import asyncio
import contextvars
import copy
import inspect
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from numbers import Real
from os.path import commonprefix
from types import MappingProxyType
from typing import Any, Protocol

from recipe.treepo.interaction import (
    ConversationRules,
    Interaction,
    InteractionError,
    Message,
    Reply,
    Steps,
    TurnContext,
)
from recipe.treepo.search.node import ROOT, Node
from recipe.treepo.search.stopping import FinishReason, StoppingRules
from recipe.treepo.search.tree import Tree

logger = logging.getLogger(__name__)

# For plain functions, of all prompts of a process. Not the event loop's own, of which there are few: verl tokenises in
# those, and functions that hang would hold it up for ever.
_THREADS = ThreadPoolExecutor(max_workers=64, thread_name_prefix="interaction")

# Characters of what went wrong; where failures end paths, each of these trajectories carries it.
MOST_REASON = 2000
# How long the end of a search waits for threads that were given up, where treepo.interaction.timeout_seconds is null.
MOST_WAIT_SECONDS = 60.0


class TurnTokens(Protocol):
    """Writes messages as tokens, by the model's chat template."""

    async def append(
        self, messages: list[Message], updated: list[Message], token_ids: list[int], tools: list[dict[str, Any]] | None
    ) -> list[int]:
        """Return ``token_ids`` with what ``updated`` adds to ``messages``, and the beginning of the model's next turn.

        Args:
            messages: The conversation so far.
            updated: The same with at least one message more.
            token_ids: The tokens of the conversation so far, exactly as sampled.
            tools: The tools that the prompt shows.
        """
        ...


@dataclass(slots=True)
class Place:
    """A state, the conversation that led to it, and the response so far, where branches take steps after a turn."""

    messages: list[Message]
    state: Any
    response_ids: Sequence[int] = ()
    ended: FinishReason = FinishReason.EOS


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationStart:
    """What the conversations of one prompt begin with.

    Attributes:
        interaction: What the model talks to.
        rules: How.
        messages: The prompt.
        sample: Fields of the data set's row.
        name: Of the prompt, for error messages.
        validate: Whether the prompt is one of the validation data.
        tokens: Writes messages as tokens.
        end_token_id: What closes a turn that the model did not close itself; None where the chat template closes none.
        tools: The tools that the prompt shows, None for no tools.
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


class Conversation:
    """The conversations on all paths of one tree."""

    def __init__(self, start: ConversationStart, tree: Tree, stopping: StoppingRules, seed: int) -> None:
        self._start, self._tree, self._stopping, self._seed = start, tree, stopping, seed
        self._interaction, self.rules = start.interaction, start.rules
        self._sample = MappingProxyType(dict(start.sample))
        self._places: dict[int, Place] = {}
        self._states: list[Any] = []  # those that have to be closed
        self._late: list[asyncio.Future[Any]] = []  # threads that were given up, and may yet return a state
        self._warned = False

    async def open(self) -> None:
        """Begin at the root."""
        state = await self._call("start", "the root", self._sample)
        self._states.append(state)
        self._places[ROOT] = Place(copy.deepcopy(self._start.messages), state)

    async def close(self) -> None:
        """Give all states back, also where one cannot be."""
        if self._late:
            most = self.rules.timeout_seconds or MOST_WAIT_SECONDS
            done, running = await asyncio.wait(self._late, timeout=most)
            self._states += [work.result() for work in done if not work.cancelled() and work.exception() is None]
            for work in running:
                work.cancel()
                self.warn(self._failure("copy_state", "the end", f"a thread still runs after {most:g} s"))
        await asyncio.gather(*map(self._close_state, self._states))

    def turn_room(self, node: int) -> int:
        """Return the most tokens that the turn after ``node``, or of which it is part, may still have."""
        if self.rules.turn_length is None:
            return self._stopping.response_length
        return self.rules.turn_length - (self._tree.nodes[node].end - self._tree.turn_start(node))

    # --- after a turn ----------------------------------------------------------------------------------------------

    async def end_turn(self, node: Node, ended: FinishReason) -> tuple[FinishReason, str] | Node:
        """Ask the interaction about the turn that ends at ``node``.

        Args:
            ended: The rule by which the turn ended; LENGTH if it was cut off at its own most length.

        Returns:
            Why the path ends, with a detail; or the node after which it goes on: what was added, or ``node`` itself
            where every branch takes its own step.

        Raises:
            InteractionError: if the interaction failed.
        """
        node.partial, node.turn_over = False, True
        before = self._places[self._place_of(node)]
        async with self._copied(before, node.key) as state:
            response_ids = self._tree.response_ids(node.index)
            context = self._context(node, before, state, response_ids, ended, name=node.key, draws=f"turn {node.key}")
            detail = await self._call("check_finished", node.key, context)
            if detail is not None:
                if not isinstance(detail, str):  # False would end every path
                    raise self._failure("check_finished", node.key, f"must return a text or None, not {detail!r:.200}")
                return (ended if ended is FinishReason.LENGTH else FinishReason.INTERACTION), detail
            if (limit := self._limit(node, context)) is not None:
                return limit, ""
            if self.rules.steps is Steps.PER_BRANCH:
                self._places[node.index] = Place(
                    [*before.messages, _assistant(context.text)], state, response_ids, ended
                )
                return node
            return await self._step(node, context, before, ended)

    async def begin_branch(self, node: Node, key: str) -> tuple[FinishReason, str] | Node:
        """Take the step of one branch from ``node``, where each takes its own; see :meth:`end_turn`."""
        after = self._places[node.index]
        before = self._places[self._place_of(node)]
        async with self._copied(after, key) as state:
            # Not what the tree has of the turn now: another branch's template may have taken back its end meanwhile.
            # And a branch has the name of its first node, so its random numbers need one of their own.
            response_ids, ended = after.response_ids, after.ended
            context = self._context(node, before, state, response_ids, ended, name=key, draws=f"branch {key}")
            return await self._step(node, context, before, ended)

    def end_branch(self, node: Node, key: str) -> Node:
        """Return a node without tokens, the end of a branch from ``node`` that has none of its own."""
        return self._tree.add_reply(node.index, [], Reply(messages=[]), key=f"{key}+")

    async def _step(
        self, node: Node, context: TurnContext, before: Place, ended: FinishReason
    ) -> tuple[FinishReason, str] | Node:
        reply = await self._call("step", context.node, context)
        self._tree.counters.steps += 1
        reply = self._checked(reply, context.node)
        if reply is None:
            return ended, ""
        turn = reply.assistant or _assistant(context.text)
        conversation = [*before.messages, turn]
        updated = [*conversation, *reply.messages]
        token_ids = self._tree.prompt_ids + self._tree.response_ids(node.index)
        closed = token_ids
        if self._start.end_token_id is not None and not self._stopping.at_end_token(token_ids):
            closed = [*token_ids, self._start.end_token_id]
        try:
            merged = await self._start.tokens.append(conversation, updated, closed, self._start.tools)
        except Exception as error:  # what a chat template refuses
            raise self._failure("step", context.node, error) from error
        if len(merged) - len(self._tree.prompt_ids) >= self._stopping.response_length:
            return FinishReason.LENGTH, ""
        # Another branch from here may have trimmed the turn while this one waited.
        token_ids = self._tree.prompt_ids + self._tree.response_ids(node.index)
        kept = len(commonprefix([token_ids, merged]))
        added, cut = merged[kept:], len(token_ids) - kept
        if cut:
            # Some templates write the end of a turn as the beginning of the next message, and it need not be the one
            # that the model wrote.
            followed = any(self._tree.nodes[child].segment.token_ids for child in node.children)
            if cut >= len(node.segment.token_ids) or followed:
                raise self._failure("step", context.node, f"the chat template takes back {cut} tokens of the turn")
            self._tree.trim(node.index, len(node.segment.token_ids) - cut)
            self._tree.counters.overrun_tokens += cut
        place = self._tree.add_reply(node.index, added, reply, key=f"{context.node}+")
        self._places[place.index] = Place(updated, context.state)
        return place

    def _checked(self, reply: Any, key: str) -> Reply | None:
        """Return what a step returned as a Reply, or None for the end."""
        if reply is None:
            return None
        reply = reply if isinstance(reply, Reply) else Reply(messages=reply)
        if not isinstance(reply.messages, list) or not reply.messages or not all(map(_has_text, reply.messages)):
            # A template would write what is no text as Python does, None as "None".
            what = "must return None, or messages with a role and a text as content, at least one"
            raise self._failure("step", key, f"{what}, not {reply.messages!r:.200}")
        if not isinstance(reply.info, dict) or "messages" in reply.info:
            raise self._failure("step", key, f"info must be a dict without the key messages, not {reply.info!r:.200}")
        if not isinstance(reply.tool_rewards, list) or not all(isinstance(r, Real) for r in reply.tool_rewards):
            raise self._failure("step", key, f"tool_rewards must be a list of numbers, not {reply.tool_rewards!r:.200}")
        try:
            json.dumps((reply.messages, reply.info))
            # A caller that changes what it returned must not change the tree.
            return copy.deepcopy(reply)
        except Exception as error:  # what cannot be written or copied
            raise self._failure("step", key, error) from error

    def _limit(self, node: Node, context: TurnContext) -> FinishReason | None:
        """Return why no turn can follow."""
        if context.tokens_left < 1:
            return FinishReason.LENGTH
        if node.depth >= self._stopping.depth:
            return FinishReason.DEPTH
        return FinishReason.TURNS if context.turns_left < 1 else None

    # --- places ----------------------------------------------------------------------------------------------------

    def _place_of(self, node: Node) -> int:
        """Return the place where the turn that ends at ``node`` began."""
        return self._tree.nodes[self._tree.turn(node.index)[0]].parent

    def _context(
        self,
        node: Node,
        before: Place,
        state: Any,
        response_ids: Sequence[int],
        ended: FinishReason,
        *,
        name: str,
        draws: str,
    ) -> TurnContext:
        turn_ids = list(response_ids[self._tree.turn_start(node.index) :])
        text = self._stopping.decode(turn_ids)
        number = 1 + len(self._tree.replies(node.index))
        turns_left = self._stopping.depth - node.depth
        if self.rules.max_turns is not None:
            turns_left = min(turns_left, self.rules.max_turns - number)
        return TurnContext(
            messages=copy.deepcopy([*before.messages, _assistant(text)]),
            text=text,
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

    @asynccontextmanager
    async def _copied(self, place: Place, key: str) -> AsyncIterator[Any]:
        """Copy the state of a place, and give the copy back afterwards unless it has become that of another."""
        state = await self._call("copy_state", key, place.state, copy.deepcopy(place.messages))
        self._states.append(state)
        try:
            yield state
        finally:
            if not any(other.state is state for other in self._places.values()):
                await self._close_state(state)

    async def _close_state(self, state: Any) -> None:
        number = next(number for number, held in enumerate(self._states) if held is state)
        del self._states[number]
        try:
            await self._call("close_state", "the end", state)
        except InteractionError as error:
            self.warn(error)

    # --- the interaction -------------------------------------------------------------------------------------------

    async def _call(self, method: str, key: str, *arguments: Any) -> Any:
        function, started = getattr(self._interaction, method), time.perf_counter()
        try:
            async with asyncio.timeout(self.rules.timeout_seconds):
                if inspect.iscoroutinefunction(function):
                    return await function(*arguments)
                result = await self._in_thread(method, function, *arguments)
                return await result if inspect.isawaitable(result) else result
        except TimeoutError as error:
            late = time.perf_counter() - started >= (self.rules.timeout_seconds or float("inf"))
            reason = f"no answer within {self.rules.timeout_seconds:g} s" if late else error
            raise self._failure(method, key, reason) from error
        except asyncio.CancelledError as error:
            # A task of the user's may have been cancelled, and not this one; that would end the search in silence.
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            raise self._failure(method, key, error) from error
        except (Exception, SystemExit) as error:  # whatever the user's code raises ends this path only
            raise self._failure(method, key, error) from error
        finally:
            self._tree.counters.interaction_seconds += time.perf_counter() - started

    async def _in_thread(self, method: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a plain function off the event loop; keep hold of a state that it returns too late."""
        call = partial(contextvars.copy_context().run, _without_stop_iteration, function, *arguments)
        work = asyncio.get_running_loop().run_in_executor(_THREADS, call)
        if method not in ("start", "copy_state"):
            return await work
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            # A thread goes on all the same, and what it opens has to be closed.
            self._late.append(work)
            raise

    def _failure(self, method: str, key: str, reason: Any) -> InteractionError:
        reason = reason if isinstance(reason, str) else f"{type(reason).__name__}: {reason}"
        reason = reason if len(reason) <= MOST_REASON else f"{reason[:MOST_REASON]}..."
        name = type(self._interaction).__qualname__
        return InteractionError(f"{name}.{method} failed for {self._start.name} at node {key}: {reason}")

    def warn(self, error: InteractionError) -> None:
        """Log a failure; all but the first of a prompt for debugging only."""
        logger.log(logging.DEBUG if self._warned else logging.WARNING, "%s", error)
        self._warned = True


def _without_stop_iteration(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function; a future cannot carry the one exception, and would never be done."""
    try:
        return function(*arguments)
    except StopIteration as error:
        raise RuntimeError("StopIteration") from error


def _has_text(message: Any) -> bool:
    return isinstance(message, dict) and "role" in message and isinstance(message.get("content"), str)


def _assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}
