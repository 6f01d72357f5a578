# SPDX-License-Identifier: Apache-2.0
"""Output of a whole run: a golden console, its length, and failing reporters."""

import contextlib
import json
import os
import pty
from collections.abc import Callable
from pathlib import Path

import pytest

from recipe.treepo.console.metric_tail import MetricTail
from recipe.treepo.console.reporter import Reporter
from recipe.treepo.console.screen import Screen
from recipe.treepo.console.summary import Totals, outcome, summary

NOTES = [("checkpoint", "c"), ("export", "e"), ("evaluate", "v"), ("curves", "t"), ("trees", "p"), ("logs", "l")]


class Clock:
    """A clock set by tests."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Run:
    """A run with metrics written by a test, and a file or terminal as screen."""

    def __init__(self, folder: Path, descriptor: int, **options: object) -> None:
        self.metrics, self.clock = folder / "metrics.jsonl", Clock()
        given = {"validates_first": True, "validates": True, "last_step": 30, **options}
        self.screen = Screen(descriptor)
        self.reporter = Reporter(self.screen, MetricTail(self.metrics), clock=self.clock, **given)

    def log(self, step: int, **metrics: float) -> None:
        with self.metrics.open("a") as file:
            data = {key.replace("__", "/"): value for key, value in metrics.items()}
            file.write(json.dumps({"step": step, "data": data}) + "\n")

    def validation(self, step: int, score: float, **metrics: float) -> None:
        with self.metrics.open("a") as file:
            data = {key.replace("__", "/"): value for key, value in metrics.items()}
            file.write(json.dumps({"step": step, "data": {"val-core/tiny/acc/mean@4": score, **data}}) + "\n")


@pytest.fixture
def piped(tmp_path: Path):
    """Yield a function that makes a run with a file as its screen, and a function that returns the file's text."""
    path = tmp_path / "screen.txt"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    yield lambda **options: Run(tmp_path, descriptor, **options), path.read_text
    os.close(descriptor)


TREE_STEP = {
    "timing_s__step": 20.0,
    "critic__score__mean": 0.5,
    "treepo__right": 0.5,
    "treepo__unique_over_total": 0.5,
    "treepo__engine_calls": 200.0,
    "treepo__fallbacks_per_prompt": 1.0,
    "treepo__waste": 1.25,
    "treepo__trajectories": 128.0,
    "treepo__decoded_tokens": 5000.0,
    "treepo__total_tokens": 10000.0,
}
GOLDEN = """\
starting Ray, engines and workers ...
ready after 60 s, validating before training ...
held-out before training: 0.468
 step     time  reward  right  tokens shared   calls  fallback  waste  held-out
    1     20 s   0.500   50 %   2.00x (50 %)     200       1.0   1.25
    2     20 s   0.500   50 %   2.00x (50 %)     200       1.0   1.25
    3     18 s   0.625   62 %   2.00x (50 %)     200       1.0   1.25     0.710
done: held-out 0.468 -> 0.710 in 3 steps, 2.5 min; 384 trajectories for 15,000 decoded tokens \
(0.50 of independent sampling)
  checkpoint: c
  export:     e
  evaluate:   v
  curves:     t
  trees:      p
  logs:       l
"""


def test_the_console_of_a_run_is_golden(piped):
    start, shown = piped
    run = start(last_step=3)
    run.reporter.start()
    run.reporter._stop.set()  # the test calls look itself
    run.clock.now += 60
    run.metrics.touch()
    run.reporter.look()
    run.validation(0, 0.468)
    run.log(1, **TREE_STEP)
    run.reporter.look()
    run.log(2, **TREE_STEP)
    run.reporter.look()
    last = TREE_STEP | {"timing_s__step": 18.0, "critic__score__mean": 0.625, "treepo__right": 0.625}
    run.validation(3, 0.71, **last)
    run.clock.now += 90  # 150 s in all
    run.reporter.finish()
    run.screen.lines(*summary(run.reporter.totals, run.reporter.seconds, NOTES))
    assert shown() == GOLDEN
    assert run.reporter.doing == "ending"


def test_a_run_of_30_steps_takes_at_most_60_lines(piped):
    start, shown = piped
    run = start()
    run.screen.lines("title", "folders")
    run.reporter.start()
    run.validation(0, 0.468)
    for step in range(1, 30):
        run.log(step, **TREE_STEP)
    run.validation(30, 0.7, **TREE_STEP)
    run.reporter.finish()
    notes = [*NOTES, ("warnings", "w"), ("errors", "e")]
    run.screen.lines(*summary(run.reporter.totals, run.reporter.seconds, notes))
    lines = shown().splitlines()
    # 2 of the title, 2 of the start, the validation, the header, 30 steps, and 9 of the summary
    assert len(lines) == 45
    assert max(map(len, lines[:36])) < 80
    assert "\x1b" not in shown() and "\r" not in shown()


def test_resumed_runs_and_runs_without_validation_are_reported(piped):
    start, shown = piped
    run = start(validates_first=False, validates=False)
    run.log(11, **TREE_STEP)
    run.reporter.look()
    assert shown().splitlines()[0] == "ready after 0.0 s, first step ..."
    assert shown().splitlines()[2].startswith("   11     20 s")
    assert run.reporter.doing == "step 12"
    assert outcome(run.reporter.totals, 61).startswith("done: 1 step, 61 s; 128 trajectories")


def test_a_run_without_metrics_has_a_summary():
    assert summary(Totals(), 3, [("logs", "l")]) == ["done: 0 steps, 3.0 s", "  logs:       l"]


def test_several_sources_are_listed_in_the_summary(piped):
    start, _ = piped
    run = start()
    for step, scores in ((0, (0.2, 0.4)), (5, (0.4, 0.8))):
        metrics = {f"val-core/{name}/acc/mean@1": score for name, score in zip("ab", scores, strict=True)}
        run.log(step, **metrics, **({"x": 1.0} if step else {}))
    run.reporter.look()
    done, sources = summary(run.reporter.totals, 0, [])
    assert done.startswith("done: held-out 0.300 -> 0.600 in 1 step")
    assert sources == "  held-out:   a 0.200 -> 0.400, b 0.400 -> 0.800"


def test_rewards_that_were_not_finite_are_summed_up_in_the_summary(piped):
    start, _ = piped
    run = start()
    run.log(1, **{**TREE_STEP, "treepo/reward_errors": 6.0})
    run.log(2, **{**TREE_STEP, "treepo/reward_errors": 1.0, "val-aux/reward_errors": 2.0})
    run.log(3, **TREE_STEP)
    run.reporter.look()
    lines = summary(run.reporter.totals, 0, [])
    assert lines[-1] == "  rewards:    9 were not finite numbers; console.log names the first"


def test_lost_trajectories_and_lines_of_trees_are_in_the_summary(piped):
    start, _ = piped
    run = start()
    run.log(1, **{**TREE_STEP, "treepo/lost_trajectories": 6.0, "treepo/dump_failures": 2.0})
    run.log(2, **{**TREE_STEP, "treepo/lost_trajectories": 3.0, "treepo/dump_failures": 5.0})
    run.log(3, **{**TREE_STEP})
    run.reporter.look()
    assert summary(run.reporter.totals, 0, [])[-2:] == [
        "  lost:       9 trajectories of failed prompts and paths; console.log names the first",
        "  trees:      5 lines could not be written; console.log names the first",
    ]


def test_silence_gets_a_sign_of_life_ever_more_seldom(piped):
    start, shown = piped
    run = start()
    for _ in range(3600):  # an hour
        run.clock.now += 1
        run.reporter.look()
    # after 5, 10, 20 and 40 minutes
    assert shown().splitlines() == [
        f"starting Ray, engines and workers: {time} so far" for time in ("5.0 min", "10 min", "20 min", "40 min")
    ]


def failing(error: Exception) -> Callable[[], None]:
    def chore() -> None:
        raise error

    return chore


def test_a_broken_reporter_warns_once(piped):
    start, shown = piped
    run = start(chores=[failing(KeyError("x"))])
    run.reporter.start()
    for _ in range(3):
        run.reporter.look()
    run.reporter.finish()
    assert shown().splitlines() == [
        "starting Ray, engines and workers ...",
        "treepo.console stopped reporting (KeyError: 'x'); the run goes on, see its logs",
    ]


def test_a_screen_that_is_gone_is_left_alone(tmp_path):
    reader, writer = os.pipe()
    run = Run(tmp_path, writer)
    os.close(reader)
    run.log(1, **TREE_STEP)
    run.reporter.look()
    run.reporter.look()
    assert run.reporter.totals.steps == 1
    os.close(writer)


def read_to_end(leader: int) -> str:
    """Return all output of a closed terminal, and close its leader; a single read may return only a part."""
    parts = []
    with contextlib.suppress(OSError):  # Linux reports a closed terminal as EIO
        while part := os.read(leader, 10_000):
            parts.append(part)
    os.close(leader)
    return b"".join(parts).decode()


def test_a_terminal_has_a_line_that_changes(tmp_path):
    leader, terminal = pty.openpty()
    run = Run(tmp_path, terminal)
    run.metrics.touch()
    run.clock.now += 7
    run.reporter.look()
    run.log(1, **TREE_STEP)
    run.clock.now += 8
    run.reporter.look()
    os.close(terminal)
    shown = read_to_end(leader).replace("\r\n", "\n")
    assert "\r\x1b[Kvalidating before training: 0.0 s  (run: 7.0 s)\r\x1b[K step" in shown
    assert shown.endswith("\r\x1b[Kstep 2: 0.0 s  (run: 15 s)")


def test_control_characters_are_shown_not_obeyed(piped):
    start, shown = piped
    start().screen.lines("a\x1b[2Jb\rc\td", "\ud800")
    assert shown() == "a\\x1b[2Jb\\rc\td\n\\ud800\n"
