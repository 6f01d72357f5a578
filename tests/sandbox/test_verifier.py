# SPDX-License-Identifier: Apache-2.0
"""Comparison of two answers in processes under limits."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.paths import ROOT
from helpers.processes import children_of
from recipe.treepo.sandbox import pool as sandbox_pool
from recipe.treepo.sandbox import verifier as sandbox_verifier
from recipe.treepo.sandbox.pool import Failure, Worker
from recipe.treepo.sandbox.verifier import Verdict, VerifierPool, get_pool


@pytest.fixture
def verifier() -> Iterator[VerifierPool]:
    """A pool of one worker, without earlier comparisons."""
    pool = VerifierPool(workers=1, memory_mb=256)
    yield pool
    pool.close()


def test_verdicts_do_not_depend_on_earlier_questions(verifier: VerifierPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker compares the same pairs again after each kind of poison; some are near misses."""
    questions = [
        (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}", Verdict.EQUAL),
        (r"\sqrt{3+2\sqrt{2}}", r"1+\sqrt{2}", Verdict.EQUAL),
        ("x^2-1", "(x-1)(x+1)", Verdict.EQUAL),
        (r"\frac{\sqrt{3}}{2}", r"\frac{1}{\sqrt{2}}", Verdict.DIFFERENT),
        (r"x^2+1", "(x+1)^2", Verdict.DIFFERENT),
        (r"\sqrt{a^2+b^2}", "a+b", Verdict.DIFFERENT),
    ]
    poisons = [
        "9^{9^{9^9}}",
        "100000000!",
        "(" * 900,
        r"\sqrt{" * 100 + "2" + "}" * 100,
        r"\sqrt{2+" * 40 + "x" + "}" * 40,
    ]
    monkeypatch.setattr(sandbox_verifier, "MAX_KNOWN", 0)
    for poison in ["1", *poisons]:
        verifier.verify("5", poison, timeout_s=0.2)
        verifier.verify(r"\sqrt{2}", poison, timeout_s=0.2)
        for gold, answer, expected in questions:
            assert verifier.verify(gold, answer, timeout_s=60) is expected, (poison, answer, gold)
    assert len(verifier.workers()) == 1


def kill_when_busy(worker: Worker) -> None:
    while not children_of(worker.process.pid):
        time.sleep(0.01)
    worker.process.kill()


def test_a_worker_that_died_is_a_crash_when_busy_and_replaced_when_idle(verifier: VerifierPool) -> None:
    assert verifier.verify("1/2", "0.5", timeout_s=60) is Verdict.EQUAL
    (worker,) = verifier.workers()
    worker.process.kill()
    worker.process.wait()
    assert verifier.verify("1/4", "0.25", timeout_s=60) is Verdict.EQUAL
    (worker,) = verifier.workers()
    threading.Thread(target=kill_when_busy, args=(worker,), daemon=True).start()
    started = time.monotonic()
    assert verifier.verify("5", "9^{9^{9^9}}", timeout_s=60) is Verdict.CRASH
    assert time.monotonic() - started < 30  # the pipe ends, because the copy does not keep it open
    assert verifier.verify("1/5", "0.2", timeout_s=60) is Verdict.EQUAL


def test_a_worker_that_no_longer_replies_is_given_up(
    verifier: VerifierPool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    silent = tmp_path / "worker.py"
    silent.write_text("""print('{"ready": true}', flush=True); import time; time.sleep(60)""")
    monkeypatch.setattr(sandbox_pool, "GRACE_S", 0.1)
    with monkeypatch.context() as patch:
        patch.setattr(sandbox_pool, "WORKER_FILE", silent)
        assert verifier.verify("1/2", "0.5", timeout_s=0.1) is Verdict.TIMEOUT
    assert verifier.workers() == []
    monkeypatch.setattr(sandbox_pool, "GRACE_S", 20)
    assert verifier.verify("1/2", "0.5", timeout_s=60) is Verdict.EQUAL


def test_a_verdict_is_kept_and_a_timeout_is_not(verifier: VerifierPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_verifier, "MAX_KNOWN", 2)
    asked: list[str] = []
    ask = Worker.ask

    def counted(worker: Worker, question: dict, timeout_s: float) -> bool | Failure:
        asked.append(question["answer"])
        return ask(worker, question, timeout_s)

    monkeypatch.setattr(Worker, "ask", counted)
    questions = ["0.5", "3", "0.5", "3", "4", "3", "0.5"]  # the oldest of three, 0.5, is forgotten
    verdicts = [verifier.verify("1/2", answer, timeout_s=60) for answer in questions]
    assert [verdict is Verdict.EQUAL for verdict in verdicts] == [answer == "0.5" for answer in questions]
    assert asked == ["0.5", "3", "4", "0.5"]
    assert verifier.verify("1/2", "9^{9^{9^9}}", timeout_s=0.05) is Verdict.TIMEOUT
    assert verifier.verify("1/2", "9^{9^{9^9}}", timeout_s=0.05) is Verdict.TIMEOUT
    assert len(asked) == 6


def test_texts_too_long_for_a_pipe_are_different(verifier: VerifierPool) -> None:
    assert verifier.verify("1/2", "0.5" + " " * 60_000, timeout_s=60) is Verdict.EQUAL
    assert verifier.verify("1/2", "0.5" + " " * 70_000, timeout_s=60) is Verdict.DIFFERENT


def test_a_worker_that_cannot_start_is_an_error_with_a_remedy(
    verifier: VerifierPool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "worker.py"
    broken.write_text("""print('{"failed": "ModuleNotFoundError: math_verify"}')""")
    monkeypatch.setattr(sandbox_pool, "WORKER_FILE", broken)
    with pytest.raises(RuntimeError, match="did not start: ModuleNotFoundError: math_verify. Install math-verify"):
        verifier.verify("1/2", "0.5", timeout_s=60)
    assert verifier.workers() == []


def test_no_process_or_pipe_is_left_behind(verifier: VerifierPool) -> None:
    assert verifier.verify("1/2", "0.5", timeout_s=60) is Verdict.EQUAL
    gc.collect()  # close leftovers of other tests
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        assert verifier.verify("5", "9^{9^{9^9}}", timeout_s=0.05) is Verdict.TIMEOUT
    assert len(os.listdir("/proc/self/fd")) == before
    (worker,) = verifier.workers()
    verifier.close()
    assert worker.process.returncode == -signal.SIGKILL


def wait_gone(pid: int, seconds: float) -> bool:
    """Return whether the process ends, or becomes a zombie that its new parent has yet to reap, within the time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("busy", [False, True])
def test_a_worker_does_not_outlive_a_parent_that_was_killed(busy: bool) -> None:
    """An idle worker reads end of file. In one long C call it reads nothing, and the kernel's timer ends it."""
    code = """
import sys, threading, time
from recipe.treepo.sandbox.pool import Worker
from recipe.treepo.sandbox.verifier import TASK_FILE
worker = Worker(TASK_FILE, 256)
worker.wait_ready()
if sys.argv[1] == "True":
    threading.Thread(target=worker.ask, args=({"gold": "5", "answer": "9^{9^{9^9}}"}, 1.0), daemon=True).start()
    time.sleep(0.3)
print(worker.process.pid, flush=True)
time.sleep(60)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, "-c", code, str(busy)], stdout=subprocess.PIPE, env=environment)
    pid = int(parent.stdout.readline())
    assert Path(f"/proc/{pid}").exists()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert wait_gone(pid, 30.0)


def test_a_forked_child_leaves_the_workers_to_its_parent() -> None:
    pool = get_pool(workers=1, memory_mb=256)
    assert pool.verify("1/2", "0.5", timeout_s=60) is Verdict.EQUAL
    (worker,) = pool.workers()
    child = os.fork()
    if child == 0:
        os._exit(0 if get_pool(workers=1, memory_mb=256).workers() == [] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert pool.verify("1/4", "0.25", timeout_s=60) is Verdict.EQUAL
    assert get_pool(workers=1, memory_mb=256).workers() == [worker]


def test_a_worker_is_small(verifier: VerifierPool) -> None:
    """Resident memory stays below 200 MB after a question; 75 MB measured."""
    assert verifier.verify("1/2", "0.5", timeout_s=60) is Verdict.EQUAL
    (worker,) = verifier.workers()
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    kilobytes = int(status.split("VmRSS:")[1].split()[0])
    assert 10_000 < kilobytes < 200_000
