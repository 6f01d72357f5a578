# SPDX-License-Identifier: Apache-2.0
"""Model the time of an engine step, a fixed cost plus a cost per token, which limits the speed of trees."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.common.fit import unit_costs
from benchmarks.sampling.cases import Arm
from benchmarks.sampling.results import Result, allowed_over_plain, partner, speed_over
from recipe.treepo.evaluation.markdown import table

PART = "width"
"""Part with one step per response token for every sampler: no early ends, all sequences at once."""


@dataclass(frozen=True)
class StepCost:
    """Seconds of an engine step.

    Attributes:
        step: Seconds per step.
        token: Seconds per computed token.
    """

    step: float
    token: float

    def seconds(self, result: Result) -> float:
        """Return the calculated seconds of a result of the part."""
        return self.step * result.case.response_length + self.token * result.computed_tokens


def fit(results: Sequence[Result]) -> StepCost | None:
    """Fit the cost to the part's plain samples by least squares of relative errors; None with fewer than two."""
    plain = [result for result in results if result.case.part == PART and result.case.arm is Arm.PLAIN]
    if len(plain) < 2:
        return None
    needed = [(result.case.response_length, result.computed_tokens) for result in plain]
    return StepCost(*unit_costs(needed, [result.counts["seconds"] for result in plain]))


def page(results: Sequence[Result]) -> str:
    """Return a section in Markdown, empty if the part was not measured."""
    cost = fit(results)
    if cost is None:
        return ""
    titles = ["n", "sampler", "seconds measured over calculated", "over plain: calculated", "measured"]
    rows = []
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
        rows.append((result.case.width, result.case.arm, *(f"{number:.2f}" for number in numbers)))
    fitted = (
        f"Fit to the plain samples of the sweep over n: {1000 * cost.step:.3g} ms per step, {1000 * cost.token:.3g} ms "
        "per computed token. The calculation assumes one step per response token for every sampler, and the token "
        "counts of the engine."
    )
    return f"## Cost of an engine step\n\n{fitted}\n\n{table([*titles, 'limit'], rows)}"
