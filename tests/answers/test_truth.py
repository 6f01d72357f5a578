# SPDX-License-Identifier: Apache-2.0
"""Ground truths as the reward and the data check read them."""

from decimal import Decimal

import numpy as np
import pytest

from recipe.treepo.answers.truth import lacks_answer, read_truth


@pytest.mark.parametrize(
    ("ground_truth", "answer"),
    [
        ("5", "5"),
        (" 5 ", "5"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        ("48/2 = 24 #### no\n48+24 = 72\n#### 72", "72"),
        (r"so it is #### \boxed{7}", "7"),
        (5, "5"),
        (5.0, "5.0"),
        (0.5, "0.5"),
        (1e-05, "0.00001"),
        (np.float64(2e-05), "0.00002"),
        (1e22, "10000000000000000000000"),
        (float(np.float32(0.1)), "0.1"),  # as a single-precision column is read
        (float(np.float32(-2.35e-6)), "-0.00000235"),
        (float(np.float32(1234.1)), "1234.1"),
        (2.0**34, "17179869184.0"),  # exact in single precision, too
        (2.0**-11, "0.00048828125"),
        (1 / 3, "0.3333333333333333"),
        (0.30000000000000004, "0.30000000000000004"),
        (1e300, f"1{'0' * 300}"),
        (Decimal("2.50"), "2.50"),
        (Decimal("1E-7"), "0.0000001"),
        ("1e-05", "1e-05"),  # text stays; the comparison reads it as a power of ten
        ("####", ""),
        ("some work ####  ", ""),
        ("", ""),
        (None, ""),
        (float("nan"), ""),
        (float("inf"), "inf"),
        (["70"], ""),
        ({"answer": "70"}, ""),
        (b"70", ""),
        pytest.param(10**5_000, "", id="huge"),  # Python refuses to print it
    ],
)
def test_the_answer_of_a_ground_truth(ground_truth, answer):
    assert read_truth(ground_truth) == answer


PLACES = r"N/A|n.a.|NaN|null|TBD|?|???|...|--|\text{N/A}|no answer|Not provided|Answers may vary|None|NA"
PROOFS = r"Proof|\text{Proof}|$\text{Proof omitted}$|\boxed{\textbf{Proof}}|The statement is proven|proved|Q.E.D."
REFERENCES = (
    r"see solution|See the solution above|\text{See proof}|(see figure)|Solution omitted|Omitted|https://example.org/a"
)
PRINTED = [
    "['70']",
    '["70"]',
    "[]",
    "[None]",
    "{'answer': 70}",
    '{"answer": "70"}',
    "('7', '8')",
    "array([70])",
    "![](a.png)",
]
WORDS = r"none|NONE|\text{None}|None of these|na|Na|$NA$|undefined|no solution|\text{cannot be determined}|DNE|true"
SIGNS = r"A|-|+|>|!|\emptyset|null set|6'|shown"
NUMBERS = [
    "[70]",
    "[1, 2)",
    "(1,2)",
    "{1,2}",
    "(f'(x), g'(x))",
    "not prime",
    "not possible",
    "check",
    "3.",
    "$x$",
    "12:30",
]


@pytest.mark.parametrize("truth", [*PLACES.split("|"), *PROOFS.split("|"), *REFERENCES.split("|"), *PRINTED])
def test_a_text_in_place_of_an_answer_is_recognized(truth):
    assert lacks_answer(read_truth(truth))


@pytest.mark.parametrize("truth", [*WORDS.split("|"), *SIGNS.split("|"), *NUMBERS])
def test_answers_in_words_and_brackets_stay_answers(truth):
    assert not lacks_answer(read_truth(truth))
