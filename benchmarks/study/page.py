# SPDX-License-Identifier: Apache-2.0
"""Write the tables and plots of the study from its result files."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.study.credit import PLAIN_SAMPLES
from benchmarks.study.diversity import PLAIN, Diversity, figure_of
from benchmarks.study.training import ARMS, METRICS, OPTIONS, Curve
from recipe.treepo.evaluation.machine import described
from recipe.treepo.evaluation.markdown import table
from recipe.treepo.evaluation.plot import COLORS, finish, style

BASELINES = ("GRPO, plain samples", "GRPO, 12 plain samples")
"""Arms that the others are compared with: of as many trajectories per step, and of as many tokens per step."""
SHARES = (0.25, 0.5, 1.0)
"""Shares of the smallest cost of a run, at which accuracies are compared."""
ABOUT = {
    "Diversity": """Trees of held-out problems, before training. *Mixed*: share of prompts with right and wrong
trajectories. *Samples worth*: number of independent samples whose mean accuracy varies as much, with a 95 % interval
over problems. *Decoded*, *computed* (with prompt tokens), *worth per token* and *speed* (trajectories per second) are
relative to n plain samples. The front in the plot goes through the best points, some of which are best by chance.""",
    "Credit in the known world": """A chain of 16 dependent steps in 8 segments, in which the value of each prefix is
known; batches of 8 prompts of three success rates; estimators normalize as in training. Branch points are between
steps, which favors trees. *Signal*: mean of a batch's gradient in the true direction over its standard deviation, per
decoded token, relative to GRPO on plain samples, with its standard error. True advantages are no upper limit of it.
*r*: correlation of credit and true advantage of a segment. *Equal signs*, *credited*: among segments whose true
advantage is beyond 0.25, the share of credits with its sign, and of credits that are not 0. *Cosine*: of the mean
gradient of the 16 steps and the true one.""",
    "Credit on the embedded model": """The model of the long problems; trees have 4 children of the root. The value of
a prefix is the accuracy of its continuations. *r* is corrected for their noise: it is divided by the square root of
*reliability*; with a 95 % interval over problems. *Equal signs* and *credited*: as in the known world, for estimates
beyond 0.5.""",
    "Learning": """Training runs on long problems, 16 trajectories per prompt, 8 prompts per step, packed training.
Trees have 4 children of the root, and 1.25 times the steps of plain samples, for about as many decoded tokens. The arm
with 12 plain samples has as many steps as trees, of as many tokens. Runs of a seed have the same order of prompts.
*Mean on the way*: mean accuracy over the cost. *Less ...*: difference of these means, paired by seed, with a 95 %
interval. Times are steps times the median time of a step with the first seed.""",
    "One option at a time": """Runs of `treepo` with another value of one option. Other numbers of children of the root
have other numbers of tokens per step, and so of steps per token.""",
    "Stability": "Runs four times as long. The metrics are means over the last five steps.",
}
"""What the tables of a part show."""
Results = Sequence[Mapping[str, Any]]
Curves = Mapping[str, Mapping[int, Curve]]
"""Curves by arm and seed."""
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5 % quantiles of Student's t with 1 to 9 degrees of freedom."""


def read_results(out: Path, part: str) -> list[dict[str, Any]]:
    """Return the results of a part."""
    return [json.loads(path.read_text()) for path in sorted((out / part).glob("*.json"))]


# --- diversity ---------------------------------------------------------------------------------------------------


def shapes_of(result: Mapping[str, Any]) -> dict[str, dict[int, Diversity]]:
    """Return the measures of one model by shape and n."""
    return {shape: {int(n): Diversity(**one) for n, one in by_n.items()} for shape, by_n in result["shapes"].items()}


def diversity_table(shapes: Mapping[str, Mapping[int, Diversity]]) -> str:
    """Return a row per shape and n; tokens are relative to plain samples of equal n, which are worth n."""
    every = [(n, shape, one) for shape, by_n in shapes.items() for n, one in by_n.items()]
    every.sort(key=lambda row: row[0])  # stable: shapes keep their order
    rows = []
    for n, shape, one in every:
        plain = shapes[PLAIN][n]
        per_token = (one.effective / one.tokens) / (n / plain.tokens)
        rows.append(
            [
                *(n, shape.replace("_", " "), f"{one.mean:.3f}", f"{one.passed:.3f}", f"{one.mixed:.3f}"),
                f"{one.effective:.1f} [{one.effective_low:.1f}, {one.effective_high:.1f}]",
                *(f"{one.tokens / plain.tokens:.2f}", f"{one.computed / plain.computed:.2f}", f"{per_token:.2f}"),
                f"{one.trajectories_per_second / plain.trajectories_per_second:.2f}",
            ]
        )
    titles = ["n", "shape", "mean", "pass@n", "mixed", "samples worth", "decoded", "computed", "worth per token"]
    return table([*titles, "speed"], rows)


# --- credit ------------------------------------------------------------------------------------------------------


def worth_table(results: Results) -> str:
    """Return what trees of the known world are worth and cost, by root and n."""
    numbers = [result["settings"]["n"] for result in results]
    cells: dict[str, list[str]] = {}
    for result in results:
        n, plain = result["settings"]["n"], result["samplers"][0]["tokens"]
        for one in result["samplers"][1:]:
            worth, tokens = one["effective"], one["tokens"] / plain
            cells.setdefault(one["sampler"], []).append(f"{worth:.1f} ({tokens:.2f}; {worth / n / tokens:.2f})")
    title = "Independent samples that a tree is worth (decoded tokens relative to n of them; worth per token):"
    rows = [[sampler, *own] for sampler, own in cells.items()]
    return f"{title}\n\n{table(['', *(f'n {n}' for n in numbers)], rows)}"


def by_estimator(results: Results) -> dict[tuple[str, str], dict[int, dict[str, float]]]:
    """Return the rows of known worlds by (sampler, estimator) and n.

    ``relative`` is the signal relative to GRPO on plain samples, ``error`` its standard error.
    """
    cells: dict[tuple[str, str], dict[int, dict[str, float]]] = {}
    for result in results:
        plain = next(row for row in result["rows"] if row["estimator"] == "grpo")
        for row in result["rows"]:
            relative = row["signal"] / plain["signal"]
            errors = [one["signal_error"] / one["signal"] for one in (row, plain)]
            own = {**row, "relative": relative, "error": 0.0 if row is plain else relative * float(np.hypot(*errors))}
            cells.setdefault((row["sampler"], row["estimator"]), {})[result["settings"]["n"]] = own
    return cells


def signal_table(results: Results) -> str:
    """Return the relative signal with its standard error, by sampler, estimator and n."""
    numbers = [result["settings"]["n"] for result in results]
    rows = [
        [*names, *(f"{by_n[n]['relative']:.2f} ± {by_n[n]['error']:.2f}" if n in by_n else "-" for n in numbers)]
        for names, by_n in by_estimator(results).items()
    ]
    return table(["sampler", "estimator", *(f"signal, n {n}" for n in numbers)], rows)


def agreement_table(results: Results, n: int) -> str:
    """Return how well the credit agrees with true advantages, by sampler and estimator, with ``n`` trajectories."""
    keys = {"r": "correlation", "equal signs": "equal_signs", "credited": "credited", "cosine": "cosine"}
    rows = [
        [*names, *(f"{by_n[n][key]:.2f}" for key in keys.values())]
        for names, by_n in by_estimator(results).items()
        if n in by_n
    ]
    return f"With n {n}:\n\n{table(['sampler', 'estimator', *keys], rows)}"


def credit_figure(results: Results) -> Figure:
    """Draw the gradient signal per decoded token over n, relative to GRPO on plain samples."""
    cells = by_estimator(results)
    names = [*dict.fromkeys(name for _, name in cells)]
    # Plain samples are last, because the legend is that of the first panel.
    samplers = sorted(dict.fromkeys(sampler for sampler, _ in cells), key=lambda sampler: sampler == PLAIN_SAMPLES)
    figure = Figure(figsize=(1 + 2.8 * len(samplers), 4.6), layout="constrained")
    panels = dict(zip(samplers, figure.subplots(1, len(samplers), sharey=True), strict=True))
    for (sampler, name), by_n in cells.items():
        numbers = sorted(by_n)
        signals = [by_n[n]["relative"] for n in numbers]
        panels[sampler].plot(numbers, signals, label=name, markersize=5, **style(names.index(name)))
        panels[sampler].set_xscale("log")
        panels[sampler].set_xticks(numbers, [*map(str, numbers)])
        panels[sampler].set_xticks([], minor=True)
    for sampler, panel in panels.items():
        panel.axhline(1.0, color="#BBBBBB", zorder=0)
        panel.set(xlabel="trajectories per prompt", title=sampler)
    figure.axes[0].set(ylabel="signal per decoded token,\nrelative to GRPO on plain samples")
    finish(figure, columns=4)
    return figure


def model_credit_table(result: Mapping[str, Any]) -> str:
    """Return a row per sampler, n and estimator of the embedded model."""
    titles = ["n", "sampler", "estimator", "r", "equal signs", "credited", "segments", "reliability"]
    rows = sorted(result["rows"], key=lambda row: (row["n"], row["sampler"]))
    return table(
        titles,
        [
            [
                *(row["n"], row["sampler"], row["estimator"]),
                f"{row['correlation']:.2f} [{row['low']:.2f}, {row['high']:.2f}]",
                *(f"{row[key]:.2f}" for key in ("equal_signs", "credited")),
                *(f"{row['segments']:,}", f"{row['reliability']:.2f}"),
            ]
            for row in rows
        ],
    )


# --- training ----------------------------------------------------------------------------------------------------


def with_common_start(results: Results, start: float) -> list[dict[str, Any]]:
    """Return the results with ``start`` in place of the accuracies before training, when all have the same model."""
    return [{**result, "accuracies": [start, *result["accuracies"][1:]]} for result in results]


def step_time(result: Mapping[str, Any]) -> float:
    """Return the median time of a step; other work on the machine slows some of them."""
    return float(np.median(np.diff(result["seconds"]) / np.diff(result["steps"])))


def curves_of(results: Results) -> dict[str, dict[int, Curve]]:
    """Return the curves by arm and seed, both in the order of the study.

    Times are as if each step took the :func:`step_time` of the arm's first seed: later ones may run on another machine.
    """
    order = [*ARMS, *OPTIONS]
    curves: dict[str, dict[int, Curve]] = {}
    times: dict[str, float] = {}
    for result in sorted(results, key=lambda one: (order.index(one["settings"]["arm"]), one["settings"]["seed"])):
        arm, seed = result["settings"]["arm"], result["settings"]["seed"]
        own = {item.name: result[item.name] for item in fields(Curve)}
        own["seconds"] = [step * times.setdefault(arm, step_time(result)) for step in result["steps"]]
        curves.setdefault(arm, {})[seed] = Curve(**own)
    return curves


def half_interval(values: Sequence[float]) -> float:
    """Return half of the 95 % interval of the mean, by Student's t; NaN for a single value."""
    if len(values) < 2:
        return np.nan
    return STUDENT[len(values) - 2] * stdev(values) / float(len(values) ** 0.5)


def interval(values: Sequence[float]) -> str:
    """Return the mean with its 95 % interval; without one for a single value."""
    half = half_interval(values)
    return f"{fmean(values):.3f}" + ("" if np.isnan(half) else f" ± {half:.3f}")


def least_cost(curves: Curves, cost: str) -> float:
    """Return the ``tokens`` or ``seconds`` that all runs reach."""
    return float(min(getattr(curve, cost)[-1] for by_seed in curves.values() for curve in by_seed.values()))


def differences(curves: Curves, cost: str, baseline: str) -> dict[str, list[float]]:
    """Return each arm's mean accuracy on the way less the baseline's, for each seed that both have."""
    most = least_cost(curves, cost)
    means = {
        arm: {seed: curve.mean_accuracy(cost, most) for seed, curve in by_seed.items()}
        for arm, by_seed in curves.items()
    }
    base = means.get(baseline, {})
    return {arm: [own[seed] - base[seed] for seed in own if seed in base] for arm, own in means.items()}


def learning_table(curves: Curves, cost: str, baselines: Sequence[str] = BASELINES) -> str:
    """Return held-out accuracies at equal cost, and the paired differences of the mean on the way to the baselines.

    Args:
        cost: ``tokens`` or ``seconds``.
    """
    least = least_cost(curves, cost)
    paired = {baseline: differences(curves, cost, baseline) for baseline in baselines}
    titles = ["arm", "seeds", *(f"{share:.0%} of the {cost}" for share in SHARES), "mean on the way"]
    titles += [*(f"less {baseline}" for baseline in baselines), "runs at 100%"]
    rows = []
    for arm, by_seed in curves.items():
        at = {share: [curve.accuracy_at(cost, share * least) for curve in by_seed.values()] for share in SHARES}
        rows.append(
            [
                *(arm, len(by_seed), *(f"{fmean(values):.3f}" for values in at.values())),
                f"{fmean(curve.mean_accuracy(cost, least) for curve in by_seed.values()):.3f}",
                *(interval(own[arm]) if own[arm] and arm != baseline else "-" for baseline, own in paired.items()),
                " ".join(f"{value:.3f}" for value in at[1.0]),
            ]
        )
    amount = f"{least:,.0f} decoded tokens" if cost == "tokens" else "the time of the shortest run"
    return f"100 % are {amount}.\n\n{table(titles, rows)}"


def learning_figure(curves: Curves) -> Figure:
    """Draw held-out accuracy over decoded tokens and over time, and the differences to the last baseline.

    Thin lines and dots are runs, thick lines means over seeds. Bars are 95 % intervals of the mean accuracy at equal
    decoded tokens less the baseline's.
    """
    figure = Figure(figsize=(14, 4.8), layout="constrained")
    *panels, last = figure.subplots(1, 3, width_ratios=[1, 1, 0.8])
    first = next(iter(next(iter(curves.values())).values()))
    labels = {"tokens": "decoded tokens, millions", "seconds": "training time, relative to the first run"}
    for panel, (cost, label) in zip(panels, labels.items(), strict=True):
        scale = 1e-6 if cost == "tokens" else 1 / first.seconds[-1]
        for number, (arm, by_seed) in enumerate(curves.items()):
            color = COLORS[number % len(COLORS)]
            for curve in by_seed.values():
                panel.plot(np.array(getattr(curve, cost)) * scale, curve.accuracies, color=color, lw=0.6, alpha=0.35)
            grid = np.linspace(0, least_cost({arm: by_seed}, cost), 50)
            means = np.mean([[curve.accuracy_at(cost, at) for at in grid] for curve in by_seed.values()], axis=0)
            panel.plot(grid * scale, means, color=color, lw=2, label=arm)
        panel.set(xlabel=label, ylabel="held-out accuracy")
    *_, baseline = BASELINES
    paired = differences(curves, "tokens", baseline)
    for number, (arm, values) in enumerate(paired.items()):
        if values and arm != baseline:
            color = COLORS[number % len(COLORS)]
            last.errorbar(fmean(values), -number, xerr=half_interval(values), fmt="o", color=color, capsize=4, lw=2)
            last.plot(values, [-number + 0.25] * len(values), ".", color=color, alpha=0.6)
    last.axvline(0, color="#BBBBBB", zorder=0)
    last.set_yticks([-number for number in range(len(paired))], paired)
    last.set(xlabel=f"mean accuracy,\nless that of {baseline}", ylim=(0.5 - len(paired), 0.5))
    finish(figure, columns=4)
    return figure


def stability_figure(curves: Curves) -> Figure:
    """Draw held-out accuracy, entropy, share of mixed prompts and length over the steps of long runs."""
    figure = Figure(figsize=(12, 6.4), layout="constrained")
    panels = {"entropy": "entropy (nats)", "mixed": "share of mixed prompts", "length": "response length (tokens)"}
    axes = [*figure.subplots(2, 2).flat]
    for number, (arm, by_seed) in enumerate(curves.items()):
        line = {"color": COLORS[number % len(COLORS)], "lw": 1.0}
        for at, curve in enumerate(by_seed.values()):
            label = arm if at == 0 else None
            axes[0].plot(np.array(curve.tokens) / 1e6, curve.accuracies, label=label, **line)
            steps = np.interp(np.arange(1, len(curve.metrics["length"]) + 1), curve.steps, curve.tokens) / 1e6
            for panel, name in zip(axes[1:], panels, strict=True):
                panel.plot(steps, _numbers(curve.metrics[name]), **line)
    for panel, label in zip(axes, ("held-out accuracy", *panels.values()), strict=True):
        panel.set(xlabel="decoded tokens, millions", ylabel=label)
    finish(figure, columns=4)
    return figure


def stability_table(curves: Curves) -> str:
    """Return best and last accuracy of long runs, and their metrics in the last five steps."""
    titles = ["arm", "seed", "tokens", "best accuracy", "last accuracy", *(f"{name}, last" for name in METRICS)]
    rows = []
    for arm, by_seed in curves.items():
        for seed, curve in by_seed.items():
            last = [np.nanmean(_numbers(curve.metrics[name][-5:])) for name in METRICS]
            ends = (f"{max(curve.accuracies):.3f}", f"{curve.accuracies[-1]:.3f}", *(f"{value:.3g}" for value in last))
            rows.append([arm, seed, f"{curve.tokens[-1]:,.0f}", *ends])
    return table(titles, rows)


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    return np.array(values, dtype=float)  # None becomes NaN


# --- the page ----------------------------------------------------------------------------------------------------


def write_page(path: Path, out: Path, arguments: Sequence[str]) -> None:
    """Write tables from the results in ``out`` to a Markdown page, with plots beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [f"`{shlex.join(['python', '-m', 'benchmarks.study', *arguments])}`"]
    machines: dict[str, None] = {}

    def add(title: str, *blocks: str) -> None:
        parts.extend([f"## {title}", ABOUT[title], *blocks])

    def picture(figure: Figure, name: str) -> str:
        file = path.with_name(f"{path.stem}_{name}.png")
        figure.savefig(file, dpi=110)
        return f"![{name}]({file.name})"

    def read(part: str) -> list[dict[str, Any]]:
        found = read_results(out, part)
        machines.update(dict.fromkeys(described(result["machine"]) for result in found))
        return found

    if results := read("diversity"):
        found = {result["name"]: shapes_of(result) for result in results}
        add("Diversity", picture(figure_of(found), "diversity"))
        for name, shapes in found.items():
            parts.extend([f"### {name}", diversity_table(shapes)])
    results = read("credit")
    if worlds := [result for result in results if result["name"] != "model"]:
        worlds.sort(key=lambda result: result["settings"]["n"])
        figure = picture(credit_figure(worlds), "credit")
        tables = (worth_table(worlds), figure, signal_table(worlds), agreement_table(worlds, 16))
        add("Credit in the known world", *tables)
    for result in results:
        if result["name"] == "model":
            add("Credit on the embedded model", model_credit_table(result))
    runs = {part: read(part) for part in ("learning", "options", "stability")}
    if starts := [result["accuracies"][0] for results in runs.values() for result in results]:
        runs = {part: with_common_start(results, fmean(starts)) for part, results in runs.items()}
    if results := runs["learning"]:
        curves = curves_of(results)
        figure = picture(learning_figure(curves), "learning")
        add("Learning", figure, *(learning_table(curves, cost) for cost in ("tokens", "seconds")))
        if options := runs["options"]:
            others = curves_of(options)
            seeds = {seed for by_seed in others.values() for seed in by_seed}
            same = {seed: curve for seed, curve in curves["treepo"].items() if seed in seeds}
            add("One option at a time", learning_table({"treepo": same, **others}, "tokens", ["treepo"]))
    if results := runs["stability"]:
        curves = curves_of(results)
        add("Stability", picture(stability_figure(curves), "stability"), stability_table(curves))
    parts[1:1] = ["; ".join(machines)]
    path.write_text("\n\n".join(parts) + "\n")
