# SPDX-License-Identifier: Apache-2.0
"""Read verl's metrics of a training run, and write results and reports of a benchmark."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recipe.treepo.evaluation.machine import described, machine


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return the lines of verl's file logger, ``{"step": int, "data": {metric: value}}``.

    An incomplete last line is ignored. Without a file the list is empty.
    """
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def read_run(run: Path) -> list[dict[str, Any]]:
    """Return the records of all starts of a run, in the order of the starts."""
    logs = run / "logs"
    earlier = sorted(logs.glob("start_*"), key=lambda folder: int(folder.name.removeprefix("start_")))
    return [record for folder in [*earlier, logs] for record in read_records(folder / "metrics.jsonl")]


def save(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result as JSON, atomically."""
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(result, indent=1) + "\n")
    unfinished.replace(path)


def write_measurement(
    path: Path, name: str, arguments: Sequence[str] | None, *, about: str, table: str, results: Mapping[str, Any]
) -> None:
    """Write the report of a measurement on this machine; see :func:`write_report`.

    Args:
        name: Module of the benchmark.
        arguments: Its command line, None for that of this process.
    """
    words = sys.argv[1:] if arguments is None else arguments
    facts = machine()
    command, results = shlex.join(["python", "-m", f"benchmarks.{name}", *words]), {"machine": facts, **results}
    write_report(path, command=command, about=f"{described(facts)}; {about}", table=table, results=results)


def write_report(path: Path, *, command: str, about: str, table: str, results: Mapping[str, Any]) -> None:
    """Write a Markdown page with command, machine and table, and all results as JSON beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"`{command}`\n\n{about}\n\n{table}\n")
    save(path.with_suffix(".json"), {"command": command, **results})
