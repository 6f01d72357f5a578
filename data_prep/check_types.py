# SPDX-License-Identifier: Apache-2.0
"""The types of a parquet file's fields, and whether verl can put two files into one list."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

# The type of a field, independent of pyarrow: its name, the types of a struct's fields by name (in any order), or what
# sort of list it is with the type of its items.
FieldType = str | dict[str, "FieldType"] | tuple[str, "FieldType"]


def field_types(path: Path) -> dict[str, FieldType]:
    """Return the types of a parquet file's fields by name; empty if unreadable."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return {entry.name: field_type(entry.type) for entry in pq.read_schema(path)}
    except (pa.ArrowException, OSError, ValueError):  # said by check_file already
        return {}


def field_type(kind: Any) -> FieldType:
    """Return a pyarrow type as a FieldType."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return {entry.name: field_type(entry.type) for entry in kind}
    if pa.types.is_dictionary(kind):  # datasets decodes these
        return field_type(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return "list" if pa.types.is_list(kind) else "large_list", field_type(kind.value_type)
    if pa.types.is_fixed_size_list(kind):
        return f"fixed_size_list[{kind.list_size}]", field_type(kind.value_type)
    return str(kind)


def type_conflicts(types: Mapping[str, FieldType], other: Mapping[str, FieldType], prefix: str = "") -> list[str]:
    """Return, in words, which fields of a file do not go with those of another file before it in a list of verl's.

    verl puts such files together with `datasets`, which fills in missing fields of a struct and takes null for every
    type, unless a struct follows it. Structs in lists must have the same fields; the order of fields never counts.
    """
    rule = "verl cannot put both into one data.train_files or val_files: write both with one type"
    conflicts = []
    for name, mine in types.items():
        theirs = other.get(name, "null")
        if isinstance(mine, dict) and isinstance(theirs, dict):
            conflicts += type_conflicts(mine, theirs, f"{prefix}{name}.")
        elif name in other and not _go_together(mine, theirs):
            conflicts.append(f"{prefix}{name} is {type_name(mine)} here and {type_name(theirs)} there: {rule}")
    return conflicts


def _go_together(mine: FieldType, theirs: FieldType) -> bool:
    if isinstance(mine, tuple) and isinstance(theirs, tuple):
        return _lists_go_together(mine, theirs)
    return mine in ("null", theirs) or (theirs == "null" and not isinstance(mine, dict))


def _lists_go_together(mine: tuple[str, FieldType], theirs: tuple[str, FieldType]) -> bool:
    if mine[0] != theirs[0]:
        return False
    if isinstance(mine[1], tuple) and isinstance(theirs[1], tuple):
        return _lists_go_together(mine[1], theirs[1])
    return mine[1] == theirs[1] or "null" in (mine[1], theirs[1])


def type_name(kind: FieldType) -> str:
    """Return a type in words."""
    if isinstance(kind, dict):
        return f"struct<{', '.join(f'{name}: {type_name(inner)}' for name, inner in kind.items())}>"
    return f"{kind[0]}<{type_name(kind[1])}>" if isinstance(kind, tuple) else kind
