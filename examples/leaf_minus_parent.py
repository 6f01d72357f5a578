# SPDX-License-Identifier: Apache-2.0
"""Credit of your own: the mean reward below a node minus that below its parent.

    python -m recipe.treepo.main_treepo ... algorithm.adv_estimator=treepo_custom \\
        treepo.advantage.custom.path=examples/leaf_minus_parent.py treepo.advantage.custom.name=LeafMinusParent
"""

import numpy as np

from recipe.treepo.advantages import Forest


class LeafMinusParent:
    """What the choice of a node has changed in the expected reward."""

    def credit(self, forest: Forest, rewards: np.ndarray) -> np.ndarray:
        """Return the credit of each node of each path; the root's is not used."""
        value = forest.at(forest.mean_over_group(rewards))
        return value - np.concatenate([value[:, :1], value[:, :-1]], axis=1)
