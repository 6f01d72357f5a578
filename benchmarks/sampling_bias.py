# SPDX-License-Identifier: Apache-2.0
"""Measure what branching and fallback policies do to the distribution of the trajectories.

    python -m benchmarks.sampling_bias [--trees 20000]

A model with known probabilities writes responses of up to 8 tokens in segments of 2. For each policy the table tells
how far the responses are from those of plain samples of the model: the share that ended with the end token, the mean
length, the mean log-probability of a token, and the total variation distance (0: the same, 1: nothing in common). The
distance of a sample is never 0; the first row, plain samples, shows how large it is by chance.
"""

import argparse
import asyncio
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields

from benchmarks.known_model import END, PROMPT, KnownModel
from recipe.treepo.search import SearchKind, SearchShape, grow_tree
from recipe.treepo.search.branching import BranchingRules, Favor, Share
from recipe.treepo.search.fallback import FallbackRules, FallbackStart, PathOrder, PointRule
from recipe.treepo.search.stopping import FinishReason, StoppingRules

LENGTH, SEGMENT, WIDTH = 8, 2, 8


def policies() -> Iterator[tuple[str, dict]]:
    """Yield names and fields of the shape."""
    for children in (WIDTH, 6, 4):
        name = "plain samples" if children == WIDTH else f"transfer, {children} children of the root"
        yield name, {"branching": BranchingRules(init_divergence=(children, children))}
    yield "transfer", {}
    yield "by path", {"search": SearchKind.BY_PATH}
    for share in (Share.PATH_SUM, Share.SEGMENT_MEAN, Share.ENTROPY):
        for favor in Favor:
            rules = BranchingRules(share=share, favor=favor, temperature=0.2)
            yield f"transfer, {share}, {favor}, temperature 0.2", {"branching": rules}
    # Without branching below the root all but two trajectories come from fallback.
    fallback_only = BranchingRules(max_divergence=1)
    for rules in (
        FallbackRules(),
        FallbackRules(start=FallbackStart.DRY),
        FallbackRules(order=PathOrder.ANSWERED_FIRST),
        FallbackRules(order=PathOrder.LONGER_FIRST),
        FallbackRules(self_ended_only=True),
        FallbackRules(window=1),
        *(FallbackRules(point=point, block_length=2) for point in PointRule if point is not PointRule.BOUNDARY),
    ):
        changed = [
            f"{field.name}={getattr(rules, field.name)}"
            for field in fields(rules)
            if field.name != "block_length" and getattr(rules, field.name) != getattr(FallbackRules(), field.name)
        ]
        yield f"fallback only, {' '.join(changed) or 'default'}", {"branching": fallback_only, "fallback": rules}


async def sample(shape: SearchShape, trees: int, end_rate: float) -> Counter[tuple[int, ...]]:
    """Return how often each response came out of so many trees."""
    stopping = StoppingRules(
        order=(FinishReason.EOS, FinishReason.LENGTH, FinishReason.DEPTH),
        eos_token_ids=frozenset({END}),
        response_length=LENGTH,
        depth=LENGTH // SEGMENT,
        decode=str,
    )
    found: Counter[tuple[int, ...]] = Counter()
    for seed in range(trees):
        engine = KnownModel(seed, end_rate=end_rate)
        tree = await grow_tree(PROMPT, engine=engine, shape=shape, stopping=stopping, seed=seed)
        found.update(tuple(tree.path(leaf).response_ids) for leaf in tree.leaves)
    return found


def describe(found: Counter[tuple[int, ...]], model: KnownModel) -> str:
    """Return one row of the table."""
    total = sum(found.values())
    truth = model.responses(LENGTH)
    share = {response: count / total for response, count in found.items()}
    ended = sum(part for response, part in share.items() if response[-1] == END)
    length = sum(part * len(response) for response, part in share.items())
    logprob = sum(part * _logprob(response, model) for response, part in share.items()) / length
    distance = sum(abs(share.get(response, 0.0) - part) for response, part in truth.items()) / 2
    return f"{ended:.3f} | {length:.2f} | {logprob:.3f} | {distance:.3f}"


def _logprob(response: tuple[int, ...], model: KnownModel) -> float:
    before = (PROMPT[-1], *response[:-1])
    return sum(math.log(model.probabilities(last)[token]) for last, token in zip(before, response, strict=True))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trees", type=int, default=20000, help="trees per policy")
    arguments = parser.parse_args()
    for end_rate in (0.0, 0.15):
        print(f"\nend token at each position: {end_rate}\n")
        print("| policy | ended | mean length | log-probability per token | total variation |")
        print("|---|---|---|---|---|")
        for name, rules in policies():
            shape = SearchShape(width=WIDTH, segment_length=SEGMENT, **rules)
            found = asyncio.run(sample(shape, arguments.trees, end_rate))
            print(f"| {name} | {describe(found, KnownModel(0, end_rate=end_rate))} |", flush=True)


if __name__ == "__main__":
    main()
