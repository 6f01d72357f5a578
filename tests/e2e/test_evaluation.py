# SPDX-License-Identifier: Apache-2.0
"""Evaluation with verl's servers and a vLLM engine, interrupted as by Ctrl-C and resumed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from math import comb
from pathlib import Path

import pandas as pd
import pytest

from helpers.browser import check_pages
from helpers.training_run import ROOT
from recipe.treepo.dumps.reader import Dump
from recipe.treepo.search.statistics import TreeStatistics

N, PROBLEMS = 4, 10
# Seconds after which a start counts as hung; a minute is usual.
LIMIT = 1800


PLAIN = ("--template", "plain", "--val-size", "10")


def make_data(folder: Path) -> list[Path]:
    """Write two data sets whose rows have different fields."""
    lines = folder / "problems.jsonl"
    for module, *arguments in (
        ("tiny.problems", "--out", lines, "--count", "40", "--seed", "9"),
        ("data_prep", "numina_math_tir", "--source", lines, "--out-dir", folder, *PLAIN),
    ):
        subprocess.run([sys.executable, "-m", module, *map(str, arguments)], cwd=ROOT, check=True)
    rows = pd.read_parquet(folder / "val.parquet").to_dict("records")
    files = []
    for name, own in (("easy", rows[:6]), ("hard", rows[6:])):
        for row in own:
            row["data_source"] = name
            if name == "hard":
                row["extra_info"] = {"level": 5}
        files.append(folder / f"{name}.parquet")
        pd.DataFrame(own).to_parquet(files[-1])
    return files


def start(folder: Path, files: list[Path], log: Path) -> subprocess.Popen:
    """Start an evaluation in its own process group, as a shell does."""
    command = [
        *(sys.executable, "-m", "recipe.treepo.main_eval", "platform=cpu", "preset=tiny"),
        f"actor_rollout_ref.model.path={ROOT}/tiny/model",
        f"data.val_files=[{','.join(map(str, files))}]",
        *(f"evaluation.out_dir={folder}/out", f"evaluation.n={N}", "evaluation.prompts_in_flight=2"),
        f"treepo.dump.dir={folder}/trees",
    ]

    def take_interrupts() -> None:  # background processes of a shell inherit ignored interrupts
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with log.open("w") as stream:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=stream,
            stderr=subprocess.STDOUT,
            process_group=0,
            preexec_fn=take_interrupts,
        )


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines(keepends=True)[1:] if path.exists() else []


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    files, samples = make_data(folder), folder / "out/samples"
    first = start(folder, files, folder / "first.txt")
    deadline = time.monotonic() + LIMIT
    while len(lines_of(samples / "plain_n4.jsonl")) < 3 and first.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGINT)
    status = first.wait(timeout=LIMIT)
    kept = lines_of(samples / "plain_n4.jsonl")
    second = start(folder, files, folder / "second.txt")
    assert second.wait(timeout=LIMIT) == 0, (folder / "second.txt").read_text()[-5000:]
    return folder, status, kept


def results(folder: Path, run: str) -> list[dict]:
    return [json.loads(line) for line in lines_of(folder / f"out/samples/{run}_n4.jsonl")]


def test_a_resumed_evaluation_keeps_earlier_samples(evaluation):
    folder, status, kept = evaluation
    assert status == 130, (folder / "first.txt").read_text()[-5000:]
    assert "the same command resumes from there" in (folder / "first.txt").read_text()
    assert 3 <= len(kept)
    assert lines_of(folder / "out/samples/plain_n4.jsonl")[: len(kept)] == kept
    for run in ("plain", "tree"):
        done = sorted((result["data_source"], result["row"]) for result in results(folder, run))
        assert done == [("easy", row) for row in range(6)] + [("hard", row) for row in range(4)]
        assert all(len(result["trajectories"]) == N for result in results(folder, run))
    bars = re.split(r"[\r\n]", (folder / "second.txt").read_text())
    assert any(f"| {PROBLEMS}/{PROBLEMS} [" in bar and "mean=" in bar for bar in bars if bar.startswith("tree, n 4"))


def test_plain_samples_are_independent_and_trees_decode_no_token_twice(evaluation):
    folder, _, _ = evaluation
    for result in results(folder, "plain"):
        statistics = TreeStatistics(**result["statistics"])
        assert statistics.engine_calls == N
        assert statistics.decoded_tokens == sum(t["tokens"] for t in result["trajectories"])
        assert {t["finish_reason"] for t in result["trajectories"]} <= {"eos", "length"}
    shared = 0
    for result in results(folder, "tree"):
        statistics, lengths = TreeStatistics(**result["statistics"]), [t["tokens"] for t in result["trajectories"]]
        assert statistics.decoded_tokens == statistics.unique_tokens + statistics.overrun_tokens
        assert statistics.total_tokens == sum(lengths)
        shared += sum(lengths) - statistics.unique_tokens
        assert len({str(t["path"]) for t in result["trajectories"]}) == N
    assert shared > 0


def test_answers_are_scored_against_the_row_they_were_sampled_for(evaluation):
    folder, _, _ = evaluation
    golds = {
        (name, row): fields["ground_truth"]
        for name in ("easy", "hard")
        for row, fields in enumerate(pd.read_parquet(folder / f"{name}.parquet")["reward_model"])
    }
    right = Counter()
    for run in ("plain", "tree"):
        for result in results(folder, run):
            for trajectory in result["trajectories"]:
                boxes = re.findall(r"\\boxed\{([1-9]\d*)\}", trajectory["response"])
                # Tests of the reward cover several boxes and cut-off ones.
                if len(boxes) == 1 == trajectory["response"].count("boxed"):
                    expected = boxes == [golds[result["data_source"], result["row"]]]
                    assert trajectory["acc"] == float(expected)
                    right[expected] += 1
    assert right[True] > 5 and right[False] > 5


def test_the_report_agrees_with_the_samples(evaluation):
    folder, _, _ = evaluation
    report = json.loads((folder / "out/report.json").read_text())
    assert [(run["arm"], run["n"]) for run in report["runs"]] == [("plain", N), ("tree", N)]
    for run in report["runs"]:
        own = results(folder, run["arm"])
        means, passed = {}, {}
        for name in ("easy", "hard"):
            rows = [result for result in own if result["data_source"] == name]
            counts = [sum(t["acc"] for t in result["trajectories"]) for result in rows]
            means[name] = sum(counts) / (N * len(rows))
            passed[name] = sum(1 - comb(N - int(count), 2) / comb(N, 2) for count in counts) / len(rows)
            summary = run["data_sets"][name]
            assert summary["mean"]["value"] == pytest.approx(means[name])
            assert summary["passed"]["2"]["value"] == pytest.approx(passed[name])
            assert summary["mean"]["low"] <= means[name] <= summary["mean"]["high"]
            for cost in ("decoded_tokens", "engine_calls", "computed_prompt_tokens", "cached_prompt_tokens"):
                assert summary["costs"][cost] == sum(result["statistics"][cost] for result in rows)
            assert summary["costs"]["trajectories_per_second"] > 0
        assert run["data_sets"]["overall"]["mean"]["value"] == pytest.approx(sum(means.values()) / 2)
        assert run["data_sets"]["overall"]["passed"]["2"]["value"] == pytest.approx(sum(passed.values()) / 2)
    console = (folder / "second.txt").read_text()
    assert re.search(r"\| overall +\| tree +\| 4 +\| 10 ", console)
    assert (folder / "out/report.png").read_bytes().startswith(b"\x89PNG")


def test_the_viewer_shows_the_trees_of_all_runs(evaluation):
    folder, _, _ = evaluation
    dump = Dump(folder / "trees")
    dump.refresh()
    trees = {(entry.summary["split"], entry.uid): dump.load(entry) for entry in dump.trees()}
    assert len(trees) == 2 * PROBLEMS
    for run in ("plain", "tree"):
        for result in results(folder, run):
            tree = trees[f"{run}_n{N}", f"{result['data_source']}/{result['row']}"]
            assert [one["reward"] for one in tree["trajectories"]] == [one["score"] for one in result["trajectories"]]
    check_pages(dump.folder, PROBLEMS)
