# SPDX-License-Identifier: Apache-2.0
"""Read the rows of a data set from the Hugging Face hub or local files, without importing torch."""

import codecs
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from recipe.treepo.settings.data_reading import UNREADABLE, encoding_of, text_of

from .errors import PrepError
from .problems import DataSet

SUFFIXES = (".parquet", ".jsonl", ".json")


@dataclass(frozen=True, slots=True)
class Source:
    """Source of rows: a local file or folder, or a repository of the hub.

    Attributes:
        split: Split on the hub, or prefix of file or folder names in a local folder.
        config, folder, revision: For the hub only.
        part: Configuration or folder of the data set on the hub. If a local folder has a subfolder of this name, only
            that is read.
        on_hub: Ignore a local path of this name.
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
        """Whether the source is a path: it exists, or looks like a path or file name."""
        if self.on_hub:
            return False
        looks_local = self.name.startswith((".", "/", "~")) or self.name.endswith(SUFFIXES)
        return looks_local or exists(self.path)

    @property
    def path(self) -> Path:
        """The source as a path."""
        return local_path(self.name)


def local_path(name: str) -> Path:
    """Return a name from the command line as a path; "~" stays if the home folder does not exist."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def exists(path: Path) -> bool:
    """Return whether a file or folder exists; False for invalid names and without permission."""
    try:
        return path.exists()
    except (OSError, ValueError):  # ValueError: a null character
        return False


# Local files --------------------------------------------------------------------------------------------------


def source_files(source: Source) -> list[Path]:
    """Return the sorted files of a local source; in a folder, those that the hub would load for part and split.

    The split of a file is the innermost part of its path that starts with the wanted split, train, test or val. Raises
    PrepError if all files belong to other splits.
    """
    path = source.path
    if path.is_file():
        return [path]
    files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    if source.part is not None:  # a downloaded repository: only the files that the hub would load
        files = [file for file in files if source.part in file.relative_to(path).parent.parts] or files
    splits = {file: _split_of(file.relative_to(path), source.split) for file in files}
    named = [file for file, split in splits.items() if split.startswith(source.split)]
    others = [file for file, split in splits.items() if split]
    if others and not named:
        found_name = f"nothing in {path} starts with that name, but {splits[others[0]]} does"
        raise PrepError([f"--split {source.split!r}: {found_name}. Use a split from the file names."])
    return named or files


def _split_of(file: Path, wanted: str) -> str:
    """Return the innermost part of a path that names a split, "" if none does."""
    return next((part for part in reversed(file.parts) if part.startswith((wanted, "train", "test", "val"))), "")


def read_parquet(path: Path, data_set: DataSet) -> Iterator[dict[str, Any]]:
    """Yield the rows of a parquet file. Raises PrepError if it is damaged or lacks a column."""
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
        remedy = "Download the file again, or write these columns as text."
        raise PrepError([f"--source {path}: {reason}. {remedy}"]) from error


def _load(text: bytes) -> Any:
    """Parse a JSON text; None if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        return None


def read_json(path: Path, data_set: DataSet) -> Iterator[Any]:
    """Yield the object on each line (None for invalid JSON), or the items of a file with one array.

    UTF-16 and UTF-32 are recognized. Raises PrepError for other encodings than these and UTF-8, if no row has a
    required column, an array is damaged, or the last line is cut off.
    """
    keys: set[str] = set()
    rows = 0
    with _open_as_utf8(path) as file:
        is_array = file.read(64).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")
        file.seek(0)
        items = _array(path, file.read()) if is_array else _lines(path, file)
        for row in items:
            rows += 1
            keys.update(row if isinstance(row, dict) else ())
            yield row
    if rows:
        _check_columns(path, keys, data_set)


def _open_as_utf8(path: Path) -> BinaryIO:
    """Open a JSON text for reading as UTF-8, whatever Unicode encoding it has."""
    file = path.open("rb")
    encoding = encoding_of(file.read(4))
    file.seek(0)
    if encoding in ("utf-8", "utf-8-sig"):
        return file
    with file:
        try:
            return io.BytesIO(file.read().decode(encoding).encode())
        except UnicodeError as error:
            rule = f"is not valid {encoding.upper()} ({text_of(error)})"
            raise PrepError([f"--source {path}: {rule}. Download it again."]) from error


def _check_encoding(path: Path, text: bytes) -> None:
    """Raise PrepError if a text is JSON in an 8-bit encoding such as Latin-1; other invalid bytes are damage."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        if _load(text.decode("latin-1").encode()) is not None:
            rule = f"is JSON, but not in UTF-8 (byte {text[error.start]:#x}: {error.reason})"
            remedy = "Convert it: `iconv -f ENCODING -t utf-8`, with latin1 for instance."
            raise PrepError([f"--source {path}: {rule}. {remedy}"]) from error


def _lines(path: Path, lines: Iterable[bytes]) -> Iterator[Any]:
    for line in lines:
        if line.strip():
            row = _load(line)
            if row is None:
                _check_encoding(path, line)
            if row is None and not line.endswith(b"\n") and line.lstrip().startswith((b"{", b"[")):
                raise PrepError([f"--source {path}: ends in the middle of a row. Download the file again."])
            yield row


def _array(path: Path, content: bytes) -> list[Any]:
    items: list[Any] | None = _load(content)
    if items is None:
        _check_encoding(path, content)
        # A file of lines may have an array on its first line; only objects count as rows, so this loses nothing.
        first, *others = content.splitlines(keepends=True)
        lines = [_load(first), *_lines(path, others)]
        if len(lines) < 2 or lines[0] is None:
            raise PrepError([f"--source {path}: is a damaged JSON array. Download the file again."])
        return lines
    return items


def _check_columns(path: Path | str, columns: set[str], data_set: DataSet) -> None:
    """Raise PrepError if a required column is missing."""
    if missing := data_set.missing(columns):
        problem = f"no column {', '.join(missing)} (found: {', '.join(sorted(columns)) or 'none'})"
        needed = "; ".join(" or ".join(group) for group in data_set.columns)
        raise PrepError([f"--source {path}: {problem}. {data_set.name} needs the columns {needed}."])


# The hub ------------------------------------------------------------------------------------------------------


def hub_commit(source: Source) -> str | None:
    """Return the commit of a hub source's revision, None if the hub is unreachable."""
    import huggingface_hub

    try:
        commit: str | None = huggingface_hub.HfApi().dataset_info(source.name, revision=source.revision).sha
        return commit
    except Exception:  # no network, or unknown name: loading reports which
        return None


def read_hub(source: Source, commit: str | None) -> Any:
    """Load a hub source with `datasets`. Raises PrepError with the reason if this fails."""
    import datasets

    try:
        return datasets.load_dataset(
            source.name,
            source.config,
            split=source.split,
            revision=commit or source.revision,
            data_dir=source.folder,
        )
    except Exception as error:  # datasets raises many types; in each case the source is unavailable
        reason = f"{type(error).__name__}: {error}"
        remedy = "Check the name, --config, --split and --revision, or use a local file or folder."
        raise PrepError([f"--source {source.name!r}: cannot be loaded ({reason}). {remedy}"]) from error


def read_source(source: Source, data_set: DataSet, commit: str | None) -> tuple[Iterator[Any], int | None]:
    """Return the source rows and their number, None if unknown."""
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
