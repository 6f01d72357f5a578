# SPDX-License-Identifier: Apache-2.0
"""Trees must not change the model's distribution: each leaf of an evenly branching tree is a plain sample."""

import asyncio
import math
from collections import Counter
from dataclasses import replace

import pytest

from benchmarks.common.known_model import END, PROMPT, KnownModel
from benchmarks.sampling_bias import ShareOfZeros, score
from helpers.example_counts import is_long
from recipe.treepo.policies import Policies
from recipe.treepo.search import SearchKind, SearchShape, grow_tree
from recipe.treepo.search.branching import BranchingRules, Favor, Share
from recipe.treepo.search.stopping import FinishReason, StoppingRules

LENGTH, WIDTH, TREES = 6, 8, 6500 if is_long() else 1500
STOPPING = StoppingRules(
    order=(FinishReason.EOS, FinishReason.LENGTH, FinishReason.DEPTH),
    eos_token_ids=frozenset({END}),
    response_length=LENGTH,
    depth=3,
    decode=str,
)


def responses_by_leaf(search: SearchKind = SearchKind.BY_LEVEL, **rules) -> list[Counter]:
    """Count the responses at each leaf (by its place in the tree), over all trees."""
    shape = SearchShape(
        width=WIDTH, segment_length=2, search=search, branching=BranchingRules(**{"init_divergence": (2, 2), **rules})
    )

    async def sample():
        found = [Counter() for _ in range(WIDTH)]
        for seed in range(TREES):
            tree = await grow_tree(PROMPT, engine=KnownModel(seed), shape=shape, stopping=STOPPING, seed=seed)
            for place, leaf in enumerate(tree.leaves):
                found[place][tuple(tree.path(leaf).response_ids)] += 1
        return found

    return asyncio.run(sample())


def chi_square(found: Counter, truth: dict) -> float:
    """Return the number of standard deviations of the statistic above its mean."""
    total, freedom = sum(found.values()), len(truth) - 1
    statistic = sum((found[response] - total * p) ** 2 / (total * p) for response, p in truth.items())
    return (statistic - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize("search", list(SearchKind))
@pytest.mark.parametrize("init", [(1, 1), (3, 3), None])
def test_every_leaf_of_an_evenly_branching_tree_is_a_plain_sample(search, init):
    truth = KnownModel(0).responses(LENGTH)
    assert sum(truth.values()) == pytest.approx(1.0)
    assert len(truth) == 2**LENGTH
    found = responses_by_leaf(search, init_divergence=init)
    assert sum(leaf.total() for leaf in found) == TREES * WIDTH
    # Fixed seeds fix the result. With random seeds, one of 8 correct leaves exceeds 4 in 1 of 4,000 runs.
    assert [chi_square(leaf, truth) < 4 for leaf in found] == [True] * WIDTH


def test_the_test_sees_a_policy_that_looks_at_probabilities():
    truth = KnownModel(0).responses(LENGTH)
    found = responses_by_leaf(share=Share.PATH_SUM, favor=Favor.LOW, temperature=0.1)
    assert chi_square(sum(found, Counter()), truth) > 40


@pytest.mark.parametrize(("search", "rejections"), [(SearchKind.BY_LEVEL, 1), (SearchKind.BY_PATH, 2)])
@pytest.mark.parametrize("end_rate", [0.0, 0.2])
def test_pruning_a_single_path_is_rejection_sampling_with_limited_rejections(search, rejections, end_rate):
    shape = SearchShape(width=1, segment_length=2, search=search, branching=BranchingRules(init_divergence=(1, 1)))
    shape = replace(shape, prune_below=0.6)

    async def sample():
        found = Counter()
        for seed in range(3 * TREES):
            engine, policies = KnownModel(seed, end_rate=end_rate), Policies(scorer=ShareOfZeros())
            tree = await grow_tree(PROMPT, engine=engine, shape=shape, stopping=STOPPING, seed=seed, policies=policies)
            (leaf,) = tree.leaves
            found[tuple(tree.path(leaf).response_ids)] += 1
        return found

    model = KnownModel(0, end_rate=end_rate).responses(LENGTH)
    # Open paths end at a boundary if their score is too low; the last segment has no boundary.
    passed = {
        response: share
        for response, share in model.items()
        if all(score(response[:end]) >= 0.6 for end in (2, 4) if len(response) > end)
    }
    truth = dict(model)
    for _ in range(rejections):
        rejected = 1 - sum(passed.values())
        truth = {response: passed.get(response, 0.0) + rejected * share for response, share in truth.items()}
    assert sum(truth.values()) == pytest.approx(1.0)
    assert abs(chi_square(asyncio.run(sample()), truth)) < 4
