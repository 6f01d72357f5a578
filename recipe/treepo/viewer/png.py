# SPDX-License-Identifier: Apache-2.0
"""Trees as images, for trackers without SVG."""

from typing import TYPE_CHECKING, Any

from recipe.treepo.viewer.colors import THEMES
from recipe.treepo.viewer.layout import TreeLine, layout
from recipe.treepo.viewer.picture import draw
from recipe.treepo.viewer.shapes import Hatch, Line, NodeShapes, Polygon, Rect, Shape, Text

if TYPE_CHECKING:
    from PIL.Image import Image

FONTS = ("DejaVuSansMono.ttf", "LiberationMono-Regular.ttf", "Menlo.ttc", "consola.ttf")
DASH = 3


def tree_image(
    tree: TreeLine,
    *,
    color_by: str = "reward",
    width: int = 1200,
    height: int | None = None,
    theme: str = "light",
    header: bool = True,
) -> "Image":
    """Return a tree as a Pillow image, with the picture and arguments of ``svg.tree_svg``."""
    from PIL import Image, ImageDraw

    drawing = draw(tree, layout(tree), color_by=color_by, width=width, height=height, theme=theme, header=header)
    image = Image.new("RGB", (drawing.width, drawing.height), THEMES[theme].paper)
    painter = _Painter(ImageDraw.Draw(image))
    for shape in drawing.shapes:
        if isinstance(shape, NodeShapes):
            for part in (shape.rect, shape.hatch, *shape.texts, *shape.marks):
                if part is not None:
                    painter.paint(part)
        else:
            painter.paint(shape)
    return image


class _Painter:
    def __init__(self, canvas: Any) -> None:
        self._canvas = canvas
        self._fonts: dict[float, Any] = {}

    def paint(self, shape: Shape) -> None:
        """Draw one shape."""
        match shape:
            case Rect(x, y, width, height, fill, stroke, dashed):
                if fill is not None:
                    self._canvas.rectangle(_pixels(x, y, width, height), fill=fill)
                if stroke is not None:
                    self._outline(x, y, x + width, y + height, stroke, dashed)
            case Hatch(x, y, width, height, stroke):
                self._hatch(x, y, width, height, stroke)
            case Line(x1, y1, x2, y2, stroke, dashed):
                self._line(x1, y1, x2, y2, stroke, dashed)
            case Polygon(points, fill):
                self._canvas.polygon(points, fill=fill)
            case Text(x, y, text, size, fill, right):
                anchor = "rs" if right else "ls"
                self._canvas.text((x, y), text, fill=fill, font=self._font(size), anchor=anchor)

    def _outline(self, left: float, top: float, right: float, bottom: float, stroke: str, dashed: bool) -> None:
        for line in (
            *((left, top, right, top), (left, bottom, right, bottom)),
            *((left, top, left, bottom), (right, top, right, bottom)),
        ):
            self._line(*line, stroke, dashed)

    def _line(self, x1: float, y1: float, x2: float, y2: float, stroke: str, dashed: bool) -> None:
        length = max(abs(x2 - x1), abs(y2 - y1))
        if not dashed or not length:
            self._canvas.line((x1, y1, x2, y2), fill=stroke)
            return
        for start in range(0, int(length), 2 * DASH):
            begin, end = start / length, min((start + DASH) / length, 1.0)
            ends = (x1 + (x2 - x1) * begin, y1 + (y2 - y1) * begin, x1 + (x2 - x1) * end, y1 + (y2 - y1) * end)
            self._canvas.line(ends, fill=stroke)

    def _hatch(self, x: float, y: float, width: float, height: float, stroke: str) -> None:
        for start in range(0, int(width + height), 6):
            # Lines from the lower left to the upper right, clipped at the edges.
            begin = (x + max(0.0, start - height), y + min(start, height))
            end = (x + min(start, width), y + max(0.0, start - width))
            self._canvas.line((begin, end), fill=stroke)

    def _font(self, size: float) -> Any:
        if size not in self._fonts:
            self._fonts[size] = _load_font(size)
        return self._fonts[size]


def _load_font(size: float) -> Any:
    """Load a monospaced font of the system, or Pillow's own."""
    from PIL import ImageFont

    for name in FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def _pixels(x: float, y: float, width: float, height: float) -> tuple[int, int, int, int]:
    """Return the corners of a rectangle (both inside it), at least one pixel wide and high."""
    left, top = round(x), round(y)
    return left, top, max(left, round(x + width) - 1), max(top, round(y + height) - 1)
