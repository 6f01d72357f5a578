# SPDX-License-Identifier: Apache-2.0
"""Reports of the benchmarks of the search, of attention calls and of engine steps."""

import json
from pathlib import Path

import pytest

from benchmarks import attention_cost, engine_steps, search_cost
from recipe.treepo.packed.prefix_tree import CallCost


def test_report_of_the_search_counts_nodes_and_requests(tmp_path: Path) -> None:
    # Per tree the root, then 2, 4, 4 and 4 segments; the last four paths have one request each at branch points.
    sizes = ["--prompts", "4", "--width", "4", "--depth", "4", "--segment", "2"]
    search_cost.main([*sizes, "--rounds", "2", "--report", str(tmp_path / "search.md")])
    report = json.loads((tmp_path / "search.json").read_text())
    words = [*sizes, "--rounds", "2", "--report", f"{tmp_path}/search.md"]
    assert report["command"] == f"python -m benchmarks.search_cost {' '.join(words)}"
    names = ("prompts", "search", "requests stop at", "nodes", "requests")
    found = [tuple(case[name] for name in names) for case in report["cases"]]
    assert found == [
        (prompts, search, stops, prompts * 15, prompts * requests)
        for prompts in (1, 2, 4)
        for stops, requests in (("every boundary", 14), ("branch points", 6))
        for search in ("by_level", "by_path")
    ]
    assert all(case["seconds"] == sum(case["seconds of rounds"]) / 2 for case in report["cases"])


def test_fit_finds_the_cost_that_made_the_times() -> None:
    made = CallCost(call=9_000, key=40)
    times = {(queries, above): 1e-9 * made.of(queries, above) for queries in (1, 8, 128) for above in (128, 2048)}
    cost = attention_cost.fit(times)
    assert (cost.call, cost.key) == pytest.approx((9_000, 40))


def test_engine_steps_fit_finds_the_cost_that_made_the_times() -> None:
    made = {count: 0.003 + 0.0001 * count for count in (4, 64, 256)}
    assert engine_steps.fit(made) == pytest.approx((0.003, 0.0001))
