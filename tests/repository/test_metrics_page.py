# SPDX-License-Identifier: Apache-2.0
"""docs/reference/metrics.md: generated from the tables in the code, complete for all logged metrics."""

import re
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from helpers.load_file import load_file
from helpers.paths import ROOT
from recipe.treepo.search.statistics import TreeStatistics
from recipe.treepo.verl_adapters.metrics import CONVERSATIONS, OTHERS, RATIOS, SUMS, TREES, sampling_metrics
from recipe.treepo.verl_adapters.outcome_metrics import OUTCOMES, OutcomeRow, outcome_metrics

page = load_file("scripts/metrics_page.py")


def described_by(name: str, described: set[str]) -> set[str]:
    """Return the described names that match a metric; a word in capitals matches any part."""
    return {one for one in described if re.fullmatch(re.sub("[A-Z]+", "[^/]+", one), name)}


def below_treepo(*tables: dict) -> set[str]:
    return {f"treepo/{name}" for table in tables for name in table}


EVERY = below_treepo(SUMS, RATIOS, TREES, CONVERSATIONS, OUTCOMES) | set(OTHERS)


def check(metrics: dict, described: set[str]) -> None:
    """Compare names in both directions."""
    found = {name: described_by(name, described) for name in metrics}
    assert all(len(fitting) == 1 for fitting in found.values()), found
    assert set().union(*found.values()) == described


def test_the_page_is_written_from_the_tables():
    text = page.PAGE.read_text(encoding="utf-8")
    assert text == page.metrics_page(), "run python scripts/metrics_page.py"
    for name in EVERY | set(page.VERL):
        assert len(re.findall(rf"^\| `{name}` +\| .+ \| .+ \|$", text, re.MULTILINE)) == 1, name


def test_all_metrics_of_sampling_are_described():
    plain = [("a", 3, 5, {"reward_extra_info": {"acc": 1.0}, "num_cached_tokens": 0, "thinking_tokens": 2})]
    check(sampling_metrics(plain), below_treepo(SUMS, RATIOS))
    tree = TreeStatistics(trajectories=1, total_tokens=5, unique_tokens=5, parents=1, finish_details={"won": 1})
    rows = [*plain, ("b", 3, 5, {"tree_statistics": asdict(tree)})]
    check(sampling_metrics(rows), below_treepo(SUMS, RATIOS, TREES, CONVERSATIONS))


def test_all_metrics_of_outcomes_are_described():
    rows = [
        OutcomeRow("a", [(1, 0), (leaf, 2)], [1, 2], reward=float(leaf), advantages=np.ones(3), mask=np.ones(3))
        for leaf in (2, 3)
    ]
    check(outcome_metrics(rows), below_treepo(OUTCOMES))


def test_all_metrics_named_in_the_code_are_described_and_the_others_are_in_it():
    code = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("recipe", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
    )
    named = set(re.findall(r'"((?:treepo|val-aux)/\w[\w/]*)"', code)) | {
        f"actor/{name}" for name in re.findall(r'\["(packing/\w+)"\]', code)
    }
    assert {"treepo/right", "treepo/dump_failures", "actor/packing/unique_over_total"} <= named
    assert not {name for name in named if not described_by(name, EVERY)}
    assert set(OTHERS) <= named


def test_all_metrics_named_on_pages_are_described():
    for path in sorted((ROOT / "docs").rglob("*.md")):
        named = re.findall(r"`((?:treepo|actor/packing)/\w[\w/]*)`", path.read_text(encoding="utf-8"))
        assert not {name for name in named if not described_by(name, EVERY)}, path


def test_verl_logs_its_metrics_of_the_page():
    (folder,) = find_spec("verl").submodule_search_locations
    files = ("trainer/ppo/metric_utils.py", "trainer/ppo/v1/trainer_base.py", "utils/debug/metrics.py")
    code = "\n".join((Path(folder) / file).read_text(encoding="utf-8") for file in files)
    made_from_parts = {"timing_s/step", "val-core/SOURCE/acc/mean@N", "val-aux/SOURCE/reward_timeout/mean@N"}
    assert made_from_parts < set(page.VERL)
    assert not [name for name in page.VERL if name not in made_from_parts and f'"{name}"' not in code]
    assert 'f"timing_s/{name}"' in code and 'f"{metric_sec}/{data_source}/{var_name}/{metric_name}"' in code
