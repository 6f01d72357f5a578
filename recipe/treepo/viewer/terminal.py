# SPDX-License-Identifier: Apache-2.0
"""Trees in a terminal. A chain of nodes without a branch is one line."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text
from rich.tree import Tree as Lines

from recipe.treepo.viewer.layout import Box, Row, Start, TreeLine, layout
from recipe.treepo.viewer.picture import row_words, title
from recipe.treepo.viewer.visible import one_line

MOST_TEXT = 2_000
MOST_NESTING = 40
MARKS = {Start.FALLBACK: "fallback", Start.ABANDONED: "replaces abandoned", Start.DROPPED: "replaces dropped"}


def print_tree(tree: TreeLine, console: Console) -> None:
    """Print a tree, with key, tokens, mean reward, mean advantage, path end and text on each line."""
    picture = layout(tree)
    boxes = {box.node: box for box in picture.boxes}
    ends = {row.node: row for row in picture.rows}
    children: dict[int, list[int]] = {}
    for node in tree["nodes"][1:]:
        children.setdefault(node["parent"], []).append(node["index"])
    lines = Lines(_cut(f"{_short(tree['uid'])}  {title(tree, picture)}", "bold"))
    lines.add(_cut(f"prompt: {one_line(tree['prompt'], MOST_TEXT)}", "dim"))
    stack = [(child, lines, 0) for child in reversed(children.get(0, []))]
    while stack:
        node, parent, nesting = stack.pop()
        chain = [node]
        while len(below := children.get(chain[-1], [])) == 1:
            chain.append(below[0])
        line = parent.add(_line(tree, chain, boxes, ends.get(chain[-1])))
        # rich indents by four columns per level, so deeper nesting would push the text off the screen.
        under = line if nesting < MOST_NESTING else parent
        stack += [(child, under, nesting + 1) for child in reversed(below)]
    if picture.rows[0].node == 0:
        lines.add(_cut("no path was sampled", "dim"))
    console.print(lines, soft_wrap=False)


def _line(tree: TreeLine, chain: Sequence[int], boxes: Mapping[int, Box], end: Row | None) -> Text:
    nodes: list[Mapping[str, Any]] = [tree["nodes"][number] for number in chain]
    first = boxes[chain[0]]
    tokens = sum(len(node["token_ids"]) for node in nodes)
    line = _cut(one_line(nodes[0]["key"], 60), "bold")
    if len(chain) > 1:
        line.append(f" +{len(chain) - 1} below")
    line.append(f"  {tokens} tok", "dim")
    marks = [MARKS[box.start] for number in chain if (box := boxes[number]).start]
    marks += ["reply" for number in chain if boxes[number].reply]
    if marks:
        line.append(f"  {', '.join(marks)}", "magenta")
    if first.group.mean is not None:
        line.append(f"  reward {first.group.mean:.3g}", "blue" if first.group.mean > 0 else "yellow")
    if first.advantage is not None:
        line.append(f"  adv {first.advantage:+.3g}")
    if end is not None:
        mark = "" if end.right is None else "✓ " if end.right else "✗ "
        line.append(f"  {mark}{row_words(end)}", "blue" if end.right else "yellow")
    text = one_line("".join(node["text"][:MOST_TEXT] for node in nodes)[:MOST_TEXT], MOST_TEXT)
    line.append(f"  | {text}", "dim")
    return line


def _short(uid: str) -> str:
    """Return an id, or enough of verl's long ones for ``--uid``."""
    return one_line(uid if len(uid) <= 16 else uid[:8], 40)


def _cut(text: str, style: str) -> Text:
    """Return a one-line text that is cut at the terminal's width."""
    return Text(text, style=style, overflow="ellipsis", no_wrap=True)
