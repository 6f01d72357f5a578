# SPDX-License-Identifier: Apache-2.0
"""The tree and its growth: policies, sampling of paths, conversations. No torch, no verl, no configuration."""

from recipe.treepo.search.failures import SearchError
from recipe.treepo.search.grow import grow_tree
from recipe.treepo.search.shape import SearchKind, SearchShape

__all__ = ["SearchError", "SearchKind", "SearchShape", "grow_tree"]
