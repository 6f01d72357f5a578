# SPDX-License-Identifier: Apache-2.0
"""Read a ground truth of a data set. Standard library only."""

import math
from decimal import Decimal
from typing import Any

from recipe.treepo.answers.boxes import unboxed


def decimal_text(number: float) -> str:
    """Return a finite number in decimal notation: 1e-07 as 0.0000001."""
    return f"{Decimal(repr(float(number))):f}"


def read_truth(ground_truth: Any) -> str:
    """Return the answer in a ground truth, "" if it has none.

    A solution in GSM8K's form counts from its last ####, a box is removed, and a float is its decimal number (1e-05 is
    0.00001). None and NaN, the missing values of a table, are no answers.
    """
    if ground_truth is None or (isinstance(ground_truth, float) and math.isnan(ground_truth)):
        return ""
    if isinstance(ground_truth, float) and math.isfinite(ground_truth):
        ground_truth = decimal_text(ground_truth)
    return unboxed(str(ground_truth).rpartition("####")[2].strip())
