# SPDX-License-Identifier: Apache-2.0
"""Links between pages, and commands in them."""

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from helpers.paths import ROOT

PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(page for folder in ("docs", "benchmarks", "small", "tiny") for page in (ROOT / folder).rglob("*.md")),
    ]
)
# Scripts in the history only, according to the index of benchmarks.
STUDIES = {
    f"benchmarks.{name}"
    for name in re.findall(r"^\| `(\w+)` \|", (ROOT / "benchmarks/README.md").read_text(encoding="utf-8"), re.MULTILINE)
}


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ +(.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(page: Path) -> Iterator[str]:
    """Yield the relative links of a page whose file or heading does not exist."""
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        if "://" not in link and (not target.exists() or anchor and anchor not in anchors(target)):
            yield link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_to_files_and_headings(page):
    assert not list(broken(page))


def test_the_check_sees_a_missing_file_and_a_missing_heading(tmp_path):
    (tmp_path / "page.md").write_text("# A `b`, c\n```\n# no heading\n```\n")
    links = ("page.md#a-b-c", "#what", "page.md#no-heading", "none.md", "https://example.org/none.md", ".")
    (tmp_path / "links.md").write_text("# What\n" + " ".join(f"[x]({link})" for link in links))
    assert list(broken(tmp_path / "links.md")) == ["page.md#no-heading", "none.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_name_modules_that_exist_or_the_commit_that_has_them(page):
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"python -m ((?:benchmarks|data_prep|recipe|small|tiny)[\w.]*)", text)
    gone = {name for name in named if find_spec(name.rstrip(".")) is None}
    assert gone <= STUDIES
    assert not gone or re.search(r"commit\s+`[0-9a-f]{7}`", text)


# --- the site ---------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Loader of mkdocs.yml without the Python functions in it."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def pages_of(part: str | list | dict) -> list[str]:
    """Return the pages of a part of the site's navigation, by path below docs/."""
    if isinstance(part, str):
        return [part]
    return [page for inner in (part.values() if isinstance(part, dict) else part) for page in pages_of(inner)]


SECTIONS = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Loader)["nav"]
SITE = [page for page in PAGES if page.is_relative_to(ROOT / "docs")]


def test_the_navigation_has_every_page_once():
    assert sorted(pages_of(SECTIONS)) == sorted(str(page.relative_to(ROOT / "docs")) for page in SITE)


def test_the_readme_links_to_every_section():
    links = set(re.findall(r"\]\(docs/([^)\s#]+)", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert not [name for section in SECTIONS for name in section if not links & set(pages_of(section))]


# Names of repository files on a page; docs/source_en is a folder of ms-swift.
FOLDERS = "benchmarks|data_prep|docs(?!/source_en)|examples|recipe|requirements|scripts|tests|tiny"
NAMED = rf"(?:(?:{FOLDERS})/|mkdocs\.yml|\w+\.toml|[A-Z]+\.md)"


def missing_files(page: Path) -> Iterator[str]:
    """Yield the missing files that a page names, as `folder/file` or in a command."""
    text = page.read_text(encoding="utf-8")
    for name in re.findall(rf"`({NAMED}[\w./-]*)`", text) + re.findall(r"\b(?:bash|python) ([\w./-]+/[\w.-]+)", text):
        if not (ROOT / name).exists():
            yield name


@pytest.mark.parametrize("page", SITE, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_of_the_site_link_to_each_other_only_and_name_files_that_exist(page):
    links = re.findall(r"\]\(([^)\s#]+)", page.read_text(encoding="utf-8"))
    inside = ((page.parent / link).resolve().is_relative_to(ROOT / "docs") for link in links if "://" not in link)
    assert all(inside), links
    assert not list(missing_files(page))


@pytest.mark.parametrize("page", SITE, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_of_the_site_have_no_mermaid_diagrams(page):
    """The site's theme would load Mermaid from a server; SVG files and text drawings need no download."""
    assert "```mermaid" not in page.read_text(encoding="utf-8")


def test_the_check_of_named_files_sees_missing_ones(tmp_path):
    (tmp_path / "page.md").write_text(
        "`recipe/none.py`, `recipe/treepo/`, `treepo/right`, `docs/source_en/x.md`, `NONE.md`\n"
        "```\nbash scripts/none.sh\nbash scripts/setup.sh\n```"
    )
    assert list(missing_files(tmp_path / "page.md")) == ["recipe/none.py", "NONE.md", "scripts/none.sh"]
