# SPDX-License-Identifier: Apache-2.0
"""Pictures and pages of dumped trees: ``python -m recipe.treepo.viewer DIR``. Imports neither torch nor verl."""
