# SPDX-License-Identifier: Apache-2.0
"""Credit of the estimators on an embedded model, against values estimated by many samples.

The value of a prefix is the accuracy of the model's own continuations, which each prefix at the end of a segment gets.
A true advantage is a difference of two such estimates. :func:`reliability` says how much of their variance is not
noise; correlations are divided by its square root.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.common.vllm_engine import VllmEngine, start_engine
from benchmarks.study.credit import (
    ESTIMATORS,
    PLAIN_SAMPLES,
    agreement,
    boundaries,
    credit_of_tokens,
    group_advantages,
    segment_means,
)
from recipe.treepo.advantages.forest import Floats
from recipe.treepo.search import SearchShape, grow_tree
from recipe.treepo.search.branching import BranchingRules
from recipe.treepo.search.engine import SegmentEngine
from recipe.treepo.search.stopping import StoppingRules
from recipe.treepo.search.tree import Tree
from recipe.treepo.settings.schema import TreePOSettings
from tiny.measure import boxed_answer

CLEAR = 0.5
"""Smallest true advantage whose sign is compared: about three standard deviations of the noise of 16 samples."""


def reliability(first: Floats, second: Floats) -> float:
    """Return the share of the variance of the mean of two independent estimates that is not noise.

    Spearman and Brown's formula: ``2 r / (1 + r)`` with the correlation r of the estimates.
    """
    r = float(np.corrcoef(first, second)[0, 1])
    return 2 * r / (1 + r)


@dataclass
class Problem:
    """A problem and the values of prefixes of its responses.

    Attributes:
        prompt: Tokens of the prompt.
        score: Scores the tokens of a response, 0 or 1.
        samples: Number of continuations per prefix, an even number.
        length: Maximum tokens of a response.
        values: Two independent estimates of each known prefix.
    """

    engine: SegmentEngine
    prompt: Sequence[int]
    score: Callable[[Sequence[int]], float]
    samples: int
    length: int
    values: dict[tuple[int, ...], Floats] = field(default_factory=dict)

    async def true_advantages(self, responses: Sequence[Sequence[int]], segment: int) -> list[Floats]:
        """Return two estimates of the true advantage of each segment of each response, (segments, 2)."""
        prefixes = [[tuple(one[:end]) for end in boundaries(len(one), segment)[:-1]] for one in responses]
        missing = [prefix for prefix in {prefix for own in prefixes for prefix in own} if prefix not in self.values]
        found = await asyncio.gather(*map(self._estimates, missing))
        self.values.update(zip(missing, found, strict=True))
        # The value of a finished response is its reward.
        return [
            np.diff([*(self.values[prefix] for prefix in own), np.full(2, self.score(one))], axis=0)
            for own, one in zip(prefixes, responses, strict=True)
        ]

    async def _estimates(self, prefix: tuple[int, ...]) -> Floats:
        left = self.length - len(prefix)
        tokens = [*self.prompt, *prefix]
        segments = await asyncio.gather(
            *(self.engine.extend(tokens, max_tokens=left, branch=f"{at}") for at in range(self.samples))
        )
        scores = [self.score([*prefix, *segment.token_ids]) for segment in segments]
        means: Floats = np.array(scores).reshape(2, -1).mean(axis=1)
        return means


Measured = tuple[Mapping[str, Floats], Floats]
"""Credit of each segment by estimator, (segments,), and two estimates of its true advantage, (segments, 2)."""


async def on_tree(problem: Problem, tree: Tree, segment: int) -> Measured:
    """Compare all estimators on a tree."""
    responses = [tree.path(leaf).response_ids for leaf in tree.leaves]
    rewards = [problem.score(response) for response in responses]
    true = await problem.true_advantages(responses, segment)
    credits = {name: credit_of_tokens(tree, rewards, credit) for name, credit in ESTIMATORS.items()}
    return {
        name: np.concatenate([segment_means(values, segment) for values in own]) for name, own in credits.items()
    }, np.concatenate(true)


async def on_plain_samples(
    problem: Problem, tree: Tree, segment: int, numbers: Sequence[int]
) -> list[tuple[int, Measured]]:
    """Compare GRPO on groups of independent samples, the trajectories of ``tree``; return size and measures of each."""
    responses = [tree.path(leaf).response_ids for leaf in tree.leaves]
    rewards = np.array([problem.score(response) for response in responses])
    true = await problem.true_advantages(responses, segment)
    groups: list[tuple[int, Measured]] = []
    for n in numbers:
        for begin in range(0, len(responses) - n + 1, n):
            own = true[begin : begin + n]
            credit = np.repeat(group_advantages(rewards[begin : begin + n]), [len(segments) for segments in own])
            groups.append((n, ({"grpo": credit}, np.concatenate(own))))
    return groups


def correlation(measured: Sequence[Measured], name: str) -> float:
    """Return the correlation of an estimator's credit with the true advantage, corrected for the noise of estimates."""
    given = np.concatenate([own[name] for own, _ in measured])
    both = np.concatenate([true for _, true in measured])
    found = np.corrcoef(given, both.mean(axis=1))[0, 1]
    return float(found / np.sqrt(reliability(both[:, 0], both[:, 1])))


def rows(found: Mapping[tuple[int, str], Sequence[Sequence[Measured]]], resamples: int = 500) -> list[dict[str, Any]]:
    """Return a row per number of trajectories, sampler and estimator.

    Args:
        found: Measures of each problem.
        resamples: Resamples of the problems for the 95 % interval of the correlation.
    """
    table, rng = [], np.random.default_rng(0)
    for (n, sampler), by_problem in found.items():
        measured = [one for own in by_problem for one in own]
        both = np.concatenate([true for _, true in measured])
        drawn = rng.integers(len(by_problem), size=(resamples, len(by_problem)))
        for name in measured[0][0]:
            again = [correlation([one for at in own for one in by_problem[at]], name) for own in drawn]
            low, high = np.percentile(again, [2.5, 97.5])
            given = np.concatenate([own[name] for own, _ in measured])
            row = asdict(agreement(given, both.mean(axis=1), clear=CLEAR))
            row |= {"correlation": correlation(measured, name), "low": float(low), "high": float(high)}
            row |= {"reliability": reliability(both[:, 0], both[:, 1])}
            table.append({"n": n, "sampler": sampler, "estimator": name, **row})
    return table


async def measure(
    engine: SegmentEngine,
    problems: Sequence[Problem],
    stopping: StoppingRules,
    *,
    numbers: Sequence[int],
    root: int,
    segment: int,
) -> list[dict[str, Any]]:
    """Return the rows of :func:`rows` for trees of ``numbers`` trajectories, and for independent samples."""
    found: dict[tuple[int, str], list[list[Measured]]] = {}

    async def grow(problem: Problem, n: int, children: int, seed: int) -> Tree:
        rules = BranchingRules(init_divergence=(children, children))
        shape = SearchShape(width=n, segment_length=segment, branching=rules)
        return await grow_tree([*problem.prompt], engine=engine, shape=shape, stopping=stopping, seed=seed)

    most = max(numbers)
    for number, problem in enumerate(problems):
        plain = await grow(problem, most, most, seed=0)
        groups = await on_plain_samples(problem, plain, segment, numbers)
        for n in numbers:
            found.setdefault((n, PLAIN_SAMPLES), []).append([measured for size, measured in groups if size == n])
            trees = [await grow(problem, n, root, seed) for seed in range(max(1, 16 // n))]
            found.setdefault((n, "trees"), []).append([await on_tree(problem, tree, segment) for tree in trees])
        print(f"problem {number + 1} of {len(problems)}: {len(problem.values)} values", flush=True)
    return rows(found)


def run(
    model: str, data: Path, *, numbers: Sequence[int], problems: int, samples: int, root: int, length: int, depth: int
) -> list[dict[str, Any]]:
    """Return the agreement of all estimators on trees of a model, and of GRPO on independent samples.

    Args:
        data: Parquet file with problems in verl's schema.
        numbers: Trajectories per tree.
        problems: Number of problems.
        samples: Continuations per prefix, an even number.
        root: Children of the root.
        length: Maximum tokens of a response.
        depth: Number of segments.
    """
    from transformers import AutoTokenizer, GenerationConfig

    async def all_of_it() -> list[dict[str, Any]]:
        tokenizer = AutoTokenizer.from_pretrained(model)
        decode = partial(tokenizer.decode, skip_special_tokens=True)
        stopping = TreePOSettings(depth=depth).stopping_rules(
            eos_token_ids=frozenset(GenerationConfig.from_pretrained(model).eos_token_id),
            response_length=length,
            decode=decode,
        )
        rows = pd.read_parquet(data).head(problems).to_dict("records")
        prompts = [
            tokenizer.apply_chat_template(
                list(row["prompt"]), add_generation_prompt=True, tokenize=True, return_dict=False
            )
            for row in rows
        ]
        server = start_engine(model, max_model_len=max(map(len, prompts)) + length)
        try:
            engine = VllmEngine(server, sorted(stopping.eos_token_ids))
            own = [
                Problem(engine, prompt, partial(_score, decode, row["reward_model"]["ground_truth"]), samples, length)
                for prompt, row in zip(prompts, rows, strict=True)
            ]
            return await measure(engine, own, stopping, numbers=numbers, root=root, segment=length // depth)
        finally:
            server.shutdown()

    return asyncio.run(all_of_it())


def _score(decode: Callable[[Sequence[int]], str], truth: str, response: Sequence[int]) -> float:
    return float(boxed_answer(decode(response)) == truth)
