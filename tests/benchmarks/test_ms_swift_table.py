# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of ms-swift's TreePO table; tests/e2e/test_conversations.py checks the runs."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import ms_swift_table
from benchmarks.ms_swift_table import REFERENCE, main, parse, prepare, saving, summarize, table


def step(calls: int, seconds: float, gen: float) -> dict[str, float]:
    return {
        "treepo/engine_calls": float(calls),
        "treepo/decoded_tokens": 100.0,
        "treepo/computed_prompt_tokens": 10.0,
        "treepo/cached_prompt_tokens": 1000.0,
        "timing_s/step": seconds,
        "timing_s/gen": gen,
        "num_turns/mean": 6.0,
        "critic/rewards/mean": 0.25,
    }


def test_a_row_counts_all_steps_and_times_those_after_the_warm_up():
    row = summarize(4, 3, [step(160, 100.0, 90.0), step(160, 4.0, 1.0), step(128, 6.0, 2.0)], warm_up=1)
    assert (row.calls, row.decoded, row.computed, row.cached, row.steps) == (448, 300, 30, 3000, 3)
    # 2 steps in 10 seconds, 3 of them for sampling; verl counts the turns of both sides.
    assert (row.steps_per_second, row.rollout_share, row.turns) == (0.2, 0.3, 3.0)
    assert row.calls_per_prompt == pytest.approx(448 / 24)
    assert row.reward == 0.25


def test_trees_are_compared_with_the_loops_of_their_depth():
    base = summarize(4, None, [step(256, 5.0, 2.0)], warm_up=0)
    tree = summarize(4, 3, [step(160, 4.0, 1.0)], warm_up=0)
    other = replace(base, depth=5, calls=320, steps_per_second=0.5)
    lines = table([base, tree, other]).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[0] for row in cells[2:]] == [
        "original implementation",
        "tree (max_divergence=3)",
        "original implementation",
    ]
    # 160 of 256 calls; 0.25 against 0.2 steps per second.
    assert cells[3][5:11] == ["160", "20.00", "37.50%", "38.34", "0.2500", "25.00%"]
    assert cells[2][7:9] == cells[4][7:9] == ["0.00%", ""]
    assert len({len(row) for row in cells}) == 1


def test_ms_swifts_savings_follow_from_its_counts():
    counts = {
        (4, 3): (5965, 3678),
        (5, 2): (4312, 2513),
        (5, 3): (4312, 2990),
        (6, 2): (5202, 3348),
        (6, 3): (5202, 3888),
    }
    assert {key: round(100 * (1 - tree / loops), 2) for key, (loops, tree) in counts.items()} == REFERENCE


def test_runs_with_a_result_are_kept_and_others_are_made(tmp_path, monkeypatch, capsys):
    made = []

    def train(depth, divergence, options):
        made.append((depth, divergence))
        return summarize(depth, divergence, [step(100 if divergence else 200, 1.0, 0.5)] * 3, warm_up=1)

    monkeypatch.setattr(ms_swift_table, "train", train)
    arguments = ["--out", str(tmp_path), "--steps", "3", "--warm-up", "1", "--report", str(tmp_path / "page.md")]
    main(arguments)
    assert made == [(depth, divergence) for depth in (4, 5, 6) for divergence in (None, 2, 3)]
    main([*arguments, "--seed", "1"])
    assert len(made) == 18
    main([*arguments, "--seed", "1"])
    assert len(made) == 18
    page, results = (tmp_path / "page.md").read_text(), json.loads((tmp_path / "page.json").read_text())
    # Results of another machine are measured again, because a table has one machine.
    monkeypatch.setattr(ms_swift_table, "machine", lambda: {"cpus": 64, "python": "3.12.1", "versions": {"ray": "3"}})
    main([*arguments, "--seed", "1", "--depths", "4", "--report", str(tmp_path / "other.md")])
    assert made[18:] == made[:3]
    assert "\n64 CPUs, Python 3.12.1, ray 3\n" in (tmp_path / "other.md").read_text()
    assert "--seed 1" in page and page.count("50.00%") == 6
    assert [(row["depth"], row["divergence"]) for row in results["rows"]] == made[:9]
    assert "original implementation" in capsys.readouterr().out


def test_problems_of_other_lengths_are_other_files(tmp_path, monkeypatch):
    commands = []

    def made(command, **_):
        commands.append(command)
        if "--val-size" in command:
            folder = Path(command[command.index("--out-dir") + 1])
            folder.mkdir(parents=True)
            (folder / "train.parquet").touch()
            (folder / "val.parquet").touch()

    monkeypatch.setattr(ms_swift_table.subprocess, "run", made)
    first, again, other = (
        prepare(parse(["--out", str(tmp_path), "--problem-steps", *steps])) for steps in ("67", "67", "23")
    )
    assert first == again and not set(first.values()) & set(other.values())
    assert [command[command.index("--min-steps") + 1] for command in commands[::2]] == ["6", "2"]
    assert all(find_spec(command[command.index("-m") + 1]) for command in commands)


@pytest.mark.parametrize(
    "wrong", [["--warm-up", "10"], ["--time-limit", "0"], ["--problem-steps", "5", "4"], ["--depths", "3"]]
)
def test_a_table_that_cannot_be_made_is_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        parse(wrong)
    assert wrong[0] in capsys.readouterr().err


def test_saving_is_of_calls():
    base = summarize(5, None, [step(320, 1.0, 1.0)], warm_up=0)
    assert saving(replace(base, calls=184), base) == pytest.approx(42.5)
