# SPDX-License-Identifier: Apache-2.0
"""Settings of the tests of the search."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def own_loggers_as_imported() -> Iterator[None]:
    """Undo changes to logging by libraries that other tests of this process have started."""
    root, level, disabled = logging.root, logging.root.level, logging.root.manager.disable
    root.setLevel(logging.WARNING)
    logging.disable(logging.NOTSET)
    for name, logger in root.manager.loggerDict.items():
        if name.partition(".")[0] == "recipe" and isinstance(logger, logging.Logger):
            logger.disabled, logger.propagate = False, True
            logger.setLevel(logging.NOTSET)
    yield
    root.setLevel(level)
    logging.disable(disabled)
