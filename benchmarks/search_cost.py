# SPDX-License-Identifier: Apache-2.0
"""Measure time and memory of the search itself, with an instant engine.

    python -m benchmarks.search_cost --report FILE.md

The engine returns prepared tokens, so nearly all time is search time. All prompts share one thread and event loop, as
in an agent-loop worker. The default stopping rules apply. A stand-in decodes each token to one character, to exclude
tokenizer time. The searches take turns; times are medians of CPU seconds.
"""

import argparse
import asyncio
import statistics
import time
import tracemalloc
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.common.records import write_measurement
from recipe.treepo.evaluation import markdown
from recipe.treepo.search import SearchKind, SearchShape, grow_tree
from recipe.treepo.search.branching import BranchingRules
from recipe.treepo.search.engine import Segment
from recipe.treepo.search.tree import Tree
from recipe.treepo.settings.schema import TreePOSettings

TWO_CHILDREN = BranchingRules(init_divergence=(2, 2))
"""Of the root: the most levels with branch points."""
STOPS = {1: "every boundary", None: "branch points"}
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


def measure(prompts: int, *, width: int, depth: int, segment: int, stops: int | None, search: SearchKind) -> Any:
    """Return numbers of nodes and requests, and CPU seconds, of one search over all prompts."""
    settings = TreePOSettings(depth=depth, segment_length=segment)
    shape = SearchShape(
        width=width, segment_length=segment, search=search, branching=TWO_CHILDREN, max_segments_per_request=stops
    )
    started = time.process_time()
    trees = asyncio.run(grow(prompts, shape, settings, depth * segment))
    seconds = time.process_time() - started
    assert all(len(tree.leaves) == width for tree in trees)
    requests = sum(tree.counters.engine_calls for tree in trees)
    return {"nodes": sum(len(tree.nodes) for tree in trees), "requests": requests, "seconds": seconds}


def memory(prompts: int, *, width: int, depth: int, segment: int) -> int:
    """Return the bytes of all trees: tokens, log-probabilities, text and structure."""
    settings = TreePOSettings(depth=depth, segment_length=segment)
    tracemalloc.start()
    # Kept alive until the memory is read.
    shape = SearchShape(width=width, segment_length=segment, branching=TWO_CHILDREN)
    trees = asyncio.run(grow(prompts, shape, settings, depth * segment))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(trees) == prompts
    return taken


def table(results: Sequence[dict[str, Any]]) -> str:
    """Return the results in Markdown."""
    rows = []
    for result in results:
        cells = [f"{result['prompts']}", result["search"], result["requests stop at"]]
        cells += [f"{result['nodes']:,}", f"{result['requests']:,}", f"{result['seconds']:.1f}"]
        rows.append([*cells, f"{1e6 * result['seconds'] / result['nodes']:.0f}"])
    return markdown.table(TITLES, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all searches."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--depth", type=int, default=14)
    parser.add_argument("--segment", type=int, default=512, help="tokens per segment")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--report", type=Path, help="Markdown file; results (.json) beside it")
    options = parser.parse_args(arguments)
    size = {"width": options.width, "depth": options.depth, "segment": options.segment}
    cases = [*product((options.prompts // 4, options.prompts // 2, options.prompts), (1, None), SearchKind)]
    rounds = [
        [measure(prompts, **size, stops=stops, search=search) for prompts, stops, search in cases]
        for _ in range(options.rounds)
    ]
    results = []
    for (prompts, stops, search), found in zip(cases, zip(*rounds, strict=True), strict=True):
        names = {"prompts": prompts, "search": str(search), "requests stop at": STOPS[stops]}
        times = [result["seconds"] for result in found]
        results.append({**names, **found[0], "seconds": statistics.median(times), "seconds of rounds": times})
    taken = memory(options.prompts, **size)
    about = f"width {options.width}, depth {options.depth}, segments of {options.segment} tokens, CPU time of one core"
    about += f"; trees of {options.prompts} prompts: {taken / 1e9:.2f} GB"
    print(f"{about}\n\n{table(results)}")
    if options.report:
        about, numbers = f"medians of {options.rounds} rounds; {about}", {"memory": taken, "cases": results}
        write_measurement(options.report, "search_cost", arguments, about=about, table=table(results), results=numbers)


if __name__ == "__main__":
    main()
