# SPDX-License-Identifier: Apache-2.0
r"""Turn NuminaMath-TIR into verl's parquet schema: `python -m data_prep.numina_math --out-dir DIR`.

Source rows have `problem` and `solution`; the ground truth is the content of the last `\boxed{}` of the solution,
and a row without one is dropped and counted, never guessed. Written are train.parquet, val.parquet (unless
--val-size 0) and a JSON record beside each. The same options and source give the same bytes; a second run with
them does nothing. Exit status: 0 done, 2 wrong options or source (outputs are then as before). Needs no torch.
"""

import argparse
import hashlib
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any

from data_prep.numina_sources import (
    COLUMNS,
    HUB_SOURCE,
    SUFFIXES,
    Options,
    PrepError,
    hub_commit,
    read_source,
    source_files,
    token_counter,
)
from recipe.treepo.answer import BoxState, scan_boxes
from recipe.treepo.answer_text import normalise

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
TEMPLATES = ("boxed", "plain", "system")
MAX_ANSWER_CHARS = 1_000  # what recipe.treepo.reward parses by default
FORMAT = 1  # of the record; raise it when the same options come to mean other rows


class Drop(Enum):
    """Why a source row is left out."""

    MALFORMED_ROW = "malformed row"  # not an object, a column missing or not text, or not valid Unicode
    NO_PROBLEM = "no problem text"
    NO_BOX = "no boxed answer"
    EMPTY_BOX = "empty box"  # also one with nothing but markup in it
    UNBALANCED_BOX = "unbalanced box"
    ANSWER_TOO_LONG = "answer too long"  # more characters than the reward function would parse
    PROMPT_TOO_LONG = "prompt too long"
    DUPLICATE_PROBLEM = "duplicate problem"  # equal but for white space; the first one is kept


# Rows ---------------------------------------------------------------------------------------------------------


def build_prompt(problem: str, template: str) -> list[dict[str, str]]:
    """Return the chat messages for one problem; `template` is one of TEMPLATES."""
    if template == "boxed":
        return [{"role": "user", "content": f"{problem}\n\n{INSTRUCTION}"}]
    messages = [{"role": "user", "content": problem}]
    return [{"role": "system", "content": INSTRUCTION}, *messages] if template == "system" else messages


def extract_answer(solution: str) -> str | Drop:
    """Return the content of the last box of a solution, or why it cannot serve as ground truth."""
    scan = scan_boxes(solution)
    if scan.state is not BoxState.COMPLETE:
        reasons = {BoxState.ABSENT: Drop.NO_BOX, BoxState.EMPTY: Drop.EMPTY_BOX, BoxState.UNCLOSED: Drop.UNBALANCED_BOX}
        return reasons[scan.state]
    answer = scan.content.strip()
    if len(answer) > MAX_ANSWER_CHARS:
        return Drop.ANSWER_TOO_LONG
    return answer if normalise(answer) else Drop.EMPTY_BOX


def convert_row(
    row: Any, index: int, options: Options, prompt_tokens: Callable[[list[dict[str, str]]], int] | None = None
) -> dict[str, Any] | Drop:
    """Turn one source row into a row for verl, or say why not. Pure; `index` is the row's place in the source.

    `prompt_tokens` counts the tokens of chat messages; needed where options.max_prompt_tokens is set.
    """
    if not isinstance(row, dict) or not all(isinstance(row.get(column), str) for column in COLUMNS):
        return Drop.MALFORMED_ROW
    problem = row["problem"].strip()
    try:
        (problem + row["solution"]).encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate, which no parquet file can hold
        return Drop.MALFORMED_ROW
    if not problem:
        return Drop.NO_PROBLEM
    answer = extract_answer(row["solution"])
    if isinstance(answer, Drop):
        return answer
    prompt = build_prompt(problem, options.template)
    characters = sum(len(message["content"]) for message in prompt)
    if options.max_prompt_chars is not None and characters > options.max_prompt_chars:
        return Drop.PROMPT_TOO_LONG
    if prompt_tokens is not None and prompt_tokens(prompt) > options.max_prompt_tokens:
        return Drop.PROMPT_TOO_LONG
    return {
        "data_source": options.data_source,
        "prompt": prompt,
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": answer},
        "extra_info": {"split": "", "index": index, "problem": problem},
    }


def convert_rows(
    rows: Iterable[Any], options: Options, prompt_tokens: Callable[[list[dict[str, str]]], int] | None = None
) -> tuple[list[dict[str, Any]], Counter[Drop]]:
    """Convert all rows; return those kept, in source order, and the number dropped by reason."""
    kept: list[dict[str, Any]] = []
    dropped: Counter[Drop] = Counter()
    seen: set[str] = set()
    for index, row in enumerate(rows):
        result = convert_row(row, index, options, prompt_tokens)
        if not isinstance(result, Drop):
            problem = " ".join(result["extra_info"]["problem"].split())
            if problem not in seen:
                seen.add(problem)
                kept.append(result)
                continue
            result = Drop.DUPLICATE_PROBLEM
        dropped[result] += 1
    return kept, dropped


def split_rows(kept: Sequence[dict[str, Any]], options: Options) -> dict[str, list[dict[str, Any]]]:
    """Draw the validation rows, then the training rows from the rest; both keep the source order.

    The validation rows depend on the seed and the kept rows only, not on subset_size. Raises PrepError where
    there are too few rows.
    """
    wanted = options.val_size + (options.subset_size or 1)
    if len(kept) < wanted:
        remedy = "lower --val-size or --subset-size, or loosen the length filter"
        raise PrepError([f"--source {options.source!r}: {len(kept)} usable rows, {wanted} are needed: {remedy}"])
    order = random.Random(options.seed).sample(range(len(kept)), len(kept))
    train_end = len(kept) if options.subset_size is None else options.val_size + options.subset_size
    chosen = {"train": sorted(order[options.val_size : train_end]), "val": sorted(order[: options.val_size])}
    return {
        name: [{**kept[i], "extra_info": {**kept[i]["extra_info"], "split": name}} for i in indices]
        for name, indices in chosen.items()
        if indices
    }


# Outputs ------------------------------------------------------------------------------------------------------


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(options: Options, commit: str | None) -> dict[str, Any]:
    """Return what must be equal for a second run to be skipped: options, source content, format."""
    content = None
    if options.is_local:
        content = {str(file.relative_to(options.path)): sha256_of(file) for file in source_files(options)}
    return {"format": FORMAT, "options": asdict(options), "commit": commit, "source_sha256": content}


def record_path(parquet: Path) -> Path:
    """Return where the record of a parquet file lies."""
    return parquet.with_name(parquet.name + ".json")


def read_record(parquet: Path) -> dict[str, Any] | None:
    """Return the record beside a parquet file, None where there is none that can be read."""
    try:
        record = json.loads(record_path(parquet).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def is_current(out_dir: Path, options: Options, wanted: dict[str, Any]) -> bool:
    """Tell whether the outputs are those of this fingerprint and undamaged. An unknown commit matches any."""
    for name in output_names(options):
        path = out_dir / f"{name}.parquet"
        record = read_record(path)
        made_from = (record or {}).get("fingerprint")
        if not isinstance(made_from, dict) or not path.is_file() or record.get("sha256") != sha256_of(path):
            return False
        if wanted["commit"] is None or made_from.get("commit") is None:
            made_from = {**made_from, "commit": wanted["commit"]}
        if made_from != wanted:
            return False
    return True


def output_names(options: Options) -> list[str]:
    """Return the names of the outputs, without suffix."""
    return ["train", "val"] if options.val_size else ["train"]


def write_outputs(
    out_dir: Path, tables: dict[str, list[dict[str, Any]]], wanted: dict[str, Any], counts: dict[str, Any]
) -> None:
    """Write each table and its record under temporary names, then rename them all. A val set of before goes.

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
            pq.write_table(pa.Table.from_pylist(rows, schema=_schema()), temporary)
            record = {"rows": len(rows), "sha256": sha256_of(temporary), "counts": counts, "fingerprint": wanted}
            temporary_record.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for temporary, path in renames:
            os.replace(temporary, path)
    finally:
        for temporary, _ in renames:
            temporary.unlink(missing_ok=True)
    stale = out_dir / "val.parquet"
    if "val" not in tables and read_record(stale) is not None:  # its rows may be training rows now
        stale.unlink(missing_ok=True)
        record_path(stale).unlink()


def _schema() -> Any:
    import pyarrow as pa

    text = pa.string()
    return pa.schema(
        {
            "data_source": text,
            "prompt": pa.list_(pa.struct({"role": text, "content": text})),
            "ability": text,
            "reward_model": pa.struct({"style": text, "ground_truth": text}),
            "extra_info": pa.struct({"split": text, "index": pa.int64(), "problem": text}),
        }
    )


# Command line -------------------------------------------------------------------------------------------------


def option_problems(options: Options) -> list[str]:
    """Return every rule that the options break, in words."""
    least = {"subset_size": 1, "val_size": 0, "max_prompt_tokens": 1, "max_prompt_chars": 1}
    problems = [
        f"--{key.replace('_', '-')} {value}: must be {low} or more: give a larger number or leave the option out"
        for key, low in least.items()
        if (value := getattr(options, key)) is not None and value < low
    ]
    if options.template not in TEMPLATES:
        problems.append(f"--template {options.template!r}: unknown: use one of {', '.join(TEMPLATES)}")
    if (options.tokenizer is None) != (options.max_prompt_tokens is None):
        values = f"--tokenizer {options.tokenizer!r} with --max-prompt-tokens {options.max_prompt_tokens}"
        problems.append(f"{values}: one needs the other: give both, or use --max-prompt-chars")
    if not options.data_source.strip():
        problems.append(f"--data-source {options.data_source!r}: blank: give the name the reward function is to see")
    return problems + (_local_problems(options) if options.is_local else [])


def _local_problems(options: Options) -> list[str]:
    path = options.path
    if not path.exists():
        return [f"--source {options.source!r}: no such file or folder: check the path, or give a hub name"]
    if options.revision is not None:
        return [f"--revision {options.revision!r}: --source is a local path, which has none: leave it out"]
    if path.is_file() and path.suffix not in SUFFIXES:
        return [f"--source {options.source!r}: unknown suffix {path.suffix!r}: use one of {', '.join(SUFFIXES)}"]
    if path.is_dir() and not any(file.suffix in SUFFIXES for file in path.rglob("*")):
        return [f"--source {options.source!r}: the folder holds no file of {', '.join(SUFFIXES)}: give another one"]
    return []


def output_problems(out_dir: Path, options: Options, force: bool) -> list[str]:
    """Return why the outputs must not be written to `out_dir`, in words."""
    if out_dir.exists() and not out_dir.is_dir():
        return [f"--out-dir {str(out_dir)!r}: is a file: give a folder"]
    if options.is_local and options.path.exists():
        source, target = options.path.resolve(), out_dir.resolve()
        replaced = [target / f"{name}.parquet" for name in output_names(options)]
        if source == target or source in target.parents or source in replaced:
            return [f"--out-dir {str(out_dir)!r}: the outputs would join or replace the source: give another folder"]
    foreign = [path for path in (out_dir / f"{name}.parquet" for name in output_names(options)) if path.exists()]
    foreign = [] if force else [path for path in foreign if read_record(path) is None]
    return [f"--out-dir: {path} was not written by this program: give another folder, or --force" for path in foreign]


def prepare(options: Options, out_dir: Path, *, force: bool = False, progress: bool = False) -> dict[str, Any] | None:
    """Write the outputs; return the counts, or None where they were there already. Raises PrepError."""
    problems = option_problems(options) + output_problems(out_dir, options, force)
    if problems:
        raise PrepError(problems)
    commit = None if options.is_local else hub_commit(options)
    wanted = fingerprint(options, commit)
    if not force and is_current(out_dir, options, wanted):
        return None
    prompt_tokens = None if options.tokenizer is None else token_counter(options.tokenizer)
    rows, total = read_source(options, commit)
    if progress:
        from tqdm import tqdm

        rows = tqdm(rows, total=total, unit="row", desc="reading")
    kept, dropped = convert_rows(rows, options, prompt_tokens)
    tables = split_rows(kept, options)
    counts = {
        "source_rows": len(kept) + dropped.total(),
        "usable": len(kept),
        "dropped": {reason.value: dropped[reason] for reason in Drop},
        "written": {name: len(table) for name, table in tables.items()},
    }
    try:
        write_outputs(out_dir, tables, wanted, counts)
    except OSError as error:
        raise PrepError([f"--out-dir {str(out_dir)!r}: cannot be written ({error}): give another folder"]) from error
    return counts


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m data_prep.numina_math", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--source", default=HUB_SOURCE, help="hub name, parquet file, JSON-lines file, or folder (default %(default)s)")
    add("--out-dir", required=True, type=Path, help="folder for train.parquet and val.parquet")
    add("--revision", help="branch, tag or commit of a hub source")
    add("--split", default="train", help="split of a hub source, or start of the file names in a folder")
    add("--subset-size", type=int, help="training rows to draw (default: all that remain)")
    add("--val-size", type=int, default=100, help="rows put aside for validation, 0 for none (default %(default)s)")
    add("--seed", type=int, default=0, help="of the draw (default %(default)s)")
    add("--template", default="boxed", help=f"prompt: {', '.join(TEMPLATES)} (default %(default)s)")
    add("--data-source", default="numina_math_tir", help="name in the data_source column (default %(default)s)")
    add("--tokenizer", help="folder or hub model whose chat template and tokens are counted")
    add("--max-prompt-tokens", type=int, help="drop longer prompts; needs --tokenizer")
    add("--max-prompt-chars", type=int, help="drop longer prompts, counted in characters without chat template")
    add("--force", action="store_true", help="write even where the outputs are up to date or someone else's")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    values = vars(parse_arguments(arguments))
    out_dir, force = values.pop("out_dir"), values.pop("force")
    try:
        counts = prepare(Options(**values), out_dir, force=force, progress=sys.stderr.isatty())
    except PrepError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return 2
    if counts is None:
        print(f"{out_dir}: up to date, nothing done (--force writes it again)")
        return 0
    print(f"source rows {counts['source_rows']}, usable {counts['usable']}")
    for reason, number in counts["dropped"].items():
        print(f"  dropped, {reason}: {number}")
    for name, number in counts["written"].items():
        print(f"{out_dir / name}.parquet: {number} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
