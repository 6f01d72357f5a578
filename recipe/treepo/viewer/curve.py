# SPDX-License-Identifier: Apache-2.0
"""Mean reward and sharing over the steps of a dump, as a small picture."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from recipe.treepo.viewer.colors import LIGHT, Theme
from recipe.treepo.viewer.layout import finite
from recipe.treepo.viewer.selection import sharing
from recipe.treepo.viewer.shapes import Drawing, Line, NodeShapes, Rect, Shape, Text, cut, text_width
from recipe.treepo.viewer.svg import drawing_svg
from recipe.treepo.viewer.visible import one_line

WIDTH, HEIGHT, SIZE = 1200, 150, 11.0
MARGIN = 52.0
MOST_SPLITS = 4
Points = Mapping[str, Sequence[tuple[float, float]]]
"""(step, value) pairs in the order of the steps, by split."""


def curves_svg(summaries: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the curves of a dump, None if fewer than two steps have a reward."""
    rewards = points(summaries, lambda summary: finite(summary.get("reward")))
    shared = points(summaries, sharing)
    if len({step for values in rewards.values() for step, _ in values}) < 2:
        return None
    shapes: list[Shape | NodeShapes] = []
    for number, (name, values) in enumerate((("mean reward", rewards), ("times shared", shared))):
        shapes += _panel(name, values, number * WIDTH / 2, LIGHT)
    return drawing_svg(Drawing(WIDTH, HEIGHT, shapes), LIGHT, name="curves")


def points(summaries: Sequence[Mapping[str, Any]], value_of: Any) -> dict[str, list[tuple[float, float]]]:
    """Return the mean over the trees of each split and step, for the four largest splits."""
    found: dict[str, dict[float, list[float]]] = {}
    for summary in summaries:
        step, value = finite(summary.get("step")), value_of(summary)
        if step is not None and value is not None:
            found.setdefault(str(summary.get("split")), {}).setdefault(step, []).append(value)
    largest = sorted(found, key=lambda split: -sum(map(len, found[split].values())))[:MOST_SPLITS]
    return {split: [(step, fmean(found[split][step])) for step in sorted(found[split])] for split in largest}


def _panel(name: str, curves: Points, left: float, theme: Theme) -> Iterator[Shape]:
    right, top, bottom = left + WIDTH / 2 - 24, SIZE * 2.2, HEIGHT - SIZE * 2.2
    left += MARGIN
    pairs = [pair for values in curves.values() for pair in values]
    steps, values = [step for step, _ in pairs], [value for _, value in pairs]
    if not pairs:
        return
    low, high = _limits(values)

    def place(step: float, value: float) -> tuple[float, float]:
        width = max(steps) - min(steps)
        x = left + (right - left) * ((step - min(steps)) / width if width else 0.5)
        return x, bottom - (bottom - top) * (value - low) / (high - low)

    yield Text(left, SIZE + 1, name, SIZE, theme.ink)
    for value in (low, high):
        y = place(steps[0], value)[1]
        yield Line(left, y, right, y, theme.faint)
        yield Text(left - 6, y + SIZE * 0.36, f"{value:.3g}", SIZE, theme.faint, right=True)
    for step in {min(steps), max(steps)}:
        x = place(step, low)[0]
        yield Text(x, bottom + SIZE * 1.6, f"step {step:.0f}", SIZE, theme.faint, right=step != min(steps))
    x = left + text_width(name, SIZE) + 20
    for (split, found), color in zip(curves.items(), (theme.good, theme.bad, theme.ink, theme.faint), strict=False):
        places = [place(*pair) for pair in found]
        for (x1, y1), (x2, y2) in zip(places, places[1:], strict=False):
            yield Line(x1, y1, x2, y2, color)
        for at, y in places if len(places) <= 60 else places[-1:]:
            yield Rect(at - 2, y - 2, 4, 4, color)
        words = cut(one_line(split, 20), SIZE, max(right - x - 14, 0))
        yield Rect(x, 4, 8, 8, color)
        yield Text(x + 12, SIZE + 1, words, SIZE, theme.ink)
        x += 12 + text_width(words, SIZE) + 14


def _limits(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
