# SPDX-License-Identifier: Apache-2.0
"""Run a child process in a session of its own, and end it and everything that it has started by the session's id."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

PATIENCE_SECONDS = 60.0
POLL_SECONDS = 1.0


def exit_on_signals() -> None:
    """Have this process end its sessions when it is told to end, also where it runs in the background of a shell."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore


def run_session(
    command: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    log: Path,
    time_limit: float,
    enough: Callable[[], bool] = lambda: False,
) -> str:
    """Run a command until it ends, ``enough`` says so, or its seconds are over.

    Args:
        folder: Where it runs.
        environment: Added to that of this process.
        log: What it writes goes there.

    Returns:
        "exit", "enough" or "time limit".

    Raises:
        RuntimeError: if it ended with another status than 0, with the end of its log.
    """
    ended, deadline = "exit", time.monotonic() + time_limit
    with log.open("w") as stream:
        child = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that all of it can be ended by the id of the session
        )
        try:
            while child.poll() is None and ended == "exit":
                time.sleep(POLL_SECONDS)
                if enough():
                    ended = "enough"
                elif time.monotonic() > deadline:
                    ended = "time limit"
            status = child.returncode
        finally:
            stop_session(child)
    if ended == "exit" and status != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
        raise RuntimeError(f"exit status {status}; {log} ends with\n{tail}")
    return ended


def living(session: int) -> list[int]:
    """Return the processes of a session; those that have ended and that nobody has collected are left out."""
    found = []
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(process.pid) == session and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def stop_session(child: subprocess.Popen) -> None:
    """End what runs in the session of a child that was started with ``start_new_session``, and wait for it.

    The child's group is asked to end, as Ctrl-C would ask it. Ray's workers are in groups of their own, but in the
    same session, and end with the driver; what is left after a while is killed.
    """
    for number, whom in ((signal.SIGTERM, lambda: [-child.pid]), (signal.SIGKILL, lambda: living(child.pid))):
        if not living(child.pid):
            break
        for target in whom():
            with contextlib.suppress(ProcessLookupError):  # ended meanwhile
                os.kill(target, number)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while living(child.pid) and time.monotonic() < deadline:
            time.sleep(0.2)
    child.wait()
