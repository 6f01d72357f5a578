# SPDX-License-Identifier: Apache-2.0
"""Data for the scripts of the pages: plain values with visible texts."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from recipe.treepo.dumps.reader import TreeEntry
from recipe.treepo.viewer.colors import COLOR_BY, THEMES, ink_on, scale_of
from recipe.treepo.viewer.layout import Box, Layout, TreeLine, finite
from recipe.treepo.viewer.picture import row_words, shown_value
from recipe.treepo.viewer.selection import page_name, sharing
from recipe.treepo.viewer.visible import one_line, visible, visible_values

MOST_PROMPT = 160  # characters of a prompt in the index


def index_rows(entries: Sequence[TreeEntry]) -> list[dict[str, Any]]:
    """Return the rows of the index."""
    return [
        {
            "page": page_name(entry),
            "step": finite(entry.summary.get("step")),
            "split": one_line(str(entry.summary.get("split")), 40),
            "number": finite(entry.summary.get("number")),
            "prompt": one_line(str(entry.summary.get("prompt")), MOST_PROMPT),
            "source": one_line(str(entry.summary.get("data_source")), 60),
            "uid": one_line(entry.uid, 60),
            "trajectories": finite(entry.summary.get("trajectories")),
            "reward": _round(finite(entry.summary.get("reward"))),
            "mixed": entry.summary.get("mixed") is True,
            "sharing": _round(sharing(entry.summary)),
            "depth": finite(entry.summary.get("depth")),
            "fallbacks": finite(entry.summary.get("fallbacks")),
            "failures": finite(entry.summary.get("failures")),
        }
        for entry in entries
    ]


def tree_data(tree: TreeLine, picture: Layout) -> dict[str, Any]:
    """Return the data of a tree's page."""
    ids = sorted(tree["vocabulary"])
    number_of = {token: number for number, token in enumerate(ids)}
    return {
        "vocabulary": [visible(tree["vocabulary"][token]) for token in ids],
        "nodes": _nodes(tree, picture, number_of),
        "rows": _rows(tree, picture),
        "colors": {color_by: _colors(picture, color_by) for color_by in COLOR_BY},
    }


def facts(tree: TreeLine) -> list[tuple[str, str]]:
    """Return prompt, ground truth, settings and counters of a tree as (name, text)."""
    return [
        ("prompt", visible(tree["prompt"])),
        ("ground truth", visible(tree["ground_truth"] or "")),
        ("settings", as_text(tree["settings"])),
        ("counters", as_text(tree["statistics"])),
    ]


def as_text(value: Any) -> str:
    """Return plain data as indented JSON with visible texts."""
    try:
        return json.dumps(visible_values(value), indent=1, ensure_ascii=False)
    except RecursionError:
        return "(nested too deep to show)"


def _nodes(tree: TreeLine, picture: Layout, number_of: Mapping[str, int]) -> list[dict[str, Any]]:
    below = {box.node: box for box in picture.boxes}
    return [_node(tree, node, below.get(node["index"]), picture, number_of) for node in tree["nodes"]]


def _node(
    tree: TreeLine, node: Mapping[str, Any], box: Box | None, picture: Layout, number_of: Mapping[str, int]
) -> dict[str, Any]:
    """Return a node's data; ``pieces`` index the vocabulary, or are None if they do not join to the node's text."""
    tokens = [str(token) for token in node["token_ids"]]
    joins = all(token in number_of for token in tokens)
    joins = joins and "".join(tree["vocabulary"][token] for token in tokens) == node["text"]
    group = box.group if box else picture.root
    return {
        "key": visible(node["key"]),
        "parent": node["parent"],
        "depth": node["depth"],
        "tokens": len(tokens),
        "cached": node["cached_tokens"],
        "reply": node["kind"] == "reply",
        "split": box is not None and box.split,
        "start": str(box.start) if box and box.start else None,
        "row": box.row if box else 0,
        "rows": box.rows if box else len(picture.rows),
        "pieces": [number_of[token] for token in tokens] if joins else None,
        "text": None if joins else visible(node["text"]),
        "logprobs": node["logprobs"],
        "messages": as_text(node["messages"]) if node["messages"] else None,
        "seconds": _round(node["ended"] - node["started"]) if node["ended"] else None,
        "versions": node["versions"],
        "score": _round(node.get("score")),
        "size": group.size,
        "mean": _round(group.mean),
        "deviation": _round(group.deviation),
        "advantage": _round(box.advantage) if box else None,
        "logprob": _round(box.logprob) if box else None,
    }


def _rows(tree: TreeLine, picture: Layout) -> list[dict[str, Any]]:
    advantages = {one["leaf"]: one.get("advantages") for one in tree["trajectories"]}
    parts = {one["leaf"]: one["parts"] for one in tree["trajectories"]}
    return [
        {
            "node": row.node,
            "tokens": row.tokens,
            "end": str(row.end),
            "words": row_words(row),
            "right": row.right,
            "reward": row.reward,
            "parts": as_text(parts[row.node]) if parts.get(row.node) else None,
            "advantages": _recorded(advantages.get(row.node)),
        }
        for row in picture.rows
    ]


def _recorded(pairs: Sequence[tuple[int, Any]] | None) -> dict[int, float | None] | None:
    return None if pairs is None else {node: _round(finite(value)) for node, value in pairs}


def _colors(picture: Layout, color_by: str) -> dict[str, Any]:
    """Return each node's color for each theme, and ``k`` or ``w`` for black or white text on it."""
    colors = {}
    for name, theme in THEMES.items():
        scale = scale_of(picture, color_by, theme)
        fills = [theme.neutral] + [scale.color(shown_value(box, color_by)) for box in picture.boxes]
        inks = {fill: "k" if ink_on(fill) == "#000000" else "w" for fill in set(fills)}
        colors[name] = {"fills": fills, "inks": "".join(inks[fill] for fill in fills)}
    return colors


def _round(value: float | None) -> float | None:
    """Round a value for display."""
    return None if value is None else float(f"{value:.5g}")
