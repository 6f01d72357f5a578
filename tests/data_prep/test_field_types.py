# SPDX-License-Identifier: Apache-2.0
"""Field types that can be combined in one list of files, as the `datasets` library decides for verl."""

import pyarrow as pa
import pytest

from data_prep.field_types import type_conflicts

TEXT, NUMBER, NOTHING = pa.string(), pa.int64(), pa.null()
MESSAGE = [("role", TEXT), ("content", TEXT)]
NAMED = [*MESSAGE, ("name", TEXT)]


@pytest.mark.parametrize(
    ("there", "here", "together"),
    [
        (TEXT, TEXT, True),
        (TEXT, NUMBER, False),
        (TEXT, NOTHING, True),
        (NOTHING, TEXT, True),
        (TEXT, pa.large_string(), False),
        (TEXT, pa.dictionary(pa.int32(), TEXT), True),
        (pa.struct(MESSAGE), TEXT, False),
        (pa.struct(MESSAGE), NOTHING, True),
        (NOTHING, pa.struct(MESSAGE), False),
        (pa.struct(MESSAGE), pa.struct(NAMED), True),
        (pa.struct(MESSAGE), pa.struct([("content", TEXT), ("x", NUMBER)]), True),
        (pa.struct([("a", NOTHING)]), pa.struct([("a", pa.struct(MESSAGE))]), False),
        (pa.list_(TEXT), pa.large_list(TEXT), False),
        (pa.list_(TEXT, 2), pa.list_(TEXT), False),
        (pa.list_(pa.field("item", TEXT)), pa.list_(pa.field("element", TEXT)), True),
        (pa.list_(pa.list_(TEXT)), pa.list_(pa.list_(NOTHING)), True),
        (pa.list_(pa.struct(MESSAGE)), pa.list_(NOTHING), True),
        (pa.list_(pa.struct(MESSAGE)), pa.list_(pa.struct(MESSAGE[::-1])), True),
        (pa.list_(pa.struct(MESSAGE)), pa.list_(pa.struct(NAMED)), False),
        (pa.list_(pa.struct([("a", TEXT)])), pa.list_(pa.struct([("a", NOTHING)])), False),
    ],
    ids=str,
)
def test_types_go_together_as_verls_loader_decides(there: pa.DataType, here: pa.DataType, together: bool) -> None:
    assert (type_conflicts({"x": here}, {"x": there}) == []) is together


def test_conflicts_name_the_innermost_field_and_both_types() -> None:
    def file(inner: pa.DataType, a: pa.DataType, more: str) -> dict[str, pa.DataType]:
        return {"x": pa.struct([("a", a), ("b", pa.list_(pa.struct([("c", inner)]))), (more, TEXT)]), more: TEXT}

    here, there = file(NUMBER, TEXT, "d"), file(TEXT, pa.struct([("e", TEXT)]), "f")
    assert [conflict.partition(": verl")[0] for conflict in type_conflicts(here, there)] == [
        "x.a is string here and struct<e: string> there",
        "x.b is list<item: struct<c: int64>> here and list<item: struct<c: string>> there",
    ]
