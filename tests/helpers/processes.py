# SPDX-License-Identifier: Apache-2.0
"""Child processes, from the system."""

from pathlib import Path


def children_of(pid: int) -> list[int]:
    """Return the processes that the main thread of ``pid`` started and has not reaped."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
