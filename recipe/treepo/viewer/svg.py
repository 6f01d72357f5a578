# SPDX-License-Identifier: Apache-2.0
"""Trees as SVG, for pages, documents and trackers."""

from collections.abc import Iterable, Iterator
from html import escape

from recipe.treepo.viewer.colors import THEMES, Theme, scale_of
from recipe.treepo.viewer.layout import Layout, TreeLine, layout
from recipe.treepo.viewer.legend import legend, legend_height
from recipe.treepo.viewer.picture import draw
from recipe.treepo.viewer.shapes import Drawing, Hatch, Line, NodeShapes, Polygon, Rect, Shape, Text

FONT = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"


def tree_svg(
    tree: TreeLine,
    *,
    color_by: str = "reward",
    width: int = 1200,
    height: int | None = None,
    theme: str = "light",
    header: bool = True,
) -> str:
    """Return a tree as SVG, with response tokens to the right and one row per path end.

    Args:
        tree: A tree as returned by ``recipe.treepo.dumps.reader.Dump.load``.
        color_by: ``reward``, ``advantage``, ``logprob`` or ``version``.
        width: Width in pixels, at least 240.
        height: Height in pixels; None for readable rows. A row has at least one pixel.
        theme: ``light`` or ``dark``.
        header: Whether to draw a title and a legend above the boxes; omitted if the height is too small.

    Raises:
        ValueError: if ``color_by`` or ``theme`` has another value.
    """
    drawing = draw(tree, layout(tree), color_by=color_by, width=width, height=height, theme=theme, header=header)
    return drawing_svg(drawing, THEMES[theme])


def legend_svg(picture: Layout, *, color_by: str, width: int, theme: str) -> str:
    """Return only the legend of a tree as SVG."""
    colors = THEMES[theme]
    scale = scale_of(picture, color_by, colors)
    height = round(legend_height(picture, width))
    drawing = Drawing(width, height, [*legend(picture, scale, color_by, colors, 4, 2, width)])
    return drawing_svg(drawing, colors, name=f"legend-{color_by}-{theme}")


def drawing_svg(drawing: Drawing, theme: Theme, *, name: str = "tree") -> str:
    """Return shapes as SVG.

    Shapes in a theme color have the color's name as class, so that a page can switch themes. The shapes of a node are a
    group with the node's number as ``data-node``.

    Args:
        name: Prefix of the ids, which must be unique on a page.
    """
    hatch = f"{name}-hatch"
    return "".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{drawing.width}" height="{drawing.height}" '
            f'viewBox="0 0 {drawing.width} {drawing.height}" font-family="{FONT}" role="img">',
            *_defs(drawing, hatch),
            *_Writer(theme, hatch).all(drawing.shapes),
            "</svg>\n",
        )
    )


class _Writer:
    def __init__(self, theme: Theme, hatch: str) -> None:
        names = ("paper", "ink", "faint", "neutral", "good", "bad")
        self._class_of: dict[str | None, str] = {getattr(theme, name): name for name in names}
        self._hatch = hatch

    def all(self, shapes: Iterable[Shape | NodeShapes]) -> Iterator[str]:
        for shape in shapes:
            if isinstance(shape, NodeShapes):
                yield from self._node(shape)
            else:
                yield self._shape(shape, themed=True)

    def _node(self, shapes: NodeShapes) -> Iterator[str]:
        rect = shapes.rect
        yield f'<g data-node="{shapes.node}">{self._shape(rect, themed=False)}'
        if shapes.hatch is not None:
            yield self._shape(shapes.hatch, themed=False)
        if shapes.texts:
            # An inner svg clips texts that are wider than estimated.
            yield f'<svg{_place(rect)} overflow="hidden">'
            for text in shapes.texts:
                inner = Text(text.x - rect.x, text.y - rect.y, text.text, text.size, text.fill, text.right)
                yield self._shape(inner, themed=False)
            yield "</svg>"
        for mark in shapes.marks:
            yield self._shape(mark, themed=not isinstance(mark, Polygon))
        yield "</g>"

    def _shape(self, shape: Shape, *, themed: bool) -> str:
        match shape:
            case Rect(fill=fill, stroke=stroke, dashed=dashed):
                return f"<rect{_place(shape)}{self._paint(fill, stroke, dashed, themed)}/>"
            case Hatch():
                return f'<rect{_place(shape)} fill="url(#{self._hatch})"/>'
            case Line(x1, y1, x2, y2, stroke, dashed):
                place = f' x1="{x1:.5g}" y1="{y1:.5g}" x2="{x2:.5g}" y2="{y2:.5g}"'
                return f"<line{place}{self._paint(None, stroke, dashed, themed)}/>"
            case Polygon(points, fill):
                corners = " ".join(f"{x:.5g},{y:.5g}" for x, y in points)
                return f'<polygon points="{corners}"{self._paint(fill, None, False, themed)}/>'
            case Text(x, y, text, size, fill, right):
                anchor = ' text-anchor="end"' if right else ""
                place = f' x="{x:.5g}" y="{y:.5g}" font-size="{size:.3g}"{anchor} xml:space="preserve"'
                return f"<text{place}{self._paint(fill, None, False, themed)}>{escape(text)}</text>"

    def _paint(self, fill: str | None, stroke: str | None, dashed: bool, themed: bool) -> str:
        """Return the attributes of fill and outline."""
        names = []
        if themed and fill in self._class_of:
            names.append(self._class_of[fill])
        if stroke in self._class_of:
            names.append(f"{self._class_of[stroke]}-line")
        return "".join(
            (
                f' fill="{fill or "none"}"',
                f' stroke="{stroke}"' if stroke else "",
                ' stroke-dasharray="3 2"' if dashed else "",
                f' class="{" ".join(names)}"' if names else "",
            )
        )


def _place(shape: Rect | Hatch) -> str:
    return f' x="{shape.x:.5g}" y="{shape.y:.5g}" width="{shape.width:.5g}" height="{shape.height:.5g}"'


def _defs(drawing: Drawing, hatch: str) -> Iterator[str]:
    """Yield the pattern of hatched boxes if there are any."""
    inner = [shape.hatch for shape in drawing.shapes if isinstance(shape, NodeShapes)]
    found = next((shape for shape in [*drawing.shapes, *inner] if isinstance(shape, Hatch)), None)
    if found is not None:
        lines = f'<path d="M0 6L6 0M-1 1L1 -1M5 7L7 5" stroke="{found.stroke}" stroke-width="1" opacity="0.5"/>'
        yield f'<defs><pattern id="{hatch}" width="6" height="6" patternUnits="userSpaceOnUse">{lines}</pattern></defs>'
