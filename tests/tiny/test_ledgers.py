# SPDX-License-Identifier: Apache-2.0
"""Properties of the generator of long problems, checked by an independent reading of their texts."""

from __future__ import annotations

import re
import string
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.example_counts import examples
from helpers.tiny_stories import boxed, calculate
from tiny import ledgers

SEEDS = st.integers(min_value=0, max_value=2**32 - 1)
OPERANDS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9}
STEP = re.compile(r"([A-Z])([-+])([a-z]+)")
LINE = re.compile(
    r"([A-Z])([-+])([a-z]+) (quickly|simply|surely|mostly) gives [A-Z][a-z]+ (\d+) ([-+]) (\d) = (\d+) \w+\."
)


def steps_of(text: str) -> list[tuple[str, int]]:
    """Return operator and operand of each step of a problem."""
    found = [STEP.fullmatch(line) for line in text.split("\n")[1:-1]]
    assert [match[1] for match in found] == [*string.ascii_uppercase[: len(found)]]
    return [(match[2], OPERANDS[match[3]]) for match in found]


def lines_of(solution: str) -> list[tuple[str, int, str, int, int]]:
    """Return (method, left, operator, right, stated result) of each line but the last."""
    matches = [LINE.fullmatch(line) for line in solution.split("\n")[:-1]]
    assert all(matches), solution
    assert [match[1] for match in matches] == [*string.ascii_uppercase[: len(matches)]]
    assert all((match[2], OPERANDS[match[3]]) == (match[6], int(match[7])) for match in matches)
    return [(match[4], int(match[5]), match[6], int(match[7]), int(match[8])) for match in matches]


@examples(short=10, long=40)
@given(seed=SEEDS)
def test_true_solutions_box_the_answer_that_the_problem_has(seed: int) -> None:
    for row in ledgers.generate_rows(10, seed):
        steps, lines = steps_of(row["problem"]), lines_of(row["solution"])
        value = int(re.search(r"has (\d+) ", row["problem"])[1])
        assert 14 <= len(steps) <= 20
        for (op, operand), (_, left, written, right, result) in zip(steps, lines, strict=True):
            assert (left, written, right) == (value, op, operand)
            value = calculate(op, left, right)
            assert result == value and 1 <= value <= 60 and 2 <= operand <= 9
        assert boxed(row["solution"]) == value


@examples(short=10, long=40)
@given(seed=SEEDS, rate=st.sampled_from([0.0, 0.07, 1.0]))
def test_only_unreliable_methods_are_wrong_and_later_lines_go_on_from_the_wrong_value(seed: int, rate: float) -> None:
    for row in ledgers.generate_rows(10, seed, unreliable_rate=rate):
        lines = lines_of(row["solution"])
        for method, left, op, right, result in lines:
            error = abs(result - calculate(op, left, right))
            assert error in ({0, 1} if method in ledgers.UNRELIABLE[op] else {0})
        assert [line[1] for line in lines[1:]] == [line[4] for line in lines[:-1]]
        assert boxed(row["solution"]) == lines[-1][4]


def test_methods_have_their_shares_in_every_context() -> None:
    counts: Counter[tuple[str, str]] = Counter()
    wrong: Counter[tuple[str, str]] = Counter()
    for row in ledgers.generate_rows(2000, 0, unreliable_rate=0.1):
        for method, left, op, right, result in lines_of(row["solution"]):
            counts[op, method] += 1
            wrong[op, method] += result != calculate(op, left, right)
    for op, unreliable in ledgers.UNRELIABLE.items():
        total = sum(counts[op, method] for method in ledgers.METHODS)
        for method in unreliable:
            assert counts[op, method] / total == pytest.approx(0.05, abs=0.01)
            # Near the bounds no wrong result is possible.
            assert 0.75 < wrong[op, method] / counts[op, method] <= 0.95
        for method in set(ledgers.METHODS) - {*unreliable}:
            assert counts[op, method] / total == pytest.approx(0.45, abs=0.02)
    # Each method is unreliable for one operator, and reliable for the other.
    assert sorted(sum(ledgers.UNRELIABLE.values(), ())) == sorted(ledgers.METHODS)


def test_problems_do_not_depend_on_the_methods_and_sets_are_disjoint() -> None:
    clean, unreliable = ledgers.generate_rows(300, 3), ledgers.generate_rows(300, 3, unreliable_rate=0.5)
    assert [row["problem"] for row in clean] == [row["problem"] for row in unreliable]
    texts = {row["problem"] for row in clean}
    assert len(texts) == 300
    assert not texts & {row["problem"] for row in ledgers.generate_rows(300, 3, exclude=texts)}
    assert [row["messages"][1]["content"] for row in clean] == [row["solution"] for row in clean]


def test_recall_has_each_step_of_its_problem_once_in_any_order() -> None:
    first = 0
    for row in ledgers.recall_rows(200, 0, steps_range=(2, 5)):
        text, question = row["problem"].rsplit("\n", 1)
        steps, answer = text.split("\n")[1:-1], row["solution"].split("\n")
        assert question == "Which steps?" and 2 <= len(steps) <= 5
        assert sorted(answer) == sorted(steps)
        first += answer[0].startswith("A")
    # The mean of 1 / steps is 0.32.
    assert first / 200 == pytest.approx(0.32, abs=0.12)
