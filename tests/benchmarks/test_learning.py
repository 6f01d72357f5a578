# SPDX-License-Identifier: Apache-2.0
"""The comparison of training runs: sums until each validation, runs that were resumed, and its tables."""

import json
import math
from pathlib import Path

import pytest

from benchmarks import learning
from recipe.treepo.evaluation.markdown import table

SCORE = "val-core/words/acc/mean@2"


def step(number: int, tokens: float, update: float, **more: float) -> dict[str, object]:
    timers = {"gen": 1.0, "old_log_prob": 1.0, "adv": 0.0, "update_actor": update, "update_weights": 0.5}
    data = {f"timing_s/{name}": value for name, value in timers.items()}
    data |= {"timing_s/step": 99.0, "treepo/decoded_tokens": tokens, "treepo/trajectories": 8, "treepo/engine_calls": 2}
    return {"step": number, "data": data | {"treepo/mixed_prompts": 0.25 * number} | more}


def write(run: Path, *records: dict[str, object], start: int | None = None) -> Path:
    logs = run / "logs" / (f"start_{start}" if start else ".")
    logs.mkdir(parents=True, exist_ok=True)
    (logs / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return run


@pytest.fixture
def resumed(tmp_path) -> Path:
    """Steps 1 to 4; the first start did step 2 as well, and the second began with a validation after step 1."""
    run = tmp_path / "resumed"
    write(run, {"step": 0, "data": {SCORE: 0.1}}, step(1, 100, 1.5), step(2, 9999, 9.5, **{SCORE: 0.9}), start=1)
    second = [step(2, 200, 2.5, **{SCORE: 0.3}), step(3, 100, 3.5), step(4, 100, 4.5, **{SCORE: 0.5})]
    return write(run, {"step": 1, "data": {SCORE: 0.2}}, *second)


def test_a_resumed_run_counts_each_step_once_and_the_later_one(resumed):
    arm = learning.read_arm("trees", resumed)
    assert arm.validations == [(0, 0.1), (1, 0.2), (2, 0.3), (4, 0.5)]
    assert arm.tokens == [0, 100, 300, 500]
    assert arm.seconds == [0, 4, 9, 22]  # 1 + 1 + 0.5 + update of each step
    assert len(arm.steps) == 4


def test_accuracies_are_interpolated_and_never_extrapolated(resumed):
    arm = learning.read_arm("trees", resumed)
    assert [arm.accuracy_at(tokens) for tokens in (0, 50, 300, 450)] == pytest.approx([0.1, 0.15, 0.3, 0.45])
    assert math.isnan(arm.accuracy_at(501))


def test_tables_compare_at_equal_tokens_and_relative_to_the_first_run(resumed, tmp_path):
    short = write(tmp_path / "short", {"step": 0, "data": {SCORE: 0.2}}, step(1, 400, 19.5, **{SCORE: 0.4}))
    arms = [learning.read_arm("plain", short), learning.read_arm("trees", resumed)]
    assert learning.learning(arms) == table(
        ["held out", "before", "100 tokens", "200 tokens", "300 tokens", "400 tokens", "at the end"],
        [
            ["plain", "0.200", "0.250", "0.300", "0.350", "0.400", "0.400 (400 tokens)"],
            ["trees", "0.100", "0.200", "0.250", "0.300", "0.400", "0.500 (500 tokens)"],
        ],
    )
    assert learning.costs(arms) == table(
        ["", "steps", "trajectories", "calls", "decoded tokens", "computed prompt tokens", "mixed prompts", "time"],
        [
            ["plain", "1", "8", "2", "400", "-", "0.25", "1.00"],  # 22 s
            ["trees", "4", "32", "8", "500", "-", "0.62", "1.00"],  # 4 + 5 + 6 + 7 s
        ],
    )
    assert learning.parts(arms) == table(
        ["", *learning.TIMERS.values(), "step", "speed over the first run"],
        [
            ["plain", "4.5%", "4.5%", "0.0%", "88.6%", "2.3%", "100.0%", "1.00"],
            ["trees", "4.5%", "4.5%", "0.0%", "13.6%", "2.3%", "25.0%", "4.00"],  # 3 s and 5.5 s of 22 s
        ],
    )


def test_a_run_without_a_validation_after_training_has_costs_and_times_only(resumed, tmp_path):
    timed = write(tmp_path / "timed", {"step": 0, "data": {SCORE: 0.2}}, step(1, 400, 3.5), step(2, 400, 99.0))
    arms = [learning.read_arm("timed", timed), learning.read_arm("trees", resumed)]
    assert "timed" not in learning.learning(arms) and learning.learning(arms[:1]) == ""
    assert "timed" in learning.costs(arms)
    figure = learning.figure_of(arms)
    assert [line.get_label() for line in figure.axes[0].lines] == ["trees"]
    assert list(figure.axes[1].lines[0].get_xdata()) == [0, 4 / 22, 9 / 22, 1]  # relative to the first run with a curve
    # the first steps: 6 s and 4 s
    assert [row.split()[-2] for row in learning.parts(arms, steps=1).splitlines()[2:]] == ["1.00", "1.50"]


def test_reports_of_evaluations_become_rows(tmp_path):
    def interval(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.1, "high": value + 0.1}

    found = {"problems": 200, "mean": interval(0.5)}
    found |= {"passed": {"1": interval(0.5), "8": interval(0.9)}, "majority": {"1": interval(0.5), "8": interval(0.6)}}
    report = {"runs": [{"arm": "plain", "n": 8, "data_sets": {"words": found, "overall": found}}]}
    (tmp_path / "report.json").write_text(json.dumps(report))
    cells = ["before", "plain", "8", "200", "0.500 [0.400, 0.600]", "0.900 [0.800, 1.000]", "0.600 [0.500, 0.700]"]
    titles = ["model", "sampler", "n", "problems", "mean@n", "pass@n", "maj@n"]
    assert learning.evaluations([("before", tmp_path)]) == table(titles, [cells])


def test_the_report_has_tables_curves_and_numbers(resumed, tmp_path, capsys):
    learning.main([f"trees={resumed}", "--report", str(tmp_path / "page.md")])
    page, printed = (tmp_path / "page.md").read_text(), capsys.readouterr().out
    assert printed.strip() in page and "![Curves](page.png)" in page
    numbers = json.loads((tmp_path / "page.json").read_text())["arms"]
    assert [(arm["name"], arm["tokens"]) for arm in numbers] == [("trees", [0, 100, 300, 500])]
    lines = [line for panel in learning.figure_of([learning.read_arm("trees", resumed)]).axes for line in panel.lines]
    assert [list(line.get_xdata()) for line in lines] == [[0, 100, 300, 500], [0, 4 / 22, 9 / 22, 1]]


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([], "no training step"),
        ([{"step": 0, "data": {SCORE: 0.1}}], "no training step"),
        ([step(1, 1, 1.0)], "no validation"),
        ([step(1, 1, 1.0), step(3, 1, 1.0, **{SCORE: 0.1})], "steps are missing"),
    ],
)
def test_incomplete_runs_are_refused(records, said, tmp_path, capsys):
    with pytest.raises(SystemExit):
        learning.main([f"trees={write(tmp_path / 'run', *records)}"])
    assert said in capsys.readouterr().err
    with pytest.raises(SystemExit):
        learning.main(["trees=nowhere"])
    assert "must be NAME=FOLDER" in capsys.readouterr().err
