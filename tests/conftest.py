# SPDX-License-Identifier: Apache-2.0
"""Settings of all tests: how many examples the property tests try, threads, and which tests start an engine."""

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
# The same examples in each run, so that a run fails for a change and not by chance. Tests with an explicit number of
# examples take it from `example_counts.examples`, which knows both profiles.
settings.register_profile("short", max_examples=100, derandomize=True, **PROFILE)
# New examples in each run (`--hypothesis-profile long`, or `bash scripts/run_tests.sh --slow`).
settings.register_profile("long", max_examples=500, print_blob=True, **PROFILE)
settings.load_profile("short")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the end-to-end tests: all of them start an engine."""
    for item in items:
        if END_TO_END in item.path.parents:
            item.add_marker("engine")


def pytest_collection_finish() -> None:
    """Make what follows cheaper: the tests' tensors are small, and what is imported stays."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)  # threads that wait for each other starve on shared cores
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # else some extension modules print at exit that they leak


@pytest.fixture(autouse=True)
def levels_of_logging() -> Iterator[None]:
    """Undo what a test's imports do to logging: a package that vLLM imports sets the level of every root handler."""
    loggers = [logging.root, *logging.root.handlers]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
