# SPDX-License-Identifier: Apache-2.0
"""Measure whole training steps, with and without trees and with and without packed training.

    python -m benchmarks.step_speed --report FILE.md

The model is a Qwen2 with random weights, large enough that tokens dominate the time, not overheads. End tokens are
ignored, so every response has full length. The arms are GRPO on plain samples (verl's default), the same with packed
training (shared prompts), trees, and trees with packed training. All have equal prompts, trajectories and tokens per
trajectory. Each round runs verl's trainer once per arm, because speed differs between processes. Times come from verl's
timers, as medians over the steps of all rounds without the first step of each run. --preset gpu needs TRAIN_FILE and
VAL_FILE, as the run script does (scripts/check_gpu.sh).
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common.process_session import exit_on_signals, run_session
from benchmarks.common.random_model import make_model
from benchmarks.common.records import read_records, write_measurement
from recipe.treepo.evaluation import markdown

ROOT = Path(__file__).parents[1]
PACKED = "treepo.packed_training=true"
ARMS = {
    "plain samples": ("treepo.sampler=plain", "algorithm.adv_estimator=grpo"),
    "plain samples, packed": ("treepo.sampler=plain", "algorithm.adv_estimator=grpo", PACKED),
    "trees": (),
    "trees, packed": (PACKED,),
}
# Maximum tokens of a prompt of the tiny preset's problems.
PROMPT = 192
# verl's timers. verl scores trajectories during sampling.
PARTS = {
    "gen": "sampling and rewards",
    "old_log_prob": "old log-probs",
    "adv": "advantages",
    "update_actor": "update",
    "update_weights": "weight sync",
    "step": "step",
}
COUNTS = ("decoded_tokens", "unique_over_total")
MEMORY = "actor/perf/max_memory_allocated_gb"


def overrides(arm: str, options: argparse.Namespace) -> list[str]:
    """Return the overrides of an arm's run."""
    length = options.depth * options.segment
    common = [
        f"data.train_batch_size={options.prompts}",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={options.prompts}",
        "actor_rollout_ref.actor.use_dynamic_bsz=true",
        f"actor_rollout_ref.actor.ppo_max_token_len_per_gpu={options.tokens}",
        f"actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu={options.tokens}",
        f"actor_rollout_ref.rollout.n={options.n}",
        "actor_rollout_ref.rollout.ignore_eos=true",
        *(f"data.max_prompt_length={PROMPT}", f"data.max_response_length={length}"),
        f"actor_rollout_ref.rollout.max_model_len={length + PROMPT}",
        *(f"treepo.depth={options.depth}", f"treepo.segment_length={options.segment}"),
        f"treepo.init_divergence={options.root}",
        "treepo.stopping=[eos,length,depth]",
        f"trainer.total_training_steps={options.steps}",
        *("trainer.logger=[console,file]", "trainer.val_before_train=false", "trainer.test_freq=-1"),
        "trainer.save_freq=-1",
        "treepo.packed_training=false",  # overrides the run script
    ]
    attention = f"actor_rollout_ref.model.override_config.attn_implementation={options.attention}"
    return [*common, *ARMS[arm], *([attention] if PACKED in ARMS[arm] else [])]


def train(arm: str, model: Path, options: argparse.Namespace, folder: Path) -> list[dict[str, float]]:
    """Run one arm once; return verl's metrics of each step.

    Raises:
        RuntimeError: if the run failed or exceeded the time limit.
    """
    metrics = folder / "metrics.jsonl"
    folders = [f"trainer.default_local_dir={folder}/checkpoints", f"hydra.run.dir={folder}/hydra"]
    command = ["bash", "scripts/run_treepo_qwen0.5b.sh", *folders, *overrides(arm, options)]
    environment = {
        "PRESET": options.preset,
        "MODEL_PATH": str(model),
        "EXPERIMENT": folder.name,
        "VERL_FILE_LOGGER_PATH": str(metrics),
    }
    ended = run_session(
        command, folder=ROOT, environment=environment, log=folder / "log.txt", time_limit=options.time_limit
    )
    steps = [record["data"] for record in read_records(metrics) if record["step"] > 0]
    if len(steps) < options.steps:
        raise RuntimeError(f"{len(steps)} of {options.steps} steps ({ended}); see {folder}/log.txt")
    return steps


def summary(arm: str, rounds: Sequence[Sequence[dict[str, float]]]) -> dict[str, Any]:
    """Return median seconds of each part of a step, and counts, from the metrics of the steps of each round."""
    timed = [step for steps in rounds for step in steps[1:]]
    shares = [step["actor/packing/unique_over_total"] if PACKED in ARMS[arm] else 1.0 for step in timed]
    return {
        "arm": arm,
        "timed_steps": len(timed),
        **{part: median(step[f"timing_s/{part}"] for step in timed) for part in PARTS},
        "updates_of_rounds": [median(step["timing_s/update_actor"] for step in steps[1:]) for steps in rounds],
        **{count: median(step[f"treepo/{count}"] for step in timed) for count in COUNTS},
        "computed_in_update": median(shares),
        "memory": max(step[MEMORY] for steps in rounds for step in steps),
        "difference": max(step["training/rollout_probs_diff_max"] for steps in rounds for step in steps),
    }


def table(results: Sequence[dict[str, Any]]) -> str:
    """Return the results in Markdown, with times as percentages of the first arm's step."""
    titles = ["", *PARTS.values(), "speed over the first arm", "decoded tokens"]
    titles += ["unique over total, sampled", "computed in the update", "peak memory of the actor"]
    titles.append("largest probability difference")
    rows, base = [], results[0]
    for result in results:
        cells = [result["arm"], *(f"{result[part] / base['step']:.1%}" for part in PARTS)]
        cells += [f"{base['step'] / result['step']:.2f}", f"{result['decoded_tokens']:,.0f}"]
        cells += [f"{result['unique_over_total']:.2f}", f"{result['computed_in_update']:.2f}"]
        cells += [f"{result['memory']:.1f} GiB", f"{result['difference']:.1e}"]
        rows.append(cells)
    return markdown.table(titles, rows)


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--preset", choices=("tiny", "gpu"), default="tiny")
    parser.add_argument("--attention", choices=("sdpa", "flex_attention"), default="sdpa", help="of packed training")
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--depth", type=int, default=7)
    parser.add_argument("--root", type=int, default=1, help="children of a tree's root")
    parser.add_argument("--segment", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=4096, help="tokens per micro-batch; packed: unique tokens")
    parser.add_argument("--steps", type=int, default=3, help="steps per run; the first is not timed")
    parser.add_argument("--rounds", type=int, default=3, help="runs per arm; the arms take turns")
    parser.add_argument("--hidden", type=int, default=640)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--tokenizer", type=Path, default=ROOT / "tiny/model")
    parser.add_argument("--time-limit", type=float, default=1800.0, help="seconds per run, start-up included")
    parser.add_argument("--report", type=Path, help="Markdown file, written after each run; results (.json) beside it")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all arms in all rounds."""
    parser = command_line()
    options = parser.parse_args(arguments)
    if options.steps < 2:
        parser.error(f"--steps {options.steps}: must be at least 2, because the first is not timed")
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: must be at least 1")
    exit_on_signals()
    seen: dict[str, list[list[dict[str, float]]]] = {arm: [] for arm in options.arms}
    runs = [(number, arm) for number in range(1, options.rounds + 1) for arm in options.arms]
    with tempfile.TemporaryDirectory() as name:
        size = {"hidden": options.hidden, "layers": options.layers, "tokenizer": options.tokenizer}
        parameters = make_model(Path(name) / "model", **size)
        for run, (number, arm) in enumerate(runs, start=1):
            print(f"[{run}/{len(runs)}] round {number}, {arm}: started {time.strftime('%H:%M:%S')}", flush=True)
            folder = Path(name) / f"run{run}"
            folder.mkdir()
            try:
                seen[arm].append(train(arm, Path(name) / "model", options, folder))
            except RuntimeError as error:
                sys.exit(f"error: {arm}: {error}")
            results = [summary(arm, rounds) for arm, rounds in seen.items() if rounds]
            print(table(results), flush=True)
            if options.report:
                write_measurement(
                    options.report,
                    "step_speed",
                    arguments,
                    about=f"{parameters / 1e6:.0f} M parameters, float32",
                    table=table(results),
                    results={"parameters": parameters, "arms": results},
                )


if __name__ == "__main__":
    main()
