# SPDX-License-Identifier: Apache-2.0
"""Training with the recipe's console: the output of verl, Ray and the engines goes to files of the run."""

import contextlib
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TextIO, TypeVar

from omegaconf import DictConfig

from recipe.treepo.console.capture import Capture, log_traceback, release
from recipe.treepo.console.failures import LAST_WORD, RESTARTABLE, Failure, failure_of, shorten
from recipe.treepo.console.leftovers import remove_leftovers
from recipe.treepo.console.log_scan import LogScan, last_lines_of, warnings_line
from recipe.treepo.console.metric_tail import MetricTail
from recipe.treepo.console.reporter import Reporter
from recipe.treepo.console.screen import Screen
from recipe.treepo.console.summary import note_lines, summary
from recipe.treepo.console.table import duration
from recipe.treepo.settings.schema import TreePOSettings
from recipe.treepo.verl_adapters.console_files import (
    CONSOLE_LOG,
    RAY_LOGS,
    RayLogs,
    open_logs,
    run_folder,
    use_file_logger,
)
from recipe.treepo.verl_adapters.console_notes import Note, results, resume, short, title

# Maximum number of log lines read for the summary.
_MOST_LINES = 2_000_000
_INTERRUPTED = 128 + signal.SIGINT
_T = TypeVar("_T")


def train_with_console(
    config: DictConfig, settings: TreePOSettings, train: Callable[[], None], *, early: Path | None = None
) -> int:
    """Run training and return the exit status.

    Args:
        train: Function that runs verl with ``config``. The loggers in ``config`` are replaced before the call.
        early: File with the output before this call.

    Raises:
        Exception: the error of ``train``, but only if the run's logs are not writable and verl's console is used.
    """
    try:
        logs = open_logs(run_folder(config))
        if early is not None:
            (logs / CONSOLE_LOG).write_bytes(early.read_bytes())
        capture = Capture(logs / CONSOLE_LOG)
        capture.__enter__()
    except OSError as error:
        if early is not None:
            release(early)
        print(f"note: the run's logs cannot be written ({error}); verl's console is used", file=sys.stderr)
        train()
        return 0
    with contextlib.ExitStack() as stack:
        stack.push(capture)
        if early is not None:
            early.unlink(missing_ok=True)
        return _RunConsole(config, settings, logs, Screen(capture.screen, capture.error_screen)).run(train)


class _RunConsole:
    """Console of one run while its output is captured."""

    def __init__(self, config: DictConfig, settings: TreePOSettings, logs: Path, screen: Screen) -> None:
        self._config, self._logs, self._screen = config, logs, screen
        self._ray = RayLogs(logs)
        self._copy_problem: str | None = None
        self._began = time.time()
        trainer = config.trainer
        self._reporter = Reporter(
            screen,
            MetricTail(use_file_logger(config, logs)),
            validates_first=bool(trainer.get("val_before_train", True)),
            validates=(trainer.get("test_freq") or 0) > 0,
            last_step=trainer.get("total_training_steps"),
            chores=[self._ray.link],
        )
        screen.lines(*_tried(lambda: title(config, settings, logs), [f"logs: {logs}"]))

    def run(self, train: Callable[[], None]) -> int:
        """Run training and return the exit status."""
        _tried(self._reporter.start, None)
        try:
            train()
        except BaseException as error:
            log_traceback()
            self._close()
            return self._report_end(error)
        self._close()
        self._screen.lines(*_tried(self._summary, ["done; the summary failed, see the logs"]))
        return 0

    def _summary(self) -> list[str]:
        none: list[Note] = []
        notes = _tried(lambda: results(self._config), none)
        return summary(self._reporter.totals, self._reporter.seconds, [*notes, *self._log_notes()])

    def _close(self) -> None:
        """Stop reporting, then Ray, and remove what killed processes left; a second Ctrl-C interrupts only this."""
        try:
            self._reporter.finish()
            self._screen.live("stopping Ray, copying its logs")
            try:
                self._ray.close()
            finally:  # also where the logs cannot be copied
                for path in remove_leftovers(self._began):
                    print(f"removed {path}, which a killed process had left")
        except KeyboardInterrupt:
            self._copy_problem = "interrupted"
        except Exception as error:
            self._copy_problem = f"{type(error).__name__}: {str(error)[:200]}"

    def _log_notes(self) -> Iterator[Note]:
        text = f"{short(self._logs)} (console.log: all output, ray/: log files of each process)"
        yield "logs", text
        if self._copy_problem:
            yield "note", f"Ray's logs were not copied completely ({self._copy_problem})"
        scan = self._scan()
        if warnings := warnings_line(scan.warnings):
            yield "warnings", warnings
        if error := scan.most_frequent_error():
            total = sum(found.count for found in scan.errors.values())
            first = f"{error.kind}: {error.text}".splitlines()[0]
            yield "errors", f"{total:,} in console.log, most often ({error.count:,}) {first[:200]}"

    def _scan(self) -> LogScan:
        def scan() -> LogScan:
            with self._open_log() as lines:
                return LogScan().add(islice(lines, _MOST_LINES))

        return _tried(scan, LogScan())

    def _open_log(self) -> TextIO:
        return (self._logs / CONSOLE_LOG).open(encoding="utf-8", errors="replace")

    def _report_end(self, error: BaseException) -> int:
        """Print how an unfinished run ended, with the cause last; return the exit status."""
        cause: list[str] = []
        status = 1
        if isinstance(error, KeyboardInterrupt):
            ended, status = "interrupted", _INTERRUPTED
        elif isinstance(error, SystemExit):
            ended, status = f"ended by a signal or an exit ({error.code})", _status(error)
        else:
            raised = _tried(lambda: failure_of(error), None)
            ended, cause = "failed", [f"error: {error}"]
            if raised is not None:
                cause = _tried(lambda: self._cause(raised), cause)
                status = RESTARTABLE if raised.is_death else 1
        processes = self._logs / RAY_LOGS
        also = f", and each process in {short(processes)}" if processes.exists() else ""
        notes = [
            ("logs", f"{short(self._logs / CONSOLE_LOG)}{also}"),
            _tried(lambda: resume(self._config), ("resume", "the same command")),
        ]
        after = duration(self._reporter.seconds)
        self._screen.lines(f"{ended} after {after}, while: {self._reporter.doing}", *note_lines(notes))
        self._screen.error_lines(*cause)
        return status

    def _cause(self, raised: Failure) -> list[str]:
        """Return the lines of the raised error, followed by the most frequent other error in the log.

        verl only logs the failure of a prompt; the error that it raises at the end is a consequence.
        """
        words = self._last_words(raised)
        if words and words[-1].lstrip().startswith(LAST_WORD):
            return Failure("WatchdogError", words[-1].lstrip().removeprefix(LAST_WORD)).lines()
        if raised.is_final:  # other errors are its consequences
            return [*words, *raised.lines()]
        logged = self._scan().most_frequent_error(besides=(raised.kind, raised.text))
        if logged is None:
            return [*raised.lines(), *words]
        times = "once" if logged.count == 1 else f"{logged.count:,} times"
        cause = Failure(logged.kind, logged.text, logged.frames)
        return [*raised.lines(), f"logged {times} by workers:", *cause.lines()]

    def _last_words(self, raised: Failure) -> list[str]:
        """Return the last log lines of a process that died; Ray's error contains its pid."""
        died = re.search(r"^\s*pid: (\d+)$|\(process (\d+)\)", raised.text, re.MULTILINE)
        if died is None:
            return []
        with self._open_log() as lines:
            last = last_lines_of(pid := int(died[1] or died[2]), islice(lines, _MOST_LINES))
        return [f"last lines of process {pid}:", *(f"  {shorten(line)}" for line in last)] if last else []


def _status(error: SystemExit) -> int:
    return error.code if isinstance(error.code, int) and error.code else 1


def _tried(make: Callable[[], _T], instead: _T) -> _T:
    """Return the result of ``make``, or ``instead`` if it raises: the console never fails a run."""
    try:
        return make()
    except Exception:
        log_traceback()
        return instead
