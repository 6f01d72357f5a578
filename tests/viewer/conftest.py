# SPDX-License-Identifier: Apache-2.0
"""Dumps shared by tests of the viewer; no test changes them."""

from pathlib import Path

import pytest

from helpers.browser import Watch, open_browser, serving
from helpers.dumped_trees import Words, even_tree, origin, rich_tree, write_tree
from recipe.treepo.dumps.reader import Dump


@pytest.fixture(scope="session")
def words() -> Words:
    return Words(2_000)


@pytest.fixture(scope="session")
def folder(tmp_path_factory, words) -> Path:
    """A dump of six trees: ``rich_tree`` at steps 10 and 20, and small even trees of training and validation."""
    folder = tmp_path_factory.mktemp("trees")
    small = even_tree(words, levels=3, segment=20, width=4)
    write_tree(folder, rich_tree(words), origin(0), words.decode)
    write_tree(folder, small, origin(1), words.decode, rewards=[1.0] * 4)
    write_tree(folder, rich_tree(words, seed=1), origin(0, step=20), words.decode)
    write_tree(folder, small, origin(1, step=20), words.decode, advantages=False)
    write_tree(folder, small, origin(2, step=20, split="val"), words.decode, rewards=[0.0] * 4)
    write_tree(folder, small, origin(3, step=0, split="amc paper_best"), words.decode)
    return folder


@pytest.fixture
def dump(folder) -> Dump:
    dump = Dump(folder)
    dump.refresh()
    return dump


@pytest.fixture
def rich(dump) -> dict:
    """``rich_tree`` of step 10 as read by the viewer; node ``n`` has the key, credit and reward stated in the tests."""
    return dump.load(next(entry for entry in dump.trees() if entry.uid == "train-10-0"))


@pytest.fixture(scope="module")
def browser():
    """Chromium, for less than a session: while it is open, ``asyncio.run`` fails in its thread."""
    with open_browser() as browser:
        yield browser


@pytest.fixture
def page(browser):
    """An empty page; the test fails if its contents made a request or ran foreign code."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.watch = Watch(page)
    yield page
    context.close()
    assert page.watch.troubles == []
    assert all(address.startswith(("http://127.0.0.1:", "file:///")) for address in page.watch.requests)


@pytest.fixture
def address(dump):
    with serving(dump) as address:
        yield address
