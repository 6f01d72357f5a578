# SPDX-License-Identifier: Apache-2.0
"""Sampler benchmark through its script, on verl's real servers."""

import os
import subprocess
import sys

import pytest

from benchmarks.sampling.cases import Arm, quick
from benchmarks.sampling.results import read_results
from helpers.training_run import OUTPUTS, ROOT


@pytest.mark.slow
def test_the_quick_plan_measures_all_samplers_and_is_no_worse_than_itself(tmp_path):
    environment = {**os.environ, "OUTPUTS": str(OUTPUTS)}
    command = ["bash", "scripts/bench/quick.sh", "--out", str(tmp_path), "--repetitions", "1"]
    subprocess.run(command, cwd=ROOT, env=environment, timeout=1500, check=True)
    results, about = read_results(tmp_path / "results.json")
    assert sorted(map(repr, (result.case for result in results))) == sorted(map(repr, quick()))
    assert about["machine"]["versions"]["verl"]
    for result in results:
        counts = result.counts
        assert counts["trajectories"] == result.case.prompts * result.case.width
        if result.case.part == "samplers":
            segments = {Arm.PLAIN: 56, Arm.LOOPS: 56}.get(result.case.arm, 39)
            if result.case.arm is not Arm.ALIGNED:  # its first segments have other lengths
                assert counts["unique_tokens"] == result.case.prompts * segments * 64
            # No token is decoded twice or discarded.
            assert counts["decoded_tokens"] == counts["unique_tokens"]
    page = (tmp_path / "report.md").read_text()
    assert "Samplers, no early ends" in page and "Samplers, responses end by themselves" in page
    compare = [sys.executable, "-m", "benchmarks.sampling_compare", *[str(tmp_path / "results.json")] * 2]
    assert subprocess.run(compare, cwd=ROOT, check=False).returncode == 0
