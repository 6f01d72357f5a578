# SPDX-License-Identifier: Apache-2.0
"""The samples of one run of an evaluation in a file, one line per problem, so that an interrupted run can go on. Pure.

The first line says what the samples were made with. A file that was made with something else is never mixed with new
samples: it is an error, in which both values are named.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from recipe.treepo.search.statistics import TreeStatistics


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """One scored trajectory.

    Attributes:
        tokens: Response tokens, shared ones included.
        finish_reason: Why it ended (:class:`recipe.treepo.search.stopping.FinishReason`).
        score: What the reward function gave.
        acc: 0.0 to 1.0: the reward function's "acc" where it returns one, else its score.
        vote: Number of its answer among the problem's, None without an answer.
        answer: The answer as text.
        path: (node, response token at which it begins) from the root's child on.
        response: The text, None where responses are not kept.
    """

    tokens: int
    finish_reason: str
    score: float
    acc: float
    vote: int | None
    answer: str | None
    path: list[tuple[int, int]] = field(default_factory=list)
    response: str | None = None

    @property
    def correct(self) -> bool:
        """Whether the answer counts as correct."""
        return self.acc > 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemResult:
    """What was sampled for one problem.

    Attributes:
        data_source: Name of its data set.
        row: Its place among the problems of that data set.
        started, ended: Seconds since the epoch.
        statistics: Cost of sampling.
        trajectories: Those that could be had.
    """

    data_source: str
    row: int
    started: float
    ended: float
    statistics: TreeStatistics
    trajectories: list[Trajectory]


class RecordsError(ValueError):
    """The file holds the samples of another evaluation, or no samples at all."""


class Records:
    """The file of one run: reads what is there, and appends. One process at a time may have it."""

    def __init__(self, path: Path, fingerprint: Mapping[str, Any], *, restart: bool = False) -> None:
        """Open ``path``, or begin it; nothing is written before the first result.

        Args:
            fingerprint: What decides about the samples, by the key to change it with; must survive JSON.
            restart: Whether what is there is to be replaced; :meth:`set_aside` then comes before the first result.

        Raises:
            RecordsError: if the file was made with another fingerprint, or was not written by this class.
        """
        self.path = path
        self.fingerprint = json.loads(json.dumps(fingerprint))
        # Without the texts and paths, which are in the file, and which nobody needs here.
        self.results: list[ProblemResult] = []
        self._size = 0  # bytes of complete lines; what an interruption left behind them is overwritten
        self._restart = restart
        if path.exists() and not restart:
            self._read()

    def done(self) -> set[tuple[str, int]]:
        """Return (data source, row) of the problems that are in the file."""
        return {(result.data_source, result.row) for result in self.results}

    def set_aside(self) -> None:
        """Rename what a restart replaces: from now on it is not in the way of going on."""
        if self._restart and self.path.exists():
            self.path.replace(self.path.with_name(f"{self.path.name}.old"))

    def append(self, result: ProblemResult) -> None:
        """Write one problem; it is in the file when this returns."""
        lines = [] if self._size else [{"fingerprint": self.fingerprint}]
        text = "".join(json.dumps(line) + "\n" for line in [*lines, asdict(result)]).encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("r+b" if self.path.exists() else "w+b") as file:
            length = file.seek(0, os.SEEK_END)
            assert length >= self._size, f"{self.path} was cut from {self._size} to {length} bytes by someone else"
            file.truncate(self._size)
            file.seek(self._size)
            file.write(text)
        self._size += len(text)
        self.results.append(_slim(result))

    def _read(self) -> None:
        try:
            with self.path.open("rb") as file:
                for number, line in enumerate(file):
                    if not line.endswith(b"\n"):  # torn by an interruption
                        break
                    row = json.loads(line)
                    if number == 0:
                        self._check(row["fingerprint"])
                    else:
                        self.results.append(_slim(_result(row)))
                    self._size += len(line)
        except RecordsError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecordsError(
                f"{self.path} is not a file of samples ({type(error).__name__}: {error}). "
                "Use another evaluation.out_dir, or evaluation.restart=true to replace it."
            ) from error

    def _check(self, before: Mapping[str, Any]) -> None:
        after = self.fingerprint
        changed = [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
        if changed:
            changes = "; ".join(f"{key} was {before.get(key)}, now {after.get(key)}" for key in changed)
            raise RecordsError(
                f"{self.path} holds samples that were made otherwise: {changes}. Use another evaluation.out_dir, "
                "evaluation.restart=true to sample anew, or the settings of before."
            )


def _result(row: dict[str, Any]) -> ProblemResult:
    trajectories = [Trajectory(**trajectory) for trajectory in row["trajectories"]]
    return ProblemResult(**{**row, "statistics": TreeStatistics(**row["statistics"]), "trajectories": trajectories})


def _slim(result: ProblemResult) -> ProblemResult:
    trajectories = [replace(trajectory, path=[], response=None) for trajectory in result.trajectories]
    return replace(result, trajectories=trajectories)
