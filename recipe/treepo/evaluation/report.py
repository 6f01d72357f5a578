# SPDX-License-Identifier: Apache-2.0
"""Report of an evaluation: Markdown tables (also for the console), all numbers as JSON, and a plot."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recipe.treepo.evaluation.machine import machine
from recipe.treepo.evaluation.markdown import table
from recipe.treepo.evaluation.plot import draw
from recipe.treepo.evaluation.scores import OVERALL
from recipe.treepo.evaluation.settings import Run
from recipe.treepo.evaluation.summary import Point, Summary, scaling_points

COSTS = {
    "decoded": "decoded_tokens",
    "prompt computed": "computed_prompt_tokens",
    "prompt cached": "cached_prompt_tokens",
    "calls": "engine_calls",
}
Summaries = Mapping[Run, Mapping[str, Summary]]


def data_sets(summaries: Summaries) -> list[str]:
    """Return the names of all data sets, and of their mean if there are several."""
    names = dict.fromkeys(name for own in summaries.values() for name in own if name != OVERALL)
    return list(names) if len(names) == 1 else [*names, OVERALL]


def curves(summaries: Summaries) -> dict[str, dict[str, list[Point]]]:
    """Return the scaling curves by data set and arm, without runs that have no results on a data set."""
    points: dict[str, dict[str, list[Point]]] = {}
    for name in data_sets(summaries):
        arms: dict[str, dict[Run, Summary]] = {}
        for run, own in summaries.items():
            if name in own:
                arms.setdefault(run.arm, {})[run] = own[name]
        points[name] = {
            arm: scaling_points({run.n: summary for run, summary in runs.items()}, plain=next(iter(runs)).is_plain)
            for arm, runs in arms.items()
        }
    return points


def tables(summaries: Summaries) -> str:
    """Return a table with a row per data set and run; with several n, also a table of the scaling curves.

    A cost has a column if the engine counted it; reward errors have one if there are any.
    """
    every = [summary for own in summaries.values() for summary in own.values()]
    costs = {title: key for title, key in COSTS.items() if any(key in summary.costs for summary in every)}
    header = ["data set", "sampler", "n", "problems", "mean@n", "pass@n", "maj@n", *costs, "trajectories/s"]
    has_errors = any(summary.reward_errors for summary in every)
    header += ["reward errors"] if has_errors else []
    rows = []
    for name in data_sets(summaries):
        for run, own in summaries.items():
            if (summary := own.get(name)) is None:
                rows.append([name, run.arm, f"{run.n}", *["-"] * (len(header) - 3)])
                continue
            rows.append(
                [
                    *(name, run.arm, f"{run.n}", f"{summary.problems:,}"),
                    *map(str, (summary.mean, summary.passed[run.n], summary.majority[run.n])),
                    *(f"{summary.costs[key]:,.0f}" if key in summary.costs else "-" for key in costs.values()),
                    f"{summary.costs['trajectories_per_second']:.1f}",
                    *([f"{summary.reward_errors:,}"] if has_errors else []),
                ]
            )
    text = table(header, rows)
    if len({run.n for run in summaries}) > 1:
        text += "\n\n" + _scaling_table(curves(summaries))
    return text


def _scaling_table(points: Mapping[str, Mapping[str, Sequence[Point]]]) -> str:
    header = ["data set", "sampler", "trajectories", "decoded per problem", "mean", "pass", "majority"]
    rows = [
        [
            *(name, arm, f"{point.k}", f"{point.decoded_tokens:,.0f}"),
            *map(str, (point.mean, point.passed, point.majority)),
        ]
        for name, arms in points.items()
        for arm, points in arms.items()
        for point in points
    ]
    return table(header, rows)


def write_report(folder: Path, summaries: Summaries, *, facts: Mapping[str, Any], notes: Sequence[str]) -> str:
    """Write report.md, report.json and report.png to ``folder``; return the text without the image.

    Args:
        facts: Inputs of the evaluation, for the JSON.
        notes: Sentences below the tables.
    """
    points = curves(summaries)
    document = {
        "facts": {**facts, "machine": machine()},
        "runs": [
            {
                "arm": run.arm,
                "n": run.n,
                "independent": run.is_plain,
                "data_sets": {name: asdict(summary) for name, summary in own.items()},
            }
            for run, own in summaries.items()
        ],
        "curves": {
            name: {arm: [asdict(point) for point in points] for arm, points in arms.items()}
            for name, arms in points.items()
        },
        "notes": list(notes),
    }
    text = "\n\n".join([tables(summaries), *notes]) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / "report.json", json.dumps(document, indent=1, allow_nan=False) + "\n")
    _replace(folder / "report.md", text + "\n![Accuracy against decoded tokens](report.png)\n")
    draw(points, folder / "report.png")
    return text


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
