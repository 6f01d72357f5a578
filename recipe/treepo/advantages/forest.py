# SPDX-License-Identifier: Apache-2.0
"""Trees of a batch as arrays, for the estimators. Pure numpy.

Suffixes of the axes: ``_P`` rows of the batch, ``_T`` distinct trajectories, ``_N`` nodes of all trees, ``_L`` levels
of a path, beginning with the root (the prompt, without tokens).

The prompt id (verl's ``uid``, never the text of the prompt) and the leaf number of a row identify its trajectory. Rows
with the same leaf are one trajectory and count once, for example rows repeated to fill a batch. A row without a path
was sampled independently: it becomes a leaf directly below the root of its prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
_Scalar = TypeVar("_Scalar", bound=np.generic)

# (node number, first response token) of each node from the root to the leaf, without the root: ``Tree.tree_path``.
TreePath = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Forest:
    """Paths of all trajectories of a batch, side by side; the arrays of the attributes are read-only.

    Attributes:
        trajectory_P: (rows,) trajectory of each row.
        node_TL: (trajectories, 1 + longest path) nodes from the root to the leaf, numbered over the whole batch; -1
            past the end of a path.
        begin_TL: Same shape; first response token of each node, 0 for the root and past the end.
    """

    trajectory_P: Ints
    node_TL: Ints
    begin_TL: Ints

    def __post_init__(self) -> None:
        for array in (self.trajectory_P, self.node_TL, self.begin_TL):
            array.flags.writeable = False

    @cached_property
    def on_path_TL(self) -> Bools:
        """Mask of the nodes of each path; False past its end."""
        return self.node_TL >= 0

    @cached_property
    def length_T(self) -> Ints:
        """Number of nodes of each path, without the root."""
        nodes: Ints = self.on_path_TL.sum(axis=1)
        return nodes - 1

    @cached_property
    def leaf_T(self) -> Ints:
        """Last node of each path."""
        leaf: Ints = self.node_TL[np.arange(len(self.node_TL)), self.length_T]
        return leaf

    @cached_property
    def size_N(self) -> Ints:
        """Number of trajectories through each node: the size of its group."""
        return np.bincount(self.node_TL[self.on_path_TL])

    @cached_property
    def rows_N(self) -> Ints:
        """Number of rows of the batch through each node, repeated rows included."""
        nodes = self.node_TL[self.trajectory_P]
        return np.bincount(nodes[nodes >= 0], minlength=len(self.size_N))

    @cached_property
    def parent_N(self) -> Ints:
        """Parent of each node; -1 for roots."""
        parent = np.full(len(self.size_N), -1)
        below = self.on_path_TL[:, 1:]
        parent[self.node_TL[:, 1:][below]] = self.node_TL[:, :-1][below]
        return parent

    @cached_property
    def children_N(self) -> Ints:
        """Number of children of each node."""
        return np.bincount(self.parent_N[self.parent_N >= 0], minlength=len(self.size_N))

    @cached_property
    def lone_roots(self) -> Ints:
        """Roots with a single trajectory below them."""
        return np.flatnonzero((self.parent_N < 0) & (self.size_N == 1))

    def at(self, values_N: NDArray[_Scalar]) -> NDArray[_Scalar]:
        """Look up the value of each node of each path, (trajectories, levels); 0 or False past the end."""
        return np.where(self.on_path_TL, values_N[self.node_TL], np.zeros((), values_N.dtype))

    def sum_over_children(self, values_N: Floats) -> Floats:
        """Sum the values of the children of each node; 0 without children."""
        below = self.parent_N >= 0
        return _sums(self.parent_N[below], values_N[below], len(values_N))

    def mean_over_group(self, values_T: Floats) -> Floats:
        """Average over the trajectories through each node."""
        nodes, values = self._along_paths(values_T)
        return _sums(nodes, values, len(self.size_N)) / self.size_N

    def mean_over_children(self, values_T: Floats) -> Floats:
        """Average over the children of each node, recursively; a leaf has the value of its trajectory."""
        values = np.zeros(len(self.size_N))
        values[self.leaf_T] = values_T
        for level in range(self.node_TL.shape[1] - 1, 0, -1):
            nodes = np.unique(self.node_TL[:, level][self.on_path_TL[:, level]])
            above = self.parent_N[nodes]
            sums = _sums(above, values[nodes], len(values))
            values[above] = sums[above] / self.children_N[above]
        return values

    def agrees(self, values_T: Floats) -> Bools:
        """Return whether all trajectories through each node have the same value."""
        nodes, values = self._along_paths(values_T)
        ordered = values[np.argsort(nodes, kind="stable")]
        first = np.cumsum(self.size_N) - self.size_N
        equal: Bools = np.maximum.reduceat(ordered, first) == np.minimum.reduceat(ordered, first)
        return equal

    def _along_paths(self, values_T: Floats) -> tuple[Ints, Floats]:
        """Return the nodes of all paths, concatenated, and for each node the value of its trajectory."""
        return self.node_TL[self.on_path_TL], np.repeat(values_T, 1 + self.length_T)

    def merge_chains(self) -> "Forest":
        """Return the same forest with one node per unbranched chain of segments.

        A node merges with its parent if all trajectories of the parent pass it. The root (the prompt, without tokens)
        stays separate.
        """
        size = self.at(self.size_N)
        keep = self.on_path_TL.copy()
        keep[:, 2:] &= size[:, 2:] != size[:, 1:-1]
        row, level = np.nonzero(keep)
        place = (np.cumsum(keep, axis=1) - 1)[keep]
        node = np.full((len(keep), 1 + int(place.max(initial=0))), -1)
        begin = np.zeros_like(node)
        # Renumber without gaps: node numbers index arrays.
        _, node[row, place] = np.unique(self.node_TL[keep], return_inverse=True)
        begin[row, place] = self.begin_TL[row, level]
        return Forest(self.trajectory_P, node, begin)

    def tokens_of_nodes(self, response_length: int) -> Ints:
        """Count the tokens of each node in each row, (rows, longest path).

        The root has no tokens and no column. The last node of a path extends to ``response_length``, padding included,
        so each row sums to ``response_length``.
        """
        begin = np.where(self.on_path_TL, self.begin_TL, response_length)[:, 1:]
        end = np.concatenate([begin[:, 1:], np.full((len(begin), 1), response_length)], axis=1)
        assert (begin <= end).all(), "a node begins beyond the end of the response"
        tokens: Ints = (end - begin)[self.trajectory_P]
        return tokens


def _sums(nodes: Ints, values: Floats, size: int) -> Floats:
    """Sum the values of each node, (size,)."""
    return np.bincount(nodes, weights=values, minlength=size).astype(np.float64, copy=False)  # numpy's stub: integers


def build_forest(prompt_ids: Sequence[Any] | np.ndarray, paths_P: Sequence[TreePath]) -> Forest:
    """Build the forest of a batch.

    Args:
        prompt_ids: (rows,) prompt of each row; node numbers are unique only within a prompt.
        paths_P: Path of each row as (node, begin) pairs; empty for an independently sampled row.
    """
    rows = len(paths_P)
    _, prompt_P = np.unique(np.asarray(prompt_ids, dtype=str), return_inverse=True)
    length_P = np.fromiter(map(len, paths_P), dtype=np.int64, count=rows)
    flat = np.array(list(chain.from_iterable(paths_P)), dtype=np.int64).reshape(-1, 2)
    on_path = np.arange(max(1, int(length_P.max(initial=0)))) < length_P[:, None]
    prompts, own_leaf = int(prompt_P.max(initial=-1)) + 1, np.flatnonzero(length_P == 0)

    prompt_of_node = np.repeat(prompt_P, length_P)
    stride = int(flat[:, 0].max(initial=0)) + 1
    names, number = np.unique(prompt_of_node * stride + flat[:, 0], return_inverse=True)
    node = np.full((rows, 1 + on_path.shape[1]), -1)
    begin = np.zeros_like(node)
    node[:, 0] = prompt_P
    node[:, 1:][on_path] = prompts + number
    begin[:, 1:][on_path] = flat[:, 1]
    node[own_leaf, 1] = prompts + len(names) + np.arange(len(own_leaf))

    leaf = node[np.arange(rows), np.maximum(length_P, 1)]
    _, first, trajectory_P = np.unique(leaf, return_index=True, return_inverse=True)
    forest = Forest(trajectory_P, node[first], begin[first])
    assert (forest.size_N[forest.leaf_T] == 1).all(), "a trajectory ends at a node that others pass"
    return forest
