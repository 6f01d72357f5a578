# SPDX-License-Identifier: Apache-2.0
"""Train the tiny model with several samplers and estimators, and compare them at equal generated tokens.

    python -m benchmarks.learning_study --seeds 0 1 2 --tokens 200000 --report docs/learning_study.md

Each arm and seed is one run of scripts/run_treepo_qwen0.5b.sh, which lasts until verl has validated a model that has
cost so many decoded tokens; curves are cut there, by linear interpolation, and never extrapolated. The seeds take
turns, so that an interrupted study is balanced, and runs with a result in --out are not repeated. ARM+NAME is an arm
with settings of your own: --arms treepo treepo+wide --set treepo+wide:treepo.init_divergence=4.

Accuracy is verl's mean@4 at temperature 1 on the held-out problems, with plain samples for all arms. Seconds are
verl's timing_s/step: sampling, rewards, training and transfer of the weights, without validation and start-up.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.learning_curves import Point, accumulate, has_reached, read_records
from benchmarks.learning_report import check_report, write_report
from benchmarks.process_session import exit_on_signals, run_session
from recipe.treepo.evaluation.machine import machine

ROOT = Path(__file__).parents[1]
SCRIPT = "scripts/run_treepo_qwen0.5b.sh"
# A run is ended from outside when its tokens are spent; this many steps only keep a run without tokens from lasting.
FEWEST_TOKENS_PER_STEP = 1000
COMMON = (
    "actor_rollout_ref.actor.optim.lr=2e-4",
    "treepo.packed_training=false",
    "trainer.save_freq=-1",
    "trainer.val_before_train=true",
    # verl's JSON lines: all digits, each step on disk as it ends. TensorBoard keeps float32 and buffers
    # for two minutes; the console comes through Ray, which may merge, cut or lose lines.
    "trainer.logger=[console,file]",
)


@dataclass(frozen=True)
class Arm:
    """One thing to compare: how it is called, and what it sets on top of COMMON."""

    name: str
    label: str
    overrides: tuple[str, ...]


ARMS = {
    arm.name: arm
    for arm in (
        Arm("grpo_plain", "GRPO, plain samples", ("treepo.sampler=plain", "algorithm.adv_estimator=grpo")),
        Arm("grpo_tree", "GRPO on trees", ("algorithm.adv_estimator=grpo",)),
        Arm("treepo", "TreePO", ("algorithm.adv_estimator=treepo",)),
        Arm("treepo_segment", "TreePO, per segment", ("algorithm.adv_estimator=treepo_segment",)),
        Arm("treerl", "TreeRL", ("algorithm.adv_estimator=treerl",)),
        Arm("treerpo", "TreeRPO", ("algorithm.adv_estimator=treerpo",)),
    )
}


class StudyError(ValueError):
    """What the command line asks for cannot be done."""


def resolve_arms(names: Sequence[str], settings: Sequence[str]) -> list[Arm]:
    """Return the arms called ``names`` (ARM, or ARM+NAME), with ``settings`` (ARM:KEY=VALUE) added.

    Raises:
        StudyError: for an unknown or repeated arm, a setting of an arm that is not asked for, and an ARM+NAME without
            settings.
    """
    added: dict[str, list[str]] = {}
    for setting in settings:
        name, colon, override = setting.partition(":")
        if not colon or "=" not in override:
            raise StudyError(f"--set {setting}: must be ARM:KEY=VALUE, such as treepo:treepo.depth=3")
        if name not in names:
            raise StudyError(f"--set {setting}: {name} is not among --arms {' '.join(names)}")
        added.setdefault(name, []).append(override)
    arms = []
    for name in names:
        base, plus, variant = name.partition("+")
        if base not in ARMS:
            raise StudyError(f"--arms {name}: unknown; must be one of {', '.join(ARMS)}, or one of them +NAME")
        if plus and (not variant or name not in added):
            raise StudyError(f"--arms {name}: needs a name and a setting of its own, --set {name}:KEY=VALUE")
        arm = ARMS[base]
        label = f"{arm.label}, {variant}" if variant else arm.label
        arms.append(replace(arm, name=name, label=label, overrides=(*arm.overrides, *added.get(name, ()))))
    if len(set(names)) < len(names):
        raise StudyError(f"--arms {' '.join(names)}: each only once")
    return arms


def order_of_runs(arms: Sequence[Arm], seeds: Sequence[int]) -> list[tuple[Arm, int]]:
    """Return all arms of the first seed, then of the second, and so on."""
    return [(arm, seed) for seed in seeds for arm in arms]


def train(
    arm: Arm, seed: int, folder: Path, *, tokens: int, test_every: int, time_limit: float
) -> tuple[str, list[Point]]:
    """Run one arm until its tokens are spent; return why it ended (tokens, steps or time limit) and its curve.

    Raises:
        RuntimeError: if the run failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log, metrics = folder / "log.txt", folder / "metrics.jsonl"
    metrics.unlink(missing_ok=True)
    command = [
        *("bash", SCRIPT, *COMMON),
        f"trainer.test_freq={test_every}",
        f"trainer.total_training_steps={-(-tokens // FEWEST_TOKENS_PER_STEP)}",
        f"trainer.default_local_dir={folder}/checkpoints",
        f"hydra.run.dir={folder}/hydra",
        *arm.overrides,
    ]
    knobs = {"PRESET": "tiny", "SEED": str(seed), "EXPERIMENT": folder.name, "VERL_FILE_LOGGER_PATH": str(metrics)}
    ended = run_session(
        command,
        folder=ROOT,
        environment=knobs,
        log=log,
        time_limit=time_limit,
        enough=lambda: has_reached(accumulate(read_records(metrics)), tokens),
    )
    ended = {"exit": "steps", "enough": "tokens"}.get(ended, ended)
    points = accumulate(read_records(metrics))
    if not points:
        raise RuntimeError(f"ended ({ended}) before the first validation; see {log}")
    return ended, points


def result_path(out: Path, arm: Arm, seed: int) -> Path:
    """Return where the result of a run is kept."""
    return out / f"{arm.name}_seed{seed}.json"


def check_results(options: argparse.Namespace, runs: Sequence[tuple[Arm, int]]) -> None:
    """Refuse results that were had with other settings.

    Raises:
        StudyError: naming the file and both settings.
    """
    for path, arm in ((result_path(options.out, arm, seed), arm) for arm, seed in runs):
        wanted = {"overrides": [*COMMON, *arm.overrides], "test_every": options.test_every}
        found = json.loads(path.read_text()) if path.exists() else wanted
        for name, value in wanted.items():
            if found[name] != value:
                raise StudyError(f"{path}: had with {name} {found[name]}, not {value}. Use another --out, or ARM+NAME")


def check_settings(arm: Arm) -> None:
    """Have the recipe check an arm's settings, without starting anything.

    Raises:
        StudyError: with what the recipe says.
    """
    command = ["bash", SCRIPT, "--dry-run", *COMMON, *arm.overrides]
    environment = {**os.environ, "PRESET": "tiny"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise StudyError(f"arm {arm.name}: {(result.stderr or result.stdout).strip()[-3000:]}")


def save(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result, all of it or nothing."""
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(result, indent=1))
    unfinished.replace(path)


def describe(points: Sequence[Point], tokens: int) -> str:
    """Return a run in one line, and whether it is short of its tokens."""
    known = [point.accuracy for point in points if point.accuracy is not None]
    short = "" if has_reached(points, tokens) else f", SHORT of {tokens:,}: left out of the table's means"
    return (
        f"{points[-1].step} steps, {points[-1].seconds:.0f} s of training, accuracy {known[0]:.3f} to {known[-1]:.3f}, "
        f"{points[-1].decoded_tokens:,.0f} decoded tokens{short}"
    )


def run_all(runs: Sequence[tuple[Arm, int]], options: argparse.Namespace) -> int:
    """Do the runs that have no result yet; return how many failed."""
    failed = 0
    limits = {"tokens": options.tokens, "test_every": options.test_every, "time_limit": options.time_limit}
    for number, (arm, seed) in enumerate(runs, start=1):
        path = result_path(options.out, arm, seed)
        title = f"[{number}/{len(runs)}] {arm.name}, seed {seed}"
        if path.exists():
            points = [Point(**row) for row in json.loads(path.read_text())["points"]]
            print(f"{title}: kept, delete {path} to repeat it: {describe(points, options.tokens)}", flush=True)
            continue
        print(f"{title}: started {time.strftime('%H:%M:%S')}", flush=True)
        started = time.monotonic()
        try:
            ended, points = train(arm, seed, options.out / "runs" / path.stem, **limits)
        except (RuntimeError, ValueError) as error:
            failed += 1
            print(f"{title}: FAILED after {time.monotonic() - started:.0f} s, {error}", flush=True)
            continue
        wall = time.monotonic() - started
        result = {"arm": arm.name, "label": arm.label, "seed": seed, "overrides": [*COMMON, *arm.overrides], **limits}
        result |= {"ended": ended, "wall_seconds": round(wall, 1), "machine": machine()}
        save(path, result | {"points": [asdict(point) for point in points]})
        print(f"{title}: ended ({ended}) after {wall:.0f} s: {describe(points, options.tokens)}", flush=True)
    return failed


def parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[Arm]]:
    """Read and check the command line; leaves with one message if it cannot be done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/study"), help="folder for results and logs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tokens", type=int, default=200_000, help="decoded tokens of each run")
    parser.add_argument("--arms", nargs="+", default=["grpo_plain", "grpo_tree", "treepo", "treepo_segment"])
    parser.add_argument("--set", action="append", default=[], metavar="ARM:KEY=VALUE", dest="settings")
    parser.add_argument("--test-every", type=int, default=4, help="steps from one validation to the next")
    parser.add_argument("--time-limit", type=float, default=3600.0, help="seconds of one run, start-up included")
    parser.add_argument("--report", type=Path, help="Markdown file; plot (.png) and results (.json) beside it")
    parser.add_argument("--no-runs", action="store_true", help="only report what is in --out")
    options = parser.parse_args(arguments)
    options.out = options.out.resolve()
    try:
        for name in ("tokens", "test_every", "time_limit"):
            if getattr(options, name) <= 0:
                raise StudyError(f"--{name.replace('_', '-')} {getattr(options, name)}: must be above 0")
        if len(set(options.seeds)) < len(options.seeds) or min(options.seeds) < 0:
            raise StudyError(f"--seeds {' '.join(map(str, options.seeds))}: must be different numbers from 0")
        if options.no_runs and not options.report:
            raise StudyError("--no-runs: needs --report FILE.md, or there is nothing to do")
        arms = resolve_arms(options.arms, options.settings)
        runs = order_of_runs(arms, options.seeds)
        check_results(options, runs)
        if options.report:
            check_report(options.report)
        for arm in () if options.no_runs else arms:
            if not all(result_path(options.out, arm, seed).exists() for seed in options.seeds):
                check_settings(arm)
    except ValueError as error:
        parser.error(str(error))
    return options, arms


def repeat(options: argparse.Namespace) -> str:
    """Return the command that repeats the study, but for where its files go."""
    lists = (("--seeds", options.seeds), ("--tokens", [options.tokens]), ("--test-every", [options.test_every]))
    words = [str(word) for flag, values in (*lists, ("--arms", options.arms)) for word in (flag, *values)]
    words += [word for setting in options.settings for word in ("--set", setting)]
    return shlex.join(["python", "-m", "benchmarks.learning_study", *words, "--report", "FILE.md"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Do the runs and report them."""
    options, arms = parse(arguments)
    runs = order_of_runs(arms, options.seeds)
    exit_on_signals()
    failed = 0 if options.no_runs else run_all(runs, options)
    if options.report:
        paths = [path for path in (result_path(options.out, *run) for run in runs) if path.exists()]
        if not paths:
            sys.exit(f"error: no results in {options.out}")
        write_report(options.report, [json.loads(path.read_text()) for path in paths], options.tokens, repeat(options))
        print(f"report: {options.report}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
