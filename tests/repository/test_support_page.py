# SPDX-License-Identifier: Apache-2.0
"""docs/support.md: generated from the tables beside the rules; the README claims nothing beyond it."""

import re

from helpers.load_file import load_file
from helpers.paths import ROOT
from recipe.treepo.settings.support import MODE, TESTED, TRAINER_MODES

page = load_file("scripts/support_page.py")


def rows(text: str, title: str) -> dict[str, list[str]]:
    """Return the cells of a table's rows by their first cell; ``title`` begins its header."""
    lines = text.partition(f"\n| {title}")[2].partition("\n\n")[0].splitlines()[2:]
    cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {first: rest for first, *rest in cells}


def test_the_page_is_written_from_the_tables():
    assert page.PAGE.read_text(encoding="utf-8") == page.support_page(), "run python scripts/support_page.py"


def test_the_cells_of_the_page_by_hand():
    text = page.PAGE.read_text(encoding="utf-8")
    first, second = text.partition("SGLang:")[0], text.partition("SGLang:")[2]
    # trainer modes sync, colocate_async, separate_async, each without and with LoRA
    all_weights = ["composes", "refused"] * 3
    assert rows(first, "strategy") == {
        "fsdp2": ["tested", "tested", "tested", "composes", "tested", "composes"],
        **{name: ["composes"] * 6 for name in ("fsdp", "fsdp_turbo", "megatron")},
        **{name: all_weights for name in ("veomni", "torchtitan")},
    }
    assert rows(second, "strategy")["fsdp2"] == ["composes"] * 6
    families = rows(text, "family")
    assert families["Qwen3"] == ["`qwen3`", "composes", "unit tests"]
    tested = [["`qwen2`", "tested", "tested"], ["`llama`", "tested", "tested"]]
    assert [cells for cells in families.values() if "tested" in cells] == tested
    assert rows(text, "verl's server")["trees"] == ["tested", "composes", "refused"]


def test_the_readme_calls_tested_what_the_page_does():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    support = dict(re.findall(r"^\| (tested|composes, never run|refused) \| (.*) \|$", readme, re.MULTILINE))
    tested = {parts[MODE] for parts in TESTED.values()}
    for mode in TRAINER_MODES:
        assert f"`{mode}`" in support["tested" if mode in tested else "composes, never run"]
    assert "TensorRT-LLM" in support["refused"] and "SGLang" in support["composes, never run"]
