# SPDX-License-Identifier: Apache-2.0
"""Report a run on the screen, from a thread that can neither fail nor slow down the run."""

import threading
import time
from collections.abc import Callable, Sequence

from recipe.treepo.console.metric_tail import MetricTail, StepRecord
from recipe.treepo.console.screen import Screen
from recipe.treepo.console.summary import Totals, before_training, is_training
from recipe.treepo.console.table import Table, duration

# Seconds between two looks, and seconds of silence before a file or pipe gets a sign of life (doubled each time).
INTERVAL, SILENCE = 1.0, 300.0
STARTING = "starting Ray, engines and workers"


class Reporter:
    """Reporter that prints a line per step and the current activity of the run.

    Args:
        validates_first: Whether verl validates before the first step.
        validates: Whether verl validates during training.
        chores: Functions to call at each look, for example to link files that appear during the run.
        clock: Function that returns the time in seconds.

    Attributes:
        totals: Sums over the steps so far.
    """

    def __init__(
        self,
        screen: Screen,
        tail: MetricTail,
        *,
        validates_first: bool,
        validates: bool,
        last_step: int | None = None,
        chores: Sequence[Callable[[], None]] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.totals = Totals()
        self._screen, self._tail, self._clock, self._chores = screen, tail, clock, chores
        self._table = Table(validates=validates)
        self._validates_first, self._last_step = validates_first, last_step
        self._begin = self._since = clock()  # start of the run, and of its current activity
        self._silence = SILENCE
        self._doing = STARTING
        self._broken = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="treepo-console", daemon=True)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._begin

    @property
    def doing(self) -> str:
        """Last known activity of the run."""
        return self._doing

    def start(self) -> None:
        """Start reporting."""
        self._screen.lines(f"{STARTING} ...")
        self._thread.start()

    def finish(self) -> None:
        """Report the rest, then stop."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        if not self._thread.is_alive():
            self.look(live=False)

    def look(self, *, live: bool = True) -> None:
        """Print new records. A failure is printed once and does not affect the run."""
        if self._broken:
            return
        try:
            self._look(live=live)
        except Exception as error:
            self._broken = True
            self._screen.lines(
                f"treepo.console stopped reporting ({type(error).__name__}: {error}); the run goes on, see its logs"
            )

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL):
            self.look()

    def _look(self, *, live: bool) -> None:
        for chore in self._chores:
            chore()
        if self._doing == STARTING and self._tail.started():
            self._doing = "validating before training" if self._validates_first else "first step"
            self._restart_clock()
            self._screen.lines(f"ready after {duration(self.seconds)}, {self._doing} ...")
        for record in self._tail.read():
            self._show(record)
        if live:
            self._show_life()

    def _show(self, record: StepRecord) -> None:
        self.totals.add(record)
        if is_training(record):
            self._screen.lines(*self._table.lines(record.step, record.metrics))
        else:
            self._screen.lines(before_training(record))
        self._doing = "ending" if record.step == self._last_step else f"step {record.step + 1}"
        self._restart_clock()

    def _restart_clock(self) -> None:
        self._since, self._silence = self._clock(), SILENCE

    def _show_life(self) -> None:
        now = self._clock()
        self._screen.live(f"{self._doing}: {duration(now - self._since)}  (run: {duration(now - self._begin)})")
        if not self._screen.is_terminal and now - self._since >= self._silence:
            self._silence *= 2
            self._screen.lines(f"{self._doing}: {duration(now - self._since)} so far")
