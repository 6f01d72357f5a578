# SPDX-License-Identifier: Apache-2.0
"""Properties of the generator of tiny word problems, checked by an independent parser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.example_counts import examples
from helpers.tiny_stories import LINE, answer_from_story, boxed, calculate
from tiny import problems as tiny_problems

SEEDS = st.integers(min_value=0, max_value=2**32 - 1)


def parsed_lines(solution: str) -> list[tuple[bool, int, str, int, int]]:
    """Return (marked, left, operator, right, stated result) for each line but the last."""
    matches = [LINE.match(line) for line in solution.split("\n")[:-1]]
    assert all(matches), solution
    return [(bool(m["marker"]), int(m[2]), m[3], int(m[4]), int(m[5])) for m in matches]


@examples(short=10, long=40)
@given(seed=SEEDS)
def test_clean_solutions_box_the_answer_that_the_story_has(seed: int) -> None:
    for row in tiny_problems.generate_rows(20, seed):
        lines = parsed_lines(row["solution"])
        for _, left, op, right, result in lines:
            assert calculate(op, left, right) == result
        assert [line[1] for line in lines[1:]] == [line[4] for line in lines[:-1]], "each line continues from the last"
        assert boxed(row["solution"]) == lines[-1][4] == answer_from_story(row["problem"])


@examples(short=10, long=40)
@given(seed=SEEDS, rate=st.sampled_from([0.0, 0.25, 1.0]))
def test_values_operands_and_step_counts_stay_within_their_bounds(seed: int, rate: float) -> None:
    for row in tiny_problems.generate_rows(20, seed, sloppy_rate=rate):
        lines = parsed_lines(row["solution"])
        assert 3 <= len(lines) <= 5
        assert 2 <= lines[0][1] <= 9
        assert all(2 <= right <= 9 and 1 <= result <= 60 for _, _, _, right, result in lines)


def test_all_step_counts_and_operations_occur() -> None:
    lines = [parsed_lines(row["solution"]) for row in tiny_problems.generate_rows(500, 0)]
    assert {len(steps) for steps in lines} == {3, 4, 5}
    # Half of the problems begin with a multiplication, one of 4 lines on average: 1/8 of all lines.
    shares = {op: sum(step[2] == op for steps in lines for step in steps) for op in "+-*"}
    assert min(shares.values()) > 0.08 * sum(shares.values()), shares


def test_rows_have_the_form_of_numina_math() -> None:
    for row in tiny_problems.generate_rows(50, 3):
        assert set(row) == {"problem", "solution", "messages"}
        assert row["messages"] == [
            {"role": "user", "content": row["problem"]},
            {"role": "assistant", "content": row["solution"]},
        ]


def test_same_seed_gives_same_rows_and_another_seed_gives_others() -> None:
    assert tiny_problems.generate_rows(100, 7) == tiny_problems.generate_rows(100, 7)
    ours, others = (tiny_problems.problem_texts(tiny_problems.generate_rows(100, seed)) for seed in (7, 8))
    assert len(ours & others) < 10


def test_problems_do_not_repeat_within_a_set() -> None:
    rows = tiny_problems.generate_rows(5000, 1)
    assert len(tiny_problems.problem_texts(rows)) == 5000


def test_held_out_problems_are_disjoint_even_with_the_training_seed() -> None:
    training = tiny_problems.generate_rows(300, 5)
    held_out = tiny_problems.held_out_rows(300, 5, training)
    assert len(held_out) == 300
    assert not tiny_problems.problem_texts(training) & tiny_problems.problem_texts(held_out)


def test_sloppiness_changes_solutions_and_no_problem() -> None:
    clean, sloppy = tiny_problems.generate_rows(200, 2), tiny_problems.generate_rows(200, 2, sloppy_rate=0.25)
    assert [row["problem"] for row in clean] == [row["problem"] for row in sloppy]
    assert sum(a["solution"] != b["solution"] for a, b in zip(clean, sloppy, strict=True)) > 100


def test_marked_steps_are_mostly_wrong_and_unmarked_steps_always_right() -> None:
    steps = [
        step for row in tiny_problems.generate_rows(2000, 4, sloppy_rate=0.25) for step in parsed_lines(row["solution"])
    ]
    marked = [calculate(op, left, right) != result for is_marked, left, op, right, result in steps if is_marked]
    plain = [calculate(op, left, right) != result for is_marked, left, op, right, result in steps if not is_marked]
    assert not any(plain)
    assert 0.22 < len(marked) / len(steps) < 0.28
    assert sum(marked) / len(marked) > 0.8


def test_command_line_writes_the_rows_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    train, test = tmp_path / "data" / "train.jsonl", tmp_path / "data" / "test.jsonl"
    tiny_problems.main(["--out", str(train), "--count", "50", "--seed", "9"])
    tiny_problems.main(["--out", str(test), "--count", "50", "--seed", "9", "--exclude", str(train)])
    rows = [json.loads(line) for line in train.read_text(encoding="utf-8").splitlines()]
    assert rows == tiny_problems.generate_rows(50, 9)
    assert not tiny_problems.problem_texts(rows) & tiny_problems.problem_texts(tiny_problems.read_rows(test))
    assert sorted(path.name for path in train.parent.iterdir()) == ["test.jsonl", "train.jsonl"]


@pytest.mark.parametrize("arguments", [["--count", "0"], ["--count", "5", "--sloppy-rate", "1.5"]])
def test_command_line_refuses_values_out_of_range(tmp_path: Path, arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        tiny_problems.main(["--out", str(tmp_path / "x.jsonl"), *arguments])
    assert not list(tmp_path.iterdir())
