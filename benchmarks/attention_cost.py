# SPDX-License-Identifier: Apache-2.0
"""Fit the cost of attention calls, by which packed training divides a row, and compare divisions.

    python -m benchmarks.attention_cost --report FILE.md

A division of a row into calls is chosen by the cost of a call: a fixed part, one per key that it copies, and one per
pair of query and key (``COST`` in ``recipe/treepo/packed/attention.py``). The first table has the fit to calls of many
sizes, forward and backward. The second one compares, for the rows of ``packed_speed``, one layer's attention by chains
alone, by the chosen calls, and in one call with a mask of all pairs. Variants take turns; times are medians.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks.common.fit import unit_costs
from benchmarks.common.records import write_measurement
from benchmarks.packed_speed import CASES, make_rows
from recipe.treepo.evaluation.markdown import table
from recipe.treepo.packed.attention import COST, ChainLayout, chain_attention
from recipe.treepo.packed.prefix_tree import AttentionCall, CallCost, Packing, pack

QUERIES, ABOVE = (1, 8, 32, 128, 512), (128, 512, 2048)
DIVISIONS = {"chains": CallCost(0, 0), "chosen": COST, "one call": CallCost(10**12, 0)}


def states(tokens: int, options: argparse.Namespace) -> list[torch.Tensor]:
    """Return random queries, keys and values of one layer."""
    shapes = [(1, heads, tokens, options.size) for heads in (options.heads, options.kv_heads, options.kv_heads)]
    dtype = torch.bfloat16 if options.dtype == "bf16" else torch.float32
    return [torch.randn(shape, device=options.device, dtype=dtype, requires_grad=True) for shape in shapes]


def timed(layout: Any, tensors: Sequence[torch.Tensor], options: argparse.Namespace) -> float:
    """Return the seconds of attention, forward and backward."""
    layer: Any = SimpleNamespace(num_key_value_groups=options.heads // options.kv_heads)
    query, key, value = tensors
    started = time.perf_counter()
    output, _ = chain_attention(layer, query, key, value, None, chains=layout)
    output.sum().backward()
    if options.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def medians(variants: dict[str, Callable[[], float]], repetitions: int) -> dict[str, float]:
    """Return the median time of each variant; they take turns, and the first turn is a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(repetitions + 1):
        for name, measure in variants.items():
            took = measure()
            if turn:
                times[name].append(took)
    return {name: statistics.median(found) for name, found in times.items()}


def one_call(queries: int, above: int, options: argparse.Namespace) -> Callable[[], float]:
    """Return a measurement of a single call."""
    count = above + queries
    call = AttentionCall(range(1, 2), [0])
    mask = torch.ones((queries, count), dtype=torch.bool, device=options.device).tril(above)
    tensors = states(count, options)
    tensors[0] = tensors[0].detach()
    return lambda: timed(SimpleNamespace(sizes=[above, queries], calls=[call], masks=[mask]), tensors, options)


def fit(times: dict[tuple[int, int], float]) -> CallCost:
    """Return the cost of calls in pairs, fit to relative errors."""
    rows = [(1.0, above, queries * (above + queries)) for queries, above in times]
    call, key, pair = unit_costs(rows, [*times.values()])
    return CallCost(call=call / pair, key=key / pair)


def divided(packing: Packing, options: argparse.Namespace) -> dict[str, tuple[int, float]]:
    """Return number of calls and time of each division of a row."""
    device = torch.device(options.device)
    layouts = {name: ChainLayout(packing, device, cost) for name, cost in DIVISIONS.items()}
    tensors = states(len(packing.token_U), options)
    found = medians(
        {name: partial(timed, layout, tensors, options) for name, layout in layouts.items()}, options.repetitions
    )
    return {name: (len(layouts[name].calls), took) for name, took in found.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int, default=10)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--size", type=int, default=64, help="of a head")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument(
        "--cases", nargs="+", choices=CASES, default=[name for name in CASES if name != "long tree, n 8"]
    )
    parser.add_argument("--report", type=Path, help="Markdown file; results (.json) beside it")
    options = parser.parse_args(arguments)
    calls = {(queries, above): one_call(queries, above, options) for queries in QUERIES for above in ABOVE}
    named = medians({f"{queries} {above}": calls[queries, above] for queries, above in calls}, options.repetitions)
    times = {sizes: named[f"{sizes[0]} {sizes[1]}"] for sizes in calls}
    cost = fit(times)
    about = f"a call: {cost.call:,.0f} pairs, a copied key: {cost.key:.0f}; COST has {COST.call:,.0f}, {COST.key:.0f}"
    unit = times[max(QUERIES), max(ABOVE)] / cost.of(max(QUERIES), max(ABOVE))
    rows = [
        [f"{queries}", f"{above:,}", f"{took / unit:,.0f}", f"{cost.of(queries, above):,.0f}"]
        for (queries, above), took in times.items()
    ]
    tables = [table(["queries", "keys above", "measured, pairs", "fit"], rows)]
    rows, divisions = [], []
    for case in options.cases:
        own = argparse.Namespace(prompts=1, prompt_length=None, vocabulary=16000)
        packing = pack([np.array(prompt + response) for prompt, response in make_rows(case, own)])
        found = divided(packing, options)
        cells = [f"{count}, {took / found['chains'][1]:.2f}" for count, took in found.values()]
        rows.append([case, f"{len(packing.token_U):,}", *cells])
        divisions.append({"case": case, "unique_tokens": len(packing.token_U), "calls and seconds": found})
    tables.append(table(["rows", "unique tokens", *(f"{name}: calls, time" for name in DIVISIONS)], rows))
    page = "\n\n".join(tables)
    print(f"{about}\n\n{page}")
    if options.report:
        seconds = [{"queries": queries, "above": above, "seconds": took} for (queries, above), took in times.items()]
        numbers = {"cost": asdict(cost), "calls": seconds, "divisions": divisions}
        about = f"medians of {options.repetitions} turns; {about}"
        write_measurement(options.report, "attention_cost", arguments, about=about, table=page, results=numbers)


if __name__ == "__main__":
    main()
