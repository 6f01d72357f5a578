# SPDX-License-Identifier: Apache-2.0
"""Compare training runs: held-out accuracy over decoded tokens and over time, costs, and the parts of a step.

    python -m benchmarks.learning GRPO=outputs/runs/small_grpo TreePO=outputs/runs/small_treepo \
        --evaluation before=outputs/evaluations/small TreePO=outputs/evaluations/small_treepo_small --report FILE.md

Runs that were stopped and resumed count once: of a step that was done twice, the later one. The time of a step is the
sum of its parts, without validations, checkpoints and start-up. Accuracies between two validations are interpolated. A
run without a validation after a training step has costs and times only.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.common.records import read_run, write_report
from benchmarks.step_speed import PARTS
from recipe.treepo.console.table import mean_held_out
from recipe.treepo.evaluation.machine import described, machine
from recipe.treepo.evaluation.markdown import table
from recipe.treepo.evaluation.plot import finish, style
from recipe.treepo.evaluation.scores import Interval

# verl's timers of a step, without the step itself.
TIMERS = {part: title for part, title in PARTS.items() if part != "step"}
# Shares of the smallest number of decoded tokens of an arm, at which accuracies are compared.
SHARES = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Arm:
    """A training run.

    Attributes:
        steps: Metrics of each training step, in order.
        validations: (number of training steps before it, held-out accuracy) of each validation.
    """

    name: str
    steps: list[Mapping[str, float]]
    validations: list[tuple[int, float]]

    @property
    def has_learned(self) -> bool:
        """Whether there is a validation after training."""
        return self.validations[-1][0] > 0

    @property
    def tokens(self) -> list[float]:
        """Decoded tokens until each validation."""
        return self._until_validations([step["treepo/decoded_tokens"] for step in self.steps])

    @property
    def seconds(self) -> list[float]:
        """Training time until each validation."""
        return self._until_validations([seconds(step) for step in self.steps])

    @property
    def accuracies(self) -> list[float]:
        """Held-out accuracy of each validation."""
        return [accuracy for _, accuracy in self.validations]

    def accuracy_at(self, tokens: float) -> float:
        """Return the accuracy after so many decoded tokens; NaN beyond the last validation."""
        return float(np.interp(tokens, self.tokens, self.accuracies, right=np.nan))

    def _until_validations(self, values: Sequence[float]) -> list[float]:
        sums = [0.0, *accumulate(values)]
        return [sums[number] for number, _ in self.validations]


def seconds(step: Mapping[str, float]) -> float:
    """Return the time of a step, without validation and checkpoint."""
    return sum(step[f"timing_s/{part}"] for part in TIMERS)


def read_arm(name: str, run: Path) -> Arm:
    """Read a run's folder.

    Raises:
        ValueError: if there is no training step or no validation, or a step is missing.
    """
    records: dict[int, dict[str, float]] = {}
    for record in read_run(run):
        records.setdefault(record["step"], {}).update(record["data"])
    trained = sorted(step for step, metrics in records.items() if "timing_s/step" in metrics)
    validations = [(step, score) for step in sorted(records) if (score := mean_held_out(records[step])) is not None]
    if not trained or not validations:
        raise ValueError(f"{run}: no {'validation' if trained else 'training step'} in metrics.jsonl.")
    if trained != list(range(1, len(trained) + 1)):
        raise ValueError(f"{run}: steps are missing in metrics.jsonl.")
    return Arm(name, [records[step] for step in trained], validations)


def costs(arms: Sequence[Arm]) -> str:
    """Return a table of what each run cost; times are relative to the first run's."""
    titles = ["", "steps", "trajectories", "calls", "decoded tokens", "computed prompt tokens", "mixed prompts", "time"]
    rows = []
    for arm in arms:
        sums = [
            sum(step.get(f"treepo/{name}", np.nan) for step in arm.steps)
            for name in ("trajectories", "engine_calls", "decoded_tokens", "computed_prompt_tokens")
        ]
        mixed = mean(step["treepo/mixed_prompts"] for step in arm.steps)
        time = sum(map(seconds, arm.steps)) / sum(map(seconds, arms[0].steps))
        counts = ["-" if np.isnan(number) else f"{number:,.0f}" for number in sums]
        rows.append([arm.name, f"{len(arm.steps):,}", *counts, f"{mixed:.2f}", f"{time:.2f}"])
    return table(titles, rows)


def parts(arms: Sequence[Arm], steps: int | None = None) -> str:
    """Return a table of the median times of a step's parts, as shares of the first run's step.

    Args:
        steps: Number of steps to read from the first on, None for all.
    """
    base = median(map(seconds, arms[0].steps[:steps]))
    rows = []
    for arm in arms:
        medians = [median(step[f"timing_s/{part}"] for step in arm.steps[:steps]) for part in TIMERS]
        whole = median(map(seconds, arm.steps[:steps]))
        rows.append([arm.name, *(f"{part / base:.1%}" for part in [*medians, whole]), f"{base / whole:.2f}"])
    return table(["", *TIMERS.values(), "step", "speed over the first run"], rows)


def learning(arms: Sequence[Arm]) -> str:
    """Return a table of held-out accuracies at equal decoded tokens."""
    if not (arms := _learned(arms)):
        return ""
    least = min(arm.tokens[-1] for arm in arms)
    points = [least * share for share in SHARES]
    titles = ["held out", "before", *(f"{tokens:,.0f} tokens" for tokens in points), "at the end"]
    rows = [
        [arm.name, *(f"{value:.3f}" for value in (arm.accuracies[0], *map(arm.accuracy_at, points))), _end(arm)]
        for arm in arms
    ]
    return table(titles, rows)


def _end(arm: Arm) -> str:
    return f"{arm.accuracies[-1]:.3f} ({arm.tokens[-1]:,.0f} tokens)"


def _learned(arms: Sequence[Arm]) -> list[Arm]:
    return [arm for arm in arms if arm.has_learned]


def evaluations(folders: Sequence[tuple[str, Path]]) -> str:
    """Return a table of the accuracies in reports of evaluations, a row per model and sampler."""
    rows = []
    for name, folder in folders:
        for run in json.loads((folder / "report.json").read_text(encoding="utf-8"))["runs"]:
            found = run["data_sets"]["overall"]  # the mean over the data sets
            own = (found["mean"], found["passed"][str(run["n"])], found["majority"][str(run["n"])])
            cells = [str(Interval(**one)) for one in own]
            rows.append([name, run["arm"], f"{run['n']}", f"{found['problems']:,}", *cells])
    return table(["model", "sampler", "n", "problems", "mean@n", "pass@n", "maj@n"], rows)


def figure_of(arms: Sequence[Arm]) -> Figure:
    """Return the curves of held-out accuracy over decoded tokens and over training time."""
    arms = _learned(arms)
    axes: dict[str, Callable[[Arm], Any]] = {
        "decoded tokens": lambda arm: arm.tokens,
        "training time, relative to the first run": lambda arm: np.array(arm.seconds) / arms[0].seconds[-1],
    }
    figure = Figure(figsize=(10, 4), layout="constrained")
    for panel, (label, values_of) in zip(figure.subplots(1, 2, sharey=True), axes.items(), strict=True):
        for number, arm in enumerate(arms):
            panel.plot(values_of(arm), arm.accuracies, label=arm.name, **style(number))
        panel.set(xlabel=label)
    figure.axes[0].set(ylabel="held-out accuracy")
    finish(figure)
    return figure


def named_folder(text: str) -> tuple[str, Path]:
    """Read ``NAME=FOLDER``."""
    name, equals, folder = text.partition("=")
    if not name or not equals or not Path(folder).is_dir():
        raise argparse.ArgumentTypeError(f"{text}: must be NAME=FOLDER, with an existing folder")
    return name, Path(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables; write page, picture and numbers with ``--report``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=named_folder, metavar="NAME=RUN", help="folders of training runs")
    parser.add_argument("--evaluation", nargs="+", type=named_folder, default=[], metavar="NAME=FOLDER")
    parser.add_argument("--steps", type=int, help="only the first steps of each run, in the table of parts")
    parser.add_argument("--report", type=Path, help="Markdown file; numbers (.json) and curves (.png) beside it")
    options = parser.parse_args(arguments)
    try:
        arms = [read_arm(name, run) for name, run in options.runs]
    except ValueError as error:
        parser.error(str(error))
    tables = [found for found in (learning(arms), costs(arms), parts(arms, options.steps)) if found]
    if options.evaluation:
        tables.insert(0, evaluations(options.evaluation))
    print(*tables, sep="\n\n")
    if options.report:
        write_report(
            options.report,
            command=shlex.join(["python", "-m", "benchmarks.learning", *(arguments or sys.argv[1:])]),
            about=described(machine()),
            table="\n\n".join([f"![Curves]({options.report.stem}.png)", *tables]),
            results={
                "machine": machine(),
                "arms": [
                    {"name": arm.name, "validations": arm.validations, "tokens": arm.tokens, "seconds": arm.seconds}
                    for arm in arms
                ],
            },
        )
        figure_of(arms).savefig(options.report.with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
