# SPDX-License-Identifier: Apache-2.0
"""Branching of your own: more children where the model was least certain.

    python -m recipe.treepo.main_treepo ... \\
        treepo.branching.custom.path=examples/branch_by_uncertainty.py \\
        treepo.branching.custom.name=BranchByUncertainty
"""

from collections.abc import Sequence

from recipe.treepo.policies import PathView, PolicyContext


class BranchByUncertainty:
    """Shares of a level by the mean surprise of each path's last segment."""

    def __init__(self, most: int = 4, growth: int = 2) -> None:
        """Take the maximum children of a path, and the maximum growth of a level."""
        self._most, self._growth = most, growth

    def children(self, paths: Sequence[PathView], room: int, context: PolicyContext) -> list[int]:
        """Give each path one child, and each further one to the path with the most surprise per child."""
        surprise = [-sum(path.segment_logprobs) / len(path.segment_logprobs) for path in paths]
        counts = [1] * len(paths)
        for _ in range(min(room, self._growth * len(paths)) - len(paths)):
            open_paths = [number for number, count in enumerate(counts) if count < self._most]
            if not open_paths:
                break
            counts[max(open_paths, key=lambda number: surprise[number] / counts[number])] += 1
        return counts
