# SPDX-License-Identifier: Apache-2.0
"""The curve of a training run, from verl's records: what each step has cost so far, and the held-out accuracy.

Values between two points are interpolated linearly. Beyond the last point there is no value: None.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Point:
    """A training run after a step.

    Attributes:
        decoded_tokens, computed_prompt_tokens, engine_calls, trajectories: What training has sampled since step 1.
        seconds: What training has taken since step 1; validation and start-up are not in it.
        reward: Mean training reward of this step; None before the first.
        accuracy: Share of held-out samples that are right, after this step; None where verl did not validate.
    """

    step: int = 0
    decoded_tokens: float = 0.0
    computed_prompt_tokens: float = 0.0
    engine_calls: float = 0.0
    trajectories: float = 0.0
    seconds: float = 0.0
    reward: float | None = None
    accuracy: float | None = None

    @property
    def computed_tokens(self) -> float:
        """Tokens that the engine has put through the model: decoded ones, and prompts that were not cached."""
        return self.decoded_tokens + self.computed_prompt_tokens


def accumulate(records: Sequence[Mapping[str, Any]]) -> list[Point]:
    """Return the run's curve from verl's records, ``{"step": int, "data": {metric: value}}``, one per step from 0.

    Raises:
        ValueError: if a record has no or several held-out accuracies where one is expected.
    """
    points, last = [], Point()
    for record in records:
        data = record["data"]
        accuracies = [value for key, value in data.items() if key.startswith("val-core/") and "/mean@" in key]
        if len(accuracies) > 1 or (record["step"] == 0 and not accuracies):
            raise ValueError(f"step {record['step']}: {len(accuracies)} metrics val-core/.../mean@n, must be one")
        last = Point(
            step=record["step"],
            decoded_tokens=last.decoded_tokens + data.get("treepo/decoded_tokens", 0.0),
            computed_prompt_tokens=last.computed_prompt_tokens + data.get("treepo/computed_prompt_tokens", 0.0),
            engine_calls=last.engine_calls + data.get("treepo/engine_calls", 0.0),
            trajectories=last.trajectories + data.get("treepo/trajectories", 0.0),
            seconds=last.seconds + data.get("timing_s/step", 0.0),
            reward=data.get("critic/rewards/mean"),
            accuracy=accuracies[0] if accuracies else None,
        )
        points.append(last)
    return points


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return verl's records so far; a line that is still being written is left out."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def has_reached(points: Sequence[Point], tokens: float) -> bool:
    """Return whether the accuracy at so many decoded tokens is known."""
    return at(points, "accuracy", tokens) is not None


def at(points: Sequence[Point], name: str, tokens: float) -> float | None:
    """Return what ``name`` (a number of :class:`Point`) is at so many decoded tokens; None where it is not known."""
    known = [(point.decoded_tokens, getattr(point, name)) for point in points if getattr(point, name) is not None]
    if not known or not known[0][0] <= tokens <= known[-1][0]:
        return None
    return float(np.interp(tokens, *zip(*known, strict=True)))


def cut(points: Sequence[Point], tokens: float) -> list[Point]:
    """Return the validated points up to so many decoded tokens, with one exactly there if the run came so far."""
    kept = [point for point in points if point.accuracy is not None and point.decoded_tokens < tokens]
    if has_reached(points, tokens):
        seconds, accuracy = at(points, "seconds", tokens), at(points, "accuracy", tokens)
        kept.append(Point(decoded_tokens=tokens, seconds=seconds or 0.0, accuracy=accuracy))
    return kept


def mean_accuracy(points: Sequence[Point], tokens: float) -> float | None:
    """Return the area under accuracy against decoded tokens from 0 to ``tokens``, divided by ``tokens``.

    None if the run is short of them.
    """
    if not has_reached(points, tokens):
        return None
    kept = cut(points, tokens)
    areas = [
        (right.decoded_tokens - left.decoded_tokens) * (left.accuracy + right.accuracy) / 2
        for left, right in zip(kept, kept[1:], strict=False)
    ]
    return sum(areas) / tokens


def band(runs: Sequence[Sequence[Point]], name: str, count: int = 101) -> tuple[np.ndarray, np.ndarray]:
    """Return the accuracy of several runs on a common grid of ``name`` (decoded_tokens or seconds).

    Args:
        runs: Validated points of each, as from :func:`cut`.
        count: Points of the grid, from 0 to where the first of the runs ends.

    Returns:
        The grid (count,), and accuracies (runs, count).
    """
    grid = np.linspace(0.0, min(getattr(points[-1], name) for points in runs), count)
    accuracies = [
        np.interp(grid, [getattr(point, name) for point in points], [point.accuracy for point in points])
        for points in runs
    ]
    return grid, np.array(accuracies)
