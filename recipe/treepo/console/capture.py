# SPDX-License-Identifier: Apache-2.0
"""Redirect the output of this process (including C code and threads) to a file, and keep the real screen."""

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

_STDOUT, _STDERR = 1, 2


class Capture:
    """Context in which file descriptors 1 and 2 refer to a file; both are restored on exit, also after an error.

    Python's stdout is line-buffered in the context, so that lines of stdout and stderr keep their order.

    Args:
        path: File to append to.

    Attributes:
        screen, error_screen: Descriptors of the real stdout and stderr; child programs do not inherit them.
    """

    screen: int
    error_screen: int

    def __init__(self, path: Path) -> None:
        self._path = path
        self._buffering: list[tuple[Any, bool]] = []

    def __enter__(self) -> "Capture":
        """Redirect both descriptors.

        Raises:
            OSError: if the file cannot be opened; nothing is redirected then.
        """
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            _flush()
            self.screen = os.dup(_STDOUT)
            try:
                self.error_screen = os.dup(_STDERR)
            except OSError:
                os.close(self.screen)
                raise
            os.dup2(file, _STDOUT)
            os.dup2(file, _STDERR)
        finally:
            os.close(file)
        self._buffer_lines()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore both descriptors."""
        _flush()
        os.dup2(self.screen, _STDOUT)
        os.dup2(self.error_screen, _STDERR)
        os.close(self.screen)
        os.close(self.error_screen)
        for stream, buffering in self._buffering:
            with contextlib.suppress(OSError, ValueError):
                stream.reconfigure(line_buffering=buffering)
        self._buffering = []

    def _buffer_lines(self) -> None:
        streams: tuple[Any, Any] = (sys.stdout, sys.stderr)
        for stream in streams:
            if hasattr(stream, "reconfigure") and hasattr(stream, "line_buffering"):
                self._buffering.append((stream, stream.line_buffering))
                stream.reconfigure(line_buffering=True)


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold back output in a file; if an error occurs, print it to stderr first."""
    try:
        with Capture(path):
            yield
    except BaseException:
        release(path)
        raise


def release(path: Path) -> None:
    """Print the held-back output to stderr."""
    _flush()
    with contextlib.suppress(OSError):
        _write_all(_STDERR, path.read_bytes())
        path.unlink()


def log_traceback() -> None:
    """Print the current exception to descriptor 2, even if ``sys.stderr`` is redirected."""
    _flush()
    with contextlib.suppress(OSError):
        _write_all(_STDERR, traceback.format_exc().encode("utf-8", "backslashreplace"))


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # a stream may be closed, or its disk full
            stream.flush()
