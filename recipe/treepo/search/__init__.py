# SPDX-License-Identifier: Apache-2.0
"""The tree and how it grows: policies, sampling of paths, conversations. No torch, no verl, no configuration."""

from recipe.treepo.search.grow import SearchError, SearchShape, grow_tree

__all__ = ["SearchError", "SearchShape", "grow_tree"]
