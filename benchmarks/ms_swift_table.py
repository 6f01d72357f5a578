# SPDX-License-Identifier: Apache-2.0
"""Fill ms-swift's TreePO table: engine calls and training speed of n independent conversations and of trees.

    python -m benchmarks.ms_swift_table --report docs/results/ms_swift_table/recheck.md

Each depth has one row with n independent multi-turn loops (treepo.sampler=independent, "original implementation") and
one row of trees per max_divergence. Each row is one training run; interaction, model, prompts, batch and n are equal.
--conversation recheck is examples/recheck.py, with early ends. endless always requests another check, so every
conversation has full depth and the calls per prompt are known in advance.

The problems have more steps than the training data of the tiny model (--problem-steps). The model is then as rarely
right as Qwen2.5-0.5B in ms-swift's TreePO table, in which nearly all conversations run to full depth.

Calls and tokens are the engine's counts over all steps. Speed is training steps per second by verl's timing_s/step,
without the first --warm-up steps: sampling, rewards, training and weight sync, without start-up. Runs with a result for
the same settings and machine in --out are not repeated.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.common.process_session import exit_on_signals, run_session
from benchmarks.common.records import read_records, save
from recipe.treepo.evaluation import markdown
from recipe.treepo.evaluation.machine import described, machine

ROOT = Path(__file__).parents[1]
SCRIPT = "scripts/run_recheck_qwen0.5b.sh"
BATCH, WIDTH = 8, 8
# Response tokens of a turn and the reply after it, in the tiny preset.
TURN = 128
CONVERSATIONS = {
    "recheck": (),
    "endless": ("treepo.interaction.path=benchmarks/common/endless.py", "treepo.interaction.name=Endless"),
}
# Saving of calls in percent, from ms-swift's TreePO table, by depth and max_divergence.
REFERENCE: dict[tuple[int, int | None], float] = {
    (4, 3): 38.34,
    (5, 2): 41.72,
    (5, 3): 30.66,
    (6, 2): 35.64,
    (6, 3): 25.26,
}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table.

    Attributes:
        depth: Maximum number of turns.
        divergence: Maximum number of children per node; None for independent loops.
        steps: Number of training steps.
        calls, decoded, computed, cached: Engine calls, decoded tokens, computed and cached prompt tokens of all steps.
        turns: Turns per trajectory.
        steps_per_second: Training speed.
        rollout_share: Share of sampling in the time of a step.
        reward: Mean reward over all steps.
    """

    depth: int
    divergence: int | None
    steps: int
    calls: int
    decoded: int
    computed: int
    cached: int
    turns: float
    steps_per_second: float
    rollout_share: float
    reward: float

    @property
    def calls_per_prompt(self) -> float:
        """Engine calls per prompt and step."""
        return self.calls / (self.steps * BATCH)


def prepare(options: argparse.Namespace) -> dict[str, str]:
    """Make the problems; return the environment variables with their files for the run script."""
    fewest, most = options.problem_steps
    folder = options.out / "data" / f"{fewest}_{most}"
    prepared = {"TRAIN_FILE": f"{folder}/train.parquet", "VAL_FILE": f"{folder}/val.parquet"}
    if not all(Path(file).exists() for file in prepared.values()):
        source = folder / "problems.jsonl"
        problems = ("--out", source, "--count", 1100, "--seed", 1, "--min-steps", fewest, "--max-steps", most)
        rows = ("--source", source, "--out-dir", folder, "--data-source", "tiny_problems", "--template", "plain")
        for module, arguments in (
            ("tiny.problems", problems),
            ("data_prep", ("numina_math_tir", *rows, "--val-size", 100)),
        ):
            command = [sys.executable, "-m", module, *map(str, arguments)]
            subprocess.run(command, cwd=ROOT, check=True)
    return prepared


def train(depth: int, divergence: int | None, options: argparse.Namespace) -> Row:
    """Run one row's training.

    Raises:
        RuntimeError: if the run failed or exceeded the time limit.
    """
    name = row_name(depth, divergence)
    folder = options.out / "runs" / name
    folder.mkdir(parents=True, exist_ok=True)
    metrics = folder / "metrics.jsonl"
    metrics.unlink(missing_ok=True)
    overrides = [] if divergence else ["treepo.sampler=independent"]
    command = [
        *("bash", SCRIPT, f"tree=ms_swift_d{depth}_k{divergence or 2}"),
        *(*CONVERSATIONS[options.conversation], *overrides),
        f"data.train_batch_size={BATCH}",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={BATCH}",
        f"data.max_response_length={TURN * depth}",
        f"actor_rollout_ref.rollout.max_model_len={TURN * depth + 320}",
        f"trainer.total_training_steps={options.steps}",
        *("trainer.logger=[console,file]", "trainer.val_before_train=false", "trainer.test_freq=-1"),
        *("trainer.save_freq=-1", f"trainer.default_local_dir={folder}/checkpoints", f"hydra.run.dir={folder}/hydra"),
    ]
    environment = {
        "PRESET": "tiny",
        "SEED": str(options.seed),
        "EXPERIMENT": name,
        **prepare(options),
        "VERL_FILE_LOGGER_PATH": str(metrics),
    }
    ended = run_session(
        command, folder=ROOT, environment=environment, log=folder / "log.txt", time_limit=options.time_limit
    )
    records = [record for record in read_records(metrics) if record["step"] > 0]
    if len(records) < options.steps:
        raise RuntimeError(f"{len(records)} of {options.steps} steps ({ended}); see {folder}/log.txt")
    return summarize(depth, divergence, [record["data"] for record in records], warm_up=options.warm_up)


def summarize(depth: int, divergence: int | None, steps: Sequence[dict[str, float]], *, warm_up: int) -> Row:
    """Return the row of a run from verl's metrics of its steps."""

    def total(name: str) -> int:
        return round(sum(step[name] for step in steps))

    timed = steps[warm_up:]
    seconds = sum(step["timing_s/step"] for step in timed)
    return Row(
        depth=depth,
        divergence=divergence,
        steps=len(steps),
        calls=total("treepo/engine_calls"),
        decoded=total("treepo/decoded_tokens"),
        computed=total("treepo/computed_prompt_tokens"),
        cached=total("treepo/cached_prompt_tokens"),
        # verl counts the prompt and the turns of both sides.
        turns=sum(step["num_turns/mean"] for step in steps) / len(steps) / 2,
        steps_per_second=len(timed) / seconds,
        rollout_share=sum(step["timing_s/gen"] for step in timed) / seconds,
        reward=sum(step["critic/rewards/mean"] for step in steps) / len(steps),
    )


def row_name(depth: int, divergence: int | None) -> str:
    """Return the name of a row's files."""
    return f"depth{depth}_{'independent' if divergence is None else f'divergence{divergence}'}"


def table(rows: Sequence[Row]) -> str:
    """Return the table in Markdown; each tree is compared with the independent loops of its depth."""
    baselines = {row.depth: row for row in rows if row.divergence is None}
    titles = (
        *("", "batch_size", "num_generation", "max_tree_depth", "global_step", "total inference calls"),
        *("calls per prompt", "saving ratio", "ms-swift's", "train_speed (iter/s)", "improvement rate"),
        *("decoded tokens", "computed prompt", "cached prompt", "turns", "share of sampling", "reward"),
    )
    lines = []
    for row in rows:
        name = "original implementation" if row.divergence is None else f"tree (max_divergence={row.divergence})"
        base = baselines[row.depth]
        cells = (
            *(name, BATCH, WIDTH, row.depth, row.steps, f"{row.calls:,}", f"{row.calls_per_prompt:.2f}"),
            f"{saving(row, base):.2f}%",
            REFERENCE.get((row.depth, row.divergence), ""),
            *(f"{row.steps_per_second:.4f}", f"{100 * (row.steps_per_second / base.steps_per_second - 1):.2f}%"),
            *(f"{row.decoded:,}", f"{row.computed:,}", f"{row.cached:,}", f"{row.turns:.2f}"),
            *(f"{100 * row.rollout_share:.0f}%", f"{row.reward:.3f}"),
        )
        lines.append(cells)
    return markdown.table(titles, lines)


def saving(row: Row, base: Row) -> float:
    """Return the engine calls saved, in percent."""
    return 100 * (1 - row.calls / base.calls)


def report(rows: Sequence[Row], options: argparse.Namespace) -> str:
    """Return the page: command, machine and table."""
    command = shlex.join(["python", "-m", "benchmarks.ms_swift_table", *words_of(options)])
    return f"`{command}`\n\n{described(machine())}\n\n{table(rows)}\n"


def words_of(options: argparse.Namespace) -> list[str]:
    """Return the options that decide the numbers, as on the command line."""
    words = ["--conversation", options.conversation, "--problem-steps", *map(str, options.problem_steps)]
    for flag in ("steps", "warm_up", "seed"):
        words += [f"--{flag.replace('_', '-')}", str(getattr(options, flag))]
    return words


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read and check the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, help="folder for results and logs; default outputs/ms_swift_table_CONVERSATION_FEWEST_MOST"
    )
    parser.add_argument("--conversation", choices=CONVERSATIONS, default="recheck")
    parser.add_argument("--depths", type=int, nargs="+", default=[4, 5, 6], choices=[4, 5, 6])
    parser.add_argument("--divergences", type=int, nargs="+", default=[2, 3], choices=[2, 3])
    parser.add_argument("--steps", type=int, default=10, help="training steps of each run")
    parser.add_argument("--warm-up", type=int, default=2, help="untimed steps at the beginning")
    parser.add_argument("--problem-steps", type=int, nargs=2, default=[6, 7], metavar=("FEWEST", "MOST"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--time-limit", type=float, default=1800.0, help="seconds of one run, start-up included")
    parser.add_argument("--report", type=Path, help="Markdown file; results (.json) beside it")
    options = parser.parse_args(arguments)
    if not 0 <= options.warm_up < options.steps:
        parser.error(f"--warm-up {options.warm_up}: must be 0 to less than --steps {options.steps}")
    fewest, most = options.problem_steps
    if not 1 <= fewest <= most:
        parser.error(f"--problem-steps {fewest} {most}: must be at least 1, in ascending order")
    if not options.time_limit > 0:
        parser.error(f"--time-limit {options.time_limit:g}: must be more than 0 seconds")
    name = f"outputs/ms_swift_table_{options.conversation}_{fewest}_{most}"
    options.out = (options.out or Path(name)).resolve()
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Do the runs, print the table after each depth and write the report."""
    options = parse(arguments)
    exit_on_signals()
    options.out.mkdir(parents=True, exist_ok=True)
    wanted = [(depth, divergence) for depth in options.depths for divergence in (None, *options.divergences)]
    rows: list[Row] = []
    for number, (depth, divergence) in enumerate(wanted, start=1):
        name = row_name(depth, divergence)
        kept = options.out / f"{name}.json"
        settings = words_of(options)
        result: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
        if (result.get("settings"), result.get("machine")) != (settings, machine()):
            print(f"[{number}/{len(wanted)}] {name}: started {time.strftime('%H:%M:%S')}", flush=True)
            try:
                row = train(depth, divergence, options)
            except RuntimeError as error:
                sys.exit(f"error: {name}: {error}")
            result = {"settings": settings, "machine": machine(), "row": asdict(row)}
            save(kept, result)
        rows.append(Row(**result["row"]))
        if divergence == (None, *options.divergences)[-1]:
            print(table(rows), flush=True)
    if options.report:
        options.report.parent.mkdir(parents=True, exist_ok=True)
        options.report.write_text(report(rows, options))
        results = {"machine": machine(), "conversation": options.conversation, "rows": [asdict(row) for row in rows]}
        options.report.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
        print(f"report: {options.report}")


if __name__ == "__main__":
    main()
