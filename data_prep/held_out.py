# SPDX-License-Identifier: Apache-2.0
r"""Problem texts of held-out parquet files in verl's schema.

The text is the first of these that is there:

- `extra_info.problem`;
- `extra_info.question`, which verl's GSM8K script writes;
- the last user message of `prompt`, without known instructions: those of this program, of DAPO, and of verl's scripts
  for GSM8K and MATH. An unknown instruction stays in the text; a problem shorter than an n-gram then finds no match.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from recipe.treepo.settings.data_reading import UNREADABLE, text_of

from .errors import PrepError
from .prompts import INSTRUCTION
from .reading import local_path
from .sets.dapo import unwrap

_TEXT_FIELDS = ("problem", "question")
_VERL = "Let's think step by step and output the final answer "
_INSTRUCTIONS = (
    INSTRUCTION,
    *(f"{_VERL}after {quote}####{quote}." for quote in ('"', "'", "`")),
    f"{_VERL}within \\boxed{{}}.",
)


def held_out_files(names: Sequence[str]) -> list[Path]:
    """Return the named parquet files and those in named folders; folders skip train.parquet and val.parquet."""
    files: list[Path] = []
    for name in names:
        path = local_path(name)
        if path.is_dir():
            files_below = (file for file in sorted(path.rglob("*.parquet")) if file.is_file())
            files += [file for file in files_below if file.stem not in ("train", "val")]
        elif path.suffix == ".parquet":
            files.append(path)
    return files


def held_out_problems(path: Path) -> Iterator[str]:
    """Yield the problem texts of a file. Raises PrepError if it is unreadable or has none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    has_problem = False
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            fields = _fields(schema.field("extra_info").type) if schema.names.count("extra_info") == 1 else []
            columns = [f"extra_info.{field}" for field in fields] + ["prompt"] * ("prompt" in schema.names)
            for batch in file.iter_batches(columns=columns) if columns else ():
                for row in batch.to_pylist():
                    if (text := _problem_text(row)) is not None:
                        has_problem = True
                        yield text
    except UNREADABLE + (pa.ArrowException, OSError) as error:
        reason = f"cannot be read as parquet with problems ({text_of(error)})"
        raise PrepError([f"--held-out {path}: {reason}. Prepare it again."]) from error
    if not has_problem:
        rule = "holds no problem, neither in extra_info.problem nor as a user message of prompt"
        raise PrepError([f"--held-out {path}: {rule}. Name evaluation sets in verl's schema."])


def _fields(extra_info: Any) -> list[str]:
    """Return the text fields of extra_info to read; all others stay unread."""
    import pyarrow as pa

    if not pa.types.is_struct(extra_info):
        return []
    texts = [entry.name for entry in extra_info if entry.type in (pa.string(), pa.large_string(), pa.string_view())]
    return [name for name in _TEXT_FIELDS if texts.count(name) == 1]


def _problem_text(row: dict[str, Any]) -> str | None:
    extra_info, prompt = row.get("extra_info") or {}, row.get("prompt")
    for field in _TEXT_FIELDS:
        text = extra_info.get(field)
        if isinstance(text, str):
            return text
    messages = [message for message in prompt if isinstance(message, dict)] if isinstance(prompt, list) else []
    user = [message.get("content") for message in messages if message.get("role") == "user"]
    return without_instruction(user[-1]) if user and isinstance(user[-1], str) else None


def without_instruction(content: str) -> str:
    """Return a user message without the known instructions around its problem."""
    content = content.strip()
    for instruction in _INSTRUCTIONS:
        content = content.removesuffix(instruction).strip()
    unwrapped = unwrap(content)
    return content if unwrapped is None else unwrapped
