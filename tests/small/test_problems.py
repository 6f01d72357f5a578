# SPDX-License-Identifier: Apache-2.0
"""The word problems of the preset ``small``, checked by an independent reader of their text."""

import re

from hypothesis import given
from hypothesis import strategies as st

from helpers.example_counts import examples
from small.problems import generate_rows

SIGNS = {"gets": 1, "finds": 1, "buys": 1, "loses": -1, "gives": -1, "sells": -1}


def read_story(question: str) -> tuple[int, int]:
    """Read the first value and the signed change from the text alone."""
    opening, event, _ = re.findall(r"[^.?]+[.?]", question)
    (word,) = SIGNS.keys() & set(event.split())
    return int(re.search(r"\d+", opening)[0]), SIGNS[word] * int(re.search(r"\d+", event)[0])


def test_the_reader_follows_a_story():
    assert read_story("Mia has 16 pens. Mia gives away 7 of them. How many pens does Mia have now?") == (16, -7)
    assert read_story("Tom has 3 cards. Tom buys 9 more. How many cards does Tom have now?") == (3, 9)


@examples(short=10, long=40)
@given(seed=st.integers(min_value=0, max_value=2**32 - 1))
def test_the_answer_is_the_result_of_the_story(seed):
    for row in generate_rows(20, seed):
        first, change = read_story(row["question"])
        line, answer = row["answer"].split("\n")
        assert answer == f"#### {first + change}"
        assert line == f"{first} {'+' if change > 0 else '-'} {abs(change)} = {first + change}."
        assert 2 <= first <= 20 and 1 <= abs(change) <= 9 and first + change >= 0


def test_questions_differ_and_gains_are_as_frequent_as_losses():
    questions = {row["question"] for row in generate_rows(2_200, 1)}
    assert len(questions) == 2_200
    gains = sum(read_story(question)[1] > 0 for question in questions)
    # Half of 2,200 within six standard deviations of 23; the seed is fixed.
    assert abs(gains - 1_100) < 141


def test_a_seed_decides_the_rows():
    assert generate_rows(50, 3) == generate_rows(50, 3) != generate_rows(50, 4)
