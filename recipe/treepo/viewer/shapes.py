# SPDX-License-Identifier: Apache-2.0
"""Shapes of a picture in pixels, drawable as SVG or as an image, and the width of texts."""

import unicodedata
from dataclasses import dataclass, field

CHARACTER = 0.61
"""Width of a character per font size; the widest of the usual monospaced fonts has 0.602."""
WIDE_CHARACTER = 1.25
"""The same for other scripts and emoji, which use other fonts."""
LINE = 1.25
"""Line distance per font size."""


@dataclass(frozen=True, slots=True)
class Rect:
    """A rectangle; without ``fill``, only an outline."""

    x: float
    y: float
    width: float
    height: float
    fill: str | None
    stroke: str | None = None
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Hatch:
    """Diagonal lines over a rectangle."""

    x: float
    y: float
    width: float
    height: float
    stroke: str


@dataclass(frozen=True, slots=True)
class Line:
    """A line."""

    x1: float
    y1: float
    x2: float
    y2: float
    stroke: str
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Polygon:
    """A filled polygon."""

    points: tuple[tuple[float, float], ...]
    fill: str


@dataclass(frozen=True, slots=True)
class Text:
    """One line of text, ``x`` at its start (or its end, for ``right``) and ``y`` at its baseline."""

    x: float
    y: float
    text: str
    size: float
    fill: str
    right: bool = False


Shape = Rect | Hatch | Line | Polygon | Text


@dataclass(frozen=True, slots=True)
class NodeShapes:
    """The shapes of one node.

    Attributes:
        node: Number of the node.
        rect: The box.
        hatch: Lines over the box and under the texts, None without.
        texts: Lines of text in the box, clipped to it.
        marks: Shapes drawn over the box.
    """

    node: int
    rect: Rect
    hatch: Hatch | None = None
    texts: list[Text] = field(default_factory=list)
    marks: list[Shape] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Drawing:
    """A picture.

    Attributes:
        width, height: Size in pixels.
        shapes: Shapes from back to front.
    """

    width: int
    height: int
    shapes: list[Shape | NodeShapes]


def text_width(text: str, size: float) -> float:
    """Return an upper estimate of the width of a text in pixels."""
    return size * sum(map(_character_width, text))


def cut(text: str, size: float, width: float) -> str:
    """Return the prefix of a text that fits into ``width`` pixels, with an ellipsis if the text is shortened."""
    most = int(width / (size * CHARACTER)) + 1
    if len(text) <= most and text_width(text, size) <= width:
        return text
    room, kept = width - size * CHARACTER, 0
    for character in text[:most]:
        room -= size * _character_width(character)
        if room < 0:
            break
        kept += 1
    return f"{text[:kept]}…" if kept else ""


def wrap(text: str, size: float, width: float, lines: int) -> list[str]:
    """Split a text into at most ``lines`` lines of at most ``width`` pixels, at any character."""
    wrapped: list[str] = []
    rest = iter(text)
    character = next(rest, "")
    while character and len(wrapped) < lines:
        line, room = "", width
        while character == " ":
            character = next(rest, "")
        while character and room >= (needed := size * _character_width(character)):
            line, room, character = line + character, room - needed, next(rest, "")
        if not line:
            break  # not even one character fits
        wrapped.append(line)
    if character and wrapped:
        wrapped[-1] = cut(wrapped[-1] + "  ", size, width)
    return wrapped


def _character_width(character: str) -> float:
    code = ord(character)
    if code < 0x250 or character in "…–—‘’“”✓✗":
        return CHARACTER
    return 0.0 if unicodedata.combining(character) else WIDE_CHARACTER
