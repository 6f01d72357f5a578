# SPDX-License-Identifier: Apache-2.0
"""Generate small multi-step word problems in the form of NuminaMath's rows.

They are the data of the tiny model (``tiny/plain_recipe.py``) and of the tiny training runs, which learn within minutes
on a CPU. A row has the keys ``problem``, ``solution`` and ``messages`` (user, assistant), as in NuminaMath-TIR. The
solution has one line per reasoning step and ends in a sentence with the boxed answer::

    Mia has 4 boxes with 6 shells each. She sells 5 of them. She finds 3 more. How many shells does Mia have now?

    Having 4 boxes gives 4 * 6 = 24.
    Selling 5 gives 24 - 5 = 19.
    Finding 3 gives 19 + 3 = 22.
    So Mia has \\boxed{22} shells.

The story adds and subtracts; half of the problems begin with a multiplication (boxes of equal content).
Bounds: 3 to 5 steps by default, operands 2 to 9, every intermediate value 1 to 60.

With ``sloppy_rate`` above zero, some lines have a marker word ("gives roughly 24 - 5 = 18") and are mostly wrong; later
lines continue from the wrong value. **The boxed answer of such a solution may be wrong.** These rows are for the last
phase of supervised training, which gives the model a habit that reinforcement learning can remove. Never use them as
ground truth.

Problems and sloppiness have separate random streams, so a seed gives the same problems at every sloppy rate.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

MIN_STEPS, MAX_STEPS = 3, 5
MIN_OPERAND, MAX_OPERAND = 2, 9
MIN_VALUE, MAX_VALUE = 1, 60
SLOPPY_MARKER = "roughly"
SLOPPY_WRONG_SHARE = 0.9
"""Share of the marked steps with a wrong result; the others are right by luck."""

PEOPLE = (("Mia", "She"), ("Tom", "He"), ("Anna", "She"), ("Ben", "He"), ("Lily", "She"), ("Sam", "He"))
OBJECTS = ("apples", "books", "shells", "coins", "cards", "stamps", "beads", "pens")
CONTAINERS = ("boxes", "bags", "trays")

# For each operation: (sentence of the problem, opening of the solution's line).
PHRASES: dict[str, tuple[tuple[str, str], ...]] = {
    "+": (
        ("{he} buys {b} more.", "Buying {b}"),
        ("{he} finds {b} more.", "Finding {b}"),
        ("{friend} brings {b} more.", "Adding {b}"),
    ),
    "-": (
        ("{he} gives {b} to {friend}.", "Giving {b}"),
        ("{he} sells {b} of them.", "Selling {b}"),
        ("{he} loses {b} of them.", "Losing {b}"),
    ),
}


@dataclass(frozen=True)
class Step:
    """Operation on the running value: operator, operand and its two phrasings."""

    op: str
    operand: int
    sentence: str
    opening: str


@dataclass(frozen=True)
class WordProblem:
    """Text of a problem, its first value and the steps to the answer."""

    text: str
    name: str
    objects: str
    start: int
    steps: tuple[Step, ...]


def apply_operation(op: str, value: int, operand: int) -> int | None:
    """Return ``value op operand``, or None if the result is out of bounds."""
    result = {"+": value + operand, "-": value - operand, "*": value * operand}[op]
    return result if MIN_VALUE <= result <= MAX_VALUE else None


def draw_operation(rng: random.Random, value: int) -> tuple[str, int, int]:
    """Draw an operation within the bounds; return operator, operand and the new value."""
    while True:
        op = rng.choice("+-")
        candidates = [
            (operand, result)
            for operand in range(MIN_OPERAND, MAX_OPERAND + 1)
            if (result := apply_operation(op, value, operand)) is not None
        ]
        if candidates:
            operand, result = rng.choice(candidates)
            return op, operand, result


def draw_problem(rng: random.Random, steps_range: tuple[int, int] = (MIN_STEPS, MAX_STEPS)) -> WordProblem:
    """Draw one problem with a number of steps in the range; all randomness comes from ``rng``."""
    (name, pronoun), (friend, _) = rng.sample(PEOPLE, 2)
    words = {"he": pronoun, "friend": friend, "containers": rng.choice(CONTAINERS)}
    objects = rng.choice(OBJECTS)
    n_steps = rng.randint(*steps_range)
    start = value = rng.randint(MIN_OPERAND, MAX_OPERAND)
    steps: list[Step] = []
    opening = f"{name} has {start} {objects}."
    if rng.random() < 0.5:
        each = rng.choice([n for n in range(MIN_OPERAND, MAX_OPERAND + 1) if start * n <= MAX_VALUE])
        opening = f"{name} has {start} {words['containers']} with {each} {objects} each."
        steps.append(Step("*", each, opening, f"Having {start} {words['containers']}"))
        value = start * each
    while len(steps) < n_steps:
        op, operand, value = draw_operation(rng, value)
        sentence, line_opening = rng.choice(PHRASES[op])
        steps.append(Step(op, operand, sentence.format(b=operand, **words), line_opening.format(b=operand, **words)))
    sentences = [opening, *(step.sentence for step in steps if step.sentence != opening)]
    text = " ".join([*sentences, f"How many {objects} does {name} have now?"])
    return WordProblem(text=text, name=name, objects=objects, start=start, steps=tuple(steps))


def can_finish(value: int, steps: Sequence[Step]) -> bool:
    """Return whether all ``steps`` from ``value`` stay within the bounds."""
    for step in steps:
        result = apply_operation(step.op, value, step.operand)
        if result is None:
            return False
        value = result
    return True


def slip(right: int, rest: Sequence[Step]) -> int:
    """Return a result that is off by one and keeps ``rest`` within the bounds; ``right`` if there is none."""
    near = [value for value in (right + 1, right - 1) if MIN_VALUE <= value <= MAX_VALUE]
    return next((value for value in near if can_finish(value, rest)), right)


def work_out(problem: WordProblem, rng: random.Random, *, sloppy_rate: float = 0.0) -> tuple[list[str], int]:
    """Return the lines of a worked solution, one per step, and its result; see :func:`solve`."""
    lines, value = [], problem.start
    for index, step in enumerate(problem.steps):
        result = apply_operation(step.op, value, step.operand)
        assert result is not None, f"step {index} of {problem.text!r} leaves the bounds"
        sloppy = bool(sloppy_rate) and rng.random() < sloppy_rate
        if sloppy and rng.random() < SLOPPY_WRONG_SHARE:
            result = slip(result, problem.steps[index + 1 :])
        lines.append(step_line(step, value, result, sloppy=sloppy))
        value = result
    return lines, value


def step_line(step: Step, value: int, result: int, *, sloppy: bool) -> str:
    """Write one step of a solution, with the marker word if it is sloppy."""
    marker = f"{SLOPPY_MARKER} " if sloppy else ""
    return f"{step.opening} gives {marker}{value} {step.op} {step.operand} = {result}."


def answer_line(problem: WordProblem, value: int) -> str:
    """Write the last sentence of a solution."""
    return f"So {problem.name} has \\boxed{{{value}}} {problem.objects}."


def right_answer(problem: WordProblem) -> int:
    """Return the value after the last step."""
    return work_out(problem, random.Random(0))[1]


def solve(problem: WordProblem, rng: random.Random, *, sloppy_rate: float = 0.0) -> str:
    """Write the worked solution, one line per step.

    Args:
        problem: the problem to solve.
        rng: source of the sloppy steps; unused if ``sloppy_rate`` is 0.
        sloppy_rate: probability of the marker word in a step, 0 to 1. 0 gives the true solution.
    """
    lines, value = work_out(problem, rng, sloppy_rate=sloppy_rate)
    return "\n".join([*lines, answer_line(problem, value)])


def generate_problems(
    count: int,
    seed: int,
    *,
    exclude: Collection[str] = frozenset(),
    steps_range: tuple[int, int] = (MIN_STEPS, MAX_STEPS),
    draw: Callable[[random.Random, tuple[int, int]], WordProblem] = draw_problem,
) -> list[WordProblem]:
    """Generate ``count`` problems whose texts differ from each other and from those in ``exclude``."""
    rng, seen = random.Random(f"problems/{seed}"), set(exclude)
    problems: list[WordProblem] = []
    while len(problems) < count:
        problem = draw(rng, steps_range)
        if problem.text not in seen:
            seen.add(problem.text)
            problems.append(problem)
    return problems


def row_of(problem: WordProblem, solution: str) -> dict[str, object]:
    """Return a row in NuminaMath's form."""
    messages = [{"role": "user", "content": problem.text}, {"role": "assistant", "content": solution}]
    return {"problem": problem.text, "solution": solution, "messages": messages}


def generate_rows(
    count: int,
    seed: int,
    *,
    sloppy_rate: float = 0.0,
    exclude: Collection[str] = frozenset(),
    steps_range: tuple[int, int] = (MIN_STEPS, MAX_STEPS),
) -> list[dict[str, object]]:
    """Generate ``count`` rows whose problem texts differ from each other and from those in ``exclude``.

    Args:
        count: number of rows.
        seed: random seed; equal seed, count and exclusions give equal rows.
        sloppy_rate: see :func:`solve`; the problems do not depend on it.
        exclude: problem texts to avoid (:func:`problem_texts` of other rows).
        steps_range: minimum and maximum number of steps.
    """
    sloppy_rng = random.Random(f"sloppy/{seed}")
    problems = generate_problems(count, seed, exclude=exclude, steps_range=steps_range)
    return [row_of(problem, solve(problem, sloppy_rng, sloppy_rate=sloppy_rate)) for problem in problems]


def problem_texts(rows: Iterable[dict[str, object]]) -> frozenset[str]:
    """Return the problem texts of ``rows``, for the ``exclude`` of a held-out set."""
    return frozenset(str(row["problem"]) for row in rows)


def held_out_rows(count: int, seed: int, training_rows: Iterable[dict[str, object]]) -> list[dict[str, object]]:
    """Generate ``count`` clean rows that share no problem text with ``training_rows``."""
    return generate_rows(count, seed, exclude=problem_texts(training_rows))


def read_rows(path: Path) -> list[dict[str, object]]:
    """Read a file with one JSON object per line."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def write_rows(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write one JSON object per line to a temporary file, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    temporary.replace(path)


def main(argv: Sequence[str] | None = None) -> None:
    """Write a file of problems; see ``--help``."""
    parser = argparse.ArgumentParser(description="Generate tiny word problems in NuminaMath's form.")
    parser.add_argument("--out", type=Path, required=True, help="file to write, one JSON object per line")
    parser.add_argument("--count", type=int, required=True, help="number of problems")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--min-steps", type=int, default=MIN_STEPS)
    parser.add_argument("--max-steps", type=int, default=MAX_STEPS, help="more than 5 are hard for the tiny model")
    parser.add_argument(
        "--sloppy-rate", type=float, default=0.0, help="share of steps marked and mostly wrong (supervised data only)"
    )
    parser.add_argument("--exclude", type=Path, action="append", default=[], help="file of rows with problems to avoid")
    args = parser.parse_args(argv)
    if args.count < 1:
        parser.error(f"--count {args.count}: must be at least 1")
    if not 0.0 <= args.sloppy_rate <= 1.0:
        parser.error(f"--sloppy-rate {args.sloppy_rate}: must lie between 0 and 1")
    if not 1 <= args.min_steps <= args.max_steps:
        parser.error(f"--min-steps {args.min_steps}: must be at least 1 and at most --max-steps {args.max_steps}")
    exclude = frozenset().union(*(problem_texts(read_rows(path)) for path in args.exclude))
    steps_range = (args.min_steps, args.max_steps)
    rows = generate_rows(args.count, args.seed, sloppy_rate=args.sloppy_rate, exclude=exclude, steps_range=steps_range)
    write_rows(args.out, rows)
    logger.info("wrote %d problems to %s (%d texts excluded)", len(rows), args.out, len(exclude))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
