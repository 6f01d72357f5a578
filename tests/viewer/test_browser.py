# SPDX-License-Identifier: Apache-2.0
"""The pages in a real browser: contents, clicks, switches, filters and keys."""

import pytest

from helpers.browser import cells, shown_text
from recipe.treepo.viewer.layout import layout, path_to
from recipe.treepo.viewer.page_data import index_rows, tree_data
from recipe.treepo.viewer.selection import page_name
from recipe.treepo.viewer.visible import visible


def data_of(tree):
    return tree_data(tree, layout(tree))


def fills(page):
    return page.eval_on_selector_all(
        "#picture [data-node]", "groups => groups.map(group => group.querySelector('rect').getAttribute('fill'))"
    )


def row_of(tree, key):
    return next(n for n, row in enumerate(layout(tree).rows) if tree["nodes"][row.node]["key"] == key)


def open_tree(page, address, dump, uid):
    entry = next(entry for entry in dump.trees() if entry.uid == uid)
    page.goto(f"{address}/{page_name(entry)}")
    return dump.load(entry)


# --- index ------------------------------------------------------------------------------------------------------------


def test_the_index_shows_sorts_and_filters(page, address, dump):
    page.goto(address)
    rows = index_rows(dump.trees())

    def prompts():
        return [line[3] for line in cells(page, "#trees")]

    first = cells(page, "#trees")[1]
    assert first == ["10", "train", "0", rows[1]["prompt"], "0.500", "mixed", "1.61x", "4", "2", "2"]
    assert prompts() == [row["prompt"] for row in rows]
    page.click("[data-sort=reward]")
    rewards = [line[4] for line in cells(page, "#trees")]
    assert rewards == sorted(rewards, reverse=True)
    page.click("[data-sort=reward]")
    assert [line[4] for line in cells(page, "#trees")] == sorted(rewards)
    assert page.get_attribute("th:has([data-sort=reward])", "aria-sort") == "ascending"
    page.check("#mixed")
    assert {line[5] for line in cells(page, "#trees")} == {"mixed"} and page.text_content("#count") == "4 of 6"
    page.check("#fallbacks")
    assert {line[2] for line in cells(page, "#trees")} == {"0"} and page.text_content("#count") == "2 of 6"
    page.check("#failures")
    assert page.text_content("#count") == "2 of 6"
    for box in ("#mixed", "#fallbacks", "#failures"):
        page.uncheck(box)
    page.select_option("#split", "val")
    assert page.text_content("#count") == "1 of 6"
    page.select_option("#split", "")
    page.fill("#search", "IS 3 +")
    assert prompts() == ["<|user|>What is 3 + 2?<|assistant|>"]
    page.fill("#search", "train-20")
    assert page.text_content("#count") == "2 of 6"
    page.click("#trees a >> nth=0")
    assert page.text_content("h1").startswith("train step 20")


# --- page of a tree ---------------------------------------------------------------------------------------------------


def test_a_tree_page_shows_the_path_that_is_clicked(page, address, dump):
    tree = open_tree(page, address, dump, "train-10-0")
    nodes = tree["nodes"]
    number = {node["key"]: node["index"] for node in nodes}
    # The box of 1 has six rows: a click near its lower edge selects the last path, near its upper edge the first.
    box = page.locator(f"[data-node='{number['1']}'] > rect").bounding_box()
    for height, key in ((0.98, "1.3.0"), (0.02, "1.0+.0")):
        page.mouse.click(box["x"] + 20, box["y"] + box["height"] * height)
        assert page.input_value("#first") == str(row_of(tree, key))
        path = path_to(nodes, number[key])[1:]
        assert shown_text(page) == {node: visible(nodes[node]["text"]) for node in path}
        chosen = page.eval_on_selector_all(".chosen", "all => all.map(group => Number(group.dataset.node))")
        assert sorted(chosen) == path
    # The reply is folded, and its messages are shown verbatim.
    reply = page.locator("details.segment")
    assert reply.get_attribute("open") is None
    reply.locator("summary").click()
    assert "4 and <b>no</b> markup" in reply.locator("pre").text_content()
    tokens = page.eval_on_selector_all(
        f"[data-segment='{number['1']}'] .text span", "spans => spans.map(span => [span.textContent, span.className])"
    )
    logprobs = nodes[number["1"]]["logprobs"]
    limits = (-0.1, -0.5, -1, -2, -4)
    tints = [f"t{next((n for n, limit in enumerate(limits) if value > limit), 5)}" for value in logprobs]
    texts = [tree["vocabulary"][str(token)] for token in nodes[number["1"]]["token_ids"]]
    assert [tuple(token) for token in tokens] == list(zip(texts, tints, strict=True))


def test_two_paths_are_compared_from_their_fork_on(page, address, dump):
    tree = open_tree(page, address, dump, "train-10-0")
    number = {node["key"]: node["index"] for node in tree["nodes"]}
    page.select_option("#first", str(row_of(tree, "0.1.0.0")))
    box = page.locator(f"[data-node='{number['0.1.0~0']}'] > rect").bounding_box()
    page.keyboard.down("Shift")
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.keyboard.up("Shift")
    assert page.input_value("#second") == str(row_of(tree, "0.1.0~0"))
    assert set(shown_text(page, ".shared")) == {number[key] for key in ("0", "0.1", "0.1.0@160")}
    assert page.text_content(".shared > summary") == "shared before the fork: 160 tokens"
    first, second = page.locator(".column").all()
    assert first.locator(".segment").count() == 2 and second.locator(".segment").count() == 1
    assert set(shown_text(page, ".column")) == {number[key] for key in ("0.1.0", "0.1.0.0", "0.1.0~0")}
    page.select_option("#second", "")
    assert page.locator(".column").count() == 0


def test_the_credit_of_a_path_by_hand(page, address, dump):
    tree = open_tree(page, address, dump, "train-10-0")
    page.select_option("#first", str(row_of(tree, "1.0+.1")))
    number = {node["key"]: node["index"] for node in tree["nodes"]}
    # Rewards 01010101 in all, 0101 below 1, 01 below 1.0: deviations sqrt(2/7), sqrt(1/3), sqrt(1/2).
    expected = [
        ["prompt", "", "", "8", "0.5", "0.5345", "0.5", "–"],
        ["1", "1", "64", "4", "0.5", "0.5774", "0.5", f"{number['1'] / 100:g}"],
        ["1.0", "2", "55", "2", "0.5", "0.7071", "0.5", f"{number['1.0'] / 100:g}"],
        ["1.0+", "2", "20", "2", "0.5", "0.7071", "0.5", "–"],
        ["1.0+.1", "3", "64", "1", "1", "–", "0", f"{number['1.0+.1'] / 100:g}"],
    ]
    assert [line[:-1] for line in cells(page, "#credit")] == expected
    assert page.text_content("#outcome") == "1 · interaction: solved, 203 tokens"
    assert page.text_content("#parts pre") == '{\n "acc": 1.0\n}'
    page.select_option("#first", str(row_of(tree, "1.3.0")))
    assert page.locator("#parts").is_hidden()


def test_colors_follow_the_switch_and_the_theme(page, address, dump):
    tree = open_tree(page, address, dump, "train-10-0")
    colors = data_of(tree)["colors"]
    for name in ("advantage", "logprob", "version", "reward"):
        page.check(f"[name=color][value={name}]")
        assert fills(page) == colors[name]["light"]["fills"]
        (legend,) = page.locator(".legend:visible").all()
        assert legend.get_attribute("data-legend") == f"{name} light"
    page.emulate_media(color_scheme="dark")
    page.wait_for_selector("[data-legend='reward dark']", state="visible")
    assert fills(page) == colors["reward"]["dark"]["fills"]
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"


def test_a_hint_follows_the_mouse(page, address, dump):
    tree = open_tree(page, address, dump, "train-10-0")
    number = next(node["index"] for node in tree["nodes"] if node["key"] == "0.1.0~0")
    page.locator(f"[data-node='{number}'] > rect").hover()
    lines = page.locator("#tip div").all_text_contents()
    assert lines[:5] == [
        "0.1.0~0",
        "32 tokens, segment 3",
        "fallback: resumed from a finished path",
        "mean reward 0 of 1",
        f"mean advantage −{number / 100:g}",
    ]
    assert lines[-1] == "request 0.64 s, 16 cached tokens"
    page.mouse.move(5, 5)
    assert page.locator("#tip").is_hidden()
    page.evaluate("number => { nodes[number].cached = null; }", number)  # an engine without this number
    page.locator(f"[data-node='{number}'] > rect").hover()
    assert page.locator("#tip div").all_text_contents() == [*lines[:-1], "request 0.64 s"]


def test_keys_lead_to_the_next_and_the_previous_tree_and_keep_the_color(page, address, dump):
    entries = dump.trees()
    page.goto(f"{address}/{page_name(entries[0])}")
    page.check("[name=color][value=logprob]")
    for key, number in (("j", 1), ("j", 2), ("k", 1)):
        page.keyboard.press(key)
        page.wait_for_url(f"{address}/{page_name(entries[number])}#logprob")
        assert page.is_checked("[value=logprob]")
        assert fills(page) == data_of(dump.load(entries[number]))["colors"]["logprob"]["light"]["fills"]
    page.keyboard.press("k")
    page.wait_for_url(f"{address}/{page_name(entries[0])}#logprob")
    page.keyboard.press("k")  # the first tree has no previous one
    assert page.url.endswith(f"{page_name(entries[0])}#logprob")


@pytest.mark.parametrize("width", [1280, 1920])
def test_nothing_is_wider_than_the_window(page, address, dump, width):
    page.set_viewport_size({"width": width, "height": 900})
    for uid in ("train-10-0", "val-20-2"):
        open_tree(page, address, dump, uid)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
