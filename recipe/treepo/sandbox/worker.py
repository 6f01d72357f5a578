# SPDX-License-Identifier: Apache-2.0
"""Answer questions about untrusted text in a separate process; `pool.py` runs this file by path.

A *task* is a Python file with a function `load()` that returns a function (question, a JSON object) -> any JSON value.
The worker loads the task once and forks a copy of itself for each question. The kernel ends the copy at its time limit
and limits its memory. The worker itself never touches untrusted text and survives any failure of a copy. Each copy
starts from the same state, so a result does not depend on earlier questions. A timeout inside one process would not
suffice: a long C call does not notice it, and math-verify and SymPy catch most exceptions.

The worker speaks JSON lines: "ready" first, then one reply per request, until standard input ends (the parent is gone).
The worker and its tasks import nothing of this repository and neither torch nor ray.
"""

import gc
import importlib.util
import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

Task = Callable[[dict[str, Any]], Any]


def limit_memory(extra_bytes: int) -> None:
    """Limit the address space to its current size plus `extra_bytes`, so imports do not count."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        mapped = int(statm.read().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = mapped + extra_bytes
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def load_task(path: str) -> Task:
    """Run a task's file and return the result of its `load`."""
    spec = importlib.util.spec_from_file_location("limited_task", path)
    assert spec is not None and spec.loader is not None, f"{path} is not a Python file"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    task: Task = module.load()
    return task


def _run_copy(request: dict[str, Any], task: Task, sender: int) -> None:
    """Write the result to `sender` and end the copy. Does not return."""
    status = 1
    try:
        # The default action of SIGALRM ends the copy inside the kernel, even if a long C call holds the
        # interpreter or the worker is gone.
        signal.setitimer(signal.ITIMER_REAL, request["timeout_s"])
        os.dup2(sender, 0)
        os.closerange(3, 64)  # a pipe left open here would hide the worker's death from the parent
        result = json.dumps(task(request["question"]))
        with open(0, "w", encoding="ascii") as results:
            results.write(result)
        status = 0
    except BaseException:  # hostile text can raise anything
        status = 1
    finally:
        os._exit(status)


def answer_in_copy(request: dict[str, Any], task: Task) -> dict[str, Any]:
    """Fork a copy that answers one request; return {"result": ...} or {"failure": "timeout" or "crash"}."""
    receiver, sender = os.pipe()
    copy = os.fork()
    if copy == 0:
        _run_copy(request, task, sender)
    os.close(sender)
    with os.fdopen(receiver, "rb") as results:
        result = results.read()
    _, wait_status = os.waitpid(copy, 0)
    if wait_status == 0:
        return {"result": json.loads(result)}
    timed_out = os.WIFSIGNALED(wait_status) and os.WTERMSIG(wait_status) == signal.SIGALRM
    return {"failure": "timeout" if timed_out else "crash"}


def serve(task_file: str, memory_bytes: int) -> int:
    """Answer requests until standard input ends; return the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    logging.disable(logging.CRITICAL)
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # keep the output of libraries out of the replies

    def reply(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message).encode("ascii") + b"\n")

    try:
        task = load_task(task_file)
        limit_memory(memory_bytes)
    except Exception as error:
        reply({"failed": f"{type(error).__name__}: {error}"})
        return 1
    # A copy shares the worker's memory until it writes to it; a garbage collection would write to all of it.
    gc.collect()
    gc.freeze()
    gc.disable()
    reply({"ready": True})
    for line in sys.stdin.buffer:
        reply(answer_in_copy(json.loads(line), task))
    return 0


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1], int(sys.argv[2])))
