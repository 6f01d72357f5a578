# SPDX-License-Identifier: Apache-2.0
"""Trial of the user's policies on scripted trees, before a run starts."""

import asyncio
import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from recipe.treepo.advantages.credit import Credit
from recipe.treepo.advantages.forest import build_forest
from recipe.treepo.policies import Policies, PolicyContext
from recipe.treepo.search import grow_tree
from recipe.treepo.search.decisions import Decisions
from recipe.treepo.search.engine import Segment
from recipe.treepo.search.policy_calls import PolicyError
from recipe.treepo.search.tree import Tree
from recipe.treepo.settings.schema import TreePOSettings
from recipe.treepo.verl_adapters.estimators import CheckedCredit

TREES, WIDTH, SEGMENT, DEPTH = 4, 8, 8, 4
"""Number and size of the scripted trees."""
PROMPT = [1, 2, 3]
ROW = {"data_source": "trial", "reward_model": {"style": "rule", "ground_truth": "7"}, "extra_info": {"index": 0}}
"""Fields of a prompt if the data set cannot be read."""
SECONDS = 60.0
"""Maximum time of a trial."""
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


@dataclass
class Trial:
    """Policies of the user, tried on scripted trees.

    Attributes:
        settings: Settings of the search and of the estimator.
        policies: The user's policies.
        credit: The user's credit, None without one.
        row: Fields of a prompt's row.
        error: Error of the trial so far.
    """

    settings: TreePOSettings
    policies: Policies
    credit: Credit | None
    row: Mapping[str, Any]
    error: BaseException | None = field(default=None, init=False)

    def run(self) -> None:
        """Grow some trees twice, and compute their credit.

        Raises:
            PolicyError: if a policy fails or returns a wrong result, or if a tree is another when it is grown again.
            TimeoutError: if the trial takes too long.
        """
        # The caller's thread may have a running event loop, and must see Ctrl-C while a policy hangs.
        thread = threading.Thread(target=self._try, daemon=True)
        thread.start()
        thread.join(SECONDS)
        if thread.is_alive():
            raise TimeoutError
        if self.error is not None:
            raise self.error

    def _try(self) -> None:
        try:
            trees = [asyncio.run(self._grown(seed)) for seed in range(TREES)]
            self._resume_without_paths()
            # Scores may come from a server and differ in their last digits.
            if self.policies.scorer is None:
                for seed, tree in enumerate(trees):
                    self._compare(tree, asyncio.run(self._grown(seed)))
            if self.credit is not None:
                self._credit(self.credit, trees)
        except BaseException as error:  # raised again in the caller's thread
            self.error = error

    async def _grown(self, seed: int) -> Tree:
        own = replace(
            self.settings, depth=DEPTH, segment_length=SEGMENT, max_segments_per_request=None, cache_block=None
        )
        length, context = DEPTH * SEGMENT, self._context(seed)
        return await grow_tree(
            PROMPT,
            engine=ScriptedEngine(seed),
            shape=own.shape(width=WIDTH, response_length=length, progress=context.progress),
            stopping=own.stopping_rules(eos_token_ids=frozenset({END}), response_length=length, decode=decode),
            seed=seed,
            policies=self.policies,
            context=context,
        )

    def _context(self, seed: int) -> PolicyContext:
        return PolicyContext(prompt=f"trial {seed}", row=self.row or ROW, step=1, progress=seed / TREES)

    def _resume_without_paths(self) -> None:
        """Resume a tree that lost all its paths."""
        shape = self.settings.shape(width=WIDTH, response_length=DEPTH * SEGMENT, progress=0.0)
        decisions = Decisions(Tree(PROMPT), shape, self.policies, self._context(0), 0)
        decisions.resume_points([], 1, decisions.named_context("no paths"))

    @staticmethod
    def _compare(tree: Tree, again: Tree) -> None:
        shapes = [[(node.key, *node.segment.token_ids) for node in one.nodes] for one in (tree, again)]
        if shapes[0] != shapes[1]:
            rule = "a tree is another one when it is grown again"
            raise PolicyError(f"{rule}: take random numbers from context.rng only, and keep no state between calls")

    def _credit(self, credit: Credit, trees: Sequence[Tree]) -> None:
        leaves = [(number, tree, leaf) for number, tree in enumerate(trees) for leaf in tree.leaves]
        prompts = np.array([f"trial {number}" for number, _, _ in leaves])
        forest = build_forest(prompts, [tree.path(leaf).spans for _, tree, leaf in leaves])
        rewards = np.array([float(leaf % 2) for _, _, leaf in leaves])
        for one in (forest, forest.merge_chains()):
            CheckedCredit(credit, prompts).credit(one, rewards)
