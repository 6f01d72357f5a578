# SPDX-License-Identifier: Apache-2.0
"""Trackers of a run whose disk may fill up: verl's trackers that write files raise then, which would end the run."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger(__name__)


class SteadyTracker:
    """A tracker of verl that drops what it cannot write, with one warning. It has all attributes of that tracker.

    Args:
        name: Name in ``trainer.logger``.
    """

    def __init__(self, name: str, tracker: Any) -> None:
        self._name, self._tracker, self._is_warned = name, tracker, False

    def log(self, data: Mapping[str, Any], step: int) -> None:
        """Log the metrics of a step."""
        with self._warning(f"step {step}"):
            self._tracker.log(data=data, step=step)

    def finish(self, *arguments: Any, **named: Any) -> None:
        """Write what is left."""
        with self._warning("the end of the run"):
            self._tracker.finish(*arguments, **named)

    @contextmanager
    def _warning(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._is_warned:
                self._is_warned = True
                message = "trainer.logger=%s: %s could not be written (%s). The run continues; further are dropped."
                logger.warning(message, self._name, what, error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tracker, name)
