# SPDX-License-Identifier: Apache-2.0
"""What killed processes leave: shared memory and sockets, which nothing else removes, and processes of their own.

``python -m recipe.treepo.console.leftovers SINCE`` is the process of :func:`cleaned_after_kill`.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from uuid import uuid4

import psutil

# Python's shared memory (vLLM's queues between its processes), verl's buffers and sockets for weights.
SHARED_MEMORY, SOCKETS = ("/dev/shm", ("psm_", "verl_weights_")), ("/tmp", ("rl-colocate-zmq-",))
START = "TREEPO_START"
"""Environment variable with the name of a start, in all of its processes."""
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
    command = [sys.executable, "-m", "recipe.treepo.console.leftovers", str(time.time())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as cleaner:
        try:
            yield
        finally:
            with contextlib.suppress(BrokenPipeError):
                cleaner.communicate(b"ended")


def main(since: float) -> None:
    """Wait for the end of the starting process; clean up if it does not say that it ends."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    if not sys.stdin.buffer.read():
        end_processes(os.environ[START])
        remove_leftovers(since)


def end_processes(start: str) -> None:
    """Kill the other processes of a start, such as Ray's after a killed driver, and wait until they are gone."""
    found: set[psutil.Process] = set()
    limit = time.monotonic() + GONE
    while time.monotonic() < limit:
        found |= set(_processes_of(start))
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


def _processes_of(start: str) -> Iterator[psutil.Process]:
    """Yield the processes of a start and their children: Ray's agents overwrite their environment with their names."""
    for pid in processes_with(START, start):
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            yield from [process, *process.children(recursive=True)]


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
    main(float(sys.argv[1]))
