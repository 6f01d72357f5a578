# SPDX-License-Identifier: Apache-2.0
"""What killed processes leave: shared memory and sockets, which nothing else removes, and processes of their own."""

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

# Python's shared memory (vLLM's queues between its processes), verl's buffers and sockets for weights.
SHARED_MEMORY, SOCKETS = ("/dev/shm", ("psm_", "verl_weights_")), ("/tmp", ("rl-colocate-zmq-",))
# Seconds between two looks: a file without a process may be one that is just being made.
AGAIN = 1.0


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
