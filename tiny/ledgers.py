# SPDX-License-Identifier: Apache-2.0
"""Generate long problems in which a single wrong step decides, for studies of credit.

A problem has 14 to 20 dependent steps, and its solution one line per step, about 17 tokens each::

    Mia has 24 shells.
    A-five
    B+eight
    How many shells does Mia have now?

    A-five surely gives Mia 24 - 5 = 19 shells.
    B+eight mostly gives Mia 19 + 8 = 27 shells.
    So Mia has \\boxed{27} shells.

A letter is one token, and so is the step after it. Models of this size find a step by its letter then, if they learn it
from :func:`recall_rows` first.

Every line has one of four words, the method of the step. Two of them are unreliable for additions and reliable for
subtractions, the others the other way round: most results of an unreliable method are off by one, and later lines
continue from the wrong value. So a policy has to learn which methods to avoid where. **The boxed answers of unreliable
solutions may be wrong.** They are for the last phase of supervised training; never use them as ground truth.

Bounds as in ``tiny.problems``: operands 2 to 9, every value 1 to 60. Problems and methods have separate random streams.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import replace

from tiny.problems import (
    MAX_VALUE,
    MIN_OPERAND,
    OBJECTS,
    PEOPLE,
    Step,
    WordProblem,
    answer_line,
    apply_operation,
    draw_operation,
    generate_problems,
    row_of,
    slip,
)

MIN_STEPS, MAX_STEPS = 14, 20
LABELS = "ABCDEFGHIJKLMNOPQRST"
OPERANDS = ("two", "three", "four", "five", "six", "seven", "eight", "nine")
UNRELIABLE = {"+": ("quickly", "simply"), "-": ("surely", "mostly")}
"""Unreliable methods by operator."""
METHODS = (*UNRELIABLE["+"], *UNRELIABLE["-"])
WRONG_SHARE = 0.9
"""Share of the steps with an unreliable method whose result is wrong."""


def draw_problem(rng: random.Random, steps_range: tuple[int, int] = (MIN_STEPS, MAX_STEPS)) -> WordProblem:
    """Draw one problem with a number of steps in the range; all randomness comes from ``rng``."""
    (name, _), objects = rng.choice(PEOPLE), rng.choice(OBJECTS)
    start = value = rng.randint(10, MAX_VALUE - 10)
    steps: list[Step] = []
    for _ in range(rng.randint(*steps_range)):
        op, operand, value = draw_operation(rng, value)
        written = f"{LABELS[len(steps)]}{op}{OPERANDS[operand - MIN_OPERAND]}"
        steps.append(Step(op, operand, written, written))
    listed = (step.sentence for step in steps)
    text = "\n".join([f"{name} has {start} {objects}.", *listed, f"How many {objects} does {name} have now?"])
    return WordProblem(text=text, name=name, objects=objects, start=start, steps=tuple(steps))


def solve(problem: WordProblem, rng: random.Random, *, unreliable_rate: float | None = None) -> str:
    """Write a worked solution.

    Args:
        problem: The problem.
        rng: Source of methods and mistakes.
        unreliable_rate: Probability of an unreliable method in a step, from 0 to 1. None gives a true solution with
            any method in any step.
    """
    lines, value = [], problem.start
    for number, step in enumerate(problem.steps, 1):
        result = apply_operation(step.op, value, step.operand)
        assert result is not None, f"step {number} of {problem.text!r} leaves the bounds"
        if unreliable_rate is None:
            method = rng.choice(METHODS)
        elif rng.random() < unreliable_rate:
            method = rng.choice(UNRELIABLE[step.op])
            if rng.random() < WRONG_SHARE:
                result = slip(result, problem.steps[number:])
        else:
            method = rng.choice([method for method in METHODS if method not in UNRELIABLE[step.op]])
        sum_ = f"{value} {step.op} {step.operand} = {result}"
        lines.append(f"{step.opening} {method} gives {problem.name} {sum_} {problem.objects}.")
        value = result
    return "\n".join([*lines, answer_line(problem, value)])


def generate_rows(
    count: int,
    seed: int,
    *,
    unreliable_rate: float | None = None,
    exclude: Collection[str] = frozenset(),
    steps_range: tuple[int, int] = (MIN_STEPS, MAX_STEPS),
) -> list[dict[str, object]]:
    """Generate rows as ``tiny.problems.generate_rows`` does, with solutions by :func:`solve`."""
    methods = random.Random(f"methods/{seed}")
    problems = generate_problems(count, seed, exclude=exclude, steps_range=steps_range, draw=draw_problem)
    return [row_of(problem, solve(problem, methods, unreliable_rate=unreliable_rate)) for problem in problems]


def recall_rows(count: int, seed: int, *, steps_range: tuple[int, int]) -> list[dict[str, object]]:
    """Generate rows whose answers are the steps of a problem in random order.

    A model learns from them to find a step by its letter; from solutions alone it learns to guess by position.
    """
    orders = random.Random(f"orders/{seed}")
    rows = []
    for problem in generate_problems(count, seed, steps_range=steps_range, draw=draw_problem):
        steps = [step.opening for step in orders.sample(problem.steps, len(problem.steps))]
        rows.append(row_of(replace(problem, text=f"{problem.text}\nWhich steps?"), "\n".join(steps)))
    return rows
