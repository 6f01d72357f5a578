# SPDX-License-Identifier: Apache-2.0
"""File of the samples of one run, one line per problem, so that an interrupted evaluation can resume.

The first line holds the fingerprint: all inputs that affect the samples. Another fingerprint is an error that
names both values.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from recipe.treepo.search.statistics import TreeStatistics


def reward_error(score: float | None, acc: float) -> str | None:
    """Return the values that are not finite, such as ``score=nan``; None if both are."""
    values = {"score": score, "acc": acc}
    return (
        ", ".join(f"{key}={one}" for key, one in values.items() if one is not None and not math.isfinite(one)) or None
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """One scored trajectory. Without a finite score and accuracy, it counts as wrong.

    Attributes:
        tokens: Number of response tokens, shared ones included.
        finish_reason: Reason of its end (:class:`recipe.treepo.search.stopping.FinishReason`).
        score: Score of the reward function; None if it is not finite.
        acc: Accuracy, 0.0 to 1.0: the reward function's "acc" if it returns one, else its score. 0.0 if either is not
            finite.
        vote: Index of its answer among the problem's distinct answers; None without an answer.
        answer: Final answer as text; None without an answer.
        path: (node, index of its first response token) for each node below the root.
        response: Response text; None unless responses are kept.
        reward_error: The values that are not finite, as text; None if both are.
    """

    tokens: int
    finish_reason: str
    score: float | None
    acc: float
    vote: int | None
    answer: str | None
    path: list[tuple[int, int]] = field(default_factory=list)
    response: str | None = None
    reward_error: str | None = None

    def __post_init__(self) -> None:
        if error := reward_error(self.score, self.acc):
            score = self.score if self.score is not None and math.isfinite(self.score) else None
            for name, value in (("score", score), ("acc", 0.0), ("reward_error", error)):
                object.__setattr__(self, name, value)

    @property
    def correct(self) -> bool:
        """Whether the answer counts as correct."""
        return self.acc > 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemResult:
    """Trajectories and sampling cost of one problem.

    Attributes:
        data_source: Name of its data set.
        row: Index among the problems of that data set.
        started, ended: Start and end of sampling, in seconds since the epoch.
        statistics: Sampling cost.
        trajectories: Scored trajectories.
    """

    data_source: str
    row: int
    started: float
    ended: float
    statistics: TreeStatistics
    trajectories: list[Trajectory]


class RecordsError(ValueError):
    """The file has another fingerprint, or is not a file of samples."""


class Records:
    """Sample file of one run; only one process at a time may use it."""

    def __init__(self, path: Path, fingerprint: Mapping[str, Any], *, restart: bool = False) -> None:
        """Read ``path`` if it exists; the first result creates or extends it.

        Args:
            fingerprint: All inputs that affect the samples, by configuration key; must survive a JSON round trip.
            restart: Whether to ignore an existing file. Then call :meth:`set_aside` before the first result.

        Raises:
            RecordsError: if the file has another fingerprint, or was not written by this class.
        """
        self.path = path
        self.fingerprint = json.loads(json.dumps(fingerprint))
        # Without responses and paths, which only the file needs.
        self.results: list[ProblemResult] = []
        self._size = 0  # bytes of complete lines; a torn line after them is overwritten
        self._restart = restart
        if path.exists() and not restart:
            self._read()

    def done(self) -> set[tuple[str, int]]:
        """Return (data source, row) of each recorded problem."""
        return {(result.data_source, result.row) for result in self.results}

    def set_aside(self) -> None:
        """On a restart, rename the existing file to ``*.old``."""
        if self._restart and self.path.exists():
            self.path.replace(self.path.with_name(f"{self.path.name}.old"))

    def append(self, result: ProblemResult) -> None:
        """Append one problem; the file contains it on return."""
        lines = [] if self._size else [{"fingerprint": self.fingerprint}]
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in [*lines, asdict(result)]).encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("r+b" if self.path.exists() else "w+b") as file:
            length = file.seek(0, os.SEEK_END)
            assert length >= self._size, f"{self.path} was cut from {self._size} to {length} bytes by another process"
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
                f"{self.path} holds samples of other settings: {changes}. Use another evaluation.out_dir, "
                "evaluation.restart=true to sample again, or the previous settings."
            )


def _result(row: dict[str, Any]) -> ProblemResult:
    trajectories = [Trajectory(**trajectory) for trajectory in row["trajectories"]]
    return ProblemResult(**{**row, "statistics": TreeStatistics(**row["statistics"]), "trajectories": trajectories})


def _slim(result: ProblemResult) -> ProblemResult:
    trajectories = [replace(trajectory, path=[], response=None) for trajectory in result.trajectories]
    return replace(result, trajectories=trajectories)
