# SPDX-License-Identifier: Apache-2.0
"""Generate long problems in which a single wrong step decides, for studies of credit.

A problem has 13 to 20 dependent steps, and its solution one line per step, about 20 tokens each::

    Mia has 24 shells.
    A. Selling 5.
    B. Finding 8.
    How many shells does Mia have now?

    A. Selling 5 surely gives 24 - 5 = 19 shells.
    B. Finding 8 mostly gives 19 + 8 = 27 shells.
    So Mia has \\boxed{27} shells.

A letter is one token, and a step has the same words in problem and solution: models of this size find the step then.
With numbers, or with other words, they lost every second one from the sixth step on.

Every line has one of four words, the method of the step. In each context (operator, and whether the operand is even)
one method is unreliable: most of its results are off by one, and later lines continue from the wrong value. No method
is reliable in all contexts, so a policy has to learn which one to avoid where. **The boxed answers of unreliable
solutions may be wrong.** They are for the last phase of supervised training; never use them as ground truth.

Bounds as in ``tiny.problems``: operands 2 to 9, every value 1 to 60. Problems and methods have separate random streams.
"""

from __future__ import annotations

import random
from collections.abc import Collection

from tiny.problems import (
    MAX_VALUE,
    OBJECTS,
    PEOPLE,
    PHRASES,
    Step,
    WordProblem,
    answer_line,
    apply_operation,
    draw_operation,
    generate_problems,
    row_of,
    slip,
)

MIN_STEPS, MAX_STEPS = 13, 20
LABELS = "ABCDEFGHIJKLMNOPQRST"
METHODS = ("quickly", "simply", "surely", "mostly")
UNRELIABLE = {("+", 0): "quickly", ("+", 1): "simply", ("-", 0): "surely", ("-", 1): "mostly"}
"""Unreliable method by context: operator, and operand modulo 2."""
WRONG_SHARE = 0.9
"""Share of the steps with an unreliable method whose result is wrong."""


def unreliable_method(step: Step) -> str:
    """Return the method that is unreliable for a step."""
    return UNRELIABLE[step.op, step.operand % 2]


def draw_problem(rng: random.Random, steps_range: tuple[int, int] = (MIN_STEPS, MAX_STEPS)) -> WordProblem:
    """Draw one problem with a number of steps in the range; all randomness comes from ``rng``."""
    (name, _), objects = rng.choice(PEOPLE), rng.choice(OBJECTS)
    start = value = rng.randint(10, MAX_VALUE - 10)
    steps: list[Step] = []
    for _ in range(rng.randint(*steps_range)):
        op, operand, value = draw_operation(rng, value)
        opening = rng.choice(PHRASES[op])[1].format(b=operand)
        steps.append(Step(op, operand, f"{opening}.", opening))
    listed = [f"{label}. {step.sentence}" for label, step in zip(LABELS, steps, strict=False)]
    text = "\n".join([f"{name} has {start} {objects}.", *listed, f"How many {objects} does {name} have now?"])
    return WordProblem(text=text, name=name, objects=objects, start=start, steps=tuple(steps))


def solve(problem: WordProblem, rng: random.Random, *, unreliable_rate: float | None = None) -> str:
    """Write a worked solution.

    Args:
        problem: The problem.
        rng: Source of methods and mistakes.
        unreliable_rate: Probability of the unreliable method in a step, from 0 to 1. None gives a true solution with
            any method in any step.
    """
    lines, value = [], problem.start
    for number, step in enumerate(problem.steps, 1):
        result = apply_operation(step.op, value, step.operand)
        assert result is not None, f"step {number} of {problem.text!r} leaves the bounds"
        if unreliable_rate is None:
            method = rng.choice(METHODS)
        elif rng.random() < unreliable_rate:
            method = unreliable_method(step)
            if rng.random() < WRONG_SHARE:
                result = slip(result, problem.steps[number:])
        else:
            method = rng.choice([method for method in METHODS if method != unreliable_method(step)])
        sum_ = f"{value} {step.op} {step.operand} = {result}"
        lines.append(f"{LABELS[number - 1]}. {step.opening} {method} gives {sum_} {problem.objects}.")
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
