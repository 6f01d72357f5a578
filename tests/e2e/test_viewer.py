# SPDX-License-Identifier: Apache-2.0
"""Trees of a real training run, in a browser and as the picture of the README."""

import re
import subprocess
import sys
from urllib.request import urlopen
from xml.etree import ElementTree

import pytest

from helpers.browser import check_pages
from helpers.paths import ROOT
from recipe.treepo.dumps.reader import Dump
from recipe.treepo.viewer.__main__ import main
from recipe.treepo.viewer.layout import path_to
from recipe.treepo.viewer.selection import page_name

SHOWN = 3  # opened trees


@pytest.fixture(scope="module")
def dump(main_run):
    dump = Dump(main_run.folder / "trees")
    dump.refresh()
    return dump


def test_pages_show_the_trees_of_a_run(dump):
    check_pages(dump.folder, SHOWN)


def test_the_dump_has_reward_and_advantage_of_each_trajectory(dump):
    for entry in dump.trees():
        tree = dump.load(entry)
        for trajectory in tree["trajectories"]:
            assert trajectory["reward"] in (0.0, 1.0) and trajectory["parts"]["acc"] == trajectory["reward"]
            credited = [node for node, _ in trajectory["advantages"]]
            assert credited == path_to(tree["nodes"], trajectory["leaf"])[1:]


def test_the_command_of_the_readme_serves_the_trees_of_a_run(dump):
    command = [sys.executable, "-m", "recipe.treepo.viewer", str(dump.folder), "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as viewer:
        try:
            address = next(match[0] for line in viewer.stdout if (match := re.search(r"http://127\.0\.0\.1:\d+", line)))
            with urlopen(address, timeout=60) as answer:
                page = answer.read().decode()
        finally:
            viewer.terminate()
    assert all(page_name(entry) in page for entry in dump.trees())


def test_one_command_makes_the_picture_of_the_readme(dump, tmp_path):
    entry = next(entry for entry in reversed(dump.trees()) if entry.summary["mixed"])
    picture = tmp_path / "tree.svg"
    step = str(entry.summary["step"])
    assert main([str(dump.folder), "--step", step, "--uid", entry.uid, "--svg", str(picture)]) == 0
    texts = {text for element in ElementTree.fromstring(picture.read_bytes()).iter() if (text := element.text)}
    assert any("answer" in text for text in texts) and any(text.startswith("train step") for text in texts)
