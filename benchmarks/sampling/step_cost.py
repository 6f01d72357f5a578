# SPDX-License-Identifier: Apache-2.0
"""What bounds the speed of trees: what a step of the engine costs however few sequences it decodes. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.sampling.cases import Arm
from benchmarks.sampling.results import Result, allowed_over_plain, partner, speed_over

PART = "width"
"""No early ends, and all sequences at once: every sampler takes as many steps as a response has tokens."""


@dataclass(frozen=True)
class StepCost:
    """Seconds that the engine takes.

    Attributes:
        step: For each step.
        token: For each token that it computes in one.
    """

    step: float
    token: float

    def seconds(self, result: Result) -> float:
        """Return what a case of the part costs."""
        return self.step * result.case.response_length + self.token * result.computed_tokens


def fit(results: Sequence[Result]) -> StepCost | None:
    """Return the cost by which the plain samples of the part took their time, None where they are fewer than two.

    Least squares of the relative errors.
    """
    plain = [result for result in results if result.case.part == PART and result.case.arm is Arm.PLAIN]
    if len(plain) < 2:
        return None
    seconds = np.array([result.counts["seconds"] for result in plain])
    needed = np.array([[result.case.response_length, result.computed_tokens] for result in plain])
    (step, token), *_ = np.linalg.lstsq(needed / seconds[:, None], np.ones(len(plain)), rcond=None)
    return StepCost(float(step), float(token))


def page(results: Sequence[Result]) -> str:
    """Return a section in Markdown, empty where the part was not measured."""
    cost = fit(results)
    if cost is None:
        return ""
    lines = [
        "## What a step of the engine costs",
        "",
        f"Fit to the plain samples of the sweep over n: {1000 * cost.step:.3g} ms for each step, "
        f"{1000 * cost.token:.3g} ms for each token computed in it. Calculated: all samplers take as many steps as a "
        "response has tokens, and compute what the engine counted.",
        "",
        "| n | sampler | seconds measured over calculated | over plain: calculated | measured | what tokens allow |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        plain = partner(result, results, Arm.PLAIN)
        if result.case.part != PART or plain is None:
            continue
        numbers = (
            result.counts["seconds"] / cost.seconds(result),
            cost.seconds(plain) / cost.seconds(result),
            speed_over(result, results, Arm.PLAIN),
            allowed_over_plain(result, results),
        )
        lines.append(f"| {result.case.width} | {result.case.arm} | {' | '.join(f'{n:.2f}' for n in numbers)} |")
    return "\n".join(lines)
