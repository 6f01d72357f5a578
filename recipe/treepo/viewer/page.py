# SPDX-License-Identifier: Apache-2.0
"""Self-contained pages with one script, one style and no requests. All texts pass autoescape or ``textContent``."""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from recipe.treepo.dumps.reader import Dump, TreeEntry
from recipe.treepo.viewer.colors import COLOR_BY, LIGHT, THEMES
from recipe.treepo.viewer.curve import curves_svg
from recipe.treepo.viewer.layout import layout
from recipe.treepo.viewer.page_data import facts, index_rows, tree_data
from recipe.treepo.viewer.picture import draw, title
from recipe.treepo.viewer.selection import page_name
from recipe.treepo.viewer.svg import drawing_svg, legend_svg
from recipe.treepo.viewer.visible import one_line, visible

TEMPLATES = Path(__file__).with_name("templates")
MOST_BYTES = 20_000_000
WIDTH = 1200


@dataclass(frozen=True, slots=True)
class Page:
    """A page.

    Attributes:
        html: The page in UTF-8.
        policy: Its Content-Security-Policy, which its head also contains.
    """

    html: bytes
    policy: str


def index_page(folder: Path, entries: Sequence[TreeEntry], *, problem: str = "") -> Page:
    """Return the table of trees.

    Args:
        problem: Reason for missing trees, empty if none are missing.
    """
    curves = curves_svg([entry.summary for entry in entries])
    return _render(
        "index",
        heading=f"{len(entries)} {'tree' if len(entries) == 1 else 'trees'} in {one_line(str(folder), 200)}",
        problem=visible(problem),
        curves=None if curves is None else Markup(curves),
        data=index_rows(entries),
    )


def tree_page(dump: Dump, entries: Sequence[TreeEntry], number: int, *, alone: bool = False) -> Page:
    """Return the page of one tree, with links to the trees before and after it.

    Args:
        alone: Whether there are no other pages to link to.

    Raises:
        DumpError: if the tree is damaged.
    """
    entry = entries[number]
    tree = dump.load(entry)
    picture = layout(tree)
    before, after = entries[max(number - 1, 0) : number], entries[number + 1 : number + 2]
    legends = [
        (color_by, theme, Markup(legend_svg(picture, color_by=color_by, width=WIDTH, theme=theme)))
        for color_by in COLOR_BY
        for theme in THEMES
    ]
    return _render(
        "tree",
        heading=title(tree, picture),
        uid=one_line(tree["uid"], 100),
        alone=alone,
        before=page_name(before[0]) if before else None,
        after=page_name(after[0]) if after else None,
        color_by=COLOR_BY,
        legends=legends,
        picture=Markup(drawing_svg(draw(tree, picture, width=WIDTH, header=False), LIGHT)),
        facts=facts(tree),
        data=tree_data(tree, picture),
    )


def message_page(message: str) -> Page:
    """Return a page with only a message."""
    return _render("message", heading="TreePO trees", message=visible(message))


def _render(name: str, **values: Any) -> Page:
    script, style = _asset(f"{name}.js") if name != "message" else "", _asset("style.css")
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hash(script) if script else chr(39) + 'none' + chr(39)}",
            f"style-src {_hash(style)}",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    if "data" in values:
        values["data"] = _inert_json(values["data"])
    template = _environment().get_template(f"{name}.html")
    text = template.render(policy=Markup(policy), script=Markup(script), style=Markup(style), **values)
    html = text.encode("utf-8", "backslashreplace")
    if len(html) > MOST_BYTES and name != "message":
        return message_page(
            f"This page would have {len(html) / 1e6:.0f} MB; the limit is {MOST_BYTES / 1e6:.0f} MB. "
            "Choose fewer trees with --step and --uid, or print the tree with --text."
        )
    return Page(html, policy)


def _inert_json(value: Any) -> Markup:
    """Return JSON for a script element, without ``<``, so that nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _asset(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
