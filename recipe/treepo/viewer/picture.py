# SPDX-License-Identifier: Apache-2.0
"""The picture of a tree as shapes: boxes, path ends, axis and legend."""

from collections.abc import Iterator
from dataclasses import dataclass

from recipe.treepo.viewer.colors import THEMES, Theme, ink_on, scale_of
from recipe.treepo.viewer.layout import Box, End, Layout, Row, Start, TreeLine
from recipe.treepo.viewer.legend import diamond, legend, legend_height, triangle
from recipe.treepo.viewer.shapes import (
    LINE,
    Drawing,
    Hatch,
    Line,
    NodeShapes,
    Rect,
    Shape,
    Text,
    cut,
    text_width,
    wrap,
)
from recipe.treepo.viewer.visible import one_line

SIZE = 11.0  # font size in pixels
PROMPT_WIDTH = 50.0
LABEL_WIDTH = 218.0
AXIS_HEIGHT = 34.0
GAP = 1.0  # space between boxes, in pixels
LEAST_WIDTH = 240
MOST_TEXT = 4_000  # characters of a node's text that the picture uses


@dataclass(frozen=True, slots=True)
class Frame:
    """Position of the boxes in pixels.

    Attributes:
        left, right, top: Edges in pixels.
        row: Height of a row.
        tokens: Response tokens between the edges.
    """

    left: float
    right: float
    top: float
    row: float
    tokens: int

    def x(self, token: int) -> float:
        """Return the position of a token."""
        return self.left + (self.right - self.left) * token / max(self.tokens, 1)

    def y(self, row: int) -> float:
        """Return the upper edge of a row."""
        return self.top + self.row * row


def draw(
    tree: TreeLine,
    picture: Layout,
    *,
    color_by: str = "reward",
    width: int = 1200,
    height: int | None = None,
    theme: str = "light",
    header: bool = True,
) -> Drawing:
    """Draw a tree.

    Args:
        picture: Layout of the tree.
        color_by: A key of ``colors.COLOR_BY``.
        width: Width in pixels, at least 240.
        height: Height in pixels; None for readable rows. A row has at least one pixel.
        theme: ``light`` or ``dark``.
        header: Whether to draw a title and a legend above the boxes; omitted if the height is too small.
    """
    if theme not in THEMES:
        raise ValueError(f"theme={theme}: must be light or dark.")
    colors = THEMES[theme]
    width = max(width, LEAST_WIDTH)
    scale = scale_of(picture, color_by, colors)
    top = SIZE * LINE + legend_height(picture, width) + 8
    if not header or (height is not None and top > height / 2):
        header, top = False, 4.0
    row = _row_height(len(picture.rows), None if height is None else height - top - AXIS_HEIGHT)
    labels = LABEL_WIDTH if width > 2.5 * LABEL_WIDTH else width / 3
    frame = Frame(PROMPT_WIDTH + 3, width - labels, top, row, picture.tokens)
    bottom = frame.y(len(picture.rows))
    shapes: list[Shape | NodeShapes] = [Rect(0, 0, width, bottom + AXIS_HEIGHT, colors.paper)]
    if header:
        shapes.append(Text(4, SIZE + 1, cut(title(tree, picture), SIZE, width - 8), SIZE, colors.ink))
        shapes += legend(picture, scale, color_by, colors, 4, SIZE * LINE + 4, width)
    shapes += _axis(frame, bottom, colors)
    shapes.append(_prompt(tree, frame, bottom, colors))
    shapes += [_box(tree, box, frame, scale.color(shown_value(box, color_by)), colors) for box in picture.boxes]
    if row >= SIZE:
        for number, end in enumerate(picture.rows):
            shapes += _label(end, number, frame, labels, colors)
    return Drawing(width, round(bottom + AXIS_HEIGHT), shapes)


def title(tree: TreeLine, picture: Layout) -> str:
    """Return the title of a tree: place, number of trajectories, mean reward, sharing."""
    mean = "unknown" if picture.root.mean is None else f"{picture.root.mean:.3g}"
    unique = sum(box.width for box in picture.boxes if not box.lost)
    total = sum(row.tokens for row in picture.rows if row.end is End.LEAF)
    shared = f", {total / unique:.2f}x shared" if unique else ""
    count = picture.root.size
    place = f"{one_line(tree['split'], 40)} step {tree['step']}, prompt {tree['number']}"
    return f"{place}: {count} {'trajectory' if count == 1 else 'trajectories'}, mean reward {mean}{shared}"


def shown_value(box: Box, color_by: str) -> float | None:
    """Return the value that colors a box; None for an interaction's tokens (not trained) and lost nodes."""
    return None if box.reply or box.lost else box.value(color_by)


def _row_height(rows: int, room: float | None) -> float:
    if room is not None:
        return max(room / rows, 1.0)
    return 26.0 if rows <= 24 else 18.0 if rows <= 64 else 14.0


def _box(tree: TreeLine, box: Box, frame: Frame, fill: str, theme: Theme) -> NodeShapes:
    x, y = frame.x(box.x), frame.y(box.row)
    width = max(frame.x(box.x + box.width) - x - GAP, 1.5)
    height = max(frame.row * box.rows - GAP, 0.75)
    rect = Rect(x, y, width, height, fill, theme.faint if box.lost else None, box.lost)
    marks = list(_marks(box, rect, theme))
    texts = _box_texts(tree["nodes"][box.node]["text"], rect, ink_on(fill), bool(box.start))
    hatch = Hatch(x, y, width, height, theme.faint) if box.reply else None
    return NodeShapes(box.node, rect, hatch, texts, marks)


def _box_texts(text: str, rect: Rect, fill: str, marked: bool) -> list[Text]:
    """Return the beginning of a node's text, in the lines that fit into the box."""
    lines = int((rect.height - 2) / (SIZE * LINE))
    indent = 11.0 if marked else 4.0
    room = rect.width - indent - 3
    if not lines and rect.height >= SIZE:
        lines = 1
    if not lines or room < 2 * SIZE:
        return []
    words = one_line(text, min(MOST_TEXT, 2 * lines * int(room / SIZE) + 2))
    first = (min(rect.height, SIZE * LINE + 2) - SIZE) / 2 + SIZE * 0.82
    if lines == 1:
        first = rect.height / 2 + SIZE * 0.36
    return [
        Text(rect.x + indent, rect.y + first + number * SIZE * LINE, line, SIZE, fill)
        for number, line in enumerate(wrap(words, SIZE, room, lines))
    ]


def _marks(box: Box, rect: Rect, theme: Theme) -> Iterator[Shape]:
    right, bottom = rect.x + rect.width, rect.y + rect.height
    if box.split:
        yield Line(right + GAP / 2, rect.y, right + GAP / 2, bottom, theme.ink, dashed=True)
    if box.start is not None:
        mark = triangle if box.start is Start.FALLBACK else diamond
        # The mark is on the box, where the theme's ink may be unreadable, so it gets the ink of the box.
        yield mark(rect.x, rect.y, min(rect.height, 9.0), ink_on(rect.fill or theme.paper))


def _prompt(tree: TreeLine, frame: Frame, bottom: float, theme: Theme) -> NodeShapes:
    rect = Rect(0, frame.top, PROMPT_WIDTH, bottom - frame.top - GAP, theme.neutral)
    words = ["prompt", str(len(tree["prompt_ids"])), "tokens"]
    lines = int(rect.height / (SIZE * LINE))
    texts = [
        Text(3, frame.top + SIZE + number * SIZE * LINE, cut(word, SIZE, PROMPT_WIDTH - 4), SIZE, ink_on(theme.neutral))
        for number, word in enumerate(words[:lines])
    ]
    return NodeShapes(0, rect, texts=texts)


def _axis(frame: Frame, bottom: float, theme: Theme) -> Iterator[Shape]:
    step = tick_step(frame.tokens, int((frame.right - frame.left) / 70))
    name = "response tokens"
    for token in range(0, frame.tokens + 1, step):
        x = frame.x(token)
        yield Line(x, bottom, x, bottom + 4, theme.faint)
        yield Text(x, bottom + 5 + SIZE, str(token), SIZE, theme.faint)
    yield Line(frame.left, bottom, frame.right, bottom, theme.faint)
    yield Text(frame.left, bottom + 6 + 2 * SIZE, cut(name, SIZE, frame.right - frame.left), SIZE, theme.faint)


def tick_step(tokens: int, most: int) -> int:
    """Return the smallest step of 1, 2 or 5 times a power of ten with at most ``most`` ticks after 0."""
    step = 1
    for factor in (2, 2.5, 2) * 40:
        if tokens <= step * max(most, 1):
            break
        step = round(step * factor)
    return step


def _label(end: Row, number: int, frame: Frame, width: float, theme: Theme) -> Iterator[Shape]:
    """Yield the text to the right of a row: number, correctness, reward and finish reason."""
    y = frame.y(number) + frame.row / 2 + SIZE * 0.36
    x = frame.right + 6
    place = f"{number + 1:>3} "
    yield Text(x, y, place, SIZE, theme.faint)
    x += text_width(place, SIZE)
    if end.right is not None:
        yield Text(x, y, "✓" if end.right else "✗", SIZE, theme.good if end.right else theme.bad)
    x += text_width("✓ ", SIZE)
    words = cut(row_words(end), SIZE, frame.right + width - x - 2)
    yield Text(x, y, words, SIZE, theme.ink if end.end is End.LEAF else theme.faint)


def row_words(end: Row) -> str:
    """Return reward and finish reason of a path."""
    reason = one_line(": ".join(filter(None, (end.reason, end.detail))), 80)
    match end.end:
        case End.OPEN:
            return "open: no trajectory"
        case End.DROPPED:
            return f"dropped: {reason}"
    return f"{'no reward' if end.reward is None else format(end.reward, '.3g')} · {reason}"
