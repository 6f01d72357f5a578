# SPDX-License-Identifier: Apache-2.0
"""How much the trajectories of a prompt tell, for what they cost, by tree shape.

A prompt is sampled several times, each time with its own tree. Its trajectories are dependent: with the variance of the
mean accuracy of its trees, :func:`effective_number` says how many independent samples would tell as much.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from recipe.treepo.evaluation.plot import finish, style
from recipe.treepo.evaluation.records import Records
from recipe.treepo.evaluation.summary import costs_of

SHAPES: Mapping[str, Mapping[str, Any]] = {
    "root_1": {"init_divergence": 1},
    "root_2": {"init_divergence": 2},
    "root_4": {"init_divergence": 4},
    "root_8": {"init_divergence": 8},
    "root_16": {"init_divergence": 16},
    "root_2_to_8": {"init_divergence": [2, 8]},
    "divergence_4": {"init_divergence": 4, "divergence": 4},
    "half_depth": {"depth": 0.5},
    "double_depth": {"depth": 2},
    "fallback_dry": {"fallback": {"start": "dry"}},
    "fallback_root": {"fallback": {"point": "root"}},
    "by_path": {"search": "by_path"},
    "entropy": {"branching": {"share": "entropy"}},
    "root_4_by_path": {"init_divergence": 4, "search": "by_path"},
}
"""Keys of the ``treepo`` group that differ from 2 children of the root and divergence 2; ``depth`` is a factor."""
PLAIN = "plain"


@dataclass(frozen=True, kw_only=True)
class Diversity:
    """What the trajectories of a prompt tell, and their cost; means over prompts.

    Attributes:
        mean: Accuracy of a trajectory.
        passed: Share of prompts with a right trajectory (pass@n).
        mixed: Share of prompts with right and wrong trajectories, the only ones that GRPO learns from.
        effective: Number of independent samples whose mean accuracy varies as much.
        effective_low, effective_high: Its 95 % bootstrap interval over the problems.
        tokens: Decoded tokens per prompt.
        computed: Decoded tokens and computed prompt tokens per prompt.
        calls: Engine calls per prompt.
        trajectories_per_second: Of the whole run.
    """

    mean: float
    passed: float
    mixed: float
    effective: float
    effective_low: float
    effective_high: float
    tokens: float
    computed: float
    calls: float
    trajectories_per_second: float


def effective_number(means: np.ndarray) -> float:
    """Return the number of independent samples whose mean varies as much as that of a tree.

    The mean of k independent samples of a prompt with accuracy p has the variance p (1 - p) / k. Both sides are
    estimated without bias: the variance within prompts, and p (1 - p) as m (1 - m) + variance / trees, where m is the
    mean over the trees of the prompt.

    Args:
        means: (prompts, trees) mean accuracy of each tree.
    """
    variance = means.var(axis=1, ddof=1)
    middle = means.mean(axis=1)
    spread = middle * (1 - middle) + variance / means.shape[1]
    return float(spread.mean() / variance.mean())


def effective_interval(means: np.ndarray, *, resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % bootstrap interval over prompts of :func:`effective_number`."""
    rng, prompts = np.random.default_rng(seed), len(means)
    with np.errstate(divide="ignore", invalid="ignore"):  # resamples without any variance count as endless
        found = [effective_number(means[rng.integers(prompts, size=prompts)]) for _ in range(resamples)]
    low, high = np.percentile(np.nan_to_num(found, nan=np.inf), [2.5, 97.5], method="nearest")
    return float(low), float(high)


def diversity(accuracies: np.ndarray, costs: Mapping[str, float]) -> Diversity:
    """Return the measures of one shape.

    Args:
        accuracies: (prompts, trees, trajectories) accuracy of each trajectory, 0 or 1.
        costs: ``tokens``, ``computed``, ``calls`` and ``trajectories_per_second``.
    """
    right, means = accuracies.sum(axis=2), accuracies.mean(axis=2)
    low, high = effective_interval(means)
    return Diversity(
        mean=float(accuracies.mean()),
        passed=float((right > 0).mean()),
        mixed=float(((right > 0) & (right < accuracies.shape[2])).mean()),
        effective=effective_number(means),
        effective_low=low,
        effective_high=high,
        **costs,
    )


def read_samples(path: Path, problems: int) -> tuple[np.ndarray, dict[str, float]]:
    """Read the sample file of an evaluation whose data repeat ``problems`` rows; see :func:`diversity`.

    Raises:
        ValueError: if samples are missing.
    """
    with path.open(encoding="utf-8") as file:
        fingerprint = json.loads(file.readline())["fingerprint"]
    results = sorted(Records(path, fingerprint).results, key=lambda result: result.row)
    if not results or [result.row for result in results] != [*range(len(results))] or len(results) % problems:
        raise ValueError(f"{path}: samples of some problems are missing.")
    right = np.array([[float(one.correct) for one in result.trajectories] for result in results])
    costs, prompts = costs_of(results), len(results)
    return right.reshape(-1, problems, right.shape[1]).transpose(1, 0, 2), {
        "tokens": costs["decoded_tokens"] / prompts,
        "computed": (costs["decoded_tokens"] + costs["computed_prompt_tokens"]) / prompts,
        "calls": costs["engine_calls"] / prompts,
        "trajectories_per_second": costs["trajectories_per_second"],
    }


def children(keys: Mapping[str, Any]) -> int:
    """Return a shape's largest number of children of the root."""
    own = keys.get("init_divergence", 2)
    return max(own) if isinstance(own, list) else int(own)


def read_shape(samples: Path, shape: str, n: int, *, problems: int, largest: int) -> Diversity:
    """Measure a shape with ``n`` trajectories from an evaluation's samples.

    Plain samples were drawn once, ``largest`` per prompt; groups of n of them stand for prompts sampled again.
    """
    is_plain = shape == PLAIN
    accuracies, costs = read_samples(samples / f"{shape}_n{largest if is_plain else n}.jsonl", problems)
    if is_plain:
        accuracies = accuracies.reshape(problems, -1, n)
        costs = {name: cost * (1 if name.endswith("second") else n / largest) for name, cost in costs.items()}
    return diversity(accuracies, costs)


def arms(shapes: Mapping[str, Mapping[str, Any]], depth: int) -> list[str]:
    """Return the overrides of an evaluation with plain samples and these shapes.

    Args:
        depth: Depth that the factors refer to.
    """
    overrides = ["evaluation.arms.tree=null"]
    for name, own in shapes.items():
        keys: dict[str, Any] = {"init_divergence": 2, "divergence": 2, "segment_length": None, **own}
        keys["depth"] = round(depth * keys.get("depth", 1))
        overrides.append(f"+evaluation.arms.{name}={_hydra(keys)}")
    return overrides


def _hydra(value: Any) -> str:
    """Write a value in Hydra's grammar."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_hydra(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_hydra, value)) + "]"
    return "null" if value is None else str(value)


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the points that no other point beats at lower or equal cost, by rising cost.

    Args:
        points: (cost, gain) of each point.
    """
    best, chosen = float("-inf"), []
    for at in sorted(range(len(points)), key=lambda at: (points[at][0], -points[at][1])):
        if points[at][1] > best:
            best = points[at][1]
            chosen.append(at)
    return chosen


def figure_of(found: Mapping[str, Mapping[str, Mapping[int, Diversity]]]) -> Figure:
    """Draw effective number and share of mixed prompts against decoded tokens, a row per model, with Pareto fronts.

    Args:
        found: By model, shape and n.
    """
    panels = {"effective": "independent samples worth", "mixed": "share of mixed prompts", "passed": "pass@n"}
    figure = Figure(figsize=(12, 0.8 + 3.6 * len(found)), layout="constrained")
    axes = figure.subplots(len(found), len(panels), squeeze=False)
    for row, (model, shapes) in zip(axes, found.items(), strict=True):
        for panel, (name, label) in zip(row, panels.items(), strict=True):
            points = []
            for number, (shape, by_n) in enumerate(shapes.items()):
                own = [(one.tokens, getattr(one, name)) for _, one in sorted(by_n.items())]
                points += own
                looks = {"label": shape.replace("_", " "), "linewidth": 0.8, "markersize": 5, **style(number)}
                panel.plot(*zip(*own, strict=True), **looks)
            panel.plot(*zip(*(points[at] for at in front(points)), strict=True), color="#BBBBBB", linewidth=6, zorder=0)
            panel.set(xscale="log", xlabel="decoded tokens per prompt", ylabel=label, title=model)
    finish(figure, columns=7)
    return figure


def as_json(found: Mapping[str, Mapping[int, Diversity]]) -> dict[str, dict[str, Any]]:
    """Return the measures by shape and n, for a JSON file."""
    return {shape: {str(n): asdict(one) for n, one in by_n.items()} for shape, by_n in found.items()}
