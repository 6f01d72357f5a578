# SPDX-License-Identifier: Apache-2.0
"""Study of trees as samples for training: diversity, credit, learning and stability.

    python -m benchmarks.study                          all of it, about ten hours of two CPU cores
    python -m benchmarks.study credit learning          two parts
    python -m benchmarks.study --list                   pieces, and which are done

Each piece leaves a JSON file in --out, and is not repeated while the file is there. So the command resumes what was
interrupted, and with --hours it ends before a piece that would begin later. --report writes the page from the results
that exist.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common.process_session import exit_on_signals
from benchmarks.study.page import write_page
from benchmarks.study.pieces import PARTS, pieces
from benchmarks.study.tasks import ROOT


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the pieces that are not done; return how many failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)}; default: all")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results/study", help="folder of the results")
    parser.add_argument("--logs", type=Path, default=ROOT / "outputs/study", help="folder of logs and samples")
    parser.add_argument("--hours", type=float, default=float("inf"), help="begin no piece after so many hours")
    parser.add_argument("--only", default="", help="only pieces whose name contains this")
    parser.add_argument("--list", action="store_true", help="list the pieces and end")
    parser.add_argument("--report", type=Path, help="Markdown page to write; plots beside it")
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"{', '.join(sorted(unknown))}: no part; the parts are {', '.join(PARTS)}")
    chosen = [piece for piece in pieces() if piece.part in (options.parts or PARTS) and options.only in piece.name]
    try:
        done = [piece.is_done(options.out) for piece in chosen]
    except ValueError as error:
        parser.error(str(error))
    exit_on_signals()
    failed, begun = 0, time.monotonic()
    for number, (piece, is_done) in enumerate(zip(chosen, done, strict=True), start=1):
        title = f"[{number}/{len(chosen)}] {piece.part}, {piece.name}"
        if is_done or options.list:
            print(f"{title}: {'done' if is_done else 'missing'}", flush=True)
            continue
        if time.monotonic() - begun > 3600 * options.hours:
            print(f"{title}: left for the next time", flush=True)
            continue
        started = time.monotonic()
        try:
            piece.do(options.out, options.logs.absolute())
        except (RuntimeError, ValueError, OSError) as error:
            failed += 1
            print(f"{title}: failed: {error}", flush=True)
        else:
            print(f"{title}: {(time.monotonic() - started) / 60:.1f} minutes", flush=True)
    if options.report:
        write_page(options.report, options.out, sys.argv[1:] if arguments is None else arguments)
        print(f"page: {options.report}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
