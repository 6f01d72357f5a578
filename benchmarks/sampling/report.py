# SPDX-License-Identifier: Apache-2.0
"""Tables and plots of the sampling benchmark."""

from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.sampling.cases import Arm, Case
from benchmarks.sampling.results import Result, allowed_over_plain, partner, speed_over
from recipe.treepo.evaluation.markdown import table
from recipe.treepo.evaluation.plot import style

# Parts of the report: title, label of a row, and for a plot the value on the horizontal axis.
PARTS: dict[str, tuple[str, Callable[[Case], str], Callable[[Case], float] | None]] = {
    "samplers": ("Samplers, no early ends", lambda case: case.shape, None),
    "ends": ("Samplers, responses end by themselves", lambda case: case.shape, None),
    "tiny": ("Samplers, short responses of the tiny model", lambda case: case.shape, None),
    "depth": ("Depth x segment length, 448 tokens", lambda case: case.shape, lambda case: case.depth),
    "width": ("Trajectories per prompt", lambda case: case.shape, lambda case: case.width),
    "prompts": ("Prompts in flight", lambda case: f"{case.in_flight} prompts", lambda case: case.in_flight),
    "engine": ("Engine settings", lambda case: engine_words(case), None),
    "chunked prefill": ("Prompts of 512 to 1,024 tokens, 1,600 tokens a step", lambda case: chunked_words(case), None),
    "priority": ("Order of requests, 16 sequences at once", lambda case: case.engine.scheduling, None),
    "replicas": ("Two replicas", lambda case: routing_words(case), None),
}

# Processes whose CPU time is measured, from the sampler to the model.
CPU_KINDS = ("client", "balancer", "server", "scheduler", "model")


def engine_words(case: Case) -> str:
    """Describe block size and number of sequences."""
    return f"blocks of {case.engine.block_size}, {case.engine.max_num_seqs} sequences"


def chunked_words(case: Case) -> str:
    """Describe the prefill of prompts."""
    return "in pieces" if case.engine.chunked_prefill else "whole"


def routing_words(case: Case) -> str:
    """Describe the routing of requests."""
    if case.arm in (Arm.PLAIN, Arm.LOOPS):
        return "each sample on one"
    return "each request anywhere" if case.spread else "each tree on one"


def cells_of(result: Result, results: Sequence[Result]) -> list[str]:
    """Return one row of a table."""
    loops = partner(result, results, Arm.LOOPS)
    counts, of_loops, over_plain, over_lock_step = result.counts, "", "", ""
    if loops:
        of_loops = f"{counts['engine_calls'] / loops.counts['engine_calls']:.2f}"
    if (allowed := allowed_over_plain(result, results)) is not None:
        over_plain = f"{speed_over(result, results, Arm.PLAIN):.2f} of {allowed:.2f}"
    if (gained := speed_over(result, results, Arm.LOCK_STEP)) is not None:
        over_lock_step = f"{gained:.2f}"
    return [
        f"{counts['engine_calls']:,.0f}",
        of_loops,
        f"{counts['decoded_tokens']:,.0f}",
        f"{counts['unique_tokens']:,.0f}",
        f"{counts['computed_prompt_tokens']:,.0f}",
        f"{counts['cached_prompt_tokens']:,.0f}",
        f"{result.waste:.3f}",
        f"{result.trajectories_per_second:.2f}",
        f"{result.spread:.0%}",
        over_plain,
        over_lock_step,
        f"{result.tokens_per_second:,.0f}",
        f"{result.in_flight:.1f}",
        f"{result.idle:.1%}",
        f"{result.overhead:.2%}",
        f"{1000 * counts['searches_gb']:.0f} MB",
        f"{counts['engine_gb']:.2f} GB",
        cpu_shares(result),
    ]


def cpu_shares(result: Result) -> str:
    """Return the shares of the processes in their CPU time, in percent."""
    seconds = [result.counts.get(f"cpu_{kind}", 0.0) for kind in CPU_KINDS]
    return ", ".join(f"{100 * own / sum(seconds):.0f}" for own in seconds) if any(seconds) else ""


TITLES = (
    *("calls", "of loops", "decoded", "unique", "prompt computed", "prompt cached", "waste"),
    *("trajectories/s", "spread", "over plain, of limit", "over lock step", "tokens/s"),
    *("in flight", "idle", "search", "memory of searches", "of engine"),
    f"% of CPU: {', '.join(CPU_KINDS)}",
)


def tables(results: Sequence[Result]) -> str:
    """Return one Markdown section per part, without empty columns."""
    pages = []
    for part, (title, words, _) in PARTS.items():
        rows = [result for result in results if result.case.part == part]
        if not rows:
            continue
        model = rows[0].case.engine
        size = "the tiny model" if model.model == "tiny" else f"random weights, {model.layers} layers of {model.hidden}"
        prompts = sorted({row.case.prompts for row in rows})
        columns = [("", *(words(row.case) for row in rows)), ("sampler", *(row.case.arm for row in rows))]
        columns += zip(TITLES, *(cells_of(row, results) for row in rows), strict=True)
        head, *body = zip(*(column for column in columns if any(column[1:])), strict=True)
        pages.append(f"## {title}\n\nPrompts: {', '.join(map(str, prompts))}; {size}.\n\n{table(head, body)}")
    return "\n\n".join(pages)


def draw(results: Sequence[Result], path: Path) -> bool:
    """Draw cost and speed over depth, width and prompts; return False, without a file, if there is no sweep."""
    from matplotlib.figure import Figure

    curves = [
        (title, bottom, found)
        for part, (title, _, bottom) in PARTS.items()
        if bottom is not None and (found := [result for result in results if result.case.part == part])
    ]
    if not curves:
        return False
    quantities: dict[str, Callable[[Result], float]] = {
        "tokens computed per trajectory": lambda result: result.computed_tokens / result.counts["trajectories"],
        "trajectories per second": lambda result: result.trajectories_per_second,
        "memory of the searches, MB": lambda result: 1000 * result.counts["searches_gb"],
    }
    figure = Figure(figsize=(4 * len(quantities), 3.4 * len(curves)), layout="constrained")
    axes = figure.subplots(len(curves), len(quantities), squeeze=False)
    for row, (title, bottom, found) in zip(axes, curves, strict=True):
        for panel, (label, quantity) in zip(row, quantities.items(), strict=True):
            for number, arm in enumerate(Arm):
                points = sorted((bottom(r.case), quantity(r)) for r in found if r.case.arm is arm)
                if points:
                    panel.plot(*zip(*points, strict=True), label=arm.value, **style(number))
            most = max(quantity(result) for result in found)
            panel.set(xscale="log", xlabel=title, ylabel=label, ylim=(0, 1.08 * most))
            ticks = sorted({bottom(result.case) for result in found})
            panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
            panel.minorticks_off()
            panel.grid(alpha=0.3)
    lines = {line.get_label(): line for panel in axes.flat for line in panel.get_lines()}
    figure.legend(lines.values(), lines.keys(), loc="outside upper center", ncols=len(lines), frameon=False)
    figure.savefig(path, dpi=110)
    return True
