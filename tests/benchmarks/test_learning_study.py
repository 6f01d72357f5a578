# SPDX-License-Identifier: Apache-2.0
"""The harness of the learning study, without training: arms, curves, table, and how a run is ended."""

import argparse
import json
import shlex
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from benchmarks import learning_study, process_session
from benchmarks.learning_curves import Point, accumulate, at, band, cut, has_reached, mean_accuracy, read_records
from benchmarks.learning_report import BEGIN, END, check_report, facts, summary, table, time_ratio, write_report
from benchmarks.learning_study import (
    ARMS,
    COMMON,
    StudyError,
    check_results,
    order_of_runs,
    parse,
    repeat,
    resolve_arms,
    result_path,
)
from benchmarks.process_session import living, stop_session

# Validated after steps 0, 2 and 4, at 0, 400 and 800 decoded tokens, 10 seconds a step.
CURVE = [
    Point(step=0, accuracy=0.2),
    Point(step=1, decoded_tokens=300, computed_prompt_tokens=50, seconds=10, engine_calls=8, reward=0.1),
    Point(step=2, decoded_tokens=400, computed_prompt_tokens=90, seconds=20, engine_calls=16, reward=0.2, accuracy=0.4),
    Point(step=3, decoded_tokens=700, computed_prompt_tokens=95, seconds=30, engine_calls=24, reward=0.3),
    Point(step=4, decoded_tokens=800, computed_prompt_tokens=99, seconds=40, engine_calls=32, reward=0.4, accuracy=0.8),
]
FASTER = [Point(accuracy=0.3), Point(step=8, decoded_tokens=800, seconds=20, accuracy=0.9)]


def step(number, tokens, accuracy=None):
    data = {
        "treepo/decoded_tokens": tokens,
        "treepo/computed_prompt_tokens": 5.0,
        "treepo/engine_calls": 4.0,
        "treepo/trajectories": 2.0,
        "timing_s/step": 1.5,
        "timing_s/testing": 99.0,
        "critic/rewards/mean": 0.25,
        "val-aux/num_turns/mean": 2,
    }
    return {"step": number, "data": data | ({} if accuracy is None else {"val-core/tiny/acc/mean@4": accuracy})}


def test_costs_add_up_over_steps_and_time_leaves_validation_out():
    records = [{"step": 0, "data": {"val-core/tiny/acc/mean@4": 0.1}}, step(1, 10.0), step(2, 20.0, 0.6)]
    assert accumulate(records) == [
        Point(accuracy=0.1),
        Point(1, 10.0, 5.0, 4.0, 2.0, 1.5, reward=0.25),
        Point(2, 30.0, 10.0, 8.0, 4.0, 3.0, reward=0.25, accuracy=0.6),
    ]


def test_a_run_without_one_held_out_accuracy_is_refused():
    with pytest.raises(ValueError, match="step 0: 0 metrics"):
        accumulate([{"step": 0, "data": {}}])
    with pytest.raises(ValueError, match="step 0: 2 metrics"):
        accumulate([{"step": 0, "data": {"val-core/a/acc/mean@4": 0.1, "val-core/b/acc/mean@4": 0.1}}])


def test_a_line_that_is_being_written_is_left_for_later(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_records(path) == []
    path.write_text('{"step": 0, "data": {}}\n{"step": 1, "da')
    assert read_records(path) == [{"step": 0, "data": {}}]


def test_values_are_interpolated_between_points_that_have_them():
    assert at(CURVE, "accuracy", 100) == pytest.approx(0.25)  # a quarter of the way from 0.2 to 0.4
    assert at(CURVE, "accuracy", 600) == pytest.approx(0.6)  # half way from 0.4 to 0.8, past step 3 without any
    assert at(CURVE, "seconds", 550) == pytest.approx(25)  # half way between steps 2 and 3
    assert at(CURVE, "computed_tokens", 550) == pytest.approx(550 + 92.5)
    assert at(CURVE, "accuracy", 800) == pytest.approx(0.8)


def test_nothing_is_extrapolated():
    assert at(CURVE, "accuracy", 800.1) is None
    assert at(CURVE[:4], "accuracy", 500) is None  # seconds are known to 700 tokens, accuracy to 400
    assert at(CURVE[:4], "seconds", 500) is not None
    assert not has_reached(CURVE[:4], 500) and has_reached(CURVE, 800)
    assert mean_accuracy(CURVE[:4], 500) is None
    assert at([], "accuracy", 0) is None


def test_area_under_the_curve():
    # 400 tokens from 0.2 to 0.4: 120; 200 tokens from 0.4 to 0.6: 100; together 220 of 600
    assert mean_accuracy(CURVE, 600) == pytest.approx(220 / 600)
    # and the whole: 120 + 400 tokens from 0.4 to 0.8: 240
    assert mean_accuracy(CURVE, 800) == pytest.approx(360 / 800)


def test_a_curve_is_cut_at_the_budget():
    # 600 tokens: two thirds of the way from step 2 (400 tokens, 20 s) to step 3 (700 tokens, 30 s)
    kept = cut(CURVE, 600)
    assert [point.decoded_tokens for point in kept] == [0, 400, 600]
    assert kept[-1].seconds == pytest.approx(20 + 10 * 2 / 3) and kept[-1].accuracy == pytest.approx(0.6)
    assert [point.decoded_tokens for point in cut(CURVE, 900)] == [0, 400, 800]  # short: as far as it goes


def test_a_band_ends_where_the_first_run_ends():
    grid, accuracies = band([cut(CURVE, 800), cut(FASTER, 800)], "seconds", count=3)
    assert grid.tolist() == [0, 10, 20]  # FASTER ends at 20 s
    assert accuracies.ravel().tolist() == pytest.approx([0.2, 0.3, 0.4, 0.3, 0.6, 0.9])


def test_a_row_of_the_table():
    # at 600 tokens: CURVE 26.67 s, accuracy 0.6, area 220 / 600; FASTER 15 s, step 6, accuracy 0.3 + 0.75 x 0.6 = 0.75,
    # at 300 tokens 0.525, area (0.3 + 0.75) / 2
    row = summary("Trees", {0: FASTER}, {0: CURVE, 1: CURVE}, 600)
    assert row == [
        *("Trees", "1", "0.300", "0.525", "0.750", "0.525"),
        *("6", "0", "0", "600", "0.56 (15 s)"),
    ]
    both = summary("Both", {0: FASTER, 1: CURVE}, {}, 600)
    assert both[4] == "0.675 (0.600-0.750)"
    assert both[-1] == "- (21 s)"  # nothing to compare with; (15 + 26.67) / 2


def test_short_runs_are_named_and_left_out():
    row = summary("Trees", {0: FASTER, 1: CURVE[:4]}, {0: CURVE, 1: CURVE}, 600)
    assert row[1] == "1, short: 1 at 400"
    assert row[4] == "0.750"
    assert summary("Trees", {1: CURVE[:4]}, {}, 600)[1:] == ["0, short: 1 at 400", *["-"] * 9]


def test_time_is_compared_seed_by_seed():
    # seed 0: 20 s over 40 s; seed 1: 40 s over 20 s; seed 2 has no partner
    ours, theirs = {0: FASTER, 1: CURVE, 2: CURVE}, {0: CURVE, 1: FASTER}
    assert time_ratio(ours, theirs, 800) == "1.25"


def result(arm, seed, points, overrides=()):
    rows = [vars(point) for point in points]
    machine = {"cpus": 2, "python": "3.11.7", "versions": {"verl": "0.9.1"}}
    return {**{"arm": arm, "label": ARMS[arm].label, "seed": seed, "overrides": list(overrides)}} | {
        "points": rows,
        "machine": machine,
    }


RESULTS = [result("grpo_plain", 0, CURVE), result("treepo", 0, FASTER), result("grpo_plain", 1, FASTER)]


def test_the_settings_that_all_arms_share_are_named_once():
    runs = [
        result("grpo_plain", 0, CURVE, ["lr=1", "sampler=plain", "estimator=grpo"]),
        result("grpo_tree", 0, CURVE, ["lr=1", "estimator=grpo"]),
    ]
    lines = facts(runs).splitlines()
    assert "Settings, on top of the preset `tiny`: `lr=1`, and" in lines
    assert lines[-2:] == [
        "- GRPO, plain samples: `sampler=plain` `estimator=grpo`",
        "- GRPO on trees: `estimator=grpo`",
    ]


def test_the_table_has_a_row_per_arm():
    lines = table(RESULTS, 800).splitlines()
    assert [line.split(" | ")[0] for line in lines] == ["| arm", "| ---", "| GRPO, plain samples", "| TreePO"]
    assert len({line.count("|") for line in lines}) == 1


def test_the_report_keeps_what_is_written_around_it(tmp_path):
    path = tmp_path / "docs" / "study.md"
    write_report(path, RESULTS, 800, "python -m this")
    text = path.read_text()
    path.write_text(f"Before.\n{text}After.\n")
    check_report(path)
    write_report(path, RESULTS, 800, "python -m this")
    assert path.read_text() == f"Before.\n{text}After.\n"
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(path.with_suffix(".json").read_text()) == {
        "tokens": 800,
        "command": "python -m this",
        "runs": RESULTS,
    }


def test_a_report_over_other_text_is_refused(tmp_path):
    path = tmp_path / "study.md"
    path.write_text(f"{END} the wrong way round {BEGIN}")
    with pytest.raises(ValueError, match="lacks the lines"):
        check_report(path)
    with pytest.raises(ValueError, match="must end in .md"):
        check_report(tmp_path / "study.txt")


def test_arms_with_settings_of_their_own():
    arms = resolve_arms(
        ["treepo", "treepo+wide"], ["treepo+wide:treepo.init_divergence=4", "treepo+wide:treepo.depth=3"]
    )
    assert [arm.name for arm in arms] == ["treepo", "treepo+wide"]
    assert arms[0] == ARMS["treepo"]
    assert arms[1].label == "TreePO, wide"
    assert arms[1].overrides == (*ARMS["treepo"].overrides, "treepo.init_divergence=4", "treepo.depth=3")


@pytest.mark.parametrize(
    ("arms", "settings", "message"),
    [
        (["trepo"], [], "--arms trepo: unknown; must be one of grpo_plain, grpo_tree, treepo"),
        (["treepo+wide"], [], "--set treepo.wide:KEY=VALUE"),
        (["treepo", "treepo"], [], "each only once"),
        (["treepo"], ["grpo_tree:a=1"], "grpo_tree is not among --arms treepo"),
        (["treepo"], ["treepo.depth=3"], "must be ARM:KEY=VALUE"),
    ],
)
def test_arms_that_cannot_be_had(arms, settings, message):
    with pytest.raises(StudyError, match=message):
        resolve_arms(arms, settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tokens", "0"], "--tokens 0: must be above 0"),
        (["--seeds", "1", "1"], "--seeds 1 1: must be different"),
        (["--test-every", "-1"], "--test-every -1: must be above 0"),
        (["--no-runs"], "needs --report"),
        (["--arms", "nothing"], "must be one of grpo_plain"),
    ],
)
def test_a_wrong_command_line_is_one_message(arguments, message, capsys, tmp_path):
    with pytest.raises(SystemExit) as error:
        parse(["--out", str(tmp_path), *arguments])
    assert error.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_seeds_take_turns():
    arms = [ARMS["treepo"], ARMS["grpo_tree"]]
    names = [(arm.name, seed) for arm, seed in order_of_runs(arms, [0, 7])]
    assert names == [("treepo", 0), ("grpo_tree", 0), ("treepo", 7), ("grpo_tree", 7)]


def test_results_of_other_settings_are_refused(tmp_path):
    arm = ARMS["treepo"]
    options = argparse.Namespace(out=tmp_path, test_every=4)
    found = {"overrides": [*COMMON, *arm.overrides], "test_every": 4}
    path = result_path(tmp_path, arm, 0)
    path.write_text(json.dumps(found))
    check_results(options, [(arm, 0), (arm, 1)])
    path.write_text(json.dumps(found | {"overrides": [*COMMON, *arm.overrides, "treepo.depth=3"]}))
    with pytest.raises(StudyError, match="treepo.depth=3"):
        check_results(options, [(arm, 0)])
    path.write_text(json.dumps(found | {"test_every": 2}))
    with pytest.raises(StudyError, match="test_every 2, not 4"):
        check_results(options, [(arm, 0)])


def test_all_that_a_child_has_started_is_ended(monkeypatch):
    monkeypatch.setattr(process_session, "PATIENCE_SECONDS", 1.0)
    # a child that does not mind SIGTERM, with a child in a group of its own, as Ray's workers are
    code = (
        "import signal, subprocess, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print(subprocess.Popen(['sleep', '60'], process_group=0).pid, flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    child.stdout.readline()
    assert len(living(child.pid)) == 2
    started = time.monotonic()
    stop_session(child)
    assert time.monotonic() - started < 10
    assert child.returncode == -9
    assert living(child.pid) == []
    stop_session(child)  # what is gone is no error


def test_the_command_that_repeats_a_study_asks_for_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(learning_study, "check_settings", lambda arm: None)
    asked = ["--seeds", "3", "4", "--arms", "treepo+wide", "--set", "treepo+wide:treepo.divergence=[2, 3]"]
    options, arms = parse(["--out", str(tmp_path), "--tokens", "500", *asked])
    words = shlex.split(repeat(options))
    assert words[-2:] == ["--report", "FILE.md"]
    again, arms_again = parse(words[3:-2])  # without what needs matplotlib
    assert arms_again == arms
    assert (again.seeds, again.tokens, again.test_every) == ([3, 4], 500, options.test_every)


def test_a_study_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(learning_study, "check_settings", lambda arm: None)
    monkeypatch.setattr(learning_study, "exit_on_signals", lambda: None)
    done = []

    def train(arm, seed, folder, **limits):
        done.append((arm.name, seed))
        if len(done) == 2:
            raise RuntimeError("exit status 1")
        return "tokens", CURVE

    monkeypatch.setattr(learning_study, "train", train)
    command = ["--out", str(tmp_path), "--seeds", "0", "1", "--arms", "grpo_plain", "treepo", "--tokens", "600"]
    with pytest.raises(SystemExit) as error:
        learning_study.main(command)
    assert error.value.code == 1
    assert "[2/4] treepo, seed 0: FAILED" in capsys.readouterr().out
    with pytest.raises(SystemExit) as error:
        learning_study.main(command)
    assert error.value.code == 0
    assert done == [("grpo_plain", 0), ("treepo", 0), ("grpo_plain", 1), ("treepo", 1), ("treepo", 0)]
    saved = json.loads((tmp_path / "treepo_seed0.json").read_text())
    assert [Point(**row) for row in saved["points"]] == CURVE
    assert (saved["tokens"], saved["ended"], saved["overrides"]) == (
        600,
        "tokens",
        [*COMMON, *ARMS["treepo"].overrides],
    )
    capsys.readouterr()
    with pytest.raises(SystemExit):
        learning_study.main([*command[:-1], "900"])
    assert capsys.readouterr().out.count("SHORT of 900") == 4


FAKE_RUN = """
import json, os, sys, time
with open(os.environ["VERL_FILE_LOGGER_PATH"], "w") as stream:
    for step in range(100):
        data = {"val-core/tiny/acc/mean@4": 0.5} if step % 2 == 0 else {}
        data |= {"treepo/decoded_tokens": 100.0} if step else {}
        print(json.dumps({"step": step, "data": data}), file=stream, flush=True)
        time.sleep(PAUSE)
"""


@pytest.mark.parametrize(
    ("code", "time_limit", "ended"),
    [
        (FAKE_RUN.replace("PAUSE", "0.02 if step < 8 else 60"), 60, "tokens"),
        (FAKE_RUN.replace("PAUSE", "0.02 if step < 3 else 60"), 60, "time limit"),
        (FAKE_RUN.replace("PAUSE", "0").replace("100)", "4)"), 60, "steps"),
    ],
)
def test_why_a_run_ends(code, time_limit, ended, tmp_path, monkeypatch):
    script = tmp_path / "run.sh"
    script.write_text(f"exec {sys.executable} -c '{code}'")
    monkeypatch.setattr(learning_study, "SCRIPT", str(script))
    monkeypatch.setattr(process_session, "POLL_SECONDS", 0.05)
    if ended == "time limit":  # It passes once the run has written its steps, on a machine of any speed.
        metrics = tmp_path / "run/metrics.jsonl"

        def later() -> float:
            written = metrics.exists() and metrics.read_text().count("\n") > 3
            return time.monotonic() + (time_limit if written else 0)

        monkeypatch.setattr(process_session, "time", SimpleNamespace(monotonic=later, sleep=time.sleep))
    found, points = learning_study.train(
        ARMS["treepo"], 0, tmp_path / "run", tokens=600, test_every=2, time_limit=time_limit
    )
    assert found == ended
    assert has_reached(points, 600) == (ended == "tokens")


def test_a_run_that_fails_says_where_to_look(tmp_path, monkeypatch):
    script = tmp_path / "run.sh"
    script.write_text("echo what went wrong; exit 3")
    monkeypatch.setattr(learning_study, "SCRIPT", str(script))
    with pytest.raises(RuntimeError, match="(?s)exit status 3; .*log.txt ends with.*what went wrong"):
        learning_study.train(ARMS["treepo"], 0, tmp_path / "run", tokens=600, test_every=2, time_limit=60)
