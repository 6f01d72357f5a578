# SPDX-License-Identifier: Apache-2.0
"""Run a command in its own session, and end all processes of that session."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

import psutil

PATIENCE_SECONDS = 60.0


def exit_on_signals() -> None:
    """Let SIGTERM and SIGINT exit this process through its ``finally`` blocks, which end its sessions.

    A second SIGTERM is ignored, or it would end those blocks: ``timeout`` passes on a signal that its group has had.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore SIGINT by default


def run_session(
    command: Sequence[str], *, folder: Path, environment: Mapping[str, str], log: Path, time_limit: float
) -> str:
    """Run a command until it exits or exceeds the time limit.

    Args:
        command: Program and arguments.
        folder: Working directory.
        environment: Additional environment variables.
        log: File for standard output and standard error.
        time_limit: Time limit in seconds.

    Returns:
        "exit" or "time limit".

    Raises:
        RuntimeError: if the exit status is not 0, with the end of the log.
    """
    with log.open("w") as stream:
        child = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = child.wait(timeout=time_limit)
        except subprocess.TimeoutExpired:
            return "time limit"
        finally:
            stop_session(child)
    if status != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
        raise RuntimeError(f"exit status {status}; {log} ends with\n{tail}")
    return "exit"


def living(session: int) -> list[int]:
    """Return the ids of a session's processes, without zombies."""
    processes = []
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(process.pid) == session and process.info["status"] != psutil.STATUS_ZOMBIE:
                processes.append(process.pid)
    return processes


def stop_session(child: subprocess.Popen[bytes]) -> None:
    """End all processes in the session of a child, and wait for their ends.

    The child's process group receives SIGTERM, as Ctrl-C would send SIGINT. Ray's workers have their own groups in the
    same session and end with the driver. Processes that remain after :data:`PATIENCE_SECONDS` receive SIGKILL.

    Args:
        child: A process started with ``start_new_session=True``.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not (processes := living(child.pid)):
            break
        for target in [-child.pid] if number is signal.SIGTERM else processes:
            with contextlib.suppress(ProcessLookupError):  # has already ended
                os.kill(target, number)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while living(child.pid) and time.monotonic() < deadline:
            time.sleep(0.2)
    child.wait()
