# SPDX-License-Identifier: Apache-2.0
"""The watchdog: limits of phases, dead processes, and the interrupt of the trainer.

Actors are replaced by their answers; the fault suite (``benchmarks/faults``) has real ones.
"""

import os
import pickle
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

import pytest
from ray.exceptions import RayError

from helpers.paths import ROOT
from recipe.treepo.settings.schema import Phase, WatchdogSettings
from recipe.treepo.verl_adapters.watchdog import Questions, State, Watchdog, WatchdogError, state_of


class Answers(Questions):
    """Answers of actors by name; None while an actor is busy."""

    def __init__(self, **answers: State | RayError | None) -> None:
        super().__init__()
        self.now = answers

    def answers(self, actors, seconds):
        self.asked = {name: None for name, answer in self.now.items() if answer is None}
        return {name: answer for name, answer in self.now.items() if answer is not None}


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def watchdog_of(answers: Answers, clock: Clock, **settings: float | None) -> Watchdog:
    return Watchdog(WatchdogSettings(**settings), dict, answers, clock)


@pytest.mark.parametrize(
    ("phase", "key"),
    [
        (Phase.START, "start"),
        (Phase.ROLLOUT, "rollout"),
        (Phase.VALIDATION, "rollout"),
        (Phase.TRAINING, "training"),
        (Phase.WEIGHTS, "weights"),
        (Phase.CHECKPOINT, "checkpoint"),
    ],
)
def test_a_phase_ends_the_run_at_its_own_limit(phase, key):
    clock = Clock()
    dog = watchdog_of(Answers(), clock, **{f"{key}_seconds": 10.0})
    dog.look()
    clock.time += 5_000  # other limits do not matter, nor does the time before the phase
    dog.enter(phase)
    for seconds in (0.0, 9.9):
        clock.time += seconds
        dog.look()
    assert dog.failure is None
    clock.time += 0.1
    dog.look()
    assert str(dog.failure).startswith(f"treepo.watchdog.{key}_seconds=10: ")
    assert "has made no progress for 10 s, since " in str(dog.failure)


def test_without_a_limit_a_phase_never_ends_the_run():
    clock = Clock()
    dog = watchdog_of(Answers(), clock, weights_seconds=None)
    dog.enter(Phase.WEIGHTS)
    clock.time += 1e9
    dog.look()
    assert dog.failure is None


def test_finished_requests_and_new_trajectories_are_progress():
    clock, answers = Clock(), Answers(a=State(1, None, 5), b=State(2, None, 7))
    dog = watchdog_of(answers, clock, rollout_seconds=10.0)
    dog.enter(Phase.ROLLOUT)
    for requests, trajectories in ((7, 0), (8, 0), (8, 1), (8, 2)):
        clock.time += 9
        answers.now["b"] = State(2, None, requests)
        dog.progress("trajectories", [trajectories, 3])
        dog.look()
    assert dog.failure is None
    clock.time += 9
    dog.progress("trajectories", [2, 3])
    dog.look()
    clock.time += 2
    dog.look()
    assert "treepo.watchdog.rollout_seconds=10" in str(dog.failure)


def test_the_message_names_the_processes_that_do_not_answer():
    clock, answers = Clock(), Answers(worker=State(17, None, 0), server=State(18, None, 0))
    dog = watchdog_of(answers, clock, weights_seconds=10.0)
    dog.look()
    answers.now["worker"] = None
    dog.look()
    dog.enter(Phase.WEIGHTS)
    clock.time += 10
    answers.now["server"] = None  # it has only just been asked
    dog.look()
    assert "Not answering: worker (process 17)." in str(dog.failure)


DEAD = "The actor died unexpectedly. Worker exit type: SYSTEM_ERROR Worker exit detail: Out of memory. More text."


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (State(18, "its vLLM engine has died", 3), "server (process 18): its vLLM engine has died."),
        (RayError(DEAD), "server (process 18): it has died: Out of memory."),
        (RayError("no detail"), "server (process 18): it has died."),
    ],
)
def test_a_death_is_the_cause_whatever_the_trainer_raises(answer, message):
    answers = Answers(server=State(18, None, 3))
    dog = watchdog_of(answers, Clock())
    dog.look()
    dog.check()
    answers.now["server"] = answer
    with pytest.raises(WatchdogError) as caught, dog.guard():
        raise KeyError("a consequence")
    assert str(caught.value) == message
    assert str(pickle.loads(pickle.dumps(caught.value))) == message  # Ray sends it to the driver
    dog.failure = None
    with pytest.raises(WatchdogError, match="server") as caught, dog.guard():
        dog.check()
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("error", [KeyError("x"), KeyboardInterrupt()])
def test_other_errors_pass_while_all_live(error):
    with pytest.raises(type(error)) as caught, watchdog_of(Answers(a=State(1, None, 0)), Clock()).guard():
        raise error
    assert caught.value is error


def test_a_server_whose_engine_is_dead_says_so():
    assert state_of(SimpleNamespace()) == (os.getpid(), None, 0)
    server = SimpleNamespace(engine=SimpleNamespace(errored=False), finished_requests=4)
    assert state_of(server) == (os.getpid(), None, 4)
    server.engine.errored = True
    assert state_of(server) == (os.getpid(), "its vLLM engine has died", 4)


WAITS = {
    "sleeps": "time.sleep(100)",
    "waits in asyncio": "asyncio.run(asyncio.sleep(100))",
    "blocks in asyncio": "asyncio.run(block())",
    "ignores interrupts": """
        while True:
            try:
                time.sleep(0.1)
            except KeyboardInterrupt:
                pass""",
}
PROGRAM = """
    import asyncio, time
    from recipe.treepo.settings.schema import WatchdogSettings
    from recipe.treepo.verl_adapters import watchdog
    watchdog.INTERVAL, watchdog.AGAIN, watchdog.LAST_RESORT = 0.1, 0.2, 5.0

    async def block():
        while True:
            time.sleep(0.1)

    try:
        with watchdog.Watchdog(WatchdogSettings(start_seconds=0.1), dict).guard():
            {wait}
    except watchdog.WatchdogError as error:
        print("raised", error)
"""


@pytest.mark.parametrize("wait", WAITS)
def test_a_trainer_that_waits_is_interrupted_or_its_process_ended(wait):
    program = textwrap.dedent(PROGRAM).replace("{wait}", textwrap.indent(textwrap.dedent(WAITS[wait]), " " * 8).strip())
    began = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=90, check=False
    )
    assert time.monotonic() - began < 80  # it would wait for 100 seconds
    cause = "treepo.watchdog.start_seconds=0.1: the start of workers and engines has made no progress for 0 s"
    if wait == "ignores interrupts":
        assert ended.returncode == 1 and f"\nWatchdogError: {cause}" in ended.stderr, ended.stderr
    else:
        assert ended.stdout.startswith(f"raised {cause}"), ended.stderr
