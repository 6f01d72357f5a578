# SPDX-License-Identifier: Apache-2.0
"""Read the rows of a data set, from the Hugging Face hub or from local files; imports no torch."""

import codecs
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import PrepError
from .problems import DataSet

SUFFIXES = (".parquet", ".jsonl", ".json")
# Errors of pyarrow, beside its own, for values that Python cannot hold: text that is not Unicode, a date beyond
# the year 9999, an unknown time zone.
UNREADABLE = (ValueError, OverflowError, LookupError)


@dataclass(frozen=True, slots=True)
class Source:
    """Where rows come from: a local file or folder, or a repository of the hub.

    `config`, `folder` and `revision` are of the hub only. `split` is one of the hub's, or the start of the names of
    files or folders in a local folder. `part` is the configuration or folder that the data set has on the hub: of a
    local folder that has a folder of this name, only that is read. `on_hub`: a path of this name does not count.
    """

    name: str
    split: str
    config: str | None = None
    folder: str | None = None
    revision: str | None = None
    part: str | None = None
    on_hub: bool = False

    @property
    def is_local(self) -> bool:
        """Whether the source is a path: it exists, or is written like a path or a file name."""
        if self.on_hub:
            return False
        looks_local = self.name.startswith((".", "/", "~")) or self.name.endswith(SUFFIXES)
        return looks_local or exists(self.path)

    @property
    def path(self) -> Path:
        """The source as a path."""
        return local_path(self.name)


def local_path(name: str) -> Path:
    """Return a name from the command line as a path; "~" stays if that home does not exist."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def exists(path: Path) -> bool:
    """Return whether a file or folder exists; False for impossible names and without permission."""
    try:
        return path.exists()
    except (OSError, ValueError):  # ValueError: a null character
        return False


def text_of(error: Exception) -> str:
    """Return the message of an error in one line."""
    return " ".join(str(error).split()) or type(error).__name__


# Local files --------------------------------------------------------------------------------------------------


def source_files(source: Source) -> list[Path]:
    """Return the files of a local source, sorted. Of a folder, those that the hub would give for part and split.

    The split of a file is the part of its path, from the file name up, that starts with the wanted split or
    with train, test or val. Raises PrepError where files are of other splits only.
    """
    path = source.path
    if path.is_file():
        return [path]
    files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    if source.part is not None:  # of a downloaded repository, only the files that the hub would give
        files = [file for file in files if source.part in file.relative_to(path).parent.parts] or files
    splits = {file: _split_of(file.relative_to(path), source.split) for file in files}
    named = [file for file, split in splits.items() if split.startswith(source.split)]
    others = [file for file, split in splits.items() if split]
    if others and not named:
        found_name = f"nothing in {path} starts with that name, but {splits[others[0]]} does"
        raise PrepError([f"--split {source.split!r}: {found_name}: give the split that the files are named after"])
    return named or files


def _split_of(file: Path, wanted: str) -> str:
    """Return the part of a path, from the file name up, that names a split; "" where none does."""
    return next((part for part in reversed(file.parts) if part.startswith((wanted, "train", "test", "val"))), "")


def read_parquet(path: Path, data_set: DataSet) -> Iterator[dict[str, Any]]:
    """Yield the rows of a parquet file. Raises PrepError where it is damaged or lacks a column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            _check_columns(path, set(names), data_set)
            wanted = [column for column in data_set.wanted() if column in names]
            for batch in file.iter_batches(columns=wanted):
                yield from batch.to_pylist()
    except UNREADABLE + (pa.ArrowException, OSError) as error:
        reason = f"cannot be read as parquet ({text_of(error)})"
        remedy = "fetch the file again, or write these columns as text"
        raise PrepError([f"--source {path}: {reason}: {remedy}"]) from error


def _load(text: bytes) -> Any:
    """Parse a JSON text; None if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        return None


def read_json(path: Path, data_set: DataSet) -> Iterator[Any]:
    """Yield the object on each line, None for a line that is not JSON, or the items of a file with one array.

    Raises PrepError where no row has a needed column, where an array is damaged, or where the last line is cut off.
    """
    keys: set[str] = set()
    rows = 0
    with path.open("rb") as file:
        is_array = file.read(64).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")
        file.seek(0)
        items = _array(path, file.read()) if is_array else _lines(path, file)
        for row in items:
            rows += 1
            keys.update(row if isinstance(row, dict) else ())
            yield row
    if rows:
        _check_columns(path, keys, data_set)


def _lines(path: Path, lines: Iterable[bytes]) -> Iterator[Any]:
    for line in lines:
        if line.strip():
            row = _load(line)
            if row is None and not line.endswith(b"\n") and line.lstrip().startswith((b"{", b"[")):
                raise PrepError([f"--source {path}: ends in the middle of a row: fetch the file again"])
            yield row


def _array(path: Path, content: bytes) -> list[Any]:
    items: list[Any] | None = _load(content)
    if items is None:
        # A file of lines may have an array on its first line: only rows that are objects count, so nothing is lost.
        first, *others = content.splitlines(keepends=True)
        lines = [_load(first), *_lines(path, others)]
        if len(lines) < 2 or lines[0] is None:
            raise PrepError([f"--source {path}: is a damaged JSON array: fetch the file again"])
        return lines
    return items


def _check_columns(path: Path | str, columns: set[str], data_set: DataSet) -> None:
    """Raise PrepError where a needed column is not there."""
    if missing := data_set.missing(columns):
        problem = f"no column {', '.join(missing)} (found: {', '.join(sorted(columns)) or 'none'})"
        needed = "; ".join(" or ".join(group) for group in data_set.columns)
        raise PrepError([f"--source {path}: {problem}: {data_set.name} needs columns {needed}"])


# The hub ------------------------------------------------------------------------------------------------------


def hub_commit(source: Source) -> str | None:
    """Return the commit that the revision of a hub source stands for, None where the hub cannot be asked."""
    import huggingface_hub

    try:
        commit: str | None = huggingface_hub.HfApi().dataset_info(source.name, revision=source.revision).sha
        return commit
    except Exception:  # no network, or unknown: loading will say which
        return None


def read_hub(source: Source, commit: str | None) -> Any:
    """Load a hub source with `datasets`. Raises PrepError with its reason where that fails."""
    import datasets

    try:
        return datasets.load_dataset(
            source.name,
            source.config,
            split=source.split,
            revision=commit or source.revision,
            data_dir=source.folder,
        )
    except Exception as error:  # datasets raises many types; all mean that the source is unavailable
        reason = f"{type(error).__name__}: {error}"
        remedy = "check the name, --config, --split and --revision, or give a local file or folder"
        raise PrepError([f"--source {source.name!r}: cannot be loaded ({reason}): {remedy}"]) from error


def read_source(source: Source, data_set: DataSet, commit: str | None) -> tuple[Iterator[Any], int | None]:
    """Return the source rows and, where it is known, their number."""
    if source.is_local:
        files = source_files(source)
        readers: Iterable[Iterator[Any]] = (
            read_parquet(file, data_set) if file.suffix == ".parquet" else read_json(file, data_set) for file in files
        )
        return (row for reader in readers for row in reader), None
    data = read_hub(source, commit)
    _check_columns(source.name, set(data.column_names), data_set)
    wanted = [column for column in data_set.wanted() if column in data.column_names]
    return iter(data.select_columns(wanted)), len(data)
