# SPDX-License-Identifier: Apache-2.0
"""The answer that a text without a box states."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.example_counts import examples
from recipe.treepo.answers.compare import compare_text
from recipe.treepo.answers.statements import LONGEST, stated_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        # one value, with its sign, grouping, fraction, unit, multiplier
        ("so 3 plus 4 is 7.", "7"),
        ("costs $1,234.50 in all", "1234.50"),
        ("that is \u22123", "-3"),
        ("Therefore, she pays $36 + $18 = $54 for the bags.", "54"),
        ("In all, 13 x 7 = 91 eggs will be eaten in a week.", "91"),
        ("His profit was $4 million.", "4000000"),
        ("about half; the answer is 2.5 hundred", "250"),
        ("So we get 25%.", "25%"),
        ("He came 3rd.", "3"),
        ("The area is 5 cm^2.", r"5\text{ square cm}"),
        ("$x^2$ for $x = 7$", "7"),
        (r"\(5\)", "5"),
        (r"so it is \[\frac{3}{4}\]", r"\frac{3}{4}"),
        ("**5**", "5"),
        # what follows a marker or a phrase
        ("2+3=5\n#### 5", "5"),
        ("x <answer> 12 </answer> 7", "12"),
        (r"\fbox{\frac{1}{2}}", r"\frac{1}{2}"),
        ("The answer is 5. It has 2 digits.", "5"),
        ("The answer is B.", "B"),
        ("The final answer is (2, 3).", "(2, 3)"),
        ("x = 5. I hope this helps.", "5"),
        # parts of something else, conditions, several values
        ("room B12", None),
        ("(2)-3", None),
        ("x-3", None),
        (r"so $5\sqrt{2}$ or $3$", None),
        ("the answer is 5 + 2x", None),
        ("at 3:30", "3:30"),
        ("version 1.2.3", None),
        ("about 3/4 of it", None),
        ("5 apples and 6 pears", None),
        ("It has 12 eggs, 5 are broken.", None),
        ("That is 5 times as much.", None),
        ("none", None),
        ("", None),
    ],
)
def test_the_whole_value_of_the_last_statement_is_the_answer(text, answer):
    assert stated_answer(text) == answer


NUMBERS = st.integers(-(10**7), 10**7)
GROUPS = st.sampled_from(["", ",", " ", "\u202f"])
SIGNS = st.sampled_from(["-", "\u2212", "- ", "minus ", "negative "])
SENTENCES = st.sampled_from(
    [
        "The answer is {}.",
        "So the answer is: {}",
        "Final Answer: **{}**",
        "Hence we get\n\n{}",
        "There were 3 of them. In total she has {} dollars.",
        "<think>It may be 7.</think>x = {}",
        "<answer>{}</answer>",
        "5 + 6 = 11\n#### {}",
    ]
)


@examples(short=300, long=5000)
@given(number=NUMBERS, group=GROUPS, sign=SIGNS, sentence=SENTENCES)
def test_a_number_is_read_with_its_sign_and_all_its_digits(number, group, sign, sentence):
    text = sentence.format((sign if number < 0 else "") + f"{abs(number):,}".replace(",", group))
    answer = stated_answer(text.rpartition("</think>")[2])
    assert answer is not None and compare_text(answer, str(number)) is True
    assert compare_text(answer, str(number + 1)) is False


@examples(short=200, long=5000)
@given(whole=st.integers(1, 99), top=st.integers(1, 8), bottom=st.integers(9, 99), sentence=SENTENCES)
def test_a_mixed_number_is_neither_its_whole_part_nor_its_fraction(whole, top, bottom, sentence):
    answer = stated_answer(sentence.format(f"{whole} {top}/{bottom}").rpartition("</think>")[2])
    assert answer is not None
    value = whole + Fraction(top, bottom)
    assert compare_text(answer, f"{value.numerator}/{value.denominator}") is True
    assert compare_text(answer, str(whole)) is False and compare_text(answer, f"{top}/{bottom}") is False


PIECES = st.sampled_from(
    [*"0123456789", *" .,-+*/=()[]{}$\\^_!|<>:%", "\n", "is ", "answer is ", "x", "**", "\\frac", "e"]
)


@examples(short=500, long=20_000)
@given(st.lists(PIECES, max_size=40).map("".join))
def test_any_text_has_an_answer_or_none(text):
    answer = stated_answer(text)
    assert answer is None or (answer.strip() and len(answer) <= LONGEST)
