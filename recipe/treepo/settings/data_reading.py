# SPDX-License-Identifier: Apache-2.0
"""Read the rows of verl's data files (parquet, JSON lines, one JSON array): all, or a sample of bounded size."""

import codecs
import contextlib
import datetime
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from recipe.treepo.settings.json_columns import FIRST_BYTES, Kind, is_mixed, misfit, shape_of

Row = dict[str, Any]
Batch = tuple[int, list[Row]]
"""Number of the first row (from 0), and rows."""

SUFFIXES = (".parquet", ".json", ".jsonl")
BATCH_ROWS = 1_024
# Bytes of a batch, of the JSON text of a sample, and of a JSON array that a sample may parse.
_BATCH_BYTES, _SAMPLE_BYTES, _ARRAY_BYTES = 4 * 2**20, 24 * 2**20, 48 * 2**20
_SAMPLE_GROUPS = 8
# Rows whose nulls a sample may look for beyond its own rows.
_SEARCHED_ROWS = 400_000
_MAKE_AGAIN = "Prepare or download it again."
# Further errors of pyarrow for values that Python cannot represent: invalid Unicode, a date after the year 9999, an
# unknown time zone.
UNREADABLE = (ValueError, OverflowError, LookupError)


class DataFileError(ValueError):
    """A data file that verl cannot read."""

    def __init__(self, rule_id: str, rule: str, remedy: str) -> None:
        super().__init__(f"{rule}. {remedy}")
        self.rule_id, self.rule, self.remedy = rule_id, rule, remedy


class RowFile(Protocol):
    """An open data file.

    Attributes:
        columns: Names of the columns, with repetitions.
        num_rows: Number of rows; of a JSON file, of those that were read. None for an array too large for a sample.
    """

    columns: list[str]
    num_rows: int | None

    def batches(self, names: Sequence[str], most: int | None = None) -> Iterator[Batch]:
        """Yield the rows with these columns; with `most`, a sample of about that many rows over the whole file."""


@contextlib.contextmanager
def open_rows(path: Path, *, most_json_rows: int | None = None) -> Iterator[RowFile]:
    """Open a data file.

    Args:
        path: File with one of `SUFFIXES`.
        most_json_rows: Maximum rows of a JSON file, None for all.

    Raises:
        DataFileError: if the file is damaged, here or later in the context.
    """
    if path.suffix != ".parquet":
        yield _JsonRows(path, most_json_rows)
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = None
    try:
        with pq.ParquetFile(path, buffer_size=2**20, pre_buffer=False) as file:
            rows = _ParquetRows(file)
            yield rows
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        damage = f"is damaged after row {rows.seen}" if rows and rows.seen else "is not a parquet file, or damaged"
        raise DataFileError("damaged_file", f"{damage} ({text_of(error)})", _MAKE_AGAIN) from error


def read_first_row(path: Path) -> Row:
    """Return the first row of a data file with all its columns, empty if there is none.

    Raises:
        DataFileError, OSError, or one of UNREADABLE: if it cannot be read.
    """
    if path.suffix != ".parquet":
        with open_rows(path, most_json_rows=1) as rows:
            return next((row for _, batch in rows.batches(rows.columns, 1) for row in batch), {})
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, buffer_size=2**20, pre_buffer=False) as file:
        return next((row for batch in file.iter_batches(1) for row in batch.to_pylist()), {})


def text_of(error: Exception) -> str:
    """Return an error message in one line."""
    return " ".join(str(error).split()) or type(error).__name__


# Parquet ------------------------------------------------------------------------------------------------------


class _ParquetRows:
    def __init__(self, file: Any) -> None:
        self._file, self._metadata = file, file.metadata
        self.columns: list[str] = list(file.schema_arrow.names)
        self.num_rows: int | None = file.metadata.num_rows
        self.seen = 0
        self._ends: dict[int, int] = {}  # row behind the sample of each row group
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        self._starts = list(itertools.accumulate(sizes, initial=0))

    def batches(self, names: Sequence[str], most: int | None = None) -> Iterator[Batch]:
        groups = [group for group in range(len(self._starts) - 1) if self._starts[group + 1] > self._starts[group]]
        if most is None or (
            self._starts[-1] <= most and sum(self._size(group, names) for group in groups) <= _SAMPLE_BYTES
        ):
            for group in groups:
                yield from self._group(group, names)
            return
        chosen = groups if len(groups) <= _SAMPLE_GROUPS else _spread(groups, _SAMPLE_GROUPS)
        for group in chosen:
            yield from self._group(group, names, most // len(chosen), _SAMPLE_BYTES // len(chosen))
        yield from self._rows_with_nulls(names)

    def _group(
        self, group: int, names: Sequence[str], most: int | None = None, budget: float = math.inf
    ) -> Iterator[Batch]:
        """Yield the rows of a row group, at most `most` and about `budget` bytes; pages behind them are not read."""
        row, end = self._starts[group], self._starts[group + 1]
        end = end if most is None else min(end, row + most)
        for batch in self._read(group, names):
            batch = batch.slice(0, end - row)
            yield row, _rows(batch, names)
            row, self.seen, budget = row + batch.num_rows, self.seen + batch.num_rows, budget - batch.nbytes
            self._ends[group] = row
            if row >= end or budget < 0:
                return

    def _size(self, group: int, names: Sequence[str]) -> int:
        metadata = self._metadata.row_group(group)
        chunks = [metadata.column(number) for number in range(metadata.num_columns)]
        return sum(chunk.total_uncompressed_size for chunk in chunks if _top(chunk) in names)

    def _read(self, group: int, names: Sequence[str]) -> Iterator[Any]:
        average = self._size(group, names) // self._metadata.row_group(group).num_rows
        rows = max(1, min(BATCH_ROWS, _BATCH_BYTES // max(1, average)))
        yield from self._file.iter_batches(batch_size=rows, row_groups=[group], columns=list(names), use_threads=False)

    def _rows_with_nulls(self, names: Sequence[str]) -> Iterator[Batch]:
        """Yield the first null prompt and the first null ground truth; statistics tell which row groups have nulls."""
        for name in names:
            group = next((group for group in range(len(self._starts) - 1) if self._has_nulls(group, name)), None)
            if group is None:
                continue
            row = self._starts[group]
            for batch in self._read(group, names):
                if (place := _first_null(batch.column(name))) >= 0:
                    if row + place >= self._ends.get(group, 0):
                        yield row + place, _rows(batch.slice(place, 1), names)
                    break
                row += batch.num_rows
                if row - self._starts[group] > _SEARCHED_ROWS:
                    break

    def _has_nulls(self, group: int, name: str) -> bool:
        metadata = self._metadata.row_group(group)
        for number in range(metadata.num_columns):
            chunk = metadata.column(number)
            # Null contents of messages are allowed, beside tool calls.
            if _top(chunk) == name and chunk.path_in_schema.endswith((".role", ".ground_truth")):
                statistics = chunk.statistics
                return bool(statistics and statistics.has_null_count and statistics.null_count)
        return False


def _spread(items: Sequence[int], number: int) -> list[int]:
    """Return the first, the last, and items at equal distances between them."""
    return sorted({items[round(place * (len(items) - 1) / (number - 1))] for place in range(number)})


def _top(chunk: Any) -> str:
    name: str = chunk.path_in_schema
    return name.partition(".")[0]


def _first_null(column: Any) -> int:
    """Return the place of the first null, empty list, or null ground truth; -1 if there is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    missing = pc.is_null(column)
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        missing = pc.or_(missing, pc.equal(pc.fill_null(pc.list_value_length(column), 0), 0))
    elif pa.types.is_struct(column.type) and column.type.get_field_index("ground_truth") >= 0:
        missing = pc.or_(missing, pc.is_null(pc.struct_field(column, "ground_truth")))
    place: int = pc.index(missing, True).as_py()
    return place


def _rows(batch: Any, names: Sequence[str]) -> list[Row]:
    columns = [_values(batch, name) for name in names]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _values(batch: Any, name: str) -> list[Any]:
    """Return the values of a column; for extra_info {} if it is an object, None if null, else True.

    Raises:
        DataFileError: if Python cannot hold them.
        UnicodeDecodeError: for invalid text.
    """
    column = batch.column(name)
    try:
        if name == "extra_info":
            import pyarrow as pa

            found: Any = {} if pa.types.is_struct(column.type) else True
            return [found if valid else None for valid in column.is_valid().to_pylist()]
        values: list[Any] = column.to_pylist()
        return values
    except UnicodeDecodeError:
        raise
    except UNREADABLE as error:
        rule = f"column {name}: holds {column.type}, which cannot be read ({text_of(error)})"
        raise DataFileError("unreadable_column", rule, "Write it as text or numbers, or drop it.") from error


# JSON ---------------------------------------------------------------------------------------------------------


def encoding_of(head: bytes) -> str:
    """Return the encoding of a JSON text from its first four bytes: UTF-8, or UTF-16 or UTF-32 in either order."""
    return json.detect_encoding(head)


class _JsonRows:
    """Rows of a JSON file, which are read at once."""

    def __init__(self, path: Path, most: int | None) -> None:
        rows = _json_rows(path, most)
        self._rows = rows or []
        self.num_rows = None if rows is None else len(rows)
        self.columns = list(dict.fromkeys(key for row in self._rows for key in row))

    def batches(self, names: Sequence[str], most: int | None = None) -> Iterator[Batch]:
        for start in range(0, len(self._rows) if most is None else min(most, len(self._rows)), BATCH_ROWS):
            rows = self._rows[start : start + BATCH_ROWS]
            yield start, [{name: row[name] for name in names if name in row} for row in rows]


def _json_rows(path: Path, most: int | None) -> list[Row] | None:
    """Read the rows of a JSON file.

    Args:
        path: File of JSON lines, of one array, or of objects.
        most: Maximum rows, None for all. With a limit, an array above `_ARRAY_BYTES` is not read (None).
    """
    try:
        with path.open("rb") as file:
            encoding = encoding_of(file.read(4))
            if encoding not in ("utf-8", "utf-8-sig"):
                raise _wrong_encoding(encoding.upper(), encoding)
            start = len(codecs.BOM_UTF8) if encoding == "utf-8-sig" else 0
            file.seek(start)
            lines, size = _JsonLines(start), path.stat().st_size
            try:
                return _as_read_by_verl(lines.read(file, most))
            except DataFileError as error:
                # An array, or objects over several lines; verl finds their ends only in a file of one piece.
                if error.rule_id != "damaged_file" or (lines.rows and size > FIRST_BYTES):
                    raise
                if most is not None and size > _ARRAY_BYTES:
                    return None
                file.seek(start)
                return _as_read_by_verl(_whole_file(file.read(), error if lines.rows else None))
    except OSError as error:
        raise DataFileError("damaged_file", f"cannot be read ({text_of(error)})", "Check its permissions.") from error


def _as_read_by_verl(rows: list[Row]) -> list[Row]:
    """Replace ground truths that verl reads as times: ISO dates in all rows."""
    kept = [row.get("reward_model") for row in rows]
    shape = shape_of(kept)
    if not isinstance(shape, dict) or shape.get("ground_truth") is not Kind.TIME:
        return rows
    for reward_model in filter(None, kept):
        if (text := reward_model["ground_truth"]) is not None:
            reward_model["ground_truth"] = datetime.datetime.fromisoformat(text)
    return rows


class _JsonLines:
    """Reader of JSON lines, with the conditions of ``json_columns.py``.

    Attributes:
        rows: Rows read so far.
        size: Bytes read so far.
        first: Number of rows from which the columns are derived.
        twice: Line and key of the first object with the same key twice.
    """

    def __init__(self, size: int) -> None:
        self.rows: list[Row] = []
        self.size, self.first = size, 0
        self.twice: tuple[str, str] | None = None
        self._place = ""
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object)

    def read(self, file: Any, most: int | None) -> list[Row]:
        """Read up to `most` rows of a file, None for all.

        Raises:
            DataFileError: if verl cannot read the lines.
        """
        end, numbers = self.size + _SAMPLE_BYTES, []
        for number, line in enumerate(file, start=1):
            self._place = f"line {number}"
            if line.strip():
                self.rows.append(_object(_parse(line, self._place, self._decoder), self._place))
                numbers.append(number)
                self.first += self.size <= FIRST_BYTES
            self.size += len(line)
            if most is not None and (len(self.rows) >= most or self.size > end):
                break
        if self.twice is not None or self.first < len(self.rows):
            self._check_columns(numbers)
        return self.rows

    def _check_columns(self, numbers: Sequence[int]) -> None:
        shape = shape_of(self.rows[: self.first], is_root=True)
        if self.twice is not None and not is_mixed(shape):  # verl writes mixed ones anew
            place, key = self.twice
            raise DataFileError("duplicate_key", f"{place}: key {key} occurs twice in an object", "Keep one of them.")
        for number, row in zip(numbers[self.first :], self.rows[self.first :], strict=True):
            if (reason := misfit(shape, row)) is not None:
                rule = f"line {number}: {reason}, but verl derives keys and types from the first 10 MiB of a JSON file"
                remedy = "Write the same keys and types in all lines, or save the rows as parquet."
                raise DataFileError("late_column", rule, remedy)

    def _object(self, pairs: list[tuple[str, Any]]) -> Row:
        row = dict(pairs)
        if len(row) < len(pairs) and self.twice is None:
            names = [name for name, _ in pairs]
            self.twice = self._place, next(name for name in names if names.count(name) > 1)
        return row


def _whole_file(content: bytes, error_of_lines: DataFileError | None) -> list[Row]:
    """Read a file of one array, or of objects with white space between them.

    Args:
        content: The whole file.
        error_of_lines: Error to raise instead of one of this function, None for its own.
    """
    text, decoder = _decoded(content, "the file").strip(), json.JSONDecoder()
    values, end = [], 0
    try:
        while end < len(text):
            value, end = decoder.raw_decode(text, end)
            values.append(value)
            while text[end : end + 1].isspace():
                end += 1
    except (ValueError, RecursionError) as error:
        raise error_of_lines or _not_json("the file", error) from error
    rows = values[0] if len(values) == 1 and isinstance(values[0], list) else values
    return [_object(row, f"row {number}") for number, row in enumerate(rows)]


def _parse(text: bytes, place: str, decoder: json.JSONDecoder) -> Any:
    decoded = _decoded(text, place)
    try:
        return decoder.decode(decoded)
    except (ValueError, RecursionError) as error:
        raise _not_json(place, error) from error


def _decoded(text: bytes, place: str) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _wrong_encoding(f"not UTF-8 ({place}: {error.reason})", "ENCODING") from error


def _not_json(place: str, error: Exception) -> DataFileError:
    return DataFileError("damaged_file", f"{place} is not JSON, or damaged ({text_of(error)})", _MAKE_AGAIN)


def _object(row: Any, place: str) -> Row:
    if not isinstance(row, dict):
        rule = f"{place} is not a JSON object"
        raise DataFileError("damaged_file", rule, "Write an object per line, or one array of objects.")
    return row


def _wrong_encoding(found: str, name: str) -> DataFileError:
    remedy = f"Convert it: `iconv -f {name} -t utf-8`."
    return DataFileError("file_encoding", f"is {found}, but verl reads JSON in UTF-8", remedy)
