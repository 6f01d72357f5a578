# SPDX-License-Identifier: Apache-2.0
"""Start a training command again after a process of it died or stood still: ``supervise.py RESTARTS COMMAND ...``.

The command resumes from its last checkpoint. It is not started again after errors of the configuration or the user's
code, after Ctrl-C, or after SIGTERM.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from functools import partial
from types import FrameType
from uuid import uuid4

from recipe.treepo.console.failures import RESTARTABLE
from recipe.treepo.console.leftovers import START, end_processes, remove_leftovers, started_by


def main(restarts: int, command: list[str]) -> int:
    """Run the command until it needs no further start, and return its status, 128 + N after signal N."""
    stopped: list[int] = []
    began = time.time()
    for number in range(restarts + 1):
        start = uuid4().hex
        with subprocess.Popen(command, env={**os.environ, START: start}) as process:

            def stop(signum: int, frame: FrameType | None, process: subprocess.Popen[bytes] = process) -> None:
                stopped.append(signum)
                if signum != signal.SIGINT:  # a terminal sends it to both
                    process.send_signal(signum)

            for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(signum, stop)
            started = started_by(process.pid, partial(has_ended, process))
            status = process.wait()
        end_processes(start, started)
        remove_leftovers(began)
        if stopped or not (status == RESTARTABLE or status < 0):
            break
        if number < restarts:
            print(f"[treepo] ended with status {shown(status)}; start {number + 2} of {restarts + 1}", flush=True)
    return shown(status)


def has_ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait for a process for at most so many seconds, and return whether it has ended."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.returncode is not None


def shown(status: int) -> int:
    """Return a status as a shell does."""
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
