# SPDX-License-Identifier: Apache-2.0
"""Pages as files, to upload or send."""

from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from recipe.treepo.dumps.members import DumpError
from recipe.treepo.dumps.reader import Dump, TreeEntry
from recipe.treepo.viewer.page import index_page, tree_page
from recipe.treepo.viewer.selection import page_name
from recipe.treepo.viewer.svg import tree_svg
from recipe.treepo.viewer.visible import one_line

PICTURE_WIDTH = 960
"""Width of a picture in pixels, about that of a documentation page."""
MOST_EXAMPLES = 2


def export(dump: Dump, entries: Sequence[TreeEntry], out: Path) -> int:
    """Write an index and one page per tree into the folder ``out``, or the page of one tree into a file ``.html``.

    Returns:
        Number of tree pages.

    Raises:
        DumpError: if a tree is damaged, or ``out`` does not fit the number of trees.
    """
    if out.suffix == ".html":
        _require_one(entries, f"--html={out}", ", or name a folder")
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(tree_page(dump, entries, 0, alone=True).html)
        return 1
    if out.exists() and not out.is_dir():
        raise DumpError(f"--html={out}: must be a folder or end in .html. Choose another name.")
    out.mkdir(parents=True, exist_ok=True)
    for number, entry in enumerate(entries):
        (out / page_name(entry)).write_bytes(tree_page(dump, entries, number).html)
    (out / "index.html").write_bytes(index_page(dump.folder, entries).html)
    return len(entries)


def export_picture(dump: Dump, entries: Sequence[TreeEntry], out: Path) -> None:
    """Write the picture of the selected tree as SVG.

    Raises:
        DumpError: if the tree is damaged, or the number of selected trees is not 1.
    """
    _require_one(entries, f"--svg={out}", "")
    picture = tree_svg(dump.load(entries[0]), width=PICTURE_WIDTH)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(picture.encode("utf-8", "backslashreplace"))


def _require_one(entries: Sequence[TreeEntry], option: str, other: str) -> None:
    if len(entries) != 1:
        raise DumpError(
            f"{option}: one file holds one tree, but {len(entries)} are selected. "
            f"Choose one with --step and --uid{other}{_examples(entries)}."
        )


def _examples(entries: Sequence[TreeEntry]) -> str:
    shown = [
        f"--step {entry.summary.get('step')} --uid {quote(one_line(entry.uid, 40))}"
        for entry in entries[:MOST_EXAMPLES]
    ]
    return f", for example {' or '.join(shown)}" if shown else ""
