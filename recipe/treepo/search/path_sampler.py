# SPDX-License-Identifier: Apache-2.0
"""Continuation of one path: request tokens, retry, cut into segments, apply the stopping rules.

In a conversation, one request continues a path by one turn at most. Then the interaction decides about the next turn.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from recipe.treepo.interaction import Steps
from recipe.treepo.search.boundaries import Boundaries
from recipe.treepo.search.conversation import Conversation, TurnOutcome
from recipe.treepo.search.counters import SearchCounters
from recipe.treepo.search.decisions import Decisions
from recipe.treepo.search.engine import EngineError, Segment, SegmentEngine, checked, tokens
from recipe.treepo.search.failures import Failures
from recipe.treepo.search.fallback import ResumePoint
from recipe.treepo.search.node import ROOT, Node
from recipe.treepo.search.paths import Path
from recipe.treepo.search.shape import SearchShape
from recipe.treepo.search.stopping import MODEL_ENDED, FinishReason, StoppingRules
from recipe.treepo.search.tree import Tree


@dataclass(frozen=True, slots=True)
class Continuation:
    """A path to continue.

    Attributes:
        parent: Number of its last node.
        key: Name of the next node.
        width: Number of trajectories that the path should become.
    """

    parent: int
    key: str
    width: int = 1


class BusyTime:
    """Context that adds the time inside to ``busy_seconds``; contextlib's take 3 microseconds, ten times as long."""

    def __init__(self, counters: SearchCounters) -> None:
        self._counters, self._started = counters, 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._counters.busy_seconds += time.perf_counter() - self._started


class PathSampler:
    """Continues the paths of one tree, independent of the policy.

    Attributes:
        tree: The tree sampled so far.
        busy: Counts the time inside as ``busy_seconds``; nothing inside may wait.
        failures: Failures of the engine and the interaction.
        decisions: Decisions of the policies.
    """

    def __init__(
        self,
        tree: Tree,
        engine: SegmentEngine,
        shape: SearchShape,
        stopping: StoppingRules,
        decisions: Decisions,
        conversation: Conversation | None = None,
    ) -> None:
        self.tree, self.shape, self.stopping, self.decisions = tree, shape, stopping, decisions
        self.busy, self.failures = BusyTime(tree.counters), Failures()
        self._engine, self._conversation = engine, conversation
        self._boundaries = Boundaries(
            segment_length=shape.segment_length,
            cache_block=shape.cache_block,
            prompt_length=len(tree.prompt_ids),
            response_length=stopping.response_length,
            depth=stopping.depth,
        )

    async def extend(self, path: Continuation, *, segments: int | None, may_drop: bool) -> Node | None:
        """Continue a path by one request, and by the interaction's reply if the request ended a turn.

        Args:
            path: The path.
            segments: Maximum segments of the request, None for no limit.
            may_drop: Whether to drop the path if it ends too short; otherwise it is kept.

        Returns:
            The node after which the path continues or at which it ended (``finish_reason``), with its score; None if
            the path was abandoned.
        """
        node = await self._extend(path, segments=segments, may_drop=may_drop)
        if self.decisions.scores and node is not None and not node.dropped:
            await self.decisions.score(node)
        return node

    async def _extend(self, path: Continuation, *, segments: int | None, may_drop: bool) -> Node | None:
        """Continue a path by one request, without its score; see :meth:`extend`."""
        parent = self.tree.nodes[path.parent]
        if parent.turn_over:
            assert self._conversation is not None
            outcome = await self._conversation.begin_branch(parent, path.key)
            if not outcome.continues:
                return self._close(outcome, may_drop=may_drop)
            parent = outcome.node
        answer = await self._request(parent.index, path.key, segments=segments)
        if answer is None:
            return None
        with self.busy:
            node, reason = self._attach(parent, path.key, answer)
        if reason is None:
            return node
        if not self._ends_turn(node, reason):
            return self._finish(node, reason, may_drop=may_drop)
        assert self._conversation is not None
        return self._close(await self._conversation.end_turn(node, reason), may_drop=may_drop)

    async def run_out(self, path: Continuation, *, may_drop: bool) -> Node | None:
        """Continue a path that never branches until it ends; see :meth:`extend`."""
        segments = self.shape.max_segments_per_request
        node = await self.extend(path, segments=segments, may_drop=may_drop)
        while node is not None and node.finish_reason is None:
            (path,) = self.new_children(node.index, [1])
            node = await self.extend(path, segments=segments, may_drop=may_drop)
        return node

    # --- continuations -----------------------------------------------------------------------------------------------

    def new_children(self, parent: int, widths: list[int]) -> list[Continuation]:
        """Return a new continuation of ``parent`` for each width."""
        node = self.tree.nodes[parent]
        return [Continuation(parent, node.new_child_key(), width) for width in widths]

    def resume(self, points: list[ResumePoint], *, root_key: str | None = None) -> list[Continuation]:
        """Return a continuation for each resume point, splitting the node that holds it.

        Args:
            points: Resume points.
            root_key: Name of the path whose width restarts at the root; continuations there get names from it. None
                names them as children of the root.
        """
        self.tree.counters.fallbacks += len(points)
        continuations = []
        for number, point in enumerate(points):
            if point.leaf is None:
                key = self.tree.nodes[ROOT].new_child_key() if root_key is None else f"{root_key}^{number}"
                continuations.append(Continuation(ROOT, key))
                continue
            parent = self.tree.split(point.leaf, point.offset)
            if self._conversation is not None and self._conversation.rules.steps is Steps.PER_BRANCH:
                parent = self.tree.path(parent).last_generated.index
            continuations.append(Continuation(parent, self.tree.nodes[point.leaf].new_fallback_key()))
        return continuations

    def can_be_dropped(self, path: Continuation) -> bool:
        """Return whether the path may still end too short."""
        return self.tree.nodes[path.parent].end + 1 < self.stopping.min_length

    # --- requests ----------------------------------------------------------------------------------------------------

    async def _request(self, parent: int, key: str, *, segments: int | None) -> Segment | None:
        """Request tokens after ``parent`` over at most ``segments`` segments, None for no limit.

        Returns:
            The engine's result, None if the path is abandoned.
        """
        with self.busy:
            input_ids = self.tree.token_ids(parent)
            max_tokens = self._max_tokens(self.tree.path(parent), segments)
        for attempt in range(self.shape.retries + 1):
            if attempt:
                await asyncio.sleep(self.shape.retry_seconds * 2 ** (attempt - 1))
            try:
                answer = await self._ask(input_ids, max_tokens, key)
            except Exception as error:  # a retry may succeed after any error of the engine
                self.failures.add_request(error)
                self.tree.counters.failed_calls += 1
            else:
                self._count(answer, len(input_ids))
                return answer
        self.tree.counters.abandoned_paths += 1
        return None

    async def _ask(self, input_ids: Sequence[int], max_tokens: int, key: str) -> Segment:
        """Return the engine's result after a check.

        Raises:
            EngineError: if the result violates the contract, or the engine or Ray cancelled the request on its own.
        """
        started = time.time()
        try:
            answer = await self._engine.extend(input_ids, max_tokens=max_tokens, branch=key)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Otherwise the task group would take the path for cancelled, and its width would be lost.
            raise EngineError("the request was cancelled, but not by the search") from error
        return checked(answer, max_tokens, started=started, ended=time.time())

    def _max_tokens(self, path: Path, segments: int | None) -> int:
        """Return the maximum tokens of a request that continues ``path``."""
        segments_left = self.stopping.depth - path.last.depth + path.last.partial
        count = segments_left if segments is None else min(segments, segments_left)
        limits = [self._tokens_to_boundary(path, count), self.stopping.response_length - path.last.end]
        if self._conversation is not None:
            limits.append(self._conversation.tokens_left_in_turn(path))
        return min(limits)

    def _tokens_to_boundary(self, path: Path, count: int = 1) -> int:
        node = path.last
        return self._boundaries.tokens_to(
            count, end=node.end, segments=node.depth - node.partial, begun=path.begun_segment_tokens
        )

    def _count(self, answer: Segment, input_tokens: int) -> None:
        counters = self.tree.counters
        counters.engine_calls += 1
        counters.decoded_tokens += len(answer.token_ids)
        counters.count_input(input_tokens, answer.cached_tokens)

    # --- adding to the tree ------------------------------------------------------------------------------------------

    def _attach(self, node: Node, key: str, answer: Segment) -> tuple[Node, FinishReason | None]:
        """Add a result to the tree after ``node``, one node per segment, until a rule ends the path or its turn.

        Returns:
            The last node, and the reason why path or turn end there, None if they do not.
        """
        path, taken, reason = self.tree.path(node.index), 0, None
        while taken < len(answer.token_ids) and reason is None:
            if taken:
                key = node.new_child_key()
            room = self._tokens_to_boundary(path)
            left = answer.token_ids[taken : taken + room]
            length = min(len(left), self._tokens_to_stop(path, left))
            piece = answer.part(taken, taken + length)
            node = self.tree.add(node.index, piece, key=key, partial=length < room)
            path = self.tree.path(node.index)
            taken += length
            reason = self._reason(path)
        self.tree.counters.overrun_tokens += len(answer.token_ids) - taken
        return node, reason

    def _tokens_to_stop(self, path: Path, token_ids: Sequence[int]) -> int:
        """Return the number of ``token_ids`` that complete the first stop string after ``path``; all if none does."""
        if FinishReason.STOP not in self.stopping.order:
            return len(token_ids)
        turn_ids = path.turn_ids
        count = self.stopping.tokens_to_stop(turn_ids + tokens(token_ids), len(turn_ids), path.turn_text)
        return count or len(token_ids)

    def _reason(self, path: Path) -> FinishReason | None:
        """Return the reason why the path, or its turn, ends here; None if it does not."""
        reason = self.stopping.reason(path, self.decisions.stopping_context(path.last))
        if reason is None and self._conversation is not None and self._conversation.tokens_left_in_turn(path) < 1:
            return FinishReason.LENGTH
        return reason

    def _ends_turn(self, node: Node, reason: FinishReason) -> bool:
        """Return whether a reason ends only the turn, so that the interaction decides."""
        if self._conversation is None:
            return False
        cut_off = reason is FinishReason.LENGTH and node.end < self.stopping.response_length
        return reason in MODEL_ENDED or cut_off

    def _close(self, outcome: TurnOutcome, *, may_drop: bool) -> Node | None:
        """Apply the interaction's decision; see :meth:`extend` for the result."""
        if outcome.error is not None:
            self.failures.add_interaction(outcome.error)
        if outcome.abandoned:
            self.tree.counters.abandoned_paths += 1
            return None
        if outcome.reason is None:
            return outcome.node
        return self._finish(outcome.node, outcome.reason, outcome.detail, may_drop=may_drop)

    def _finish(self, node: Node, reason: FinishReason, detail: str = "", *, may_drop: bool) -> Node:
        """End the path at ``node``, and drop it if it is too short."""
        dropped = may_drop and node.end < self.stopping.min_length
        self.tree.finish(node.index, reason, detail=detail, dropped=dropped)
        self.tree.counters.dropped_paths += dropped
        return node
