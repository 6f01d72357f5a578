# SPDX-License-Identifier: Apache-2.0
"""Field types of parquet files, and their compatibility within one list of verl's files."""

from pathlib import Path
from typing import Any

Types = dict[str, Any]
"""pyarrow types by field name."""

RULE = "verl cannot combine both in data.train_files or data.val_files. Write both with one type."


def field_types(path: Path) -> Types:
    """Return the types of a parquet file's fields; empty if unreadable."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return _types(pq.read_schema(path))
    except (pa.ArrowException, OSError, ValueError):  # check_file reports it
        return {}


def type_conflicts(types: Types, earlier: Types, prefix: str = "") -> list[str]:
    """Return the fields whose types differ incompatibly from those of an earlier file in the list.

    `datasets` decides, because verl concatenates the files with it. It is stricter than pyarrow.unify_schemas: a struct
    must not follow null, and structs in lists must have the same fields.
    """
    import pyarrow as pa

    conflicts = []
    for name in types.keys() & earlier.keys():
        here, there = types[name], earlier[name]
        if _go_together(there, here):
            continue
        inner = []
        if pa.types.is_struct(here) and pa.types.is_struct(there):
            inner = type_conflicts(_types(here), _types(there), f"{prefix}{name}.")
        conflicts += inner or [f"{prefix}{name} is {here} here and {there} there: {RULE}"]
    return sorted(conflicts)


def _types(fields: Any) -> Types:
    """Return the types of a schema or struct by field name."""
    return {entry.name: entry.type for entry in fields}


def _go_together(there: Any, here: Any) -> bool:
    import datasets
    import pyarrow as pa

    if here == there:
        return True
    try:
        # One row each, because a concatenation skips empty data sets without a check.
        files = [datasets.Dataset(pa.table({"field": pa.array([None], kind)})) for kind in (there, here)]
        datasets.concatenate_datasets(files)
    except (ValueError, AttributeError, pa.ArrowException):  # AttributeError: a struct after null
        return False
    return True
