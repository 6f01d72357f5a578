# SPDX-License-Identifier: Apache-2.0
"""Advantages from trees: paths and rewards in, credits out. Pure numpy.

An estimator of your own either implements :class:`Credit` (``treepo.advantage.custom``), or is registered with verl and
gets the trees of its batch from :func:`current_forest`. ``docs/extending.md`` has both.
"""

from recipe.treepo.advantages.batch import current_forest
from recipe.treepo.advantages.credit import Credit
from recipe.treepo.advantages.forest import Forest

__all__ = ["Credit", "Forest", "current_forest"]
