# SPDX-License-Identifier: Apache-2.0
"""Credit and gradients of the estimators in a world where the value of every prefix is known.

A response is a chain of dependent steps, two tokens each: a method, and a result. One of the methods is unreliable: the
result is then mostly wrong, and a wrong result stays. The reward is 1 if no result is wrong. So the value of a prefix
is known, and so are the advantage of each segment and the gradient of the expected reward by the policy's only
parameter, the preference for the unreliable method. Samples cost nothing, so thousands of trees show what an estimator
can do.
"""

import asyncio
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.study.credit import (
    ESTIMATORS,
    PLAIN_SAMPLES,
    agreement,
    boundaries,
    credit_of_tokens,
    segment_means,
)
from benchmarks.study.diversity import effective_number
from recipe.treepo.search import SearchShape, grow_tree
from recipe.treepo.search.branching import BranchingRules
from recipe.treepo.search.engine import Segment
from recipe.treepo.search.stopping import FinishReason, StoppingRules
from recipe.treepo.search.tree import Tree

SAFE, UNRELIABLE, RIGHT, WRONG = 0, 1, 2, 3
PROMPT = [RIGHT]
TRUE = "true advantages"
"""Name of the row of measures that no estimator can have."""
WRONG_SHARE = 0.9
"""Probability of a wrong result after the unreliable method."""


@dataclass(frozen=True)
class World:
    """A chain of steps.

    Attributes:
        rate: Probability of the unreliable method in a step.
        steps: Number of steps.
        depth: Number of segments.
    """

    rate: float
    steps: int = 16
    depth: int = 8

    @property
    def length(self) -> int:
        """Tokens of a response."""
        return 2 * self.steps

    @property
    def segment(self) -> int:
        """Tokens of a segment."""
        return self.length // self.depth

    def value(self, response: Sequence[int]) -> float:
        """Return the probability that a response with this prefix has no wrong result."""
        if WRONG in response:
            return 0.0
        left = self.steps - (len(response) + 1) // 2
        begun = 1 - WRONG_SHARE if len(response) % 2 and response[-1] == UNRELIABLE else 1.0
        return begun * (1 - self.rate * WRONG_SHARE) ** left

    def scores(self, response: Sequence[int]) -> list[float]:
        """Return the derivative of each token's log-probability by the logit of the unreliable method."""
        return [0.0 if at % 2 else (token == UNRELIABLE) - self.rate for at, token in enumerate(response)]

    def gradient(self) -> float:
        """Return the derivative of the expected reward by that logit."""
        each = 1 - self.rate * WRONG_SHARE
        return float(-WRONG_SHARE * self.steps * each ** (self.steps - 1) * self.rate * (1 - self.rate))


class WorldEngine:
    """Engine that samples responses of a world."""

    def __init__(self, world: World, seed: int) -> None:
        self._world, self._seed = world, seed

    async def extend(self, input_ids: Sequence[int], *, max_tokens: int, branch: str) -> Segment:
        """See :class:`recipe.treepo.search.engine.SegmentEngine`."""
        rng, response = random.Random(f"{self._seed}/{branch}"), [*input_ids[len(PROMPT) :]]
        begin = len(response)
        while len(response) < begin + max_tokens:
            if len(response) % 2 == 0:
                response.append(UNRELIABLE if rng.random() < self._world.rate else SAFE)
            else:
                slips = response[-1] == UNRELIABLE and rng.random() < WRONG_SHARE
                response.append(WRONG if slips else RIGHT)
        return Segment(response[begin:], [-1.0] * (len(response) - begin))


def grown(world: World, *, n: int, root: int, seed: int) -> Tree:
    """Return one tree of ``n`` trajectories; ``root=n`` are independent samples."""
    shape = SearchShape(width=n, segment_length=world.segment, branching=BranchingRules(init_divergence=(root, root)))
    ends: dict[str, Any] = {"eos_token_ids": frozenset(), "decode": str}
    order = (FinishReason.LENGTH, FinishReason.DEPTH)
    stopping = StoppingRules(order=order, response_length=world.length, depth=world.depth, **ends)
    return asyncio.run(grow_tree(PROMPT, engine=WorldEngine(world, seed), shape=shape, stopping=stopping, seed=seed))


def rewards_of(tree: Tree) -> list[float]:
    """Return the reward of each leaf."""
    return [float(WRONG not in tree.path(leaf).response_ids) for leaf in tree.leaves]


def measure(world: World, names: Iterable[str], trees: Sequence[Tree]) -> list[dict[str, Any]]:
    """Return the measures of estimators on the same trees, and of the true advantages in their place.

    Returns:
        For each of them: fields of :class:`~benchmarks.study.credit.Agreement`, ``tokens`` (decoded per tree), and
        ``signal``: the mean of a tree's gradient, in the true direction, over its standard deviation, for 10,000
        decoded tokens.
    """
    responses = [[tree.path(leaf).response_ids for leaf in tree.leaves] for tree in trees]
    ends = boundaries(world.length, world.segment)
    advantages = [[np.diff([world.value(one[:end]) for end in ends]) for one in own] for own in responses]
    true = np.concatenate([segments for own in advantages for segments in own])
    scores = [np.array([world.scores(one) for one in own]) for own in responses]
    tokens = float(np.mean([tree.counters.decoded_tokens for tree in trees]))
    scale = math.copysign(math.sqrt(10_000 / tokens), world.gradient())
    rewards = [rewards_of(tree) for tree in trees]
    credits = {
        name: [credit_of_tokens(tree, own, ESTIMATORS[name]) for tree, own in zip(trees, rewards, strict=True)]
        for name in names
    }
    credits[TRUE] = [[np.repeat(segments, np.diff(ends)) for segments in own] for own in advantages]
    rows = []
    for name, found in credits.items():
        given = np.concatenate([segment_means(credit, world.segment) for own in found for credit in own])
        gradients = [(np.array(own) * of).sum() / len(own) for own, of in zip(found, scores, strict=True)]
        signal = scale * float(np.mean(gradients) / np.std(gradients, ddof=1))
        rows.append({"estimator": name, **asdict(agreement(given, true)), "tokens": tokens, "signal": signal})
    return rows


def run(*, rate: float, n: int, trees: int, seed: int = 0) -> dict[str, Any]:
    """Measure all estimators on trees, and GRPO on independent samples.

    Returns:
        ``success``, the value of the empty response; ``samplers``, with decoded tokens of a tree and the number of
        independent samples that its trajectories are worth; ``rows`` of :func:`measure`.
    """
    world, samplers, rows = World(rate), [], []
    roots = {PLAIN_SAMPLES: n, **{f"trees, root {root}": root for root in (1, 2, 4)}, "trees, root n/2": n // 2}
    for sampler, root in roots.items():
        grown_trees = [grown(world, n=n, root=root, seed=seed + number) for number in range(trees)]
        measured = measure(world, ["grpo"] if sampler == PLAIN_SAMPLES else ESTIMATORS, grown_trees)
        effective = effective_number(np.array([[np.mean(rewards_of(tree)) for tree in grown_trees]]))
        samplers.append({"sampler": sampler, "tokens": measured[0]["tokens"], "effective": effective})
        rows += [{"sampler": sampler, **row} for row in measured]
    return {"success": world.value([]), "samplers": samplers, "rows": rows}
