# SPDX-License-Identifier: Apache-2.0
"""Number of examples of a property test, small by default and large in a long run (see ``conftest.py``)."""

from typing import Any

from hypothesis import settings


def is_long() -> bool:
    """Return whether this is a long run: ``scripts/run_tests.sh --slow`` or ``pytest --hypothesis-profile long``."""
    return settings.get_current_profile_name() == "long"


def examples(*, short: int, long: int, **options: Any) -> settings:
    """Set the number of examples of a property test in a short and in a long run.

    Args:
        short: Number of examples by default.
        long: Number of examples in a long run.
        options: Other settings of Hypothesis.
    """
    return settings(max_examples=long if is_long() else short, **options)
