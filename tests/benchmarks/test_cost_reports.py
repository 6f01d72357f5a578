# SPDX-License-Identifier: Apache-2.0
"""Reports of the benchmarks of the search, of its samples, of attention calls and of engine steps."""

import json
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import attention_cost, engine_steps, sampling_bias, search_cost
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


def test_distance_of_responses_to_the_distribution_of_the_model() -> None:
    # Of the model's 256 responses only two occur: all zeros, three of four times, and one that ends with a 1.
    zeros, one = (0,) * 8, (0,) * 7 + (1,)
    found = sampling_bias.described(Counter({zeros: 3, one: 1}), 0.0)
    assert found["total variation"] == pytest.approx((0.75 - 0.8**8) + (0.25 - 0.8**7 * 0.2))
    assert (found["mean length"], found["mean score"]) == (8, 0.75 + 0.25 * 7 / 8)


def test_report_of_the_samples_has_a_row_per_policy_and_end_rate(tmp_path: Path) -> None:
    sampling_bias.main(["--trees", "20", "--report", str(tmp_path / "bias.md")])
    rows = json.loads((tmp_path / "bias.json").read_text())["rows"]
    names = [name for name, _ in sampling_bias.shapes()]
    assert [(row["policy"], row["end token"]) for row in rows] == [(name, rate) for rate in (0, 0.15) for name in names]
    assert len(set(names)) == len(names)
    # Responses without an end token have full length; pruning by the score raises or lowers it.
    found = {row["policy"]: row["mean score"] for row in rows if row["end token"] == 0}
    assert [row["mean length"] for row in rows if row["end token"] == 0] == [pytest.approx(8)] * len(names)
    assert found["`prune_above=0.5`"] < found["plain samples"] < found["`prune_below=0.5`"]
