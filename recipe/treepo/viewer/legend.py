# SPDX-License-Identifier: Apache-2.0
"""The legend of a tree's picture: the color scale, and the marks that occur in the picture."""

from collections.abc import Iterator

from recipe.treepo.viewer.colors import COLOR_BY, Scale, Theme
from recipe.treepo.viewer.layout import Layout, Start
from recipe.treepo.viewer.shapes import Hatch, Line, Polygon, Rect, Shape, Text, cut, text_width

SIZE = 11.0
BAR_WIDTH, BAR_STEPS = 120.0, 24
MARK_WIDTH = 16.0
NAMES = {
    "reward": COLOR_BY["reward"],
    "advantage": COLOR_BY["advantage"],
    "logprob": "mean log-prob (its negative estimates the entropy)",
    "version": COLOR_BY["version"],
}


def legend_height(picture: Layout, width: float) -> float:
    """Return the height of the legend in pixels."""
    return (1 + len(_lines(_marks(picture), width))) * SIZE * 1.5 + 2


def legend(
    picture: Layout, scale: Scale, color_by: str, theme: Theme, x: float, y: float, width: float
) -> Iterator[Shape]:
    """Yield the legend, with its upper left corner at (x, y)."""
    yield from _bar(scale, color_by, theme, x, y, width)
    for number, line in enumerate(_lines(_marks(picture), width), start=1):
        at, top = x, y + number * SIZE * 1.5
        for mark, words in line:
            yield from _symbol(mark, at, top, theme)
            yield Text(at + MARK_WIDTH, top + SIZE * 0.86, cut(words, SIZE, width - MARK_WIDTH - 8), SIZE, theme.ink)
            at += _mark_width(words)


def _bar(scale: Scale, color_by: str, theme: Theme, x: float, y: float, width: float) -> Iterator[Shape]:
    low, high = f"{scale.low:.3g}", f"{scale.high:.3g}"
    base = y + SIZE * 0.86
    yield Text(x, base, low, SIZE, theme.ink)
    x += text_width(low, SIZE) + 4
    step = BAR_WIDTH / BAR_STEPS
    for number in range(BAR_STEPS):
        value = scale.low + (scale.high - scale.low) * number / (BAR_STEPS - 1)
        yield Rect(x + number * step, y, step + 0.3, SIZE, scale.color(value))
    yield Rect(x, y, BAR_WIDTH, SIZE, None, theme.faint)
    x += BAR_WIDTH + 4
    yield Text(x, base, high, SIZE, theme.ink)
    x += text_width(high, SIZE) + 10
    yield Text(x, base, cut(NAMES[color_by], SIZE, width - x - 4), SIZE, theme.ink)


def _marks(picture: Layout) -> list[tuple[str, str]]:
    """Return kind and meaning of the marks in the picture."""
    boxes = picture.boxes
    marks = {
        ("fallback", "fallback: resumed from a finished path"): any(box.start == Start.FALLBACK for box in boxes),
        ("replaced", "replaces an abandoned or dropped path"): any(
            box.start in (Start.ABANDONED, Start.DROPPED) for box in boxes
        ),
        ("split", "split inside a segment"): any(box.split for box in boxes),
        ("reply", "reply of a tool or user, not trained"): any(box.reply for box in boxes),
        ("lost", "not part of a trajectory"): any(box.lost for box in boxes),
    }
    return [mark for mark, occurs in marks.items() if occurs]


def _lines(marks: list[tuple[str, str]], width: float) -> list[list[tuple[str, str]]]:
    """Arrange the marks in lines."""
    lines: list[list[tuple[str, str]]] = []
    room = 0.0
    for mark in marks:
        needed = _mark_width(mark[1])
        if not lines or needed > room:
            lines.append([])
            room = width - 8
        lines[-1].append(mark)
        room -= needed
    return lines


def _mark_width(words: str) -> float:
    return MARK_WIDTH + text_width(words, SIZE) + 16


def _symbol(mark: str, x: float, y: float, theme: Theme) -> Iterator[Shape]:
    size = SIZE - 2
    match mark:
        case "fallback":
            yield triangle(x, y, size, theme.ink)
        case "replaced":
            yield diamond(x, y, size, theme.ink)
        case "split":
            yield Line(x + size / 2, y, x + size / 2, y + SIZE, theme.ink, dashed=True)
        case "reply":
            yield Rect(x, y, SIZE, size, theme.neutral)
            yield Hatch(x, y, SIZE, size, theme.faint)
        case "lost":
            yield Rect(x, y, SIZE, size, theme.neutral, theme.faint, True)


def triangle(x: float, y: float, size: float, fill: str) -> Polygon:
    """Return the mark of a fallback."""
    return Polygon(((x, y), (x + size * 0.8, y + size / 2), (x, y + size)), fill)


def diamond(x: float, y: float, size: float, fill: str) -> Polygon:
    """Return the mark of a replacement."""
    half = size / 2
    return Polygon(((x, y + half), (x + half, y), (x + size, y + half), (x + half, y + size)), fill)
