# SPDX-License-Identifier: Apache-2.0
"""Settings of all tests: examples of property tests, threads, and the marker of tests that start an engine."""

import gc
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

END_TO_END = Path(__file__).with_name("e2e")

# Deadlines and `too_slow` depend on the load of the machine.
PROFILE = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
# Equal examples in all runs, so that failures come from changes and not from chance. Tests with an explicit number of
# examples use `example_counts.examples`, which handles both profiles.
settings.register_profile("short", max_examples=100, derandomize=True, **PROFILE)
# New examples in each run (`--hypothesis-profile long`, or `bash scripts/run_tests.sh --slow`).
settings.register_profile("long", max_examples=500, print_blob=True, **PROFILE)
settings.load_profile("short")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the end-to-end tests, all of which start an engine."""
    for item in items:
        if END_TO_END in item.path.parents:
            item.add_marker("engine")


def pytest_collection_finish() -> None:
    """Reduce the cost of the tests, which have small tensors and keep their imports."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)  # threads that wait for each other stall on shared cores
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # otherwise some extension modules report leaks at exit


@pytest.fixture(autouse=True)
def levels_of_logging() -> Iterator[None]:
    """Restore log levels after each test: a dependency of vLLM sets the level of every root handler on import."""
    loggers = [logging.root, *logging.root.handlers]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
