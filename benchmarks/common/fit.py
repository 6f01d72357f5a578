# SPDX-License-Identifier: Apache-2.0
"""Fit of a cost that is linear in known quantities."""

from collections.abc import Sequence

import numpy as np


def unit_costs(quantities: Sequence[Sequence[float]], costs: Sequence[float]) -> list[float]:
    """Return the cost per unit of each quantity, by least squares of relative errors.

    Args:
        quantities: (measurements, quantities).
        costs: (measurements,), above 0.
    """
    measured = np.asarray(costs, dtype=float)
    needed = np.asarray(quantities, dtype=float)
    found, *_ = np.linalg.lstsq(needed / measured[:, None], np.ones(len(measured)), rcond=None)
    return [float(cost) for cost in found]
