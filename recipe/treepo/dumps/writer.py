# SPDX-License-Identifier: Apache-2.0
"""Append lines to the dump of one process. A disk failure is reported once and never stops a run."""

import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from recipe.treepo.dumps.members import pack

logger = logging.getLogger(__name__)

Line = tuple[Mapping[str, Any], Mapping[str, Any]]
"""A line and its summary."""


class DumpWriter:
    """Writer of one process's lines, with one file per step.

    Attributes:
        file_name: Name of its file in the folder of each step.
        failures: Number of lines that could not be written.
    """

    def __init__(self, folder: Path | str, name: str) -> None:
        """Make a writer; nothing is written before the first line.

        Args:
            folder: Folder of the dump. Workers on several nodes need a shared one.
            name: Role of the process, for the names of its files.
        """
        self._folder = Path(folder)
        self.file_name = f"{name}-{socket.gethostname()}-{os.getpid()}.jsonl.gz"
        self._lock = threading.Lock()
        self.failures = 0

    def append(self, step: str, line: Mapping[str, Any], summary: Mapping[str, Any]) -> bool:
        """Write a line into the file of ``step`` (a folder name); return whether that succeeded."""
        return self.append_made(step, lambda: (line, summary))

    def append_made(self, step: str, make_line: Callable[[], Line]) -> bool:
        """Make a line and write it. An error while making it counts as a write failure."""
        try:
            data = pack(*make_line())
            with self._lock:
                _append(self._folder / step / self.file_name, data)
        except Exception as error:  # a dump must never stop the run
            self._report(error)
            return False
        return True

    def _report(self, error: Exception) -> None:
        with self._lock:
            self.failures += 1
            is_first = self.failures == 1
        if is_first:
            logger.warning(
                "treepo.dump.dir=%s: a line could not be written (%s: %s). The run continues without it; "
                "further failures are only counted.",
                *(self._folder, type(error).__name__, error),
            )


def _append(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.stat().st_size if path.exists() else 0
    try:
        # Unbuffered: otherwise close() would write the rest of the buffer after the truncation below.
        with path.open("ab", buffering=0) as file:
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
    except OSError:
        # A full disk may hold part of the line, which would corrupt the lines after it.
        if path.exists():
            os.truncate(path, before)
        raise
