# SPDX-License-Identifier: Apache-2.0
"""Measure what the advantages of a batch cost, one thread, beside verl's own estimators on the same batch.

    python -m benchmarks.advantage_cost

The trees are grown by the real search with an engine that answers at once: by default 512 prompts x 16 trajectories of
14 segments, 8,192 rows. Times are medians of five and include everything from the tree paths that come with the rows to
the advantage of each token.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from omegaconf import OmegaConf
from verl.trainer.ppo.core_algos import get_adv_estimator_fn

from benchmarks.search_cost import grow
from recipe.treepo.advantages.forest import TreePath
from recipe.treepo.search import SearchShape
from recipe.treepo.settings.schema import TREE_ESTIMATORS, AdvantageSettings, TreePOSettings
from recipe.treepo.verl_adapters.estimators import shared_token_weights, tree_batch

ALGORITHM = OmegaConf.create({"norm_adv_by_std_in_grpo": True})


def tree_paths(prompts: int, *, width: int, depth: int, segment: int) -> tuple[np.ndarray, list[TreePath]]:
    """Return prompt id and tree path of each trajectory."""
    settings = TreePOSettings(depth=depth, segment_length=segment)
    trees = asyncio.run(grow(prompts, SearchShape(width=width, segment_length=segment), settings, depth * segment))
    ids = np.repeat([f"prompt-{number}" for number in range(prompts)], width).astype(object)
    return ids, [tree.path(leaf).spans for tree in trees for leaf in tree.leaves]


def seconds(call: Callable[[], object], times: int) -> float:
    """Return the median time of a call."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def measure(prompts: int, *, width: int, depth: int, segment: int) -> Iterator[tuple[str, float]]:
    """Yield what was computed for one batch, and its seconds."""
    ids, paths = tree_paths(prompts, width=width, depth=depth, segment=segment)
    rewards = torch.zeros(len(paths), depth * segment)
    rewards[:, -1] = torch.randint(0, 2, (len(paths),), generator=torch.Generator().manual_seed(0)).float()
    mask = torch.ones(rewards.shape, dtype=torch.int64)

    def estimate(name: str) -> None:
        get_adv_estimator_fn(name)(token_level_rewards=rewards, response_mask=mask, index=ids, config=ALGORITHM)

    with tree_batch(paths, AdvantageSettings()):
        for name in TREE_ESTIMATORS:
            yield name, seconds(partial(estimate, name), times=5)
    yield "weights of shared tokens", seconds(lambda: shared_token_weights(ids, paths, depth * segment), times=5)
    for name in ("grpo", "reinforce_plus_plus_baseline"):
        yield f"verl's {name}", seconds(partial(estimate, name), times=1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--depth", type=int, default=14)
    parser.add_argument("--segments", type=int, nargs="+", default=[73, 512], help="tokens of a segment")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(f"{options.prompts} prompts x {options.width} trajectories, depth {options.depth}, one thread\n")
    print("| estimator | response tokens | seconds |\n|---|---|---|")
    for segment in options.segments:
        for name, taken in measure(options.prompts, width=options.width, depth=options.depth, segment=segment):
            print(f"| {name} | {options.depth * segment:,} | {taken:.2f} |", flush=True)


if __name__ == "__main__":
    main()
