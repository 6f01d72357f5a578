# SPDX-License-Identifier: Apache-2.0
"""What killed processes leave: removed if nobody uses it, and only then."""

import os
import signal
import socket
import subprocess
import sys
import time
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import pytest

from helpers.paths import ROOT
from recipe.treepo.console import leftovers
from recipe.treepo.console.leftovers import end_processes, remove_leftovers, started_by


@pytest.fixture
def began(monkeypatch) -> float:
    monkeypatch.setattr(leftovers, "AGAIN", 0.05)
    return time.time() - 1


def test_shared_memory_of_a_killed_process_is_removed_and_that_of_a_living_one_stays(began):
    program = (
        "import os, signal\nfrom multiprocessing import resource_tracker\n"
        "from multiprocessing.shared_memory import SharedMemory\n"
        "resource_tracker.register = lambda *_: None\n"
        "made = SharedMemory(create=True, size=100)\nprint(made.name, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    dead = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False).stdout.strip()
    living = SharedMemory(create=True, size=100)
    try:
        assert Path(f"/dev/shm/{dead}").exists()
        removed = remove_leftovers(began)
        assert f"/dev/shm/{dead}" in removed and f"/dev/shm/{living.name}" not in removed
        assert not Path(f"/dev/shm/{dead}").exists() and Path(f"/dev/shm/{living.name}").exists()
    finally:
        living.close()
        living.unlink()


def test_sockets_without_a_process_are_removed(began):
    paths = [f"/tmp/rl-colocate-zmq-test-{os.getpid()}-{number}.sock" for number in range(2)]
    with socket.socket(socket.AF_UNIX) as used, socket.socket(socket.AF_UNIX) as closed:
        used.bind(paths[0])
        closed.bind(paths[1])
        closed.close()
        removed = remove_leftovers(began)
        assert (paths[0] in removed, paths[1] in removed) == (False, True)
        assert (Path(paths[0]).exists(), Path(paths[1]).exists()) == (True, False)
    os.unlink(paths[0])


def test_what_is_older_than_the_run_stays(began):
    path = Path(f"/dev/shm/verl_weights_test_{os.getpid()}")
    path.write_bytes(b"x")
    try:
        assert str(path) not in remove_leftovers(time.time() + 60) and path.exists()
        assert str(path) in remove_leftovers(began) and not path.exists()
    finally:
        path.unlink(missing_ok=True)


# Starts a process that outlives it, prints its id, and is then killed or ends.
PROGRAM = """
import os, signal, subprocess, sys
from recipe.treepo.console.leftovers import cleaned_after_kill

with cleaned_after_kill():
    child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print(child.pid, flush=True)
    if sys.argv[1] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("end", ["killed", "ended"])
def test_processes_of_a_killed_process_are_ended_and_those_of_one_that_ends_stay(end):
    command = [sys.executable, "-c", PROGRAM, end]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # waits for the cleaner, too
    child = int(run.stdout)
    assert run.returncode == (-signal.SIGKILL if end == "killed" else 0) and not run.stderr
    assert is_alive(child) is (end == "ended")
    if end == "ended":
        os.kill(child, signal.SIGKILL)


def test_a_process_without_a_parent_and_environment_is_remembered_and_ended():
    command = ["bash", "-c", "env -i sleep 60 >&2 & echo $!; wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        child = int(parent.stdout.readline())
        looks = iter(["alive", "killed", "ended"])

        def has_ended(_: float) -> bool:
            moment = next(looks)
            if moment == "killed":
                parent.kill()
                parent.wait()
            return moment == "ended"

        started = started_by(parent.pid, has_ended)
    assert [process.pid for process in started] == [child] and is_alive(child)
    end_processes("no start has this name", started)
    assert not is_alive(child)


def is_alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
