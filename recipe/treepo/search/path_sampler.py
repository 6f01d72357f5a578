# SPDX-License-Identifier: Apache-2.0
"""Continue one path of a tree: ask the engine, repeat what fails, cut into segments, and stop where a rule says so.

In a conversation a path goes on by a turn at a time at most, and the interaction says what follows it.
"""

import asyncio
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from recipe.treepo.interaction import InteractionError, OnError, Steps
from recipe.treepo.search.conversation import Conversation
from recipe.treepo.search.engine import Segment, SegmentEngine
from recipe.treepo.search.fallback import Resumption
from recipe.treepo.search.node import ROOT, Node
from recipe.treepo.search.shape import SearchShape
from recipe.treepo.search.stopping import MODEL_ENDED, FinishReason, StoppingRules
from recipe.treepo.search.tree import Tree


class SearchError(RuntimeError):
    """No trajectory of a prompt could be had."""


@dataclass(frozen=True, slots=True)
class Branch:
    """A path to continue: from which node, under which name, and how many trajectories it is to become."""

    parent: int
    key: str
    width: int = 1


class PathSampler:
    """Continues the paths of one tree, whatever the policy is.

    Attributes:
        tree: What has been sampled so far.
        last_failure: What the last failed request, or the interaction, failed with.
    """

    def __init__(
        self,
        tree: Tree,
        engine: SegmentEngine,
        shape: SearchShape,
        stopping: StoppingRules,
        conversation: Conversation | None = None,
    ) -> None:
        self.tree, self.shape, self.stopping = tree, shape, stopping
        self.last_failure: Exception | None = None
        self._engine, self._conversation = engine, conversation

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Count the time inside as time of the search; there must be no waiting in it."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.tree.counters.busy_seconds += time.perf_counter() - started

    async def extend(self, branch: Branch, *, segments: int | None, may_drop: bool) -> Node | None:
        """Continue a path by one request, and by what the interaction adds where the request ended a turn.

        Args:
            branch: The path.
            segments: Most segments of the request, None for as many as there may be.
            may_drop: Whether the path is dropped where it ends too short; else it is kept all the same.

        Returns:
            The node after which the path goes on or at which it ended, which its ``finish_reason`` tells; None if the
            path was given up.
        """
        parent = self.tree.nodes[branch.parent]
        if parent.turn_over:
            assert self._conversation is not None
            after = await self._ask(parent, self._conversation.begin_branch(parent, branch.key))
            if isinstance(after, Node):
                parent = after
            elif after is None:
                return None
            else:
                return self._finish(self._conversation.end_branch(parent, branch.key), *after, may_drop=may_drop)
        answer = await self.request(parent.index, branch.key, segments=segments)
        if answer is None:
            return None
        with self.busy():
            node, reason = self._attach(parent, branch.key, answer)
        if reason is None:
            return node
        if not self._ends_turn(node, reason):
            return self._finish(node, reason, may_drop=may_drop)
        assert self._conversation is not None
        after = await self._ask(node, self._conversation.end_turn(node, reason))
        if after is None:
            self.tree.finish(node.index, FinishReason.ERROR, dropped=True)
            return None
        return after if isinstance(after, Node) else self._finish(node, *after, may_drop=may_drop)

    async def run_out(self, branch: Branch, *, may_drop: bool) -> Node | None:
        """Continue a path, which is never to branch, until it ends; see :meth:`extend`."""
        node = await self.extend(branch, segments=self.shape.max_segments_per_request, may_drop=may_drop)
        while node is not None and node.finish_reason is None:
            (branch,) = self.children(node.index, [1])
            node = await self.extend(branch, segments=self.shape.max_segments_per_request, may_drop=may_drop)
        return node

    # --- the conversation ------------------------------------------------------------------------------------------

    def _ends_turn(self, node: Node, reason: FinishReason) -> bool:
        """Tell whether a reason ends a turn only, about which the interaction is to be asked."""
        if self._conversation is None:
            return False
        cut_off = reason is FinishReason.LENGTH and node.end < self.stopping.response_length
        return reason in MODEL_ENDED or cut_off

    async def _ask(
        self, node: Node, asking: Awaitable[tuple[FinishReason, str] | Node]
    ) -> tuple[FinishReason, str] | Node | None:
        """Wait for what the conversation says about the path at ``node``; None if it is given up.

        Raises:
            InteractionError: if the interaction failed, and the whole prompt is to fail.
        """
        assert self._conversation is not None
        try:
            return await asking
        except InteractionError as error:
            self._conversation.warn(error)
            self.last_failure = error
            self.tree.counters.failed_steps += 1
            match self._conversation.rules.on_error:
                case OnError.FAIL:
                    raise
                case OnError.END:
                    return FinishReason.ERROR, str(error)
                case OnError.DROP:
                    self.tree.counters.given_up_paths += 1
                    return None

    # --- asking the engine -----------------------------------------------------------------------------------------

    async def request(self, parent: int, key: str, *, segments: int | None) -> Segment | None:
        """Ask the engine to continue a path over at most ``segments`` segments, None for as many as there may be.

        Args:
            parent: Its last node.
            key: Name of the branch.

        Returns:
            What it answered, or None if the path has to be given up.
        """
        with self.busy():
            input_ids = self.tree.prompt_ids + self.tree.response_ids(parent)
            max_tokens = self._room(parent, segments)
        for attempt in range(self.shape.retries + 1):
            if attempt:
                await asyncio.sleep(self.shape.retry_seconds * 2 ** (attempt - 1))
            try:
                answer = await self._engine.extend(input_ids, max_tokens=max_tokens, branch=key)
                _check_answer(answer, max_tokens)
            except Exception as error:  # whatever an engine fails with: the path can be had from another request
                self.last_failure = error
                self.tree.counters.failed_calls += 1
            else:
                self._count(answer, len(input_ids))
                return answer
        self.tree.counters.given_up_paths += 1
        return None

    def _room(self, parent: int, segments: int | None) -> int:
        """Return the most tokens of a request that continues ``parent``."""
        node = self.tree.nodes[parent]
        segments_left = self.stopping.depth - node.depth + node.partial
        count = segments_left if segments is None else min(segments, segments_left)
        room = self._tokens_of_segments(node, count)
        if self._conversation is not None:
            room = min(room, self._conversation.turn_room(parent))
        return min(room, self.stopping.response_length - node.end)

    def _tokens_of_segments(self, node: Node, count: int) -> int:
        """Return the tokens after ``node`` to the ``count``-th boundary."""
        if (block := self.shape.cache_block) is not None:
            return self._boundary(node.depth - node.partial + count, block) - node.end
        used = 0
        while node.partial:
            used += len(node.segment.token_ids)
            node = self.tree.nodes[node.parent]
        return count * self.shape.segment_length - used

    def _boundary(self, segments: int, block: int) -> int:
        """Return after how many response tokens a path has so many segments.

        As near to segments of equal length as can be such that the engine finds all tokens before in whole blocks of
        its cache but the last, which it has not computed yet when it samples it.
        """
        end = segments * self.shape.segment_length
        if segments >= self.stopping.depth:
            return end
        beyond = (len(self.tree.prompt_ids) + end - 1) % block
        moved = end - beyond + (block if 2 * beyond > block else 0)
        return moved if moved < self.stopping.response_length else end

    def _count(self, answer: Segment, input_tokens: int) -> None:
        counters = self.tree.counters
        counters.engine_calls += 1
        counters.decoded_tokens += len(answer.token_ids)
        counters.prompt_tokens += input_tokens
        counters.cached_tokens += answer.cached_tokens

    # --- adding to the tree ----------------------------------------------------------------------------------------

    def _attach(self, node: Node, key: str, answer: Segment) -> tuple[Node, FinishReason | None]:
        """Add an answer to the tree after ``node``, a node for each segment, up to where a rule ends path or turn.

        Returns:
            The last node, and why path or turn end there, None if they do not.
        """
        taken, reason = 0, None
        start = self.tree.turn_start(node.index)
        turn = (self.tree.response_ids(node.index) + answer.token_ids)[start:]
        text = self.tree.turn_text(node.index)
        while taken < len(answer.token_ids) and reason is None:
            if taken:
                key = node.new_child_key()
            room = self._tokens_of_segments(node, 1)
            length = min(room, len(answer.token_ids) - taken, self._length_to_stop(turn, node.end - start, text, room))
            before, end = node.end - start, node.end - start + length
            added = self.stopping.added_text(turn[:end], before) if self.stopping.needs_text else ""
            text += added
            piece = answer.part(taken, taken + length)
            node = self.tree.add(node.index, piece, key=key, text=added, partial=length < room)
            taken += length
            depth = node.depth - node.partial
            reason = self.stopping.reason(turn[:end], text, length=node.end, depth=depth)
            if reason is None and self._conversation is not None and self._conversation.turn_room(node.index) < 1:
                reason = FinishReason.LENGTH
        self.tree.counters.overrun_tokens += len(answer.token_ids) - taken
        return node, reason

    def _finish(self, node: Node, reason: FinishReason, detail: str = "", *, may_drop: bool) -> Node:
        """End the path at ``node``, and drop it where it is too short."""
        dropped = may_drop and node.end < self.stopping.min_length
        self.tree.finish(node.index, reason, detail=detail, dropped=dropped)
        self.tree.counters.dropped_paths += dropped
        return node

    def _length_to_stop(self, turn: list[int], start: int, text: str, room: int) -> int:
        """Return how many tokens from ``start`` on reach the end of the first stop string within ``room`` tokens."""
        if FinishReason.STOP not in self.stopping.order:
            return len(turn)
        end = min(len(turn), start + room)
        return self.stopping.tokens_to_stop(turn[:end], start, text) or len(turn)

    def can_be_dropped(self, branch: Branch) -> bool:
        """Tell whether the path may yet end too short."""
        return self.tree.nodes[branch.parent].end + 1 < self.stopping.min_length

    # --- branches --------------------------------------------------------------------------------------------------

    def children(self, parent: int, widths: list[int]) -> list[Branch]:
        """Return a new branch below ``parent`` for each of the widths."""
        node = self.tree.nodes[parent]
        return [Branch(parent, node.new_child_key(), width) for width in widths]

    def resume(self, resumptions: list[Resumption], *, root_key: str | None = None) -> list[Branch]:
        """Return a branch for each point to resume at, splitting the node that it is inside of.

        Args:
            resumptions: Where.
            root_key: Name of the path whose width starts again at the root, for the names of its branches there; None
                to name them as children of the root.
        """
        self.tree.counters.fallbacks += len(resumptions)
        branches = []
        for number, resumption in enumerate(resumptions):
            if resumption.leaf is None:
                key = self.tree.nodes[ROOT].new_child_key() if root_key is None else f"{root_key}^{number}"
                branches.append(Branch(ROOT, key))
                continue
            count = len(self.tree.nodes)
            parent = self.tree.node_ending_at(resumption.leaf, resumption.offset)
            if len(self.tree.nodes) > count and self.stopping.needs_text:
                self._retext(parent)
            if self._conversation is not None and self._conversation.rules.steps is Steps.PER_BRANCH:
                parent = self.tree.written(parent).index
            branches.append(Branch(parent, self.tree.nodes[resumption.leaf].new_fallback_key()))
        return branches

    def _retext(self, upper: int) -> None:
        """Set the text of both pieces of a node that was split."""
        lower = self.tree.nodes[upper].children[0]
        for index in (upper, lower):
            node = self.tree.nodes[index]
            start = self.tree.turn_start(index)
            node.text = self.stopping.added_text(self.tree.response_ids(index)[start:], node.offset - start)


def _check_answer(answer: Segment, max_tokens: int) -> None:
    if not 1 <= len(answer.token_ids) <= max_tokens or len(answer.logprobs) != len(answer.token_ids):
        raise RuntimeError(
            f"the engine returned {len(answer.token_ids)} tokens with {len(answer.logprobs)} log-probabilities "
            f"where 1 to {max_tokens} tokens were asked for"
        )
