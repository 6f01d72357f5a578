# SPDX-License-Identifier: Apache-2.0
"""The trees of the batch for which verl computes advantages.

verl passes only rewards, mask, prompt ids and its ``algorithm`` group to an estimator
(``verl.trainer.ppo.ray_trainer.compute_advantage``). The trainers of this recipe provide the trees around that call.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np

from recipe.treepo.advantages.credit import Credit
from recipe.treepo.advantages.forest import Forest, TreePath, build_forest


@dataclass(frozen=True, slots=True)
class TreeBatch:
    """Inputs of the estimators besides verl's arguments.

    Attributes:
        paths_P: ``Tree.tree_path`` of each row of the batch; empty for a row sampled without a tree.
        settings: The ``treepo.advantage`` group.
        credit: The user's credit, None without one.
    """

    paths_P: Sequence[TreePath]
    settings: Any
    credit: Credit | None = None


current_batch: ContextVar[TreeBatch | None] = ContextVar("treepo_tree_batch", default=None)


@contextmanager
def tree_batch(paths: Sequence[TreePath], settings: Any, credit: Credit | None = None) -> Iterator[None]:
    """Provide the tree paths of a batch to the estimators called inside the ``with`` block; see :class:`TreeBatch`."""
    token = current_batch.set(TreeBatch(paths, settings, credit))
    try:
        yield
    finally:
        current_batch.reset(token)


def batch_of(rows: int, user: str) -> TreeBatch:
    """Return the batch with this number of rows, for a user that the error names.

    Raises:
        RuntimeError: if the trainer did not provide the trees of exactly these rows.
    """
    batch = current_batch.get()
    if batch is None or len(batch.paths_P) != rows:
        raise RuntimeError(
            f"{user}: the trainer provides no tree paths for this batch. "
            "Use trainer.v1.trainer_mode=treepo_sync, treepo_colocate_async or treepo_separate_async."
        )
    return batch


def current_forest(index: np.ndarray) -> Forest:
    """Return the trees of the batch, for an estimator that is registered with verl.

    ``forest.trajectory_P`` has the trajectory of each row. Segments that did not branch are nodes of their own;
    ``forest.merge_chains()`` joins them.

    Args:
        index: (rows,) prompt id of each row, as verl passes it to an estimator.

    Raises:
        RuntimeError: if the trainer did not provide the trees of exactly these rows.
    """
    return build_forest(index, batch_of(len(index), "current_forest").paths_P)
