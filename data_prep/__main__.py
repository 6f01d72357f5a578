# SPDX-License-Identifier: Apache-2.0
"""List the data sets, or turn them into verl's parquet schema: `python -m data_prep [NAME ... --out-dir DIR]`.

Without a name, the sets are listed with their columns. A training set becomes DIR/train.parquet and DIR/val.parquet,
an evaluation set DIR/NAME.parquet; each has a JSON record beside it. The same options and source give the same bytes,
and a second run with them does nothing. Exit status: 0 done, 2 wrong options or source: the outputs stay as they were.
Of several evaluation sets, those without an error are still written.
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
    """Return the command line; options that are not given are None."""
    prog = as_called(f"python -m {__package__}")
    about = __doc__.split("\n\n")[0].replace("python -m data_prep", prog)
    line = argparse.ArgumentParser(prog=prog, description=about)
    add = line.add_argument
    add("names", nargs="*", metavar="NAME", help=f"data sets; several only for evaluation; {EVALUATION}: all these")
    add("--out-dir", type=Path, help="folder for the parquet files")
    add("--source", help="hub name, parquet file, JSON-lines or JSON-array file, or folder (default: the set's own)")
    add("--config", help="configuration of a hub source (default: the set's own)")
    add("--revision", help="branch, tag or commit of a hub source")
    add("--split", help="split of a hub source, or start of the file names in a folder (default: the set's own)")
    add("--subset-size", type=int, help="rows to draw, for training beside those for validation (default: all)")
    add("--val-size", type=int, help=f"training rows put aside for validation, 0: none (default {DEFAULT_VAL_SIZE})")
    add("--seed", type=int, help="of the draw (default 0)")
    add("--template", help="; ".join(f"{name}: {text}" for name, text in TEMPLATES.items()) + " (default boxed)")
    add("--system-prompt", metavar="TEXT", help="a system message of your own; not with --template system")
    add("--data-source", help="name in the data_source column (default: the set's name)")
    choices = "; ".join(f"{name}: {text}" for name, text in DEDUPLICATIONS.items())
    add("--deduplicate", help=f"{choices} (default: text for training sets, none for evaluation sets)")
    held_out = "drop training problems that occur in these prepared evaluation files, or those in these folders"
    add("--held-out", nargs="+", action="extend", metavar="PATH", help=held_out)
    add("--ngram", type=int, help=f"words in a row that make an overlap with --held-out (default {DEFAULT_NGRAM})")
    add("--tokenizer", help="folder or hub model whose chat template and tokens are counted")
    add("--max-prompt-tokens", type=int, help="drop longer prompts; needs --tokenizer")
    add("--max-prompt-chars", type=int, help="drop longer prompts, counted in characters without chat template")
    add("--force", action="store_true", help="write even where the outputs are up to date or someone else's")
    return line


def describe(data_set: DataSet) -> str:
    """Return the lines of the list about one data set."""
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
        "From the hub a set needs the network, or a filled cache with HF_HUB_OFFLINE=1. With --source it needs a\n"
        "parquet, JSON-lines or JSON-array file, or a folder of them, with the columns named here. No set needs a\n"
        "GPU or more packages than verl does."
    )
    return "\n".join([*map(describe, DATA_SETS.values()), needs])


def _chosen(names: Sequence[str]) -> list[DataSet]:
    """Return the data sets of these names, in their order and each once. Raises PrepError."""
    evaluation = [data_set for data_set in DATA_SETS.values() if data_set.purpose is Purpose.EVALUATION]
    unknown = [name for name in names if name not in DATA_SETS and name != EVALUATION]
    if unknown:
        known = ", ".join([*DATA_SETS, EVALUATION])
        raise PrepError([f"NAME {name!r}: no such data set: use one of {known}" for name in unknown])
    chosen: dict[str, DataSet] = {}
    for name in names:
        group = evaluation if name == EVALUATION else [DATA_SETS[name]]
        chosen |= {data_set.name: data_set for data_set in group}
    training = [data_set.name for data_set in chosen.values() if data_set.purpose is Purpose.TRAINING]
    if training and len(chosen) > 1:
        rule = "a training set writes train.parquet, so it goes alone"
        raise PrepError([f"NAME {training[0]!r}: {rule}: give each its own run and --out-dir"])
    return list(chosen.values())


def _preparations(values: dict[str, Any]) -> list[Preparation]:
    """Return the requested preparations. Raises PrepError with every problem, before anything is read."""
    names, out_dir, force = values.pop("names"), values.pop("out_dir"), values.pop("force")
    data_sets = _chosen(names)
    problems = []
    if out_dir is None:
        problems.append("--out-dir: missing: name the folder for the parquet files")
    if len(data_sets) > 1:
        given = [key for key in _OF_ONE_SET if values[key] is not None]
        problems += [
            f"--{key.replace('_', '-')} {values[key]!r}: is of one data set, {len(data_sets)} are named: name one"
            for key in given
        ]
    problems += _pointless(values)
    held_out = tuple(values.pop("held_out") or ()) or None
    preparations = []
    for data_set in data_sets:
        options = resolve(data_set, values | {"held_out": held_out})
        preparations.append(Preparation(data_set, options, out_dir or Path()))
        new_problems = preparations[-1].problems(force=force) if out_dir is not None else []
        problems += [problem for problem in new_problems if problem not in problems]
    if problems:
        raise PrepError(problems)
    return preparations


def _pointless(values: dict[str, Any]) -> list[str]:
    """Return the problems of options that would have no effect."""
    problems = []
    if values["ngram"] is not None and not values["held_out"]:
        problems.append(f"--ngram {values['ngram']}: is of --held-out, which is missing: give both or leave it out")
    if values["source"] is not None and values["split"] is not None:
        path = local_path(values["source"])
        if exists(path) and path.is_file():
            problems.append(f"--split {values['split']!r}: --source is one file, which is read whole: leave it out")
    return problems


def report(preparation: Preparation, counts: dict[str, Any] | None) -> str:
    """Return the report on one preparation; `counts` is None if it was up to date."""
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
            rule = "no data set is named (a name behind --held-out counts as one of its files)"
            return _complain(PrepError([f"--{given[0].replace('_', '-')}: {rule}: begin with the name"]))
        print(listing())
        return 0
    force, status = values["force"], 0
    try:
        preparations = _preparations(values)
    except PrepError as error:
        return _complain(error)
    for preparation in preparations:  # the others go on after a failure
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
