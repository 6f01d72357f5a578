# SPDX-License-Identifier: Apache-2.0
"""README: its size, and the tests that run its commands."""

import ast
import re
from pathlib import Path

from helpers.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
MOST_LINES, MOST_WORDS, MOST_WORDS_OF_DOCS = 130, 1_200, 17_500
# Command of the README -> the test that runs it; run_tests.sh runs this test.
RUN_BY = {
    "pip install --no-deps -e .": (
        "repository/test_packaging.py",
        "test_an_editable_installation_shows_our_packages_and_nothing_else",
    ),
    "bash scripts/run_treepo_qwen0.5b.sh": ("e2e/conftest.py", "main_run"),
    "bash scripts/run_tests.sh": ("repository/test_readme.py", "test_each_command_of_the_readme_is_run_by_a_test"),
    ".venv/bin/python -m recipe.treepo.demo": (
        "test_demo.py",
        "test_the_demo_prints_a_scored_tree_and_writes_its_page",
    ),
    ".venv/bin/python -m recipe.treepo.viewer outputs/runs/EXPERIMENT/trees": (
        "e2e/test_viewer.py",
        "test_the_command_of_the_readme_serves_the_trees_of_a_run",
    ),
}


def commands(text: str) -> list[str]:
    """Return the command lines of the fenced blocks, without comments."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line.partition(" #")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


def functions(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def words(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").split())


def test_the_readme_takes_three_minutes():
    assert len(README.splitlines()) <= MOST_LINES and len(README.split()) <= MOST_WORDS


def test_the_written_pages_have_a_limit():
    """Generated pages do not count: references, support and the tables of the benchmarks."""
    pages = list((ROOT / "docs").rglob("*.md"))
    written = [page for page in pages if page.parent.parent.name != "results" or page.name == "README.md"]
    generated = {"settings.md", "metrics.md", "memory.md", "support.md"}
    # sampling, its ends and its bias, step_speed, packed_speed, packed_long, engine_steps, attention_cost, search_cost;
    # and two, learning, and the study's tables
    assert len(pages) - len(written) == 13
    assert sum(words(page) for page in written if page.name not in generated) <= MOST_WORDS_OF_DOCS


def test_each_command_of_the_readme_is_run_by_a_test():
    """``tests/e2e/test_training.py`` covers the overrides for a run of verl."""
    assert sorted(commands(README)) == sorted(RUN_BY)
    for file, name in RUN_BY.values():
        assert name in functions(ROOT / "tests" / file)
