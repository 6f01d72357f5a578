# SPDX-License-Identifier: Apache-2.0
"""Compute what the trees of the reference table save in calls where conversations end early.

    python -m benchmarks.early_ends

Every turn ends its conversation with the same probability, and a tree grows as in benchmarks/reference_table.py: 8
trajectories, one path from the root, each path branching as far as the width lets it. Loops are computed, trees are
grown by the search with an engine that writes turns of one token.
"""

import argparse
import asyncio
import random
from collections.abc import Sequence

from recipe.treepo.search import SearchShape, grow_tree
from recipe.treepo.search.branching import BranchingRules
from recipe.treepo.search.engine import Segment
from recipe.treepo.settings.schema import TreePOSettings

WIDTH, END = 8, 2
SHAPES = ((4, 2), (4, 3), (5, 2), (5, 3), (6, 2), (6, 3))


class Turns:
    """An engine whose turns end the conversation with a probability."""

    def __init__(self, seed: int, ends: float) -> None:
        self._seed, self._ends = seed, ends

    async def extend(self, input_ids: list[int], *, max_tokens: int, branch: str) -> Segment:
        """See :class:`recipe.treepo.search.engine.SegmentEngine`."""
        ended = random.Random(f"{self._seed}/{branch}").random() < self._ends
        return Segment([END if ended else 1], [-0.5])


def tree_calls(depth: int, divergence: int, ends: float, seed: int) -> int:
    """Return the engine calls of one tree."""
    settings = TreePOSettings(depth=depth, segment_length=1)
    stopping = settings.stopping_rules(
        eos_token_ids=frozenset({END}), response_length=depth, decode=lambda tokens: "x" * len(tokens)
    )
    branching = BranchingRules(init_divergence=(1, 1), divergence=(divergence, divergence), max_divergence=divergence)
    shape = SearchShape(width=WIDTH, segment_length=1, max_segments_per_request=1, branching=branching)
    tree = asyncio.run(grow_tree([5], engine=Turns(seed, ends), shape=shape, stopping=stopping, seed=seed))
    return tree.counters.engine_calls


def loop_calls(depth: int, ends: float) -> float:
    """Return the expected engine calls of as many independent loops."""
    return WIDTH * sum((1 - ends) ** turn for turn in range(depth))


def saving(depth: int, divergence: int, ends: float, trees: int) -> float:
    """Return the calls saved, in percent."""
    calls = sum(tree_calls(depth, divergence, ends, seed) for seed in range(trees)) / trees
    return 100 * (1 - calls / loop_calls(depth, ends))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ends", type=float, nargs="+", default=[0.0, 0.03, 0.06, 0.1])
    parser.add_argument("--trees", type=int, default=300)
    options = parser.parse_args(arguments)
    print(f"| ends per turn | {' | '.join(map(str, SHAPES))} |")
    print("|---" * (1 + len(SHAPES)) + "|")
    for ends in options.ends:
        savings = (f"{saving(*shape, ends, options.trees):.1f}" for shape in SHAPES)
        print(f"| {ends:g} | {' | '.join(savings)} |", flush=True)


if __name__ == "__main__":
    main()
