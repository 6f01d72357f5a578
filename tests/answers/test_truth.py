# SPDX-License-Identifier: Apache-2.0
"""Ground truths as the reward and the data check read them."""

import numpy as np
import pytest

from recipe.treepo.answers.truth import read_truth


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
        ("1e-05", "1e-05"),  # text stays; the comparison reads it as a power of ten
        ("####", ""),
        ("some work ####  ", ""),
        ("", ""),
        (None, ""),
        (float("nan"), ""),
        (float("inf"), "inf"),
    ],
)
def test_the_answer_of_a_ground_truth(ground_truth, answer):
    assert read_truth(ground_truth) == answer
