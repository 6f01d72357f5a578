# SPDX-License-Identifier: Apache-2.0
"""Measure time and memory of the search itself, with an instant engine.

    python -m benchmarks.search_cost

The engine returns prepared tokens, so nearly all time is search time. All prompts share one thread and event loop, as
in an agent-loop worker. The default stopping rules apply. A stand-in decodes each token to one character, to exclude
tokenizer time.
"""

import argparse
import asyncio
import time
import tracemalloc
from collections.abc import Sequence

from recipe.treepo.evaluation.markdown import table
from recipe.treepo.search import SearchKind, SearchShape, grow_tree
from recipe.treepo.search.engine import Segment
from recipe.treepo.search.tree import Tree
from recipe.treepo.settings.schema import TreePOSettings

TITLES = ("prompts", "search", "requests stop at", "nodes", "requests", "seconds", "microseconds per node")


class InstantEngine:
    """Engine that returns the same tokens for every request, without delay."""

    def __init__(self, longest: int) -> None:
        self._token_ids, self._logprobs = [1000] * longest, [-0.5] * longest

    async def extend(self, input_ids: Sequence[int], *, max_tokens: int, branch: str) -> Segment:
        """See :class:`recipe.treepo.search.engine.SegmentEngine`."""
        return Segment(self._token_ids[:max_tokens], self._logprobs[:max_tokens])


async def grow(prompts: int, shape: SearchShape, settings: TreePOSettings, response_length: int) -> list[Tree]:
    """Grow one tree per prompt, all concurrently."""
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


def measure(prompts: int, *, width: int, depth: int, segment: int, stops: int | None, search: SearchKind) -> list[str]:
    """Return one row of the table."""
    settings = TreePOSettings(depth=depth, segment_length=segment)
    shape = SearchShape(width=width, segment_length=segment, search=search, max_segments_per_request=stops)
    started = time.process_time()
    trees = asyncio.run(grow(prompts, shape, settings, depth * segment))
    seconds = time.process_time() - started
    nodes = sum(len(tree.nodes) for tree in trees)
    calls = sum(tree.counters.engine_calls for tree in trees)
    assert all(len(tree.leaves) == width for tree in trees)
    boundaries = "every boundary" if stops == 1 else "branch points"
    costs = (f"{nodes:,}", f"{calls:,}", f"{seconds:.1f}", f"{1e6 * seconds / nodes:.0f}")
    return [f"{prompts}", search, boundaries, *costs]


def memory(prompts: int, *, width: int, depth: int, segment: int) -> int:
    """Return the bytes of all trees: tokens, log-probabilities, text and structure."""
    settings = TreePOSettings(depth=depth, segment_length=segment)
    tracemalloc.start()
    # Kept alive until the memory is read.
    trees = asyncio.run(grow(prompts, SearchShape(width=width, segment_length=segment), settings, depth * segment))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(trees) == prompts
    return taken


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--depth", type=int, default=14)
    parser.add_argument("--segment", type=int, default=512, help="tokens per segment")
    options = parser.parse_args(arguments)
    size = {"width": options.width, "depth": options.depth, "segment": options.segment}
    print(f"width {options.width}, depth {options.depth}, segments of {options.segment} tokens, CPU time of one core\n")
    rows = [
        measure(prompts, **size, stops=stops, search=search)
        for prompts in (options.prompts // 4, options.prompts // 2, options.prompts)
        for stops in (1, None)
        for search in SearchKind
    ]
    print(table(TITLES, rows))
    print(f"\nmemory of the trees of {options.prompts} prompts: {memory(options.prompts, **size) / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
