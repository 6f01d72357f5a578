# SPDX-License-Identifier: Apache-2.0
"""Compare two result files of benchmarks.sampling_speed; list every number that got worse.

    python -m benchmarks.sampling_compare OLD.json NEW.json

Tolerances: engine counts may grow by --counts, and by three times as much if responses end early, because their lengths
are random. Speeds may fall by --speeds. The time share of the searches may grow by --speeds, and up to 1 % in any case.

Speeds are compared as ratios to plain samples of the same run, because load differs between runs; --absolute also
compares trajectories per second. The output begins with differences of machines and versions. The exit status is 1 if
a number got worse.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.sampling.cases import Arm
from benchmarks.sampling.results import Result, find, read_results, speed_over

COSTS: dict[str, Callable[[Result], float]] = {
    "engine calls": lambda result: result.counts["engine_calls"],
    "decoded tokens": lambda result: result.counts["decoded_tokens"],
    "computed prompt tokens": lambda result: result.counts["computed_prompt_tokens"],
    "waste": lambda result: result.waste,
}


def worse(
    old: Sequence[Result], new: Sequence[Result], *, counts: float, speeds: float, absolute: bool = False
) -> list[str]:
    """Return one line per number that got worse, and per case that is missing in ``new``."""
    lines = []
    for before in old:
        name = f"{before.case.part}, {before.case.arm}, {before.case.shape}"
        after = find(before.case, new)
        if after is None:
            lines.append(f"{name}: missing in the new results")
            continue
        tolerance = 3 * counts if before.case.ends else counts
        for cost, value in COSTS.items():
            if value(after) > value(before) * (1 + tolerance):
                lines.append(f"{name}: {cost} {value(before):.6g} -> {value(after):.6g}")
        speed_before, speed_after = speed_over(before, old, Arm.PLAIN), speed_over(after, new, Arm.PLAIN)
        if speed_before is not None and speed_after is not None and speed_after < speed_before * (1 - speeds):
            lines.append(f"{name}: speed over plain samples {speed_before:.2f} -> {speed_after:.2f}")
        rate_before, rate_after = before.trajectories_per_second, after.trajectories_per_second
        if absolute and rate_after < rate_before * (1 - speeds):
            lines.append(f"{name}: trajectories per second {rate_before:.3g} -> {rate_after:.3g}")
        if after.overhead > max(0.01, before.overhead * (1 + speeds)):
            lines.append(f"{name}: share of the searches {before.overhead:.2%} -> {after.overhead:.2%}")
    return lines


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return one line per difference between two machines, versions included."""
    flat = [{**about, **about.get("versions", {})} for about in (old, new)]
    names = sorted({*flat[0], *flat[1]} - {"versions"})
    pairs = [(name, *(one.get(name) for one in flat)) for name in names]
    return [f"different machine: {name} {before} -> {after}" for name, before, after in pairs if before != after]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the differences; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--counts", type=float, default=0.05, help="tolerated growth of counts")
    parser.add_argument("--speeds", type=float, default=0.15, help="tolerated fall of speeds")
    parser.add_argument("--absolute", action="store_true", help="also compare trajectories per second")
    options = parser.parse_args(arguments)
    (old, old_about), (new, new_about) = read_results(options.old), read_results(options.new)
    lines = worse(old, new, counts=options.counts, speeds=options.speeds, absolute=options.absolute)
    for line in differences(old_about.get("machine", {}), new_about.get("machine", {})):
        print(line)
    print("\n".join(lines) or f"nothing got worse in {len(old)} cases")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
