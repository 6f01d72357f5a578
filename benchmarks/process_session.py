# SPDX-License-Identifier: Apache-2.0
"""End a child process and everything that it has started, by the id of its session."""

import contextlib
import os
import signal
import subprocess
import time

import psutil

PATIENCE_SECONDS = 60.0


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
