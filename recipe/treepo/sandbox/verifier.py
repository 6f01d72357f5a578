# SPDX-License-Identifier: Apache-2.0
"""Compare answers with math-verify in the processes of `pool.py`, and cache the verdicts."""

import threading
from collections import OrderedDict
from enum import Enum
from pathlib import Path

from recipe.treepo.sandbox.pool import Failure, LimitedPool, shared_pool

TASK_FILE = Path(__file__).with_name("verifier_task.py")
MAX_KNOWN = 2_000  # cached verdicts per pool, the latest ones; at most about 20 MB of text
_REMEDY = "Install math-verify (pip install math-verify) in the environment of the reward function."


class Verdict(Enum):
    """Verdict of a worker on a pair of answers."""

    EQUAL = "equal"
    DIFFERENT = "different"
    TIMEOUT = "timeout"  # no verdict within the limit
    CRASH = "crash"  # out of memory, an error of math-verify, or a dead worker


# Answers that do not fit into a pipe are not parsed and count as different.
_VERDICTS = {
    True: Verdict.EQUAL,
    False: Verdict.DIFFERENT,
    Failure.TIMEOUT: Verdict.TIMEOUT,
    Failure.CRASH: Verdict.CRASH,
    Failure.TOO_LONG: Verdict.DIFFERENT,
}


class VerifierPool(LimitedPool):
    """Pool of workers that compare answers."""

    def __init__(self, *, workers: int, memory_mb: int) -> None:
        super().__init__(TASK_FILE, workers=workers, memory_mb=memory_mb)
        self._known_lock = threading.Lock()
        # Samples of a prompt often give the same answer, and a verdict does not depend on earlier questions.
        self._known: OrderedDict[tuple[str, str], Verdict] = OrderedDict()

    def verify(self, gold: str, answer: str, *, timeout_s: float) -> Verdict:
        """Compare two answers; `timeout_s` excludes the wait for a free worker and its start."""
        with self._known_lock:
            if (gold, answer) in self._known:
                return self._known[gold, answer]
        try:
            verdict = _VERDICTS[self.ask({"gold": gold, "answer": answer}, timeout_s=timeout_s)]
        except RuntimeError as error:
            raise RuntimeError(f"{error}. {_REMEDY}") from error
        if verdict in (Verdict.EQUAL, Verdict.DIFFERENT):
            self._remember(gold, answer, verdict)
        return verdict

    def _remember(self, gold: str, answer: str, verdict: Verdict) -> None:
        with self._known_lock:
            self._known[gold, answer] = verdict
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)


def get_pool(*, workers: int, memory_mb: int) -> VerifierPool:
    """Return this process's pool with these settings, shared by all threads."""
    return shared_pool((TASK_FILE, workers, memory_mb), lambda: VerifierPool(workers=workers, memory_mb=memory_mb))
