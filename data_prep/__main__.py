# SPDX-License-Identifier: Apache-2.0
"""List the data sets, or convert them to verl's parquet schema: `python -m data_prep [NAME ... --out-dir DIR]`.

Without a name, the command lists the sets with their columns. A training set becomes DIR/train.parquet and
DIR/val.parquet, an evaluation set DIR/NAME.parquet. Each file has a JSON record beside it. Equal options and sources
give equal bytes; a repeated run does nothing.

Exit status: 0 done; 2 wrong options or source, and the outputs stay unchanged. If one of several evaluation sets fails,
the others are still written.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipe.treepo.command_line.program import as_called

from .errors import PrepError
from .options import DEDUPLICATIONS, DEFAULT_VAL_SIZE, resolve
from .overlap import DEFAULT_NGRAM
from .preparation import Preparation, prepare
from .problems import DataSet, Purpose
from .prompts import TEMPLATES
from .reading import exists, local_path
from .sets import DATA_SETS

EVALUATION = "evaluation"  # as a name: all evaluation sets
_OF_ONE_SET = ("source", "config", "split", "revision", "data_source")


def parser() -> argparse.ArgumentParser:
    """Return the parser; omitted options are None."""
    prog = as_called(f"python -m {__package__}")
    about = __doc__.split("\n\n")[0].replace("python -m data_prep", prog)
    line = argparse.ArgumentParser(prog=prog, description=about)
    add = line.add_argument
    add("names", nargs="*", metavar="NAME", help=f"data sets, several for evaluation only; {EVALUATION}: all of these")
    add("--out-dir", type=Path, help="folder for the parquet files")
    add("--source", help="hub name, parquet file, JSON-lines or JSON-array file, or folder (default: the set's own)")
    add("--config", help="configuration of a hub source (default: the set's own)")
    add("--revision", help="branch, tag or commit of a hub source")
    add("--split", help="split of a hub source, or start of the file names in a folder (default: the set's own)")
    add("--subset-size", type=int, help="rows to draw, besides the validation rows (default: all)")
    add("--val-size", type=int, help=f"rows reserved for validation, 0: none (default {DEFAULT_VAL_SIZE})")
    add("--seed", type=int, help="seed of the draw (default 0)")
    add("--template", help="; ".join(f"{name}: {text}" for name, text in TEMPLATES.items()) + " (default boxed)")
    add("--system-prompt", metavar="TEXT", help="custom system message; not with --template system")
    example = "solved problem, as an earlier turn before each problem; repeat for more"
    add("--example", nargs=2, action="append", metavar=("PROBLEM", "SOLUTION"), help=example)
    add("--data-source", help="name in the data_source column (default: the set's name)")
    choices = "; ".join(f"{name}: {text}" for name, text in DEDUPLICATIONS.items())
    add("--deduplicate", help=f"{choices} (default: text for training sets, none for evaluation sets)")
    held_out = "drop training problems that occur in these prepared evaluation files or folders"
    add("--held-out", nargs="+", action="extend", metavar="PATH", help=held_out)
    add("--ngram", type=int, help=f"length of the n-grams that --held-out compares, in words (default {DEFAULT_NGRAM})")
    add("--tokenizer", help="folder or hub model for counting prompt tokens, chat template included")
    add("--max-prompt-tokens", type=int, help="drop longer prompts; needs --tokenizer")
    add("--max-prompt-chars", type=int, help="drop longer prompts, in characters without the chat template")
    add("--force", action="store_true", help="write even if the outputs are up to date or not ours")
    return line


def describe(data_set: DataSet) -> str:
    """Return the entry of one data set in the list."""
    place = "/".join(part for part in (data_set.config, data_set.folder) if part)
    place = f"{data_set.repository} {place}".strip()
    columns = "; ".join(" or ".join(group) for group in data_set.columns)
    license = data_set.license or "see the hub"
    return (
        f"{data_set.name}  ({data_set.purpose.value})\n    {data_set.about}\n"
        f"    hub: {place}, split {data_set.split}    license: {license}\n    columns: {columns}\n"
    )


def listing() -> str:
    """Return the list of data sets and their requirements."""
    needs = (
        "Loading from the hub needs the network, or a filled cache with HF_HUB_OFFLINE=1. --source takes a parquet,\n"
        "JSON-lines or JSON-array file, or a folder of them, with the columns listed here. No set needs a GPU or\n"
        "packages beyond those of verl."
    )
    return "\n".join([*map(describe, DATA_SETS.values()), needs])


def _chosen(names: Sequence[str]) -> list[DataSet]:
    """Return the data sets of these names, in this order, without duplicates. Raises PrepError."""
    evaluation = [data_set for data_set in DATA_SETS.values() if data_set.purpose is Purpose.EVALUATION]
    unknown = [name for name in names if name not in DATA_SETS and name != EVALUATION]
    if unknown:
        known = ", ".join([*DATA_SETS, EVALUATION])
        raise PrepError([f"NAME {name!r}: no such data set. Use one of {known}." for name in unknown])
    chosen: dict[str, DataSet] = {}
    for name in names:
        group = evaluation if name == EVALUATION else [DATA_SETS[name]]
        chosen |= {data_set.name: data_set for data_set in group}
    training = [data_set.name for data_set in chosen.values() if data_set.purpose is Purpose.TRAINING]
    if training and len(chosen) > 1:
        rule = "a training set writes train.parquet, so it must be the only name"
        raise PrepError([f"NAME {training[0]!r}: {rule}. Run once per set, each with its own --out-dir."])
    return list(chosen.values())


def _preparations(values: dict[str, Any]) -> list[Preparation]:
    """Return the requested preparations. Raises PrepError with all problems before reading any source."""
    names, out_dir, force = values.pop("names"), values.pop("out_dir"), values.pop("force")
    data_sets = _chosen(names)
    problems = []
    if out_dir is None:
        problems.append("--out-dir: missing. Name the folder for the parquet files.")
    if len(data_sets) > 1:
        given = [key for key in _OF_ONE_SET if values[key] is not None]
        problems += [
            f"--{key.replace('_', '-')} {values[key]!r}: applies to one data set, not to {len(data_sets)}. Name one."
            for key in given
        ]
    problems += _pointless(values)
    several = {"held_out": tuple(values.pop("held_out") or ()) or None}
    several["example"] = tuple(map(tuple, values.pop("example") or ())) or None
    preparations = []
    for data_set in data_sets:
        options = resolve(data_set, values | several)
        preparations.append(Preparation(data_set, options, out_dir or Path()))
        new_problems = preparations[-1].problems(force=force) if out_dir is not None else []
        problems += [problem for problem in new_problems if problem not in problems]
    if problems:
        raise PrepError(problems)
    return preparations


def _pointless(values: dict[str, Any]) -> list[str]:
    """Return the problems of options without effect."""
    problems = []
    if values["ngram"] is not None and not values["held_out"]:
        problems.append(f"--ngram {values['ngram']}: has no effect without --held-out. Give both, or omit it.")
    if values["source"] is not None and values["split"] is not None:
        path = local_path(values["source"])
        if exists(path) and path.is_file():
            problems.append(f"--split {values['split']!r}: --source is one file, which is read as a whole. Omit it.")
    return problems


def report(preparation: Preparation, counts: dict[str, Any] | None) -> str:
    """Return the report of one preparation; `counts` is None if the outputs are up to date."""
    out_dir = preparation.out_dir
    if counts is None:
        return f"{preparation.data_set.name} in {out_dir}: up to date, nothing done (--force writes it again)"
    lines = [f"{preparation.data_set.name}: source rows {counts['source_rows']}, usable {counts['usable']}"]
    lines += [f"  dropped, {reason}: {number}" for reason, number in counts["dropped"].items() if number]
    lines += [f"  overlap with {file}: {number}" for file, number in counts["held_out"].items()]
    lines += [f"{out_dir / name}.parquet: {number} rows" for name, number in counts["written"].items()]
    return "\n".join(lines)


def _complain(error: PrepError) -> int:
    for problem in error.problems:
        print(f"error: {problem}", file=sys.stderr)
    return 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    values = vars(parser().parse_args(arguments))
    if not values["names"]:
        given = [key for key, value in values.items() if value not in (None, False, [])]
        if given:
            rule = "no data set is named (a name after --held-out counts as one of its files)"
            return _complain(PrepError([f"--{given[0].replace('_', '-')}: {rule}. Begin with the name."]))
        print(listing())
        return 0
    force, status = values["force"], 0
    try:
        preparations = _preparations(values)
    except PrepError as error:
        return _complain(error)
    for preparation in preparations:  # a failure does not stop the others
        data_set, options, out_dir = preparation.data_set, preparation.options, preparation.out_dir
        try:
            counts = prepare(data_set, options, out_dir, force=force, progress=sys.stderr.isatty())
        except PrepError as error:
            status = _complain(error)
        else:
            print(report(preparation, counts), flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
