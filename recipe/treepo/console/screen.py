# SPDX-License-Identifier: Apache-2.0
"""Write lines to the real screen; a terminal has a changing status line below them."""

import os
import threading

_CLEAR = "\r\x1b[K"


class Screen:
    """A terminal, or a file or pipe that gets plain lines only.

    Nothing more is written to a closed screen (for example a closed pipe); the run never fails because of it.

    Args:
        descriptor: Descriptor for lines.
        errors: Descriptor for error lines, if it differs.
    """

    def __init__(self, descriptor: int, errors: int | None = None) -> None:
        self._descriptor = descriptor
        self._errors = descriptor if errors is None else errors
        self._lock = threading.Lock()
        self._live = False
        self._gone: set[int] = set()
        self.is_terminal = os.isatty(descriptor)

    def lines(self, *texts: str) -> None:
        """Print lines."""
        self._print(self._descriptor, texts)

    def error_lines(self, *texts: str) -> None:
        """Print error lines."""
        self._print(self._errors, texts)

    def live(self, text: str) -> None:
        """Replace the status line; without a terminal, do nothing."""
        if not self.is_terminal:
            return
        with self._lock:
            self._write(self._descriptor, _CLEAR + _printable(text)[: self._width() - 1])
            self._live = True

    def _print(self, descriptor: int, texts: tuple[str, ...]) -> None:
        with self._lock:
            if self._live:
                self._write(self._descriptor, _CLEAR)
                self._live = False
            self._write(descriptor, "".join(f"{_printable(text)}\n" for text in texts))

    def _width(self) -> int:
        try:
            return os.get_terminal_size(self._descriptor).columns or 80
        except OSError:
            return 80

    def _write(self, descriptor: int, text: str) -> None:
        if descriptor in self._gone:
            return
        data = text.encode("utf-8", "replace")
        try:
            while data:
                data = data[os.write(descriptor, data) :]
        except OSError:
            self._gone.add(descriptor)


def _printable(text: str) -> str:
    """Escape control characters, which error messages may contain."""
    return "".join(
        character if character.isprintable() or character in "\n\t" else repr(character)[1:-1] for character in text
    )
