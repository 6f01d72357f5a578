# SPDX-License-Identifier: Apache-2.0
"""The table of steps: one line per step, with a column for each number that the first step has."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Metrics = Mapping[str, float]

# Cell of a missing or non-finite number.
MISSING = "-"
_HELD_OUT = re.compile(r"val-core/(?P<source>.+)/(?:acc|reward|score)/mean@\d+")


def duration(seconds: float) -> str:
    """Return a time in a suitable unit: ``0.4 s``, ``20 s``, ``9 min``, ``3.5 h``."""
    if not math.isfinite(seconds):
        return MISSING
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 99.5 * 60:
        return f"{seconds / 60:.0f} min" if seconds >= 9.95 * 60 else f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def held_out(metrics: Metrics) -> dict[str, float]:
    """Return verl's core validation score of each data source."""
    found = {}
    for key, value in metrics.items():
        if match := _HELD_OUT.fullmatch(key):
            found[match["source"]] = value
    return found


def mean_held_out(metrics: Metrics) -> float | None:
    """Return the mean over data sources, None without a validation."""
    scores = held_out(metrics).values()
    return sum(scores) / len(scores) if scores else None


def _number(key: str, form: str, *others: str) -> Callable[[Metrics], str | None]:
    """Return a cell that shows the first of these metrics that exists in a step."""

    def cell(metrics: Metrics) -> str | None:
        value = next((metrics[name] for name in (key, *others) if name in metrics), None)
        return None if value is None else form.format(value) if math.isfinite(value) else MISSING

    return cell


def _time(metrics: Metrics) -> str | None:
    seconds = metrics.get("timing_s/step")
    return None if seconds is None else duration(seconds)


def _right(metrics: Metrics) -> str | None:
    share = metrics.get("treepo/right")
    return None if share is None else f"{100 * share:.0f} %" if math.isfinite(share) else MISSING


def _shared(metrics: Metrics) -> str | None:
    """Return tokens per unique token and the share of saved tokens; None without trees."""
    unique = metrics.get("treepo/unique_over_total")
    if unique is None or "treepo/fallbacks_per_prompt" not in metrics:
        return None
    return f"{1 / unique:.2f}x ({100 * (1 - unique):.0f} %)" if math.isfinite(unique) and unique > 0 else MISSING


def _held_out(metrics: Metrics) -> str | None:
    score = mean_held_out(metrics)
    return None if score is None else f"{score:.3f}" if math.isfinite(score) else MISSING


@dataclass(frozen=True, slots=True)
class Column:
    """A column; ``cell`` returns None if a step has no number for it."""

    title: str
    width: int
    cell: Callable[[Metrics], str | None]


COLUMNS = (
    Column("time", 8, _time),
    Column("reward", 7, _number("critic/score/mean", "{:.3f}", "critic/rewards/mean")),
    Column("right", 6, _right),
    Column("tokens shared", 14, _shared),
    Column("calls", 7, _number("treepo/engine_calls", "{:,.0f}")),
    Column("fallback", 9, _number("treepo/fallbacks_per_prompt", "{:.1f}")),
    Column("waste", 6, _number("treepo/waste", "{:.2f}")),
)
HELD_OUT = Column("held-out", 9, _held_out)


class Table:
    """Formatter of step lines, with a header above the first.

    Args:
        validates: Whether the run validates during training.
    """

    def __init__(self, *, validates: bool) -> None:
        self._validates = validates
        self._columns: tuple[Column, ...] | None = None

    def lines(self, step: int, metrics: Metrics) -> list[str]:
        """Return the line of a step, on the first call with the header."""
        lines = []
        if self._columns is None:
            own = tuple(column for column in COLUMNS if column.cell(metrics) is not None)
            self._columns = (*own, HELD_OUT) if self._validates else own
            lines.append("".join([" step", *(f"{column.title:>{column.width + 1}}" for column in self._columns)]))
        cells = (f"{_cell(column, metrics):>{column.width + 1}}" for column in self._columns)
        return [*lines, "".join([f"{step:>5}", *cells]).rstrip()]


def _cell(column: Column, metrics: Metrics) -> str:
    text = column.cell(metrics)
    if text is None:
        return "" if column is HELD_OUT else MISSING  # most steps have no validation
    return text
