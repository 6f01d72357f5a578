# SPDX-License-Identifier: Apache-2.0
"""Make faults in real runs and print a table of their ends.

    python -m benchmarks.faults                    all faults: about 30 minutes on two cores
    python -m benchmarks.faults --only TEXT        faults whose description contains TEXT
    python -m benchmarks.faults --kills 20         kill a run at 20 random moments; it must end with the same steps

The status is 1 if a run did not end as it should. ``--out`` is the folder of the runs, by default a temporary one.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.faults.suite import (
    BATCH,
    FAULTS,
    KILLED_STEPS,
    WIDTH,
    Counted,
    Outcome,
    prompts_of,
    random_kills,
    run,
    run_with_kills,
)


def row(outcome: Outcome) -> str:
    """Return a row of the table."""
    seconds = "" if outcome.seconds is None else f"{outcome.seconds:.0f} s"
    seen = outcome.screen[-1] if outcome.status else next((x for x in outcome.screen if x.startswith("done: ")), "")
    left = ", ".join(outcome.left) or "nothing"
    status = "given up" if outcome.status is None else str(outcome.status)
    verdict = "as expected" if outcome.is_as_expected else "WRONG"
    cells = (outcome.fault.what, seconds, status, seen.strip(), left, verdict)
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def faults(folder: Path, only: str) -> bool:
    """Run the faults; return whether all ended as expected."""
    print("| fault | time to the end | status | last line | left | |\n|---|---|---|---|---|---|", flush=True)
    fine, counted = True, list[Counted]()
    for number, fault in enumerate(FAULTS):
        if only not in fault.what or (fault.disk and os.geteuid() != 0):  # mounting needs root
            continue
        outcome = run(fault, folder / f"fault_{number}")
        fine &= outcome.is_as_expected
        counted += outcome.counted
        print(row(outcome), flush=True)
    trained, removed, lost = (sum(step[column] for step in counted) for column in range(3))
    drawn = len(counted) * BATCH * WIDTH
    print(f"{len(counted)} steps drew {drawn:,} trajectories: {trained:,} trained, {removed:,} removed, {lost:,} lost")
    return fine and trained + removed + lost == drawn


def kills(folder: Path, number: int, seed: int) -> bool:
    """Kill a run at random moments; return whether it ends with the prompts of an undisturbed run."""
    status, _ = run_with_kills(folder / "undisturbed", ())
    expected = prompts_of(folder / "undisturbed")
    killed, hit = run_with_kills(folder / "killed", random_kills(number, seed))
    found = prompts_of(folder / "killed")
    print("phases that were hit, and what was killed:", *hit, sep="\n  ")
    is_same = found == expected and len(expected) == KILLED_STEPS
    print(
        f"{len(hit)} kills, status {killed}, {len(found)} steps, {'the same' if is_same else 'OTHER'} prompts in each"
    )
    return status == killed == 0 and is_same and len(hit) == number


def main() -> int:
    """Read the command line, run, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT")
    parser.add_argument("--kills", type=int, default=0, metavar="NUMBER")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    folder = (options.out or Path(tempfile.mkdtemp(prefix="treepo-faults-"))).absolute()
    fine = kills(folder, options.kills, options.seed) if options.kills else faults(folder, options.only)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
