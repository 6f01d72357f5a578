# SPDX-License-Identifier: Apache-2.0
"""Prepare one data set: check the options, read, convert, write. Equal options and sources give equal bytes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import PrepError
from .held_out import held_out_files, held_out_problems
from .options import Options, option_problems
from .outputs import (
    FORMAT,
    is_current,
    is_ours,
    read_record,
    record_path,
    remove_output,
    sha256_of,
    write_outputs,
)
from .overlap import HeldOut
from .problems import DataSet, Drop, Purpose
from .reading import Source, exists, hub_commit, local_path, read_source, source_files
from .rows import Converted, convert_rows, draw_tables
from .tokens import token_counter, tokenizer_hashes


@dataclass(frozen=True, slots=True)
class Preparation:
    """One data set with its options and output folder."""

    data_set: DataSet
    options: Options
    out_dir: Path

    def paths(self) -> list[Path]:
        """Return the paths of the output files."""
        if self.data_set.purpose is Purpose.EVALUATION:
            names = [self.data_set.name]
        else:
            names = ["train", "val"] if self.options.val_size else ["train"]
        return [self.out_dir / f"{name}.parquet" for name in names]

    def left_over(self) -> list[Path]:
        """Return our validation file of an earlier run if this run writes none."""
        path = self.out_dir / "val.parquet"
        stale = self.data_set.purpose is Purpose.TRAINING and not self.options.val_size
        return [path] if stale and is_ours(path, self.data_set.name) else []

    def problems(self, *, force: bool = False) -> list[str]:
        """Return the problems of options and paths, without reading the source."""
        problems = option_problems(self.options, self.data_set)
        return problems + self._output_problems(force) + self._held_out_problems()

    def _output_problems(self, force: bool) -> list[str]:
        out_dir, source = self.out_dir, self.options.source
        if exists(out_dir) and not out_dir.is_dir():
            return [f"--out-dir {str(out_dir)!r}: is a file. Name a folder."]
        if source.is_local and exists(source.path):
            place, target = source.path.resolve(), out_dir.resolve()
            if place == target or place in target.parents or place in [path.resolve() for path in self.paths()]:
                rule = "the outputs would join or replace the source"
                return [f"--out-dir {str(out_dir)!r}: {rule}. Name another folder."]
        there = [] if force else [path for path in self.paths() if exists(path) or exists(record_path(path))]
        foreign = [path for path in there if not is_ours(path, self.data_set.name)]
        return [f"--out-dir: {path} {self._why_foreign(path)}. Use another folder, or --force." for path in foreign]

    def _why_foreign(self, path: Path) -> str:
        made_from = (read_record(path) or {}).get("fingerprint")
        if not isinstance(made_from, dict):
            return "was not written by this program"
        other = made_from.get("data_set", self.data_set.name)
        return "was changed since it was written" if other == self.data_set.name else f"was made from {other}"

    def _held_out_problems(self) -> list[str]:
        problems = []
        own = {path.resolve() for path in self.paths()}
        for name in self.options.held_out:
            path = local_path(name)
            if not exists(path):
                problems.append(f"--held-out {name}: no such file or folder. Prepare the evaluation sets first.")
            elif not held_out_files([name]):
                problems.append(f"--held-out {name}: no .parquet file of an evaluation set. Name prepared ones.")
            elif path.resolve() in own:
                problems.append(f"--held-out {name}: is an output of this run. Name evaluation sets.")
        return problems


def _hashes(source: Source) -> dict[str, str] | None:
    if not source.is_local:
        return None
    return {str(file.relative_to(source.path)): sha256_of(file) for file in source_files(source)}


@contextmanager
def _reading(option: str, value: str) -> Iterator[None]:
    """Convert an OSError into a PrepError about this option."""
    try:
        yield
    except OSError as error:
        raise PrepError([f"{option} {value!r}: cannot be read ({error}). Check its permissions."]) from error


def fingerprint(preparation: Preparation, commit: str | None) -> dict[str, Any]:
    """Return the inputs of a run: options, hashes of the files, format. A run with equal inputs is skipped.

    Raises PrepError if a file is unreadable.
    """
    options = preparation.options
    with _reading("--source", options.source.name):
        source = _hashes(options.source)
    with _reading("--held-out", " ".join(options.held_out)):
        held_out = {str(file): sha256_of(file) for file in held_out_files(options.held_out)}
    with _reading("--tokenizer", options.tokenizer or ""):
        tokenizer = None if options.tokenizer is None else tokenizer_hashes(options.tokenizer)
    return {
        "format": FORMAT,
        "data_set": preparation.data_set.name,
        "options": options.record(),
        "commit": commit,
        "source_sha256": source,
        "held_out_sha256": held_out,
        "tokenizer_sha256": tokenizer,
    }


def prepare(
    data_set: DataSet, options: Options, out_dir: Path, *, force: bool = False, progress: bool = False
) -> dict[str, Any] | None:
    """Write the outputs; return the counts, None if they are up to date. Raises PrepError."""
    preparation = Preparation(data_set, options, out_dir)
    if problems := preparation.problems(force=force):
        raise PrepError(problems)
    commit = None if options.source.is_local else hub_commit(options.source)
    wanted = fingerprint(preparation, commit)
    if not force and is_current(preparation.paths(), wanted) and not preparation.left_over():
        return None
    with _reading("--source", options.source.name):  # held-out files and tokenizer report their own errors
        converted = _convert(data_set, options, commit, progress)
    if not converted.kept:
        reasons = ", ".join(f"{reason.value}: {count}" for reason, count in converted.dropped.most_common())
        rule = f"0 usable rows (dropped: {reasons or 'none, it has no rows'})"
        remedy = f"Compare its columns with those that `python -m {__package__}` lists, or relax the length filter."
        raise PrepError([f"--source {options.source.name!r}: {rule}. {remedy}"])
    tables = draw_tables(converted.kept, data_set, options)
    counts = _counts(converted, tables, options)
    try:
        write_outputs(out_dir, tables, extras=data_set.extras, fingerprint=wanted, counts=counts)
        for path in preparation.left_over():
            remove_output(path)  # its rows may be training rows now
    except OSError as error:
        raise PrepError([f"--out-dir {str(out_dir)!r}: cannot be written ({error}). Name another folder."]) from error
    return counts


def _convert(data_set: DataSet, options: Options, commit: str | None, progress: bool) -> Converted:
    prompt_tokens = None if options.tokenizer is None else token_counter(options.tokenizer)
    held_out = None
    if files := held_out_files(options.held_out):
        held_out = HeldOut(((str(file), text) for file in files for text in held_out_problems(file)), options.ngram)
    rows, total = read_source(options.source, data_set, commit)
    if progress:
        from tqdm import tqdm

        rows = tqdm(rows, total=total, unit="row", desc=data_set.name)
    return convert_rows(rows, data_set, options, prompt_tokens=prompt_tokens, held_out=held_out)


def _counts(converted: Converted, tables: dict[str, list[dict[str, Any]]], options: Options) -> dict[str, Any]:
    return {
        "source_rows": len(converted.kept) + converted.dropped.total(),
        "usable": len(converted.kept),
        "dropped": {reason.value: converted.dropped[reason] for reason in Drop},
        "held_out": {str(file): converted.overlaps[str(file)] for file in held_out_files(options.held_out)},
        "written": {name: len(table) for name, table in tables.items()},
    }
