# SPDX-License-Identifier: Apache-2.0
"""Where to resume when all paths of a tree have ended and width is left over (TreePO, section 2, fallback)."""

import random

from recipe.treepo.tree import Tree


def random_segment_boundaries(tree: Tree, count: int, rng: random.Random) -> list[int]:
    """Draw ``count`` nodes to branch from: a finished path at random, then one of its segment boundaries at random.

    The boundaries of a path are the ends of its segments but the last, and the end of the prompt (the root), so
    there always is one, and a path that resumes there has at least one segment left. Draws are independent: a node
    may be drawn more than once.
    """
    return [rng.choice(tree.path(rng.choice(tree.leaves))[:-1]) for _ in range(count)]
