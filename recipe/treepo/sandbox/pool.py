# SPDX-License-Identifier: Apache-2.0
"""Run `worker.py` in a few processes, and put questions to them under time and memory limits.

Import this module by name: verl loads reward functions and tools by file path and may pickle them, so their files
cannot hold locks and processes.
"""

import atexit
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Hashable
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

WORKER_FILE = Path(__file__).with_name("worker.py")
START_TIMEOUT_S = 60.0  # importing math-verify takes 0.6 to 2 s, more if many processes start at once
PIPE_BYTES = 65_536  # capacity of a pipe: writing less to an idle worker cannot block
GRACE_S = 5.0  # after the time limit, which the kernel enforces; then the worker itself is replaced
_KEPT_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "HOME", "TMPDIR", "LANG")


class Failure(Enum):
    """Reason for a missing result."""

    TIMEOUT = "timeout"  # no result within the limit
    CRASH = "crash"  # out of memory, an error of the task, or a dead worker
    TOO_LONG = "too_long"  # the question does not fit into a pipe and was not sent


class Worker:
    """One worker process, for one thread at a time. The constructor returns before the worker is ready."""

    def __init__(self, task: Path, memory_mb: int) -> None:
        self._task = task
        environment = {key: os.environ[key] for key in _KEPT_ENVIRONMENT if key in os.environ}
        # -P keeps this folder, whose file names are common words, off the worker's module path.
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(WORKER_FILE), str(task), str(memory_mb * 2**20)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=environment | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        assert self.process.stdin is not None and self.process.stdout is not None  # both are pipes
        self._requests, self._replies = self.process.stdin, self.process.stdout
        self.lost = False  # it died or no longer replies
        self._ready = False
        self._buffer = b""

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until the worker has loaded its task.

        Raises:
            RuntimeError: if it cannot start.
        """
        if self._ready:
            return
        message = self._read(time.monotonic() + timeout_s)
        if message is None or "ready" not in message:
            reason = f"not ready after {timeout_s:g} s" if message is None else message.get("failed", "it exited")
            raise RuntimeError(f"the worker ({sys.executable} {self._task}) did not start: {reason}")
        self._ready = True

    def ask(self, question: dict[str, Any], timeout_s: float) -> Any | Failure:
        """Return the task's result for `question`, a JSON object, within `timeout_s` seconds, or a Failure."""
        request = json.dumps({"question": question, "timeout_s": timeout_s}).encode("ascii") + b"\n"
        if len(request) > PIPE_BYTES:
            return Failure.TOO_LONG
        try:
            self._requests.write(request)
            message = self._read(time.monotonic() + timeout_s + GRACE_S)
        except BrokenPipeError:
            message = {}
        self.lost = not message
        if message is None:
            return Failure.TIMEOUT
        if not message:
            return Failure.CRASH
        return message["result"] if "result" in message else Failure(message["failure"])

    def close(self) -> None:
        """Kill the process, wait for it and close the pipes."""
        self.process.kill()
        self.process.wait()
        self.forget()

    def forget(self) -> None:
        """Close only the pipes, for a forked child, which must not end its parent's worker."""
        self._requests.close()
        self._replies.close()

    def _read(self, deadline: float) -> dict[str, Any] | None:
        """Return one message; {} at end of file, None after the deadline (time.monotonic)."""
        descriptor = self._replies.fileno()
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        while b"\n" not in self._buffer:
            remaining_ms = (deadline - time.monotonic()) * 1_000
            if remaining_ms <= 0 or not poller.poll(remaining_ms):
                return None
            chunk = os.read(descriptor, 65_536)
            if not chunk:
                return {}
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message


class LimitedPool:
    """Pool of at most `workers` processes for any number of threads.

    Processes start on demand and are replaced if they die or hang.

    Args:
        task: File that the workers load (see `worker.py`).
        workers: Maximum number of processes.
        memory_mb: Address space for one question beyond the loaded task, in MiB.
    """

    def __init__(self, task: Path, *, workers: int, memory_mb: int) -> None:
        self._task = task
        self._memory_mb = memory_mb
        self._slots = threading.Semaphore(workers)
        self._lock = threading.Lock()
        self._idle: list[Worker] = []
        self._busy: set[Worker] = set()

    def ask(self, question: dict[str, Any], *, timeout_s: float) -> Any | Failure:
        """Call `Worker.ask` on a free worker; `timeout_s` excludes the wait for the worker and its start.

        Raises:
            RuntimeError: if a worker cannot start.
        """
        with self._slots:
            worker = self._take()
            try:
                worker.wait_ready()
                return worker.ask(question, timeout_s)
            except BaseException:
                worker.lost = True  # its reply may still arrive and would answer the next question
                raise
            finally:
                self._give_back(worker)

    def workers(self) -> list[Worker]:
        """Return all workers, idle and busy."""
        with self._lock:
            return [*self._idle, *self._busy]

    def close(self) -> None:
        """Kill all workers."""
        with self._lock:
            workers, self._idle = [*self._idle, *self._busy], []
            self._busy.clear()
        for worker in workers:
            worker.close()

    def _take(self) -> Worker:
        with self._lock:
            while self._idle:
                worker = self._idle.pop()
                if worker.process.poll() is None:
                    break
                worker.close()  # died while idle, for example killed by the kernel for its memory
            else:
                worker = Worker(self._task, self._memory_mb)
            self._busy.add(worker)
            return worker

    def _give_back(self, worker: Worker) -> None:
        if worker.lost:
            worker.close()
        with self._lock:
            self._busy.discard(worker)
            if not worker.lost:
                self._idle.append(worker)


_Pool = TypeVar("_Pool", bound=LimitedPool)
_pools: dict[Hashable, Any] = {}  # instances of LimitedPool and its subclasses
_pools_lock = threading.Lock()


def shared_pool(key: Hashable, make: Callable[[], _Pool]) -> _Pool:
    """Return this process's pool for `key`, shared by all threads and made on first use."""
    with _pools_lock:
        if key not in _pools:
            _pools[key] = make()
        pool: _Pool = _pools[key]
        return pool


def _close_pools() -> None:
    pools: list[LimitedPool] = list(_pools.values())
    for pool in pools:
        pool.close()


def _forget_pools_after_fork() -> None:
    """Leave the parent's workers to the parent; open pipes in the child would keep them alive."""
    global _pools_lock
    pool: LimitedPool
    for pool in _pools.values():
        for worker in [*pool._idle, *pool._busy]:
            worker.forget()
    _pools.clear()
    _pools_lock = threading.Lock()


atexit.register(_close_pools)
os.register_at_fork(after_in_child=_forget_pools_after_fork)
