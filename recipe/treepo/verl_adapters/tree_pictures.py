# SPDX-License-Identifier: Apache-2.0
"""Pictures of trees for TensorBoard and W&B, drawn from the dump after each validation."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from verl.utils.tracking import Tracking

from recipe.treepo.dumps.reader import Dump, TreeEntry
from recipe.treepo.settings.schema import DumpSettings
from recipe.treepo.viewer.png import tree_image
from recipe.treepo.viewer.svg import tree_svg

logger = logging.getLogger(__name__)


class TreePictures:
    """Logger of pictures of the newest dumped trees; a failure causes one warning and no further pictures."""

    def __init__(self, settings: DumpSettings) -> None:
        self._settings, self._failed = settings, False

    def log(self, tracking: Tracking, step: int) -> None:
        """Log pictures after a validation.

        Args:
            tracking: verl's loggers; only TensorBoard and W&B receive pictures.
            step: Training step.
        """
        folder, count = self._settings.dir, self._settings.pictures
        if folder is None or count == 0 or self._failed:
            return
        try:
            _log(Path(folder), count, tracking.logger, step)
        except Exception as error:  # pictures must never fail a run
            self._failed = True
            logger.warning(
                "treepo.dump.pictures=%s: cannot draw pictures (%s: %s). The run continues without.",
                *(count, type(error).__name__, error),
            )


def _log(folder: Path, count: int, loggers: dict[str, Any], step: int) -> None:
    if not folder.is_dir() or not {"tensorboard", "wandb"} & set(loggers):
        return
    dump = Dump(folder)
    dump.refresh()
    trees = [dump.load(entry) for entry in newest_trees(dump.trees(), count)]
    for number, tree in enumerate(trees):
        name = f"tree/{number}"
        if "tensorboard" in loggers:
            loggers["tensorboard"].writer.add_image(name, np.asarray(tree_image(tree)), step, dataformats="HWC")
        if "wandb" in loggers:
            wandb = loggers["wandb"]
            wandb.log({name: wandb.Html(tree_svg(tree))}, step=step)


def newest_trees(entries: Sequence[TreeEntry], count: int) -> list[TreeEntry]:
    """Return trees of the newest step, only its validation trees if there are any, mixed outcomes first."""
    if not entries:
        return []
    last = max(entry.summary["step"] for entry in entries)
    newest = [entry for entry in entries if entry.summary["step"] == last]
    validation = [entry for entry in newest if entry.summary["split"] == "val"]
    return sorted(validation or newest, key=lambda entry: not entry.summary["mixed"])[:count]
