# SPDX-License-Identifier: Apache-2.0
"""Trial of the user's policies on scripted trees, before a run starts."""

import asyncio
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from recipe.treepo.advantages.credit import Credit
from recipe.treepo.advantages.forest import build_forest
from recipe.treepo.policies import Policies, PolicyContext
from recipe.treepo.search import grow_tree
from recipe.treepo.search.engine import Segment
from recipe.treepo.search.tree import Tree
from recipe.treepo.settings.schema import TreePOSettings
from recipe.treepo.verl_adapters.estimators import CheckedCredit

TREES, WIDTH, SEGMENT, DEPTH = 4, 8, 8, 4
"""Number and size of the scripted trees."""
PROMPT = [1, 2, 3]
ROW = {"data_source": "trial", "reward_model": {"style": "rule", "ground_truth": "7"}, "extra_info": {"index": 0}}
END, LETTERS = 0, " 0123456789abcdefghijklmnopqrstuvwxyz.,+-=()\n"


class ScriptedEngine:
    """Engine of random letters, of which some paths end early."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    async def extend(self, input_ids: Sequence[int], *, max_tokens: int, branch: str) -> Segment:
        """See :class:`recipe.treepo.search.engine.SegmentEngine`."""
        rng = random.Random(f"{self._seed}/{branch}")
        token_ids = [rng.randrange(1, len(LETTERS)) for _ in range(max_tokens)]
        if rng.random() < 0.2:
            token_ids[-1] = END
        return Segment(token_ids, [-rng.expovariate(1.0) for _ in token_ids])


def decode(token_ids: list[int]) -> str:
    """Return the letters of tokens."""
    return "".join(LETTERS[token] for token in token_ids if token != END)


def try_policies(settings: TreePOSettings, policies: Policies, credit: Credit | None) -> None:
    """Grow some trees, and compute their credit.

    Raises:
        PolicyError: if a policy fails or returns a wrong result.
    """
    with ThreadPoolExecutor(1) as thread:  # the caller's may have a running event loop
        growing = (_grown(settings, policies, seed) for seed in range(TREES))
        trees = [thread.submit(asyncio.run, tree).result() for tree in growing]
    if credit is None:
        return
    leaves = [(number, tree, leaf) for number, tree in enumerate(trees) for leaf in tree.leaves]
    prompts = np.array([f"trial {number}" for number, _, _ in leaves])
    forest = build_forest(prompts, [tree.path(leaf).spans for _, tree, leaf in leaves])
    rewards = np.array([float(leaf % 2) for _, _, leaf in leaves])
    CheckedCredit(credit, prompts).credit(forest.merge_chains(), rewards)


async def _grown(settings: TreePOSettings, policies: Policies, seed: int) -> Tree:
    own = replace(settings, depth=DEPTH, segment_length=SEGMENT, max_segments_per_request=None, cache_block=None)
    length = DEPTH * SEGMENT
    context = PolicyContext(prompt=f"trial {seed}", row=ROW, step=1, progress=seed / TREES)
    return await grow_tree(
        PROMPT,
        engine=ScriptedEngine(seed),
        shape=own.shape(width=WIDTH, response_length=length, progress=context.progress),
        stopping=own.stopping_rules(eos_token_ids=frozenset({END}), response_length=length, decode=decode),
        seed=seed,
        policies=policies,
        context=context,
    )
