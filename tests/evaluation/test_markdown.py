# SPDX-License-Identifier: Apache-2.0
"""Tables in Markdown."""

import pytest

from recipe.treepo.evaluation.markdown import table


def test_columns_line_up_and_cells_stay_on_one_line():
    assert table(["", "calls", "n"], [["a | b\nc", 15, 8], ["tree", "1,008", "64"]]).splitlines() == [
        "|          | calls | n   |",
        "| -------- | ----- | --- |",
        "| a \\| b c | 15    | 8   |",
        "| tree     | 1,008 | 64  |",
    ]


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="shorter"):
        table(["a", "b"], [["1"]])
