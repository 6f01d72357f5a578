# SPDX-License-Identifier: Apache-2.0
"""The documentation site (mkdocs.yml): strict build, nothing loaded from elsewhere, links that resolve."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from helpers.paths import ROOT

# Attributes with addresses that a browser loads, by tag.
LOADED = {
    **{tag: ("src",) for tag in ("audio", "embed", "iframe", "input", "script", "track")},
    **{tag: ("src", "srcset") for tag in ("img", "source")},
    "link": ("href",),
    "object": ("data",),
    "video": ("src", "poster"),
}


class Page(HTMLParser):
    """Parser of the addresses and anchors of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name == "id" or (tag, name) == ("a", "name"):
                self.anchors.add(value or "")
            elif name in LOADED.get(tag, ()):
                self.loaded.append(value or "")
            elif (tag, name) == ("a", "href"):
                self.links.append(value or "")


read = cache(Page)


def external(address: str) -> bool:
    return re.match(r"(\w+:)?//", address) is not None


def loads_from_elsewhere(site: Path) -> Iterator[str]:
    """Yield the addresses outside the site that its pages and style sheets load."""
    for path in sorted(site.rglob("*.html")):
        text = path.read_text(encoding="utf-8")
        # The theme's script loads Mermaid from a server for diagrams of this class.
        in_text = [*in_css(text), *re.findall(r'class="mermaid"', text)]
        yield from (f"{path.name}: {address}" for address in [*filter(external, read(path).loaded), *in_text])
    for path in sorted(site.rglob("*.css")):
        yield from (f"{path.name}: {address}" for address in in_css(path.read_text(encoding="utf-8")))


def in_css(text: str) -> list[str]:
    return re.findall(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')\s]+)""", text)


def broken(site: Path) -> Iterator[str]:
    """Yield the links within the site without an existing file or anchor."""
    for path in sorted(site.rglob("*.html")):
        page = read(path)
        for address in [*page.links, *page.loaded]:
            if external(address) or address.startswith(("mailto:", "data:")):
                continue
            file, _, anchor = unquote(address).partition("#")
            target = (site / file.lstrip("/") if file.startswith("/") else path.parent / file) if file else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (anchor and anchor not in read(target).anchors):
                yield f"{path.relative_to(site)}: {address}"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    # Without --quiet, which hides the warnings that --strict counts.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_built(site):
    sources = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    expected = {path.with_name("index.html") if path.name == "README.html" else path for path in sources}
    assert {path.relative_to(site) for path in site.rglob("*.html")} == expected | {Path("404.html")}


def test_the_site_loads_nothing_from_elsewhere(site):
    assert not list(loads_from_elsewhere(site))


def test_the_links_of_the_site_lead_to_files_and_anchors(site):
    assert not list(broken(site))


def test_the_reference_of_the_api_has_the_public_names_with_their_docstrings(site):
    text = (site / "reference/api.html").read_text(encoding="utf-8")
    names = ("interaction.Interaction", "tools.ToolInteraction", "reward.compute_score", "rollout.TreeAgentLoopManager")
    assert {f"recipe.treepo.{name}" for name in names} <= read(site / "reference/api.html").anchors
    assert "recipe.treepo.interaction.Interaction.check_finished" in read(site / "reference/api.html").anchors
    assert not re.search(r":(class|meth|func|mod|attr):", text)


def test_the_checks_see_external_resources_and_broken_links(tmp_path):
    (tmp_path / "ok.html").write_text('<h1 id="a b">A</h1><a href="https://example.org">x</a><a href="#a%20b">y</a>')
    (tmp_path / "bad.html").write_text(
        '<img src="//a.org/x.png"><link href="https://b.org/y.css"><a href="ok.html#c">z</a><a href="none.html">z</a>'
        '<style>p {background: url("https://c.org/z.png")}</style><script src="none.js"></script><pre class="mermaid">'
    )
    (tmp_path / "s.css").write_text("@import 'https://d.org/w.css';")
    assert [found.partition(": ")[2] for found in loads_from_elsewhere(tmp_path)] == [
        *("//a.org/x.png", "https://b.org/y.css", "https://c.org/z.png", 'class="mermaid"', "https://d.org/w.css"),
    ]
    assert list(broken(tmp_path)) == ["bad.html: ok.html#c", "bad.html: none.html", "bad.html: none.js"]
