# SPDX-License-Identifier: Apache-2.0
"""Pages as files, for a web server or a mail."""

from collections.abc import Sequence
from pathlib import Path

from recipe.treepo.dumps.members import DumpError
from recipe.treepo.dumps.reader import Dump, TreeEntry
from recipe.treepo.viewer.page import index_page, tree_page
from recipe.treepo.viewer.selection import page_name


def export(dump: Dump, entries: Sequence[TreeEntry], out: Path) -> int:
    """Write an index and one page for each tree into the folder ``out``, or the page of one tree as a file ``.html``.

    Returns:
        Number of pages of trees.

    Raises:
        DumpError: if a tree is damaged, or ``out`` does not fit the number of trees.
    """
    if out.suffix == ".html":
        if len(entries) != 1:
            raise DumpError(
                f"--html={out}: one file holds one tree, and {len(entries)} are selected. "
                "Choose one with --step and --uid, or name a folder."
            )
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
