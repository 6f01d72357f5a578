# SPDX-License-Identifier: Apache-2.0
"""Measure what the search itself costs: time and memory with an engine that answers at once.

    python -m benchmarks.search_cost

The engine returns tokens that were made beforehand, so nearly all the time is the search's: one process, one thread,
all prompts in one event loop as in an agent-loop worker. The default rules of stopping apply; text is decoded by a
stand-in that takes a character per token, because a tokenizer's time is not the search's.
"""

import argparse
import asyncio
import sys
import time
import tracemalloc
from collections.abc import Sequence

from recipe.treepo.search import SearchKind, SearchShape, grow_tree
from recipe.treepo.search.engine import Segment
from recipe.treepo.search.tree import Tree
from recipe.treepo.settings.schema import TreePOSettings


class InstantEngine:
    """Answers every request at once with the same tokens."""

    def __init__(self, longest: int) -> None:
        self._token_ids, self._logprobs = [1000] * longest, [-0.5] * longest

    async def extend(self, input_ids: list[int], *, max_tokens: int, branch: str) -> Segment:
        """See :class:`recipe.treepo.search.engine.SegmentEngine`."""
        return Segment(self._token_ids[:max_tokens], self._logprobs[:max_tokens])


async def grow(prompts: int, shape: SearchShape, settings: TreePOSettings, response_length: int) -> list[Tree]:
    """Grow one tree per prompt, all at once."""
    engine = InstantEngine(response_length)
    stopping = settings.stopping_rules(
        eos_token_ids=frozenset({2}), response_length=response_length, decode=lambda tokens: "x" * len(tokens)
    )
    return await asyncio.gather(
        *(
            grow_tree(list(range(300)), engine=engine, shape=shape, stopping=stopping, seed=seed)
            for seed in range(prompts)
        )
    )


def measure(prompts: int, *, width: int, depth: int, segment: int, stops: int | None, search: SearchKind) -> str:
    """Return one row of the table."""
    settings = TreePOSettings(depth=depth, segment_length=segment)
    shape = SearchShape(width=width, segment_length=segment, search=search, max_segments_per_request=stops)
    started = time.process_time()
    trees = asyncio.run(grow(prompts, shape, settings, depth * segment))
    seconds = time.process_time() - started
    nodes = sum(len(tree.nodes) for tree in trees)
    calls = sum(tree.counters.engine_calls for tree in trees)
    assert all(len(tree.leaves) == width for tree in trees)
    where = "every boundary" if stops == 1 else "where something is due"
    return f"| {prompts} | {search} | {where} | {nodes:,} | {calls:,} | {seconds:.1f} | {1e6 * seconds / nodes:.0f} |"


def memory_per_node(*, width: int, depth: int, segment: int) -> float:
    """Return the bytes that a node takes besides its tokens and log-probabilities."""
    settings = TreePOSettings(depth=depth, segment_length=segment)
    shape = SearchShape(width=width, segment_length=segment, max_segments_per_request=1)
    tracemalloc.start()
    trees = asyncio.run(grow(8, shape, settings, depth * segment))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    lists = sum(
        sys.getsizeof(node.segment.token_ids) + sys.getsizeof(node.segment.logprobs) + sys.getsizeof(node.text)
        for tree in trees
        for node in tree.nodes
    )
    return (taken - lists) / sum(len(tree.nodes) for tree in trees)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--depth", type=int, default=14)
    parser.add_argument("--segment", type=int, default=512, help="tokens of a segment")
    options = parser.parse_args(arguments)
    size = {"width": options.width, "depth": options.depth, "segment": options.segment}
    print(f"width {options.width}, depth {options.depth}, segments of {options.segment} tokens, CPU time of one core\n")
    print("| prompts | search | requests stop at | nodes | requests | seconds | microseconds per node |")
    print("|---|---|---|---|---|---|---|")
    for prompts in (options.prompts // 4, options.prompts // 2, options.prompts):
        for stops in (1, None):
            for search in SearchKind:
                print(measure(prompts, **size, stops=stops, search=search), flush=True)
    print(f"\nmemory of a node besides its tokens, log-probabilities and text: {memory_per_node(**size):.0f} bytes")


if __name__ == "__main__":
    main()
