# SPDX-License-Identifier: Apache-2.0
"""How many children the open paths of a level get."""

import random


def level_budget(*, width: int, finished: int, level_size: int, divergence: int) -> int:
    """Return how many segments the next level of a prompt's tree may have (TreePO, section 2).

    What stopped paths leave is thus transferred to the open ones of their level.

    Args:
        width: Trajectories wanted for the prompt.
        finished: Trajectories that have ended so far.
        level_size: Paths of the level that was just sampled, the ones that ended at it included.
        divergence: Children per path.
    """
    return min(width - finished, divergence * level_size)


def share_evenly(budget: int, paths: int, rng: random.Random) -> list[int]:
    """Share ``budget`` children out among ``paths`` open paths: equal shares, the remainder to paths drawn at random.

    Every path gets at least one child as long as ``budget >= paths``, which the search guarantees.
    """
    assert budget >= paths > 0, f"{budget} children are too few for {paths} open paths"
    share, remainder = divmod(budget, paths)
    shares = [share] * paths
    for path in rng.sample(range(paths), remainder):
        shares[path] += 1
    return shares
