# SPDX-License-Identifier: Apache-2.0
"""Which types of fields go together in one list of files, against the library that verl puts them together with."""

import datasets
import pyarrow as pa
from hypothesis import example, given
from hypothesis import strategies as st

from data_prep.check_types import field_type, type_conflicts
from helpers.example_counts import examples

TEXT, NUMBER, NOTHING = pa.string(), pa.int64(), pa.null()
few_types = st.recursive(
    st.sampled_from([TEXT, NUMBER, NOTHING]),
    lambda inner: (
        inner.map(pa.list_)
        | inner.map(pa.large_list)
        | st.permutations("ab").flatmap(
            lambda names: st.lists(inner, min_size=1, max_size=2).map(
                lambda kinds: pa.struct(list(zip(names, kinds, strict=False)))
            )
        )
    ),
    max_leaves=4,
)


def goes_together(there: pa.DataType, here: pa.DataType) -> bool:
    """What the library says about two files with one column of these types."""
    files = [datasets.Dataset(pa.table({"x": pa.array([None], kind)})) for kind in (there, here)]
    try:
        datasets.concatenate_datasets(files)
    except (ValueError, AttributeError, pa.ArrowException):  # AttributeError where a struct follows null
        return False
    return True


MESSAGE = [("role", TEXT), ("content", TEXT)]


@examples(short=80, long=150)
@given(few_types, few_types)
@example(pa.list_(pa.struct(MESSAGE)), pa.list_(pa.struct(MESSAGE[::-1])))
@example(pa.list_(pa.struct(MESSAGE)), pa.list_(pa.struct([*MESSAGE, ("name", TEXT)])))
@example(pa.struct(MESSAGE), TEXT)
@example(pa.struct(MESSAGE), pa.struct([("content", TEXT), ("x", NUMBER)]))
@example(pa.struct(MESSAGE), NOTHING)
@example(NOTHING, pa.struct(MESSAGE))
@example(pa.struct([("a", NOTHING)]), pa.struct([("a", pa.struct(MESSAGE))]))
@example(pa.list_(pa.struct(MESSAGE)), pa.list_(NOTHING))
@example(pa.list_(pa.struct([("a", TEXT)])), pa.list_(pa.struct([("a", NOTHING)])))
@example(pa.list_(pa.list_(TEXT)), pa.list_(pa.list_(NOTHING)))
@example(pa.list_(TEXT, 2), pa.list_(TEXT))
@example(pa.list_(TEXT), pa.large_list(TEXT))
@example(TEXT, pa.large_string())
@example(pa.list_(pa.field("item", TEXT)), pa.list_(pa.field("element", TEXT)))
def test_types_conflict_where_datasets_refuses_them(there: pa.DataType, here: pa.DataType) -> None:
    conflicts = type_conflicts({"x": field_type(here)}, {"x": field_type(there)})
    assert (conflicts == []) == goes_together(there, here), (there, here, conflicts)


def test_conflicts_name_the_innermost_field_and_both_types() -> None:
    here = {"x": {"a": "string", "b": ("list", {"c": "int64"}), "d": "int64"}, "y": "string"}
    there = {"x": {"a": {"e": "string"}, "b": ("list", {"c": "string"}), "f": "string"}, "z": "string"}
    assert [conflict.partition(": verl")[0] for conflict in type_conflicts(here, there)] == [
        "x.a is string here and struct<e: string> there",
        "x.b is list<struct<c: int64>> here and list<struct<c: string>> there",
    ]
