# SPDX-License-Identifier: Apache-2.0
"""Convert source rows to verl's rows: prompts, filters, duplicates, held-out problems, split; reads no files."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .errors import PrepError
from .options import Options
from .overlap import HeldOut
from .problems import DataSet, Drop, Problem, Purpose, RowFunction
from .prompts import build_prompt
from .tokens import TokenCounter
from .words import same_words_key


@dataclass(slots=True)
class Converted:
    """Kept problems with their indices in the source, in source order, and counts of dropped rows by reason.

    `overlaps` counts overlapping problems by held-out file. A problem that overlaps several files counts once in
    `dropped`, and once for each file.
    """

    kept: list[tuple[int, Problem]] = field(default_factory=list)
    dropped: Counter[Drop] = field(default_factory=Counter)
    overlaps: Counter[str] = field(default_factory=Counter)


def read_problem(row: Any, read: RowFunction) -> Problem | Drop:
    """Apply a row function to a row of any type."""
    return read(row) if isinstance(row, dict) else Drop.MALFORMED_ROW


def prompt_of(problem: Problem, options: Options) -> list[dict[str, str]]:
    """Return the chat messages around a problem."""
    return build_prompt(problem.text, options.template, options.system_prompt, options.example)


def verl_row(problem: Problem, index: int, split: str, options: Options) -> dict[str, Any]:
    """Return a problem in verl's schema; `index` is its row number in the source."""
    return {
        "data_source": options.data_source,
        "prompt": prompt_of(problem, options),
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": problem.answer},
        "extra_info": {"split": split, "index": index, "problem": problem.text, **problem.extras},
    }


def same_problem_key(options: Options) -> Callable[[str], str] | None:
    """Return a function with equal keys for duplicates, None if all rows stay."""
    return {"none": None, "text": lambda text: " ".join(text.split()), "words": same_words_key}[options.deduplicate]


def convert_rows(
    rows: Iterable[Any],
    data_set: DataSet,
    options: Options,
    *,
    prompt_tokens: TokenCounter | None = None,
    held_out: HeldOut | None = None,
) -> Converted:
    """Convert all rows; options.max_prompt_tokens requires `prompt_tokens`."""
    result = Converted()
    key_of = same_problem_key(options)
    seen: set[str] = set()
    for index, row in enumerate(rows):
        problem = read_problem(row, data_set.row)
        if isinstance(problem, Drop):
            result.dropped[problem] += 1
            continue
        key = None if key_of is None else key_of(problem.text)
        if key is not None and key in seen:  # before the length check, since DAPO has 100 copies of each problem
            result.dropped[Drop.DUPLICATE_PROBLEM] += 1
            continue
        if _too_long(prompt_of(problem, options), options, prompt_tokens):
            result.dropped[Drop.PROMPT_TOO_LONG] += 1
            continue
        if key is not None:
            seen.add(key)
        if held_out is not None and (files := held_out.files_with(problem.text)):
            result.dropped[Drop.HELD_OUT] += 1
            result.overlaps.update(files)
            continue
        result.kept.append((index, problem))
    return result


def _too_long(prompt: list[dict[str, str]], options: Options, prompt_tokens: TokenCounter | None) -> bool:
    characters = sum(len(message["content"]) for message in prompt)
    if options.max_prompt_chars is not None and characters > options.max_prompt_chars:
        return True
    if options.max_prompt_tokens is None:
        return False
    assert prompt_tokens is not None, "max_prompt_tokens needs a token counter"
    return prompt_tokens(prompt) > options.max_prompt_tokens


def draw_tables(
    kept: Sequence[tuple[int, Problem]], data_set: DataSet, options: Options
) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each output, by file name without suffix, in source order.

    A training set draws its validation rows first, so they depend on seed and kept rows only, not on subset_size. An
    evaluation set has one table of subset_size rows. Raises PrepError if there are too few rows.
    """
    wanted = options.val_size + (options.subset_size or 1)
    if len(kept) < wanted:
        remedy = "Lower --val-size or --subset-size, or relax the length filter."
        raise PrepError([f"--source {options.source.name!r}: {len(kept)} usable rows, {wanted} are needed. {remedy}"])
    order = random.Random(options.seed).sample(range(len(kept)), len(kept))
    last = len(kept) if options.subset_size is None else options.val_size + options.subset_size
    if data_set.purpose is Purpose.EVALUATION:
        chosen = {data_set.name: ("test", order[:last])}
    else:
        chosen = {"train": ("train", order[options.val_size : last]), "val": ("val", order[: options.val_size])}
    return {
        name: [verl_row(kept[place][1], kept[place][0], split, options) for place in sorted(places)]
        for name, (split, places) in chosen.items()
        if places
    }
