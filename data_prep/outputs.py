# SPDX-License-Identifier: Apache-2.0
"""Parquet files, each with a JSON record of its sources beside it; all are replaced together or none."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FORMAT = 3  # of the record; increase it when equal options give other rows


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def record_path(parquet: Path) -> Path:
    """Return the path of a parquet file's record."""
    return parquet.with_name(parquet.name + ".json")


def read_record(parquet: Path) -> dict[str, Any] | None:
    """Return the record beside a parquet file, None if missing or unreadable."""
    try:
        record = json.loads(record_path(parquet).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def is_ours(parquet: Path, data_set: str) -> bool:
    """Return whether a file may be replaced or removed: this program wrote it for this data set, or it is damaged.

    A file that differs from the checksum in its record was edited and is not ours. "replaces" is the checksum of the
    file that an interrupted run was about to replace.
    """
    record = read_record(parquet) or {}
    made_from = record.get("fingerprint")
    if not isinstance(made_from, dict) or made_from.get("data_set", data_set) != data_set:  # format 1 names no set
        return False
    try:
        return sha256_of(parquet) in (record.get("sha256"), record.get("replaces")) or not _is_parquet(parquet)
    except FileNotFoundError:  # a record without its file
        return True
    except OSError:  # a folder, or no permission
        return False


def _is_parquet(path: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        pq.read_schema(path)
    except (pa.ArrowException, OSError, ValueError):
        return False
    return True


def is_current(paths: Sequence[Path], fingerprint: dict[str, Any]) -> bool:
    """Return whether the outputs are undamaged and have this fingerprint. An unknown commit matches any."""
    for path in paths:
        record = read_record(path) or {}
        made_from = record.get("fingerprint")
        if not isinstance(made_from, dict) or not path.is_file() or "replaces" in record:
            return False
        if record.get("sha256") != sha256_of(path):
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

    Order: records with the checksums of old ("replaces") and new contents, then tables, then final records. After an
    interruption at any point, the record of each file still marks it as ours, and at least one record requires a rerun.
    Raises OSError if writing fails.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    out_dir.mkdir(parents=True, exist_ok=True)
    passing: list[tuple[Path, Path]] = []  # interim records
    parquets: list[tuple[Path, Path]] = []
    records: list[tuple[Path, Path]] = []
    try:
        for name, rows in tables.items():
            path = out_dir / f"{name}.parquet"
            parquets.append((_temporary(path, "tmp"), path))
            pq.write_table(pa.Table.from_pylist(rows, schema=verl_schema(extras)), parquets[-1][0])
            record = {
                "rows": len(rows),
                "sha256": sha256_of(parquets[-1][0]),
                "counts": counts,
                "fingerprint": fingerprint,
            }
            records.append((_temporary(record_path(path), "tmp"), record_path(path)))
            _write_json(records[-1][0], record)
            passing.append((_temporary(record_path(path), "passing.tmp"), record_path(path)))
            _write_json(passing[-1][0], record | {"replaces": sha256_of(path) if path.exists() else None})
        for temporary, path in [*passing, *parquets, *records]:
            os.replace(temporary, path)
    finally:
        for temporary, _ in [*passing, *parquets, *records]:
            temporary.unlink(missing_ok=True)


def _temporary(target: Path, suffix: str) -> Path:
    return target.with_name(f".{target.name}.{os.getpid()}.{suffix}")


def _write_json(path: Path, record: dict[str, Any]) -> None:
    path.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def remove_output(path: Path) -> None:
    """Remove a file of ours (`is_ours`), if present, and then the record that marks it as ours."""
    path.unlink(missing_ok=True)
    record_path(path).unlink()


def verl_schema(extras: Sequence[str]) -> Any:
    """Return the pyarrow schema of an output; `extras` are additional text fields of extra_info."""
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
