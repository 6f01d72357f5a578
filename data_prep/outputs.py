# SPDX-License-Identifier: Apache-2.0
"""The parquet files and, beside each, a JSON record of what it was made from; nothing is replaced by halves."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FORMAT = 2  # of the record; raise it when the same options come to mean other rows


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def record_path(parquet: Path) -> Path:
    """Return where the record of a parquet file lies."""
    return parquet.with_name(parquet.name + ".json")


def read_record(parquet: Path) -> dict[str, Any] | None:
    """Return the record beside a parquet file, None where there is none that can be read."""
    try:
        record = json.loads(record_path(parquet).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def is_current(paths: Sequence[Path], fingerprint: dict[str, Any]) -> bool:
    """Tell whether the outputs are those of this fingerprint and undamaged. An unknown commit matches any."""
    for path in paths:
        record = read_record(path) or {}
        made_from = record.get("fingerprint")
        if not isinstance(made_from, dict) or not path.is_file() or record.get("sha256") != sha256_of(path):
            return False
        if fingerprint["commit"] is None or made_from.get("commit") is None:
            made_from = {**made_from, "commit": fingerprint["commit"]}
        if made_from != fingerprint:
            return False
    return True


def write_outputs(
    out_dir: Path,
    tables: Mapping[str, list[dict[str, Any]]],
    *,
    extras: Sequence[str],
    fingerprint: dict[str, Any],
    counts: dict[str, Any],
) -> None:
    """Write each table and its record under temporary names, then rename them all.

    Records are renamed before their tables: after an interruption their checksums do not fit, and a rerun redoes all.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    out_dir.mkdir(parents=True, exist_ok=True)
    renames: list[tuple[Path, Path]] = []
    try:
        for name, rows in tables.items():
            path = out_dir / f"{name}.parquet"
            temporary, temporary_record = (
                target.with_name(f".{target.name}.{os.getpid()}.tmp") for target in (path, record_path(path))
            )
            renames += [(temporary_record, record_path(path)), (temporary, path)]
            pq.write_table(pa.Table.from_pylist(rows, schema=verl_schema(extras)), temporary)
            record = {
                "rows": len(rows),
                "sha256": sha256_of(temporary),
                "counts": counts,
                "fingerprint": fingerprint,
            }
            temporary_record.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for temporary, path in renames:
            os.replace(temporary, path)
    finally:
        for temporary, _ in renames:
            temporary.unlink(missing_ok=True)


def remove_output(path: Path) -> None:
    """Remove an output of an earlier run and its record; files of others stay."""
    if read_record(path) is not None:
        path.unlink(missing_ok=True)
        record_path(path).unlink()


def verl_schema(extras: Sequence[str]) -> Any:
    """Return the pyarrow schema of an output; `extras` are further text fields of extra_info."""
    import pyarrow as pa

    text = pa.string()
    return pa.schema(
        {
            "data_source": text,
            "prompt": pa.list_(pa.struct({"role": text, "content": text})),
            "ability": text,
            "reward_model": pa.struct({"style": text, "ground_truth": text}),
            "extra_info": pa.struct(
                {"split": text, "index": pa.int64(), "problem": text, **dict.fromkeys(extras, text)}
            ),
        }
    )
