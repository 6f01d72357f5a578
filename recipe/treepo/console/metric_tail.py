# SPDX-License-Identifier: Apache-2.0
"""Read the file of verl's file logger (``{"step": ..., "data": {...}}`` per line) while a run writes it."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class StepRecord:
    """The metrics of one step; step 0 is the validation before training. NaN stands for a null metric."""

    step: int
    metrics: dict[str, float]


class MetricTail:
    """Reader of the records added since the last call.

    A file that exists before the first call belongs to an earlier run until it changes: verl's logger empties it.

    Attributes:
        broken: Number of complete lines that were not records.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._earlier = self._stamp()
        self._offset = 0
        self._torn = b""
        self.broken = 0

    def started(self) -> bool:
        """Return whether the run has opened its logger, which happens once engines and workers are set up."""
        return self._stamp() not in (None, self._earlier)

    def read(self) -> list[StepRecord]:
        """Return new records in order; an incomplete last line is left for the next call.

        Raises:
            OSError: if the file exists and cannot be read.
        """
        if not self.started():
            return []
        self._earlier = None
        with self._path.open("rb") as file:
            if file.seek(0, 2) < self._offset:  # the file was emptied
                self._offset, self._torn = 0, b""
            file.seek(self._offset)
            new = file.read()
        self._offset += len(new)
        *lines, self._torn = (self._torn + new).split(b"\n")
        records = [parse_record(line) for line in lines if line.strip()]
        self.broken += records.count(None)
        return [record for record in records if record is not None]

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_size, stat.st_mtime_ns


def parse_record(line: bytes | str) -> StepRecord | None:
    """Return the record of a line, or None if the line is not a record. Non-numeric metrics are left out."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not _is_integer(record.get("step")) or not isinstance(record.get("data"), dict):
        return None
    numbers = {key: _number(value) for key, value in record["data"].items()}
    return StepRecord(record["step"], {key: value for key, value in numbers.items() if value is not None})


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> float | None:
    if value is None:
        return math.nan
    try:
        return float(value) if isinstance(value, int | float) else None
    except OverflowError:
        return None
