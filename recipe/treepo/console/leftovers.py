# SPDX-License-Identifier: Apache-2.0
"""What killed processes leave: shared memory and sockets, which nothing else removes, and processes of their own.

``python -m recipe.treepo.console.leftovers SINCE PID`` is the process of :func:`cleaned_after_kill`.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from uuid import uuid4

import psutil

# Python's shared memory (vLLM's queues between its processes), verl's buffers and sockets for weights.
SHARED_MEMORY, SOCKETS = ("/dev/shm", ("psm_", "verl_weights_")), ("/tmp", ("rl-colocate-zmq-",))
START = "TREEPO_START"
"""Environment variable with the name of a start, in all of its processes."""
# Seconds between two looks at the processes that a run has started.
LOOK = 2.0
# Maximum seconds until killed processes are gone.
GONE = 10.0
# Seconds between two looks: a file without a process may be one that is just being made.
AGAIN = 1.0


@contextlib.contextmanager
def cleaned_after_kill() -> Iterator[None]:
    """Clean up after this process if it is killed in the context, which it cannot do itself.

    A second process waits at a pipe. Killed alone, this one would leave agents of Ray and shared memory.
    """
    os.environ.setdefault(START, uuid4().hex)
    command = [sys.executable, "-m", "recipe.treepo.console.leftovers", str(time.time()), str(os.getpid())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as cleaner:
        try:
            yield
        finally:
            with contextlib.suppress(BrokenPipeError):
                cleaner.communicate(b"ended")


def main(since: float, pid: int) -> None:
    """Wait for the end of the starting process; clean up if it does not say that it ends."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    started = started_by(pid, lambda seconds: bool(select.select([sys.stdin], [], [], seconds)[0]))
    if not sys.stdin.buffer.read():
        end_processes(os.environ[START], started)
        remove_leftovers(since)


def started_by(pid: int, has_ended: Callable[[float], bool]) -> set[psutil.Process]:
    """Wait for the end of a process, and return the processes that it and its children started and that still live.

    They have to be known before its end: Ray's raylet dies with the driver, and leaves agents which have no parent
    then, and which overwrite their environment with their names.

    Args:
        pid: The process.
        has_ended: Waits for its end for at most so many seconds, and returns whether it has ended.
    """
    found: set[psutil.Process] = set()
    while not has_ended(LOOK):
        with contextlib.suppress(psutil.NoSuchProcess):
            found.update(psutil.Process(pid).children(recursive=True))
        found = {process for process in found if process.is_running()}
    return found


def end_processes(start: str, started: Collection[psutil.Process]) -> None:
    """Kill the other processes of a start, and those of :func:`started_by`, and wait until they are gone."""
    found = set(started)
    limit = time.monotonic() + GONE
    while time.monotonic() < limit:
        for pid in processes_with(START, start):
            with contextlib.suppress(psutil.NoSuchProcess):
                found.add(psutil.Process(pid))
        left = [process for process in found if _is_alive(process) and process.pid != os.getpid()]
        if not left:
            break
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(0.1)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def remove_leftovers(since: float) -> list[str]:
    """Remove what killed processes of this user left, and return it.

    Args:
        since: Time of the run's start, as from ``time.time``. Older files may belong to something else.
    """
    first = unused(since)
    if first:
        time.sleep(AGAIN)
    left = [path for path in unused(since) if path in first]
    for path in left:
        with contextlib.suppress(OSError):
            os.unlink(path)
    return left


def processes_with(variable: str, value: str) -> list[int]:
    """Return the processes that were started with an environment variable of this value, wherever Ray put them."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or belongs to someone else
            if f"{variable}={value}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def unused(since: float) -> list[str]:
    """Return files of this kind that no process uses."""
    maps, sockets = _texts(Path("/proc").glob("[0-9]*/maps")), _texts([Path("/proc/net/unix")])
    memory = [path for path in _own(*SHARED_MEMORY, since) if path not in maps]
    return memory + [path for path in _own(*SOCKETS, since) if path not in sockets]


def _own(folder: str, prefixes: tuple[str, ...], since: float) -> list[str]:
    found = []
    for path in Path(folder).glob("*"):
        with contextlib.suppress(OSError):
            status = path.lstat()
            if path.name.startswith(prefixes) and status.st_uid == os.getuid() and status.st_ctime >= since:
                found.append(str(path))
    return sorted(found)


def _texts(files: Iterable[Path]) -> str:
    texts = []
    for file in files:
        with contextlib.suppress(OSError):
            texts.append(file.read_text(errors="replace"))
    return "\n".join(texts)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
