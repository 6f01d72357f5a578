# SPDX-License-Identifier: Apache-2.0
"""Credit and gradients of the estimators in a world where the value of every prefix is known.

A response is a chain of dependent steps, two tokens each: a method, and a result. One of the methods is unreliable: the
result is then mostly wrong, and a wrong result stays. The reward is 1 if no result is wrong. So the value of a prefix
is known, and so are the advantage of each segment and the gradient of the expected reward by the policy's preference
for the unreliable method in each step. Samples cost nothing, so thousands of trees show what an estimator can do.

Segments end where steps end, which favors trees: no branch point is inside a step.
"""

import asyncio
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.study.credit import (
    ESTIMATORS,
    GROUP_ESTIMATORS,
    PLAIN_SAMPLES,
    WHITENED,
    agreement,
    boundaries,
    credit_of_tokens,
    segment_means,
)
from benchmarks.study.diversity import effective_number
from recipe.treepo.advantages.credit import EPSILON
from recipe.treepo.advantages.forest import Floats
from recipe.treepo.search import SearchShape, grow_tree
from recipe.treepo.search.branching import BranchingRules
from recipe.treepo.search.engine import Segment
from recipe.treepo.search.stopping import FinishReason, StoppingRules
from recipe.treepo.search.tree import Tree

SAFE, UNRELIABLE, RIGHT, WRONG = 0, 1, 2, 3
PROMPT = [RIGHT]
TRUE = "true advantages"
"""Name of the row with the true advantages of the segments in place of an estimator's credit."""
BATCH = 8
"""Prompts of a batch, over which some estimators whiten."""
CLEAR = 0.25
"""Smallest true advantage whose sign is compared."""
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


@dataclass(frozen=True)
class Sample:
    """A tree of a world, with its rewards and what is known about its tokens.

    Attributes:
        rewards: Reward of each trajectory.
        true: True advantage of each segment, (trajectories, segments).
        scores: Derivative of each token's log-probability by the preference in its step, (trajectories, tokens).
    """

    tree: Tree
    rewards: list[float]
    true: Floats
    scores: Floats

    @property
    def segment(self) -> int:
        """Tokens of a segment."""
        return int(self.scores.shape[1] // self.true.shape[1])

    def gradient(self, credit: Floats) -> Floats:
        """Return the gradient by the preference in each step, (steps,), for the credit of each token."""
        of_steps: Floats = (credit * self.scores).reshape(len(credit), -1, 2).sum(axis=(0, 2))
        return of_steps / len(credit)


def sample(world: World, *, n: int, root: int, seed: int) -> Sample:
    """Grow a tree and look up what is known."""
    tree = grown(world, n=n, root=root, seed=seed)
    responses = [tree.path(leaf).response_ids for leaf in tree.leaves]
    ends = boundaries(world.length, world.segment)
    return Sample(
        tree,
        rewards=[float(WRONG not in one) for one in responses],
        true=np.diff([[world.value(one[:end]) for end in ends] for one in responses]),
        scores=np.array([world.scores(one) for one in responses]),
    )


def measure(names: Iterable[str], batches: Sequence[Sequence[Sample]]) -> list[dict[str, Any]]:
    """Return the measures of estimators on the same trees, and of the true advantages in their place.

    Credit is normalized as in training, by default: over the batch, or not at all.

    Returns:
        For each of them: fields of :class:`~benchmarks.study.credit.Agreement`; ``tokens`` (decoded per tree);
        ``signal``, the mean of a batch's gradient in the true direction over its standard deviation, for 10,000 decoded
        tokens, and ``signal_error``, its standard error; ``cosine`` of the mean gradient and the true one.
    """
    samples = [one for batch in batches for one in batch]
    tokens = float(np.mean([one.tree.counters.decoded_tokens for one in samples]))
    true = np.concatenate([one.true.ravel() for one in samples])
    rows = []
    for name in (*names, TRUE):
        given, gradients = [], []
        for batch in batches:
            credits = [_credit(one, name) for one in batch]
            if name in WHITENED:
                every = np.concatenate([credit.ravel() for credit in credits])
                credits = [(credit - every.mean()) / (every.std(ddof=1) + EPSILON) for credit in credits]
            pairs = [*zip(batch, credits, strict=True)]
            given += [segment_means(row, one.segment) for one, credit in pairs for row in credit]
            gradients.append(np.mean([one.gradient(credit) for one, credit in pairs], axis=0))
        # All steps have the same derivative, so the true direction is that of equal numbers.
        mean, along = np.mean(gradients, axis=0), -np.sum(gradients, axis=1)
        ratio = float(along.mean() / along.std(ddof=1))
        scale = math.sqrt(10_000 / (tokens * len(batches[0])))
        rows.append(
            {
                "estimator": name,
                **asdict(agreement(np.concatenate(given), true, clear=CLEAR)),
                "tokens": tokens,
                "signal": scale * ratio,
                # of the mean over the standard deviation of independent normal values
                "signal_error": scale * math.sqrt((1 + ratio**2 / 2) / len(batches)),
                "cosine": float(-mean.sum() / np.linalg.norm(mean) / math.sqrt(len(mean))),
            }
        )
    return rows


def _credit(sample: Sample, name: str) -> Floats:
    """Return the credit of each token, (trajectories, tokens)."""
    if name == TRUE:
        return np.repeat(sample.true, sample.segment, axis=1)
    return np.array(credit_of_tokens(sample.tree, sample.rewards, ESTIMATORS[name]))


def run(*, rates: Sequence[float], n: int, trees: int, roots: Mapping[str, int], seed: int = 0) -> dict[str, Any]:
    """Measure all estimators on trees, and verl's on independent samples.

    Args:
        rates: Rates of the unreliable method; the prompts of a batch have them in turn.
        trees: Number of trees of each sampler.
        roots: Children of the root by the name that the result gives them.

    Returns:
        ``success``, the value of the empty response, by rate; ``samplers``, with decoded tokens of a tree and the
        number of independent samples that its trajectories are worth; ``rows`` of :func:`measure`.
    """
    worlds, samplers, rows = [World(rate) for rate in rates], [], []
    names = {PLAIN_SAMPLES: n, **{f"trees, root {name}": root for name, root in roots.items()}}
    trees -= trees % (BATCH * len(worlds))
    for sampler, root in names.items():
        grown_trees = [sample(worlds[at % len(worlds)], n=n, root=root, seed=seed + at) for at in range(trees)]
        batches = [grown_trees[at : at + BATCH] for at in range(0, trees, BATCH)]
        measured = measure(GROUP_ESTIMATORS if sampler == PLAIN_SAMPLES else ESTIMATORS, batches)
        means = np.array([np.mean(one.rewards) for one in grown_trees]).reshape(-1, len(worlds)).T
        samplers.append({"sampler": sampler, "tokens": measured[0]["tokens"], "effective": effective_number(means)})
        rows += [{"sampler": sampler, **row} for row in measured]
    return {"success": [world.value([]) for world in worlds], "samplers": samplers, "rows": rows}
