# SPDX-License-Identifier: Apache-2.0
"""Count warnings by kind and find tracebacks in a log that many processes write."""

import re
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from recipe.treepo.console.failures import frames_in, shorten

# Number of warning kinds that a summary names; it adds up the others.
NAMED_KINDS = 5
_COLOR = re.compile(r"\x1b\[[0-9;]*m")
# Prefixes of lines by Ray ("(Name pid=1, ip=...) "), vLLM's processes ("(Worker pid=2) ") and loggers.
_PROCESS = re.compile(r"^\([^()]*\bpid=\d+[^()]*\) ")
_LOGGER = re.compile(r"^(?:ERROR|WARNING|INFO) \d\d-\d\d [\d:]+ \[[^\]]*\] ")
_WARNINGS = (
    (re.compile(r":\d+: (\w*Warning): "), None),  # Python's module warnings
    (re.compile(r"^WARNING \d\d-\d\d "), "vllm"),
    (re.compile(r"^WARNING:\d{4}-"), "verl"),
    (re.compile(r" - WARNING - (\w+)"), None),  # transfer_queue and other loggers with their name in the line
    (re.compile(r"\tWARNING \S+:\d+ -- "), "ray"),
    (re.compile(r"^(?:\[rank\d+\]:|\[)W\d{4} "), "torch"),
    (re.compile(r"^(?:warning|\[?WARNING)\b", re.IGNORECASE), "other"),
)
_LAST_LINE = re.compile(r"^(?P<kind>[A-Za-z_][\w.]*)(?:: (?P<text>.*))?$")
# Maximum number of kept lines per traceback; recursion makes thousands.
_LONGEST = 400


@dataclass(slots=True)
class LoggedError:
    """A traceback in the log, and the number of tracebacks with the same last line."""

    kind: str
    text: str
    frames: tuple[str, ...]
    count: int = 1


@dataclass(slots=True)
class LogScan:
    """Warnings and errors of a log.

    Attributes:
        warnings: Number of warnings by kind.
        errors: Tracebacks by their last line, in order of first occurrence.
    """

    warnings: Counter[str] = field(default_factory=Counter)
    errors: dict[str, LoggedError] = field(default_factory=dict)
    _open: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, lines: Iterable[str]) -> "LogScan":
        """Read lines; return itself."""
        for line in lines:
            self._add(line)
        return self

    def _add(self, line: str) -> None:
        process, text = _split(line)
        if kind := warning_kind(text):
            self.warnings[kind] += 1
        text = _LOGGER.sub("", text)
        if text.lstrip().startswith("Traceback (most recent call last)") or _is_remote_header(text):
            self._open[process] = [text]
            return
        traceback = self._open.get(process)
        if traceback is None:
            return
        if text[:1] in (" ", "\t", "") and len(traceback) < _LONGEST:
            traceback.append(text)
            return
        del self._open[process]
        last = _LAST_LINE.match(text)
        if last:
            self._count(last["kind"].rpartition(".")[2], last["text"] or "", traceback)

    def _count(self, kind: str, text: str, traceback: list[str]) -> None:
        key = f"{kind}: {text}"
        if key in self.errors:
            self.errors[key].count += 1
        else:
            self.errors[key] = LoggedError(kind, shorten(text), frames_in("\n".join(traceback)))

    def most_frequent_error(self, *, besides: tuple[str, str] | None = None) -> LoggedError | None:
        """Return the most frequent error, the first one on a tie.

        Args:
            besides: Kind and text of an error to skip.
        """
        errors = [error for error in self.errors.values() if not _is_same(error, besides)]
        return max(errors, key=lambda error: error.count, default=None)


def last_lines_of(process: int, lines: Iterable[str], *, most: int = 5) -> list[str]:
    """Return the last lines of a process that died without an error."""
    kept: deque[str] = deque(maxlen=most)
    for line in lines:
        names, text = _split(line)
        if re.search(rf"\bpid={process}\b", names) and text.strip():
            kept.append(text)
    return list(kept)


def warning_kind(text: str) -> str | None:
    """Return the source of a warning, None for any other line."""
    for pattern, kind in _WARNINGS:
        if found := pattern.search(text):
            return kind or found[1]
    return None


def warnings_line(warnings: Counter[str]) -> str | None:
    """Return ``155: 120 transfer_queue, 25 UserWarning, ...``, None without warnings."""
    if not warnings:
        return None
    named = sorted((item for item in warnings.items() if item[0] != "other"), key=lambda item: (-item[1], item[0]))
    parts = [f"{count:,} {kind}" for kind, count in named[:NAMED_KINDS]]
    if rest := warnings["other"] + sum(count for _, count in named[NAMED_KINDS:]):
        parts.append(f"{rest:,} other")
    return f"{warnings.total():,}: {', '.join(parts)}"


def _is_same(error: LoggedError, other: tuple[str, str] | None) -> bool:
    """Return whether two errors are the same; the log has only the first line of a message."""
    return other is not None and (error.kind, error.text) == (other[0], other[1].partition("\n")[0])


def _split(line: str) -> tuple[str, str]:
    """Return the process prefixes of a line, and the line without them."""
    text = _COLOR.sub("", line.rstrip("\r\n"))
    process = ""
    while found := _PROCESS.match(text):
        process += found[0]
        text = text[found.end() :]
    return process, text


def _is_remote_header(text: str) -> bool:
    """Return whether Ray starts to quote the traceback of another process."""
    return text.startswith("ray::") or bool(re.match(r"^[\w.]*RayTaskError\(", text))
