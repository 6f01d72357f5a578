# SPDX-License-Identifier: Apache-2.0
"""Check whether data files work with verl and this recipe: `python -m data_prep.check FILE ...`.

The report counts unusable and suspicious rows by reason, with the numbers of the first ones (from 0); --json lists all
row numbers. Files stay unchanged. Exit status: 0 fine or only warnings, 1 unusable rows, 2 unusable file or wrong
options.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from recipe.treepo.answers.truth import MAX_ANSWER_CHARS, read_truth
from recipe.treepo.settings.data_reading import SUFFIXES, DataFileError, open_rows
from recipe.treepo.settings.data_rows import (
    MEDIA,
    NEEDED,
    PRIORITY,
    ROLLOUTS,
    TURNS,
    Finding,
    column_problems,
    mathematics,
    prompt_key,
    row_findings,
)

from .errors import PrepError
from .field_types import Types, field_types, type_conflicts
from .file_report import FileReport
from .reading import exists
from .tokens import TokenCounter, token_counter

WORKERS = 2  # processes of math-verify


_NO_PROMPT = {
    *(Finding.NO_MESSAGES, Finding.JSON_PROMPT, Finding.BAD_MESSAGE, Finding.MULTI_MODAL, Finding.BLANK_PROMPT),
}
_NO_TRUTH = {
    *(Finding.NO_REWARD_MODEL, Finding.NO_TRUTH, Finding.ODD_TRUTH, Finding.DATE_TRUTH, Finding.EMPTY_TRUTH),
    *(Finding.LONG_TRUTH, Finding.NO_ANSWER),
}


class RowChecker:
    """Check of the rows of one file, including checks against earlier rows, the tokenizer and math-verify."""

    def __init__(
        self, reads: Callable[[str], bool], prompt_tokens: TokenCounter | None = None, max_prompt_length: int = 0
    ) -> None:
        """`reads` tests whether math-verify can read an answer; without `prompt_tokens`, no prompt is too long."""
        self._reads, self._prompt_tokens, self._max_prompt_length = reads, prompt_tokens, max_prompt_length
        self._seen: set[bytes] = set()
        self._readable: dict[str, bool] = {}

    def check(self, rows: Sequence[dict[str, Any]]) -> list[set[Finding]]:
        """Return the findings of each row."""
        findings_by_row = [row_findings(row) for row in rows]
        truths = [_mathematics(row, findings) for row, findings in zip(rows, findings_by_row, strict=True)]
        self._read([truth for truth in truths if truth is not None])
        for row, findings, truth in zip(rows, findings_by_row, truths, strict=True):
            if findings.isdisjoint(_NO_PROMPT):
                findings |= self._prompt(row["prompt"])
            if truth is not None and not self._readable[truth]:
                findings.add(Finding.UNREADABLE_TRUTH)
        return findings_by_row

    def _prompt(self, prompt: list[dict[str, str]]) -> set[Finding]:
        digest = hashlib.blake2b(prompt_key(prompt).encode("utf-8"), digest_size=16).digest()
        findings = {Finding.DUPLICATE} if digest in self._seen else set()
        self._seen.add(digest)
        if self._prompt_tokens is not None:
            messages = [{"role": message["role"], "content": message["content"]} for message in prompt]
            try:
                too_long = self._prompt_tokens(messages) > self._max_prompt_length
            except PrepError:
                findings.add(Finding.TEMPLATE)
            else:
                findings |= {Finding.TOO_LONG} if too_long else set()
        return findings

    def _read(self, truths: Sequence[str]) -> None:
        new = [truth for truth in dict.fromkeys(truths) if truth not in self._readable]
        if new:
            with ThreadPoolExecutor(WORKERS) as threads:
                self._readable.update(zip(new, threads.map(self._reads, new), strict=True))


def _mathematics(row: dict[str, Any], findings: set[Finding]) -> str | None:
    """Return what math-verify compares answers to a row with, None if text decides."""
    if not findings.isdisjoint(_NO_TRUTH):
        return None
    return mathematics(read_truth(row["reward_model"]["ground_truth"]))


def math_verify_reads(truth: str) -> bool:
    """Return whether math-verify, in the reward function's worker process, reads LaTeX as mathematics.

    It compares unreadable answers as text; hence the comparison with another spelling of the same answer.
    """
    from recipe.treepo.sandbox.verifier import Verdict, get_pool

    assert len(truth) <= MAX_ANSWER_CHARS
    otherwise = "\\," + truth.replace("$", "")  # a thin space in front
    return get_pool(workers=WORKERS, memory_mb=1_024).verify(truth, otherwise, timeout_s=3.0) is Verdict.EQUAL


# Files --------------------------------------------------------------------------------------------------------


def check_file(path: Path, checker: RowChecker, *, progress: bool = False) -> FileReport:
    """Check one file and return the report; `progress` shows a bar."""
    report = FileReport(str(path))
    try:
        for rows in _batches(path, progress):
            for findings in checker.check(rows):
                report.add(report.rows, findings)
    except PrepError as error:
        report.problems += error.problems
    return report


def check_files(
    paths: Sequence[Path], prompt_tokens: TokenCounter | None, max_prompt_length: int, *, progress: bool = False
) -> Iterator[FileReport]:
    """Check each file, alone and against the types of earlier ones. Raises RuntimeError without math-verify."""
    types: dict[Path, Types] = {}
    for path in paths:
        report = check_file(path, RowChecker(math_verify_reads, prompt_tokens, max_prompt_length), progress=progress)
        mine = field_types(path)
        for other, theirs in types.items():
            report.conflicts += [f"with {other}: {conflict}" for conflict in type_conflicts(mine, theirs)]
        types[path] = mine
        yield report


def _batches(path: Path, progress: bool) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of a file, with the checked columns only. Raises PrepError if the file is unusable.

    Only the type of extra_info matters, so its values are not read.
    """
    from tqdm import tqdm

    if not (exists(path) and path.is_file()):
        is_folder = exists(path) and path.is_dir()
        raise PrepError(["is a folder. Name the files in it." if is_folder else "no such file. Check the path."])
    if path.suffix not in SUFFIXES:
        rule = f"suffix {path.suffix!r}: verl reads {', '.join(SUFFIXES)}. Rename or convert the file."
        raise PrepError([rule])
    try:
        with open_rows(path) as file:
            problems = list(map(str, column_problems(file.columns))) if file.columns else []
            if file.num_rows == 0:
                problems.append("the file has no rows. Prepare it again.")
            if problems:
                raise PrepError(problems)
            wanted = [
                name
                for name in (*NEEDED, "agent_name", PRIORITY, ROLLOUTS, TURNS, *MEDIA, "extra_info")
                if name in file.columns
            ]
            with tqdm(total=file.num_rows, unit="row", desc=path.name, disable=not progress) as bar:
                for _, rows in file.batches(wanted):
                    yield rows
                    bar.update(len(rows))
    except DataFileError as error:
        raise PrepError([str(error)]) from error


# Command line -------------------------------------------------------------------------------------------------


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    prog = f"python -m {__package__}.check"
    about = __doc__.split("\n\n")[0].replace("python -m data_prep.check", prog)
    line = argparse.ArgumentParser(prog=prog, description=about)
    line.add_argument("files", nargs="+", type=Path, metavar="FILE", help="for data.train_files or data.val_files")
    line.add_argument("--tokenizer", metavar="MODEL", help="folder or hub model, to count the tokens of prompts")
    line.add_argument("--max-prompt-length", type=int, metavar="N", help="data.max_prompt_length of the run, in tokens")
    line.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    return line.parse_args(arguments)


def _option_problems(options: argparse.Namespace) -> list[str]:
    length = options.max_prompt_length
    problems = []
    if (options.tokenizer is None) != (length is None):
        values = f"--tokenizer {options.tokenizer!r} with --max-prompt-length {length}"
        problems.append(f"{values}: one needs the other. Give both or none.")
    if length is not None and length < 1:
        problems.append(f"--max-prompt-length {length}: must be at least 1. Use data.max_prompt_length of the run.")
    return problems


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    options = parse_arguments(arguments)
    try:
        if problems := _option_problems(options):
            raise PrepError(problems)
        prompt_tokens = None if options.tokenizer is None else token_counter(options.tokenizer)
    except PrepError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return 2
    reports = []
    try:
        progress = sys.stderr.isatty()
        for report in check_files(options.files, prompt_tokens, options.max_prompt_length or 0, progress=progress):
            reports.append(report)
            if not options.json:
                print(report.as_text(), flush=True)
    except RuntimeError as error:  # math-verify cannot be started
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps({"files": [report.as_json() for report in reports]}, indent=2))
    return max(report.status for report in reports)


if __name__ == "__main__":
    sys.exit(main())
