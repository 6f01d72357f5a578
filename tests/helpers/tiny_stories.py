# SPDX-License-Identifier: Apache-2.0
"""Read the stories of the tiny problems, independently of their generator."""

from __future__ import annotations

import re

LINE = re.compile(r"^[A-Z][a-z]+ .*?\bgives (?P<marker>roughly )?(\d+) ([-+*]) (\d+) = (\d+)\.$")


FINAL = re.compile(r"^So [A-Z][a-z]+ has \\boxed\{(\d+)\} [a-z]+\.$")


def calculate(op: str, left: int, right: int) -> int:
    """Calculate one operation."""
    return {"+": left + right, "-": left - right, "*": left * right}[op]


def boxed(solution: str) -> int:
    """Return the boxed answer of the last line."""
    match = FINAL.match(solution.split("\n")[-1])
    assert match, solution
    return int(match[1])


def answer_from_story(problem: str) -> int:
    """Solve a problem from its sentences alone."""
    first, *events, question = re.findall(r"[^.?]+[.?]", problem)
    assert question.strip().startswith("How many")
    numbers = [int(n) for n in re.findall(r"\d+", first)]
    value = numbers[0] * numbers[1] if "each" in first else numbers[0]
    for event in events:
        number = int(re.findall(r"\d+", event)[0])
        if re.search(r"buys|finds|brings", event):
            value += number
        else:
            assert re.search(r"gives|sells|loses", event), event
            value -= number
    return value
