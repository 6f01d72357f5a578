# SPDX-License-Identifier: Apache-2.0
"""Generate word problems of one step in plain English, the data of the preset ``small``.

A row has the keys ``question`` and ``answer`` of GSM8K, whose reader in ``data_prep`` takes it::

    Mia has 16 apples. Mia gives away 7 of them. How many apples does Mia have now?

    16 - 7 = 9.
    #### 9

The first value is 2 to 20, the second 1 to 9, and the result at least 0. Gains and losses are as frequent.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

from tiny.problems import write_rows

PEOPLE = ("Anna", "Ben", "Lily", "Mia", "Sam", "Tom")
OBJECTS = ("apples", "books", "cards", "coins", "pens", "shells")
EVENTS = {
    "+": ("gets {b} more", "finds {b} more", "buys {b} more"),
    "-": ("loses {b} of them", "gives away {b} of them", "sells {b} of them"),
}
FIRST = (2, 20)
SECOND = (1, 9)


def draw_row(rng: random.Random) -> dict[str, str]:
    """Draw one problem with its solution."""
    name, objects, sign = rng.choice(PEOPLE), rng.choice(OBJECTS), rng.choice("+-")
    a = rng.randint(*FIRST)
    b = rng.randint(SECOND[0], SECOND[1] if sign == "+" else min(a, SECOND[1]))
    event = rng.choice(EVENTS[sign]).format(b=b)
    result = a + b if sign == "+" else a - b
    question = f"{name} has {a} {objects}. {name} {event}. How many {objects} does {name} have now?"
    return {"question": question, "answer": f"{a} {sign} {b} = {result}.\n#### {result}"}


def generate_rows(count: int, seed: int) -> list[dict[str, str]]:
    """Generate ``count`` rows with different questions; equal arguments give equal rows."""
    rng = random.Random(f"small/{seed}")
    rows: dict[str, dict[str, str]] = {}
    while len(rows) < count:
        row = draw_row(rng)
        rows[row["question"]] = row
    return list(rows.values())


def main(argv: Sequence[str] | None = None) -> None:
    """Write a file of problems; see ``--help``."""
    parser = argparse.ArgumentParser(description="Generate word problems of one step in GSM8K's form.")
    parser.add_argument("--out", type=Path, required=True, help="file to write, one JSON object per line")
    parser.add_argument("--count", type=int, required=True, help="number of problems")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    write_rows(args.out, generate_rows(args.count, args.seed))


if __name__ == "__main__":
    main()
