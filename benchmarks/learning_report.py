# SPDX-License-Identifier: Apache-2.0
"""The report of benchmarks/learning_study.py: a Markdown table, a plot and all results as JSON, beside each other.

Only what stands between two marks in the Markdown file is replaced, so that text may be written around it.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.learning_curves import Point, at, band, cut, has_reached, mean_accuracy
from recipe.treepo.evaluation.machine import described

BEGIN, END = "<!-- learning_study: begin -->", "<!-- learning_study: end -->"
BASELINE = "grpo_plain"
COLUMNS = (
    *("arm", "seeds", "accuracy before", "at 50 %", "at 100 %", "mean along the way"),
    *("steps", "trajectories", "engine calls", "tokens computed", "training time"),
)
COSTS = ("step", "trajectories", "engine_calls", "computed_tokens")
# Okabe and Ito's colours, which colour-blind readers can tell apart, and dashes for those who print in grey.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", "-.", ":")


def check_report(path: Path) -> None:
    """Check that the report can be written.

    Raises:
        ValueError: if the file has no marks or is not Markdown.
    """
    if path.suffix != ".md":
        raise ValueError(f"--report {path}: must end in .md")
    if path.exists() and not re.search(f"{BEGIN}.*{END}", path.read_text(), re.DOTALL):
        raise ValueError(f"--report {path}: lacks the lines {BEGIN} and {END}, between which the table goes")


def by_arm(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, list[Point]]]:
    """Return the curves by arm and seed."""
    curves: dict[str, dict[int, list[Point]]] = {}
    for result in results:
        curves.setdefault(result["arm"], {})[result["seed"]] = [Point(**row) for row in result["points"]]
    return curves


def time_ratio(curves: Mapping[int, Sequence[Point]], baseline: Mapping[int, Sequence[Point]], tokens: float) -> str:
    """Return seconds up to so many tokens over the baseline's, as the mean over the seeds for which both are known."""
    pairs = [
        (at(curves[seed], "seconds", tokens), at(baseline[seed], "seconds", tokens))
        for seed in sorted(set(curves) & set(baseline))
        if has_reached(curves[seed], tokens) and has_reached(baseline[seed], tokens)
    ]
    return f"{fmean(ours / theirs for ours, theirs in pairs):.2f}" if pairs else "-"


def summary(
    label: str, curves: Mapping[int, Sequence[Point]], baseline: Mapping[int, Sequence[Point]], tokens: float
) -> list[str]:
    """Return an arm's row of the table, of the runs that came so far; the others are named and left out."""
    complete = [points for points in curves.values() if has_reached(points, tokens)]
    short = [
        f"{seed} at {max((point.decoded_tokens for point in points if point.accuracy is not None), default=0):,.0f}"
        for seed, points in sorted(curves.items())
        if not has_reached(points, tokens)
    ]
    seeds = f"{len(complete)}" + (f", short: {', '.join(short)}" if short else "")
    if not complete:
        return [label, seeds, *["-"] * (len(COLUMNS) - 2)]

    def spread(values: Sequence[float]) -> str:
        return f"{fmean(values):.3f}" + (f" ({min(values):.3f}-{max(values):.3f})" if len(values) > 1 else "")

    seconds = fmean(at(points, "seconds", tokens) for points in complete)
    return [
        label,
        seeds,
        *(spread([at(points, "accuracy", part * tokens) for points in complete]) for part in (0.0, 0.5, 1.0)),
        spread([mean_accuracy(points, tokens) for points in complete]),
        *(f"{fmean(at(points, name, tokens) for points in complete):,.0f}" for name in COSTS),
        f"{time_ratio(curves, baseline, tokens)} ({seconds:.0f} s)",
    ]


def table(results: Sequence[Mapping[str, Any]], tokens: float) -> str:
    """Return the Markdown table, one row per arm in the order of the results."""
    curves = by_arm(results)
    labels = {result["arm"]: result["label"] for result in results}
    rows = [summary(labels[arm], runs, curves.get(BASELINE, {}), tokens) for arm, runs in curves.items()]
    lines = [COLUMNS, ["---"] * len(COLUMNS), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def facts(results: Sequence[Mapping[str, Any]]) -> str:
    """Return what the numbers were had with, and what they mean."""
    machines = {json.dumps(result["machine"], sort_keys=True) for result in results}
    with_what = "; ".join(map(described, map(json.loads, sorted(machines))))
    arms = {result["label"]: result["overrides"] for result in results}
    shared = os.path.commonprefix(list(arms.values()))
    lines = [f"- {label}: {' '.join(f'`{setting}`' for setting in own[len(shared) :])}" for label, own in arms.items()]
    return "\n".join(
        [
            "Means over the seeds, with the least and the most in brackets. Accuracy: share of right answers to the",
            "held-out problems, sampled at temperature 1. Mean along the way: area under accuracy against decoded",
            "tokens, divided by the tokens. Everything from `steps` on is what training had cost when the tokens were",
            "spent; tokens computed are decoded tokens and prompt tokens that were not cached. Training time: relative",
            "to plain GRPO of the same seed (and mean seconds); validation and start-up are not in it.",
            f"{with_what}.",
            "",
            f"Settings, on top of the preset `tiny`: `{' '.join(shared)}`, and",
            "",
            *lines,
        ]
    )


def plot(results: Sequence[Mapping[str, Any]], tokens: float, path: Path) -> None:
    """Draw accuracy against decoded tokens and against training time: mean over seeds, and their range as a band."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    labels = {result["arm"]: result["label"] for result in results}
    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4.6), sharey=True, layout="constrained")
    lines = []
    for number, (arm, runs) in enumerate(by_arm(results).items()):
        curves = [kept for points in runs.values() if (kept := cut(points, tokens))]
        if not curves:
            continue
        look = {"color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[number % len(DASHES)]}
        for panel, name, scale in zip(panels, ("decoded_tokens", "seconds"), (1e-3, 1.0), strict=True):
            grid, accuracies = band(curves, name)
            panel.fill_between(
                scale * grid, accuracies.min(0), accuracies.max(0), color=look["color"], alpha=0.13, lw=0
            )
            line = panel.plot(scale * grid, accuracies.mean(0), linewidth=2, label=labels[arm], **look)
        lines += line
    panels[0].set(xlabel="decoded tokens (thousands)", ylabel="held-out accuracy", xlim=(0, 1e-3 * tokens))
    panels[1].set(xlabel="training time (seconds)", xlim=(0, None))
    for panel in panels:
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    figure.legend(handles=lines, loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def write_report(path: Path, results: Sequence[Mapping[str, Any]], tokens: int, command: str) -> None:
    """Write table and command into ``path``, the plot and all results (.png, .json) beside it."""
    picture = path.with_suffix(".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    plot(results, tokens, picture)
    path.with_suffix(".json").write_text(
        json.dumps({"tokens": tokens, "command": command, "runs": list(results)}) + "\n"
    )
    title = f"Up to {tokens:,} decoded tokens in each run:\n\n```bash\n{command}\n```"
    picture_line = f"![Held-out accuracy against decoded tokens and against training time]({picture.name})"
    body = "\n\n".join((BEGIN, title, table(results, tokens), picture_line, facts(results), END))
    text = path.read_text() if path.exists() else f"# What the tiny model learns\n\n{BEGIN}{END}\n"
    before, rest = text.split(BEGIN, 1)
    path.write_text(before + body + rest.split(END, 1)[1])
