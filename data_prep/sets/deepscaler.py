# SPDX-License-Identifier: Apache-2.0
"""DeepScaleR-Preview (agentica-org): competition problems with answers.

Its sources include AIME and AMC: prepare the evaluation sets first and name them with --held-out.
"""

from typing import Any

from ..problems import DataSet, Drop, Problem, Purpose, make_problem, number_as_text


def deepscaler_row(row: dict[str, Any]) -> Problem | Drop:
    """Read a row with `problem` and `answer`."""
    return make_problem(row.get("problem"), number_as_text(row.get("answer")))


DEEPSCALER = DataSet(
    name="deepscaler",
    purpose=Purpose.TRAINING,
    about="DeepScaleR-Preview, competition problems with answers",
    repository="agentica-org/DeepScaleR-Preview-Dataset",
    row=deepscaler_row,
    columns=(("problem",), ("answer",)),
    license="mit",
)
