# SPDX-License-Identifier: Apache-2.0
"""Measure what policies do to the distribution of the trajectories.

    python -m benchmarks.sampling_bias --report FILE.md

A model with known probabilities generates responses of up to 8 tokens in segments of 2. For each policy, the table has
the total variation distance between the responses of all trees and the model's distribution (0: equal, 1: disjoint),
their mean length, and the mean score. Where a row names no number of children, the root has 2. The score stands for a
verifier: the share of the token 0 in the response. A sample is never at distance 0; the first row, plain samples, shows
how far it is by chance.
"""

import argparse
import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common.known_model import END, PROMPT, KnownModel
from benchmarks.common.records import write_measurement
from recipe.treepo.evaluation import markdown
from recipe.treepo.policies import PathView, Policies, PolicyContext
from recipe.treepo.search import SearchKind, SearchShape, grow_tree
from recipe.treepo.search.branching import BranchingRules, Favor, Share
from recipe.treepo.search.fallback import FallbackRules, FallbackStart, PathOrder, PointRule
from recipe.treepo.search.stopping import FinishReason, StoppingRules

LENGTH, SEGMENT, WIDTH = 8, 2, 8
END_RATES = (0.0, 0.15)
TITLES = ("policy", "end token", "total variation", "mean length", "mean score")
STOPPING = StoppingRules(
    order=(FinishReason.EOS, FinishReason.LENGTH, FinishReason.DEPTH),
    eos_token_ids=frozenset({END}),
    response_length=LENGTH,
    depth=LENGTH // SEGMENT,
    decode=str,
)


def score(response: Sequence[int]) -> float:
    """Return the share of the token 0."""
    return response.count(0) / len(response)


class ShareOfZeros:
    """Scorer that stands for a verifier; see :class:`recipe.treepo.policies.Scorer`."""

    async def score(self, path: PathView, context: PolicyContext) -> float:
        """Return the share of the token 0."""
        return score(path.token_ids)


def shapes() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name of each policy and its fields of the shape."""
    for children in (WIDTH, 6, 4, 2):
        name = f"`init_divergence={children}`" if children < WIDTH else "plain samples"
        yield name, {"branching": BranchingRules(init_divergence=(children, children))}
    two = BranchingRules(init_divergence=(2, 2))
    yield "`by_path`", {"branching": two, "search": SearchKind.BY_PATH}
    for share in (Share.PATH_SUM, Share.ENTROPY, Share.SCORE):
        for favor in Favor:
            rules = replace(two, share=share, favor=favor, temperature=0.2)
            yield f"`share={share}`, `favor={favor}`, `temperature=0.2`", {"branching": rules}
    for name in ("prune_below", "prune_above"):
        yield f"`{name}=0.5`", {"branching": two, name: 0.5}
        yield f"`{name}=0.5`, `by_path`", {"branching": two, name: 0.5, "search": SearchKind.BY_PATH}
    # Without branching below the root all but two trajectories come from fallback.
    never = replace(two, max_divergence=1)
    yield "fallback", {"branching": never}
    yield "fallback, `start=dry`", {"branching": never, "fallback": FallbackRules(start=FallbackStart.DRY)}
    for order in (PathOrder.LONGER_FIRST, PathOrder.HIGHER_SCORE_FIRST, PathOrder.LOWER_SCORE_FIRST):
        yield f"fallback, `order={order}`", {"branching": never, "fallback": FallbackRules(order=order)}
    for point in (PointRule.ROOT, PointRule.LEAST_LIKELY_TOKEN):
        yield f"fallback, `point={point}`", {"branching": never, "fallback": FallbackRules(point=point)}


async def sample(shape: SearchShape, trees: int, end_rate: float) -> Counter[tuple[int, ...]]:
    """Return the number of occurrences of each response in all trees."""
    found: Counter[tuple[int, ...]] = Counter()
    policies = Policies(scorer=ShareOfZeros())
    for seed in range(trees):
        engine = KnownModel(seed, end_rate=end_rate)
        tree = await grow_tree(PROMPT, engine=engine, shape=shape, stopping=STOPPING, seed=seed, policies=policies)
        found.update(tuple(tree.path(leaf).response_ids) for leaf in tree.leaves)
    return found


def described(found: Counter[tuple[int, ...]], end_rate: float) -> dict[str, float]:
    """Return total variation, mean length and mean score of sampled responses."""
    shares = {response: count / found.total() for response, count in found.items()}
    truth = KnownModel(0, end_rate=end_rate).responses(LENGTH)
    return {
        "end token": end_rate,
        "total variation": sum(abs(shares.get(response, 0.0) - share) for response, share in truth.items()) / 2,
        "mean length": sum(share * len(response) for response, share in shares.items()),
        "mean score": sum(share * score(response) for response, share in shares.items()),
    }


def table(results: Sequence[dict[str, Any]]) -> str:
    """Return the results in Markdown."""
    return markdown.table(
        TITLES,
        [
            [result["policy"], f"{result['end token']:.2f}", f"{result['total variation']:.3f}"]
            + [f"{result['mean length']:.2f}", f"{result['mean score']:.3f}"]
            for result in results
        ],
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all policies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trees", type=int, default=20_000, help="trees per row")
    parser.add_argument("--report", type=Path, help="Markdown file; results (.json) beside it")
    options = parser.parse_args(arguments)
    results = []
    for end_rate in END_RATES:
        for name, fields in shapes():
            shape = SearchShape(width=WIDTH, segment_length=SEGMENT, **fields)
            found = asyncio.run(sample(shape, options.trees, end_rate))
            results.append({"policy": name, **described(found, end_rate)})
            print(results[-1], flush=True)
    if options.report:
        about = f"{options.trees:,} trees of {WIDTH} trajectories per row, responses of up to {LENGTH} tokens"
        about += f", segments of {SEGMENT}; end token: its probability at each position"
        rows = {"rows": results}
        write_measurement(options.report, "sampling_bias", arguments, about=about, table=table(results), results=rows)


if __name__ == "__main__":
    main()
