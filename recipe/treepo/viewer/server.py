# SPDX-License-Identifier: Apache-2.0
"""Serve the pages to this machine only; each request also reads lines added since the last one."""

import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from recipe.treepo.dumps.members import DumpError
from recipe.treepo.dumps.reader import Dump, TreeEntry
from recipe.treepo.viewer.page import Page, index_page, message_page, tree_page
from recipe.treepo.viewer.selection import page_name

ADDRESS = "127.0.0.1"
DEFAULT_PORT = 8765
# Protects against DNS rebinding: a foreign site whose name resolves to this machine still sends its own name.
HOSTS = frozenset({"127.0.0.1", "localhost"})


def make_server(
    dump: Dump, choose: Callable[[Dump], list[TreeEntry]], *, port: int | None = None
) -> ThreadingHTTPServer:
    """Return a server that is already listening; its ``server_port`` is the port.

    Args:
        choose: Function that returns the trees to show.
        port: None for the default port, or a free one if that is taken.

    Raises:
        OSError: if ``port`` is not available.
    """
    handler = type("Handler", (_Handler,), {"pages": _Pages(dump, choose)})
    try:
        return ThreadingHTTPServer((ADDRESS, DEFAULT_PORT if port is None else port), handler)
    except OSError:
        if port is not None:
            raise
        return ThreadingHTTPServer((ADDRESS, 0), handler)


class _Pages:
    """The pages of a dump by path; a lock keeps readings of the dump from interleaving."""

    def __init__(self, dump: Dump, choose: Callable[[Dump], list[TreeEntry]]) -> None:
        self._dump, self._choose = dump, choose
        self._lock = threading.Lock()

    def get(self, path: str) -> tuple[HTTPStatus, Page]:
        with self._lock:
            problem = ""
            try:
                self._dump.refresh()
            except (DumpError, OSError) as error:
                problem = f"Some trees are missing: {error}"
            entries = self._choose(self._dump)
            if path in ("/", "/index.html"):
                return HTTPStatus.OK, index_page(self._dump.folder, entries, problem=problem)
            number = next((n for n, entry in enumerate(entries) if f"/{page_name(entry)}" == path), None)
            if number is None:
                return HTTPStatus.NOT_FOUND, message_page("There is no such tree.")
            try:
                return HTTPStatus.OK, tree_page(self._dump, entries, number)
            except (DumpError, OSError) as error:
                return HTTPStatus.INTERNAL_SERVER_ERROR, message_page(str(error))


class _Handler(BaseHTTPRequestHandler):
    pages: _Pages
    server_version, sys_version = "treepo", ""
    timeout = 30

    def do_GET(self) -> None:
        """Send a page."""
        if self._host() not in HOSTS:
            page = message_page("Only requests to localhost are answered. Open the address printed by the viewer.")
            self._send(HTTPStatus.FORBIDDEN, page)
        elif self.path == "/favicon.ico":
            self.send_response(HTTPStatus.NO_CONTENT)
            self.end_headers()
        else:
            self._send(*self.pages.get(unquote(urlsplit(self.path).path)))

    do_HEAD = do_GET

    def _host(self) -> str:
        """Return the name in the request's Host header, with any port, since tunnels use other ports."""
        names = self.headers.get_all("Host", [])
        return names[0].strip().lower().partition(":")[0] if len(names) == 1 else ""

    def _send(self, status: HTTPStatus, page: Page) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Length": str(len(page.html)),
            "Content-Security-Policy": f"{page.policy}; frame-ancestors 'none'",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-store",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page.html)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing, so that the terminal keeps showing the address."""
