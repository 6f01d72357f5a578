# SPDX-License-Identifier: Apache-2.0
"""A headless browser for the viewer's pages, and a monitor of forbidden actions."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from recipe.treepo.dumps.reader import Dump
from recipe.treepo.viewer.layout import layout, path_to
from recipe.treepo.viewer.page_data import index_rows
from recipe.treepo.viewer.selection import page_name, select
from recipe.treepo.viewer.server import make_server
from recipe.treepo.viewer.visible import visible

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@contextmanager
def open_browser() -> Iterator[Any]:
    """Open the system's Chromium with Playwright, or skip the test."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("needs Chromium, for example apt-get install chromium")
    with playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


class Watch:
    """Actions that a page must not take.

    Attributes:
        requests: Requested addresses.
        troubles: Console messages, script errors and dialogs.
    """

    def __init__(self, page: Any) -> None:
        self.requests: list[str] = []
        self.troubles: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.troubles.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.troubles.append(f"error: {error}"))
        page.on("dialog", self._dismiss)

    def _dismiss(self, dialog: Any) -> None:
        self.troubles.append(f"dialog: {dialog.message}")
        dialog.dismiss()


@contextmanager
def serving(dump: Dump) -> Iterator[str]:
    """Serve a dump and yield the address."""
    server = make_server(dump, select, port=0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def cells(page: Any, table: str) -> list[list[str]]:
    """Return the texts of a table's rows."""
    return page.eval_on_selector_all(
        f"{table} tbody tr", "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
    )


def shown_text(page: Any, column: str = "") -> dict[int, str]:
    """Return the texts of the segments on a page, by node number."""
    pairs = page.eval_on_selector_all(
        f"#text {column} .segment",
        "parts => parts.map(part => [Number(part.dataset.segment), part.querySelector('.text').textContent])",
    )
    return dict(map(tuple, pairs))


def check_pages(folder: Path, count: int) -> None:
    """Open the index and the last ``count`` trees of a dump; assert that they show its texts and do nothing else."""
    dump = Dump(folder)
    dump.refresh()
    entries = dump.trees()
    assert entries
    with serving(dump) as address, open_browser() as browser:
        page = browser.new_page()
        page.set_default_timeout(60_000)
        watch = Watch(page)
        page.goto(address)
        assert [line[3] for line in cells(page, "#trees")] == [row["prompt"] for row in index_rows(entries)]
        for entry in entries[-count:]:
            tree = dump.load(entry)
            nodes = tree["nodes"]
            page.goto(f"{address}/{page_name(entry)}")
            for number, row in enumerate(layout(tree).rows):
                page.select_option("#first", str(number))
                path = path_to(nodes, row.node)[1:]
                assert shown_text(page) == {node: visible(nodes[node]["text"]) for node in path}
        assert watch.troubles == []
        assert all(request.startswith("http://127.0.0.1:") for request in watch.requests)
