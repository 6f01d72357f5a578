# SPDX-License-Identifier: Apache-2.0
"""The tree search of TreePO (arXiv 2508.17445, section 2): continue, stop, branch, fall back.

Departures from the paper and its released code:

1. Prompts never wait for each other: each has its own search, and only the segments of one tree's level are
   gathered. The released code advances all prompts of a rank in lock step.
2. What the engine is given is always exactly the tokens on the path; the released code resumes some paths from
   a context that differs from the one it stores.
3. Exactly ``width`` trajectories come out, or the search fails as a whole.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from recipe.treepo.branching import level_budget, share_evenly
from recipe.treepo.engine import Segment, SegmentEngine
from recipe.treepo.fallback import random_segment_boundaries
from recipe.treepo.stopping import StoppingRules
from recipe.treepo.tree import ROOT, Node, Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchShape:
    """How a tree grows.

    Attributes:
        width: Trajectories wanted for the prompt.
        segment_length: Most tokens of a segment.
        divergence: Children per path at every level but the first.
        init_divergence: Lowest and highest number of children of the root, drawn uniformly for every prompt.
    """

    width: int
    segment_length: int
    divergence: int
    init_divergence: tuple[int, int]


async def grow_tree(
    prompt_ids: list[int], *, engine: SegmentEngine, shape: SearchShape, stopping: StoppingRules, rng: random.Random
) -> Tree:
    """Grow one prompt's tree until it has exactly ``shape.width`` leaves.

    The result depends on the prompt, the engine's answers and ``rng`` only, not on the order in which the
    requests of a level finish.

    Raises:
        ExceptionGroup: if an engine call fails; the prompt's other requests are cancelled.
    """
    started = time.perf_counter()
    tree = Tree(prompt_ids)
    resume_points = [ROOT] * min(shape.width, rng.randint(*shape.init_divergence))
    while len(tree.leaves) < shape.width:
        level = await _sample_level(tree, resume_points, engine, shape, stopping)
        for node in level:
            reason = stopping.reason(tree.response_ids(node.index), node.depth)
            if reason is not None:
                tree.finish(node.index, reason)
        resume_points = _next_resume_points(tree, level, shape, rng)
    tree.counters.search_seconds = time.perf_counter() - started
    return tree


async def _sample_level(
    tree: Tree, resume_points: Sequence[int], engine: SegmentEngine, shape: SearchShape, stopping: StoppingRules
) -> list[Node]:
    """Sample one segment after each of the nodes, all at once, and attach them in the order of the list."""
    started = time.perf_counter()
    next_index = len(tree.nodes)
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(_sample_segment(tree, parent, next_index + rank, engine, shape, stopping))
            for rank, parent in enumerate(resume_points)
        ]
    tree.counters.engine_seconds += time.perf_counter() - started
    return [tree.add(parent, task.result()) for parent, task in zip(resume_points, tasks, strict=True)]


async def _sample_segment(
    tree: Tree, parent: int, index: int, engine: SegmentEngine, shape: SearchShape, stopping: StoppingRules
) -> Segment:
    input_ids = tree.input_ids(parent)
    room = stopping.response_length - (len(input_ids) - len(tree.prompt_ids))
    max_tokens = min(shape.segment_length, room)
    segment = await engine.extend(input_ids, max_tokens=max_tokens, node=index)
    if not 1 <= len(segment.token_ids) <= max_tokens or len(segment.logprobs) != len(segment.token_ids):
        raise RuntimeError(
            f"the engine returned {len(segment.token_ids)} tokens with {len(segment.logprobs)} log-probabilities "
            f"where 1 to {max_tokens} tokens were asked for"
        )
    counters = tree.counters
    counters.engine_calls += 1
    counters.decoded_tokens += len(segment.token_ids)
    counters.prompt_tokens += len(input_ids)
    counters.cached_tokens += segment.cached_tokens
    return segment


def _next_resume_points(tree: Tree, level: list[Node], shape: SearchShape, rng: random.Random) -> list[int]:
    """Return the nodes after which the next level is sampled, one entry per segment to be sampled."""
    finished = len(tree.leaves)
    still_open = [node.index for node in level if node.finish_reason is None]
    if still_open:
        budget = level_budget(width=shape.width, finished=finished, level_size=len(level), divergence=shape.divergence)
        shares = share_evenly(budget, len(still_open), rng)
        return [node for node, share in zip(still_open, shares, strict=True) for _ in range(share)]
    missing = shape.width - finished
    if missing == 0:
        return []
    tree.counters.fallbacks += missing
    return random_segment_boundaries(tree, missing, rng)
