# SPDX-License-Identifier: Apache-2.0
"""Pictures of docs/trees.md: output of their script, in agreement with the page."""

import pytest

from helpers.load_file import load_file
from helpers.paths import ROOT

SCRIPT = load_file("scripts/docs_pictures.py")
FOLDER = ROOT / "docs/pictures"


@pytest.fixture(scope="module")
def pictures() -> dict[str, str]:
    return SCRIPT.pictures()


def test_the_files_are_the_output_of_the_script(pictures):
    files = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.svg")}
    different = {name for name in {*files, *pictures} if files.get(name) != pictures.get(name)}
    assert not different, "run python scripts/docs_pictures.py"


def test_the_page_shows_every_picture(pictures):
    page = (ROOT / "docs/trees.md").read_text(encoding="utf-8")
    assert all(f"](pictures/{name})" in page for name in pictures)


def test_the_advantages_by_hand(pictures):
    """Rewards are 0, 0 below A and 0, 1 below B; the means are 1/4 (prompt), 0 (A) and 1/2 (B).

    AA and AB: (-1/4 + 0) / 2. BA: (-1/4 - 1/2) / 2. BB: (3/4 + 1/2) / 2.
    """
    for text in ("A: mean reward 0", "B: mean reward 1/2", "AA: advantage -1/8", "AB: advantage -1/8"):
        assert f">{text}<" in pictures["advantages.svg"]
    for text in ("BA: advantage -3/8", "BB: advantage 5/8"):
        assert f">{text}<" in pictures["advantages.svg"]


@pytest.mark.parametrize(("branch", "name"), [("1", "B"), ("0.1", "AB"), ("0.1~0", "AB~"), ("0.1~0.0.1", "AB~AB")])
def test_names_of_branches(branch, name):
    assert SCRIPT.name_of(branch) == name
