# SPDX-License-Identifier: Apache-2.0
"""End of a run that would stand still: a process has died, or a phase makes no progress (``treepo.watchdog``).

verl waits for its workers and engines without limit. If an engine dies, the sender of the weights waits at its socket
for ever, or prompts fail one after the other. The watchdog is a thread in the trainer's process. It asks each of verl's
actors for its state, and interrupts the trainer if one has died or if the current phase has reached its limit.
"""

import faulthandler
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

from recipe.treepo.console.failures import LAST_WORD
from recipe.treepo.settings.schema import Phase, WatchdogSettings

logger = logging.getLogger(__name__)
# Seconds between two looks.
INTERVAL = 5.0
# Seconds between two interrupts of the trainer, and until its process ends if they do not help.
AGAIN, LAST_RESORT = 5.0, 60.0
# Seconds for answers before a batch is trained on, and after an error.
ANSWER = 5.0
# Signal that interrupts the trainer wherever it waits; Ray's workers block SIGINT.
INTERRUPT = signal.SIGUSR2
DOING = {
    Phase.START: "the start of workers and engines",
    Phase.ROLLOUT: "the rollout",
    Phase.VALIDATION: "the validation",
    Phase.TRAINING: "training on a batch",
    Phase.WEIGHTS: "the transfer of the weights to the engines",
    Phase.CHECKPOINT: "writing the checkpoint",
}


class WatchdogError(RuntimeError):
    """The end of a run that would stand still. The message is for the user."""


class State(NamedTuple):
    """State of an actor.

    Attributes:
        pid: Its process.
        problem: What is wrong with it, None if it works.
        progress: Number that grows with its work, 0 if it does not count.
    """

    pid: int
    problem: str | None
    progress: int


def state_of(actor: Any) -> State:
    """Return the state of an actor; runs in its process."""
    engine = getattr(actor, "engine", None)
    has_died = getattr(engine, "errored", False) is True  # vLLM's AsyncLLM, once its engine's process is dead
    problem = "its vLLM engine has died" if has_died else getattr(actor, "fault", None)
    return State(os.getpid(), problem, getattr(actor, "finished_requests", 0))


def actors_of(trainer: Any) -> dict[str, ActorHandle]:
    """Return the actors that a trainer of verl has made so far, by a name for messages. Groups may share actors."""
    groups = [getattr(trainer, name, None) for name in ("actor_rollout_wg", "critic_wg", "ref_policy_wg")]
    managers = [getattr(trainer, name, None) for name in ("llm_server_manager", "standalone_server_manager")]
    replicas = [replica for manager in managers if manager is not None for replica in manager.get_replicas()]
    roles = {
        "training worker": [worker for group in groups if group is not None for worker in group.workers],
        "engine server": [server for replica in replicas for server in replica.servers],
        "engine worker": [worker for replica in replicas for worker in replica.workers],
        "agent-loop worker": getattr(getattr(trainer, "agent_loop_manager", None), "agent_loop_workers", []),
        "reward worker": getattr(getattr(trainer, "reward_loop_manager", None), "reward_loop_workers", []),
    }
    names: dict[ActorHandle, str] = {}
    for role, actors in roles.items():
        for number, actor in enumerate(dict.fromkeys(actors)):
            names.setdefault(actor, f"{role} {number}")
    return {name: actor for actor, name in names.items()}


class Questions:
    """Questions to actors for their state. A worker answers between two calls, a dead one at once.

    Attributes:
        asked: Questions without an answer so far, by name of the actor.
    """

    def __init__(self) -> None:
        self.asked: dict[str, ray.ObjectRef] = {}

    def answers(self, actors: Mapping[str, ActorHandle], seconds: float) -> dict[str, State | RayError]:
        """Ask all actors without an open question; return the answers that come within some seconds."""
        for name, actor in actors.items():
            if name not in self.asked:
                self.asked[name] = actor.__ray_call__.remote(state_of)
        if not self.asked:
            return {}
        refs = list(self.asked.values())
        answered, _ = ray.wait(refs, num_returns=len(refs), timeout=seconds, fetch_local=False)
        found: dict[str, State | RayError] = {}
        for name in [name for name, ref in self.asked.items() if ref in answered]:
            try:
                found[name] = ray.get(self.asked.pop(name))
            except (RayTaskError, ActorUnavailableError):  # no death; the actor is asked again
                continue
            except RayError as error:
                found[name] = error
        return found


class Watchdog:
    """Watchdog of one trainer.

    Args:
        actors: Function that returns verl's actors by name, all that exist at the time of the call.
        questions: Way to ask the actors.
        clock: Function that returns the time in seconds.

    Attributes:
        failure: The error with which the run ends, None if there is none.
    """

    def __init__(
        self,
        settings: WatchdogSettings,
        actors: Callable[[], Mapping[str, ActorHandle]],
        questions: Questions | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failure: WatchdogError | None = None
        self._settings, self._actors, self._clock = settings, actors, clock
        self._questions = Questions() if questions is None else questions
        self._lock = threading.RLock()  # the trainer's thread and the watchdog's own ask the same actors
        self._states: dict[str, State] = {}
        self._busy: list[str] = []  # actors that have not answered since the look before
        self._progress: dict[str, Any] = {}
        self._phase, self._since = Phase.START, clock()

    def enter(self, phase: Phase) -> None:
        """Begin a phase of the run."""
        with self._lock:
            self._phase, self._since = phase, self._clock()

    def progress(self, source: str, state: Any) -> None:
        """Restart the clock of the phase if ``state`` differs from the last one of this source."""
        with self._lock:
            if source not in self._progress or self._progress[source] != state:
                self._progress[source], self._since = state, self._clock()

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Watch the calling thread, which must be the main thread, during the context.

        Raises:
            WatchdogError: instead of any error if a process has died, and if the phase has reached its limit.
        """
        stop = threading.Event()

        def interrupt(signum: int, frame: FrameType | None) -> None:
            if not stop.is_set():
                raise KeyboardInterrupt

        before = signal.signal(INTERRUPT, interrupt)
        thread = threading.Thread(target=self._run, args=(stop,), name="treepo-watchdog", daemon=True)
        thread.start()
        try:
            yield
        except BaseException as error:
            stop.set()
            # The error may be a consequence, of the interrupt or of a death that has not been seen yet.
            if self.failure is None and isinstance(error, Exception):
                self._ask(ANSWER)
            if self.failure is not None and self.failure is not error:
                raise self.failure from error
            raise
        finally:
            stop.set()
            thread.join(AGAIN)
            if not thread.is_alive():  # else its signal may still come, which by default ends the process
                signal.signal(INTERRUPT, before)

    def check(self) -> None:
        """Ask all actors.

        Raises:
            WatchdogError: if a process has died.
        """
        self._ask(ANSWER)
        if self.failure is not None:
            raise self.failure

    def look(self) -> None:
        """Ask all actors without waiting for answers, and compare the time with the limit of the phase."""
        with self._lock:
            before = set(self._questions.asked)
            self._ask(0.0)
            self._busy = [name for name in self._questions.asked if name in before]
            self.progress("requests", sum(state.progress for state in self._states.values()))
            limit, seconds = self._settings.limit(self._phase), self._clock() - self._since
            if self.failure is None and limit is not None and seconds >= limit:
                self.failure = WatchdogError(self._stalled(limit, seconds))

    def _run(self, stop: threading.Event) -> None:
        while self.failure is None and not stop.wait(INTERVAL):
            try:
                self.look()
            except Exception:  # a fault of the watchdog is none of the run
                logger.exception("the watchdog could not look; it goes on")
        if self.failure is not None:
            self._interrupt(stop)

    def _interrupt(self, stop: threading.Event) -> None:
        """Interrupt the main thread until it stops, as Ctrl-C does; end the process if it does not."""
        end, trainer = time.monotonic() + LAST_RESORT, threading.main_thread().ident
        assert trainer is not None
        while not stop.is_set() and time.monotonic() < end:
            signal.pthread_kill(trainer, INTERRUPT)
            stop.wait(AGAIN)
        if not stop.is_set():
            faulthandler.dump_traceback(all_threads=True)
            print(f"{LAST_WORD}{self.failure}", file=sys.stderr, flush=True)
            os._exit(1)

    def _ask(self, seconds: float) -> None:
        """Ask all actors; a dead one is the failure, unless there is one already."""
        with self._lock:
            for name, answer in self._questions.answers(self._actors(), seconds).items():
                if isinstance(answer, State):
                    self._states[name] = answer
                    problem = answer.problem
                else:
                    problem = f"it has died{_detail(answer)}"
                if problem is not None and self.failure is None:
                    self.failure = WatchdogError(f"{self._named(name)}: {problem}.")

    def _stalled(self, limit: float, seconds: float) -> str:
        began = time.strftime("%H:%M:%S", time.localtime(time.time() - seconds))
        busy = [self._named(name) for name in self._busy]
        waits = f" Not answering: {', '.join(busy)}." if busy else ""
        return (
            f"treepo.watchdog.{self._settings.key(self._phase)}={limit:g}: {DOING[self._phase]} has made no progress "
            f"for {seconds:,.0f} s, since {began}.{waits} Use a higher limit, or null, if this takes longer."
        )

    def _named(self, name: str) -> str:
        return f"{name} (process {self._states[name].pid})" if name in self._states else name


def _detail(error: RayError) -> str:
    """Return Ray's explanation of a death, one sentence."""
    found = re.search(r"Worker exit detail: (.+)", str(error)) or re.search(r"(?:died|dead) because (.+)", str(error))
    return "" if found is None else f": {found[1].split('. ')[0].strip().rstrip('.')}"
