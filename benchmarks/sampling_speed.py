# SPDX-License-Identifier: Apache-2.0
"""Measure engine calls, tokens and time of trees and other samplers on verl's servers.

    python -m benchmarks.sampling_speed quick|full|gpu [--out FOLDER] [--parts PART ...] [--arms ARM ...]

Samplers: plain samples (one request each, verl's default), n loops that stop at every segment, trees in lock step over
all prompts (the published algorithm), and the trees of this recipe. All use the same prompts, model, servers (verl's
own, with vLLM) and response length. Counts come from the engine. Each setting of the engine has its own process. The
samplers take turns, and the tables have medians over the repetitions. Output: results.json, report.md and, for sweeps,
report.png.
"""

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.common.process_session import exit_on_signals, run_session
from benchmarks.common.random_model import make_model
from benchmarks.sampling import step_cost
from benchmarks.sampling.cases import PLANS, Arm, Case, Engine
from benchmarks.sampling.report import PARTS, draw, tables
from benchmarks.sampling.results import Result, write_results
from benchmarks.sampling.session import as_job
from recipe.treepo.evaluation.machine import described

ROOT = Path(__file__).parents[1]


def model_of(engine: Engine, options: argparse.Namespace) -> Path:
    """Return the folder of an engine's model, with new random weights if they do not exist."""
    if engine.model == "tiny":
        return Path(options.tiny_model)
    folder: Path = options.out / f"models/random_{engine.hidden}x{engine.layers}"
    if not (folder / "config.json").exists():
        make_model(folder, hidden=engine.hidden, layers=engine.layers, tokenizer=options.tiny_model)
    return folder


def measure(cases: Sequence[Case], options: argparse.Namespace, number: int) -> tuple[list[Result], dict[str, Any]]:
    """Measure cases with equal engine in a new process; return the results, and machine and server settings.

    Args:
        cases: Cases with equal ``engine``.
        options: Command-line options.
        number: Number for the name of the log.

    Raises:
        RuntimeError: if the process failed or exceeded the time limit.
    """
    with tempfile.TemporaryDirectory() as name:
        job, out = Path(name) / "job.json", Path(name) / "results.jsonl"
        model = model_of(cases[0].engine, options)
        job.write_text(
            json.dumps(
                {
                    **as_job(cases),
                    "platform": options.platform,
                    "model": str(model),
                    "data": str(options.data),
                    "repetitions": options.repetitions,
                    "out": str(out),
                }
            )
        )
        log = options.out / f"log{number}.txt"
        command = [sys.executable, "-m", "benchmarks.sampling.session", str(job)]
        ended = run_session(command, folder=ROOT, environment={}, log=log, time_limit=options.time_limit)
        lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    rows_by_case: list[list[dict[str, Any]]] = [[] for _ in cases]
    for row in lines[1:]:
        rows_by_case[row.pop("case")].append(row)
    if any(len(repetitions) < options.repetitions for repetitions in rows_by_case):
        raise RuntimeError(f"{len(lines[1:])} of {options.repetitions * len(cases)} measurements ({ended}); see {log}")
    return [Result(case, repetitions) for case, repetitions in zip(cases, rows_by_case, strict=True)], lines[0]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure a plan."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", choices=PLANS)
    parser.add_argument("--out", type=Path, help="folder of the results; default outputs/benchmarks/PLAN")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--arms", nargs="+", choices=[*map(str, Arm)], default=[*map(str, Arm)], help="the samplers")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--platform", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument(
        "--tiny-model",
        type=Path,
        default=ROOT / "tiny/model",
        help="model of part tiny; other parts use its tokenizer",
    )
    parser.add_argument("--data", type=Path, default=ROOT / "outputs/data/tiny/val.parquet", help="for part tiny")
    parser.add_argument("--time-limit", type=float, default=3600.0, help="seconds per setting of the engine")
    options = parser.parse_args(arguments)
    cases = [case for case in PLANS[options.plan]() if case.part in options.parts and case.arm in options.arms]
    if not cases:
        parser.error(f"--parts {' '.join(options.parts)}: the plan {options.plan} has none of these parts and arms")
    trained = any(case.engine.model == "tiny" for case in cases)
    for path in (options.tiny_model, *([options.data] if trained else [])):
        if not path.exists():
            remedy = f"Use bash scripts/bench/sampling.sh {options.plan}, which makes the files first"
            parser.error(f"{path}: there is no such file. {remedy}")
    exit_on_signals()
    options.out = (options.out or ROOT / "outputs/benchmarks" / options.plan).resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    servers: list[dict[str, Any]] = []
    groups = [list(group) for _, group in groupby(sorted(cases, key=_by_engine), key=_by_engine)]
    command = shlex.join(["python", "-m", "benchmarks.sampling_speed", *(arguments or sys.argv[1:])])
    command = command.replace(f"{ROOT}/", "")
    for number, group in enumerate(groups, start=1):
        parts = ", ".join(dict.fromkeys(case.part for case in group))
        print(f"[{number}/{len(groups)}] {time.strftime('%H:%M:%S')} {parts}: {group[0].engine}", flush=True)
        try:
            measured, facts = measure(group, options, number)
        except RuntimeError as error:
            sys.exit(f"error: {error}")
        results = sorted([*results, *measured], key=lambda result: cases.index(result.case))
        servers.append({"parts": parts, "settings": facts["servers"]})
        machine = facts["machine"]
        settings = {"command": command, "machine": machine, "repetitions": options.repetitions, "servers": servers}
        write_results(options.out / "results.json", results, settings)
    about = f"`{command}`\n\n{described(machine)}; medians of {options.repetitions} repetitions"
    page = "\n\n".join(filter(None, [about, tables(results), step_cost.page(results)])) + "\n"
    (options.out / "report.md").write_text(page)
    drawn = ", report.png" if draw(results, options.out / "report.png") else ""
    print(f"{page}\nwritten: {options.out}/results.json, report.md{drawn}")


def _by_engine(case: Case) -> str:
    return repr(case.engine)


if __name__ == "__main__":
    main()
