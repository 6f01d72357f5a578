# SPDX-License-Identifier: Apache-2.0
"""Links between the pages, and the commands in them."""

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from helpers.paths import ROOT

PAGES = sorted(
    [*ROOT.glob("*.md"), *(page for folder in ("docs", "benchmarks", "tiny") for page in (ROOT / folder).rglob("*.md"))]
)
# Scripts that only the history has, by the index of benchmarks.
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
    named = re.findall(r"python -m ((?:benchmarks|data_prep|recipe|tiny)[\w.]*)", text)
    gone = {name for name in named if find_spec(name.rstrip(".")) is None}
    assert gone <= STUDIES
    assert not gone or re.search(r"commit\s+`[0-9a-f]{7}`", text)


def test_every_page_can_be_reached_from_the_readme():
    seen, left = set(), [ROOT / "README.md"]
    while left:
        page = left.pop()
        if page not in seen:
            seen.add(page)
            links = re.findall(r"\]\(([^)\s#]+\.md)", page.read_text(encoding="utf-8"))
            left += [(page.parent / link).resolve() for link in links if "://" not in link]
    assert set(PAGES) <= seen
