# SPDX-License-Identifier: Apache-2.0
"""Read NuminaMath-TIR, from the hub or from local files, for `data_prep.numina_math`; imports no torch."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HUB_SOURCE = "AI-MO/NuminaMath-TIR"
COLUMNS = ("problem", "solution")
SUFFIXES = (".parquet", ".jsonl", ".json")


class PrepError(Exception):
    """Wrong options or source: one line per problem, each with key, value, rule and remedy."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


@dataclass(frozen=True)
class Options:
    """What decides which rows come out; the names are those of the command line."""

    source: str = HUB_SOURCE
    revision: str | None = None
    split: str = "train"
    subset_size: int | None = None
    val_size: int = 100
    seed: int = 0
    template: str = "boxed"
    data_source: str = "numina_math_tir"
    tokenizer: str | None = None
    max_prompt_tokens: int | None = None
    max_prompt_chars: int | None = None

    @property
    def is_local(self) -> bool:
        """Whether the source is a path: it exists, or is written like a path or a file name."""
        looks_local = self.source.startswith((".", "/", "~")) or self.source.endswith(SUFFIXES)
        return looks_local or self.path.exists()

    @property
    def path(self) -> Path:
        """The source as a path."""
        return Path(self.source).expanduser()


def source_files(options: Options) -> list[Path]:
    """Return the files of a local source, sorted. In a folder, those named after the split, if any are."""
    path = options.path
    if path.is_file():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    named = [file for file in found if file.name.startswith(options.split)]
    others = [file for file in found if file.name.startswith(("train", "test", "val"))]
    if others and not named:
        found_name = f"no file in {path} starts with that name, but {others[0].name} does"
        raise PrepError([f"--split {options.split!r}: {found_name}: give the split that the files are named after"])
    return named or found


def read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a parquet file. Raises PrepError where it is damaged or lacks a column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            missing = [column for column in COLUMNS if column not in file.schema_arrow.names]
            if missing:
                raise PrepError([_missing_columns(path, missing, file.schema_arrow.names)])
            for batch in file.iter_batches(columns=list(COLUMNS)):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise PrepError([f"--source {path}: cannot be read as parquet ({error}): fetch the file again"]) from error


def read_json_lines(path: Path) -> Iterator[Any]:
    """Yield the object on each line, None for a line that is not JSON. Raises PrepError where no row has a column."""
    keys: set[str] = set()
    rows = 0
    with path.open("rb") as lines:
        for line in lines:
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
                row = None
            rows += 1
            keys.update(row if isinstance(row, dict) else ())
            yield row
    missing = [column for column in COLUMNS if column not in keys]
    if rows and missing:
        raise PrepError([_missing_columns(path, missing, sorted(keys)) + ", one JSON object on each line"])


def _missing_columns(path: Path, missing: Sequence[str], found: Sequence[str]) -> str:
    columns = f"no column {', '.join(missing)} (found: {', '.join(found) or 'none'})"
    return f"--source {path}: {columns}: use a source with columns {', '.join(COLUMNS)}"


def hub_commit(options: Options) -> str | None:
    """Return the commit that the revision of a hub source stands for, None where the hub cannot be asked."""
    import huggingface_hub

    try:
        return huggingface_hub.HfApi().dataset_info(options.source, revision=options.revision).sha
    except Exception:  # no network, or unknown: loading will say which
        return None


def read_hub(options: Options, commit: str | None) -> Iterable[dict[str, Any]]:
    """Load a hub source with `datasets`. Raises PrepError with its reason where that fails."""
    import datasets

    try:
        return datasets.load_dataset(options.source, split=options.split, revision=commit or options.revision)
    except Exception as error:  # datasets raises many types; all mean that the source is not to be had
        reason = f"{type(error).__name__}: {error}"
        remedy = "check the name, --split and --revision, or give a local file or folder"
        raise PrepError([f"--source {options.source!r}: cannot be loaded ({reason}): {remedy}"]) from error


def read_source(options: Options, commit: str | None) -> tuple[Iterator[Any], int | None]:
    """Return the source rows and, where it is known, their number."""
    if options.is_local:
        files = source_files(options)
        readers = (read_parquet(file) if file.suffix == ".parquet" else read_json_lines(file) for file in files)
        return (row for reader in readers for row in reader), None
    data = read_hub(options, commit)
    missing = [column for column in COLUMNS if column not in data.column_names]
    if missing:
        raise PrepError([_missing_columns(Path(options.source), missing, data.column_names)])
    return iter(data.select_columns(list(COLUMNS))), len(data)


def token_counter(name: str) -> Callable[[list[dict[str, str]]], int]:
    """Return a function that counts the tokens of chat messages, generation prompt included.

    Reads tokenizer.json and the chat template itself, because loading a transformers tokenizer imports torch.
    `name` is a folder or a hub model. Raises PrepError where one of the files is missing.
    """
    from tokenizers import Tokenizer
    from transformers.utils.chat_template_utils import render_jinja_template

    tokenizer_file, config_file, template_file = (
        _tokenizer_file(name, file) for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    )
    config = json.loads(config_file.read_text(encoding="utf-8")) if config_file else {}
    template = template_file.read_text(encoding="utf-8") if template_file else config.get("chat_template")
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    if tokenizer_file is None or not template:
        lacks = "tokenizer.json" if tokenizer_file is None else "chat template"
        raise PrepError([f"--tokenizer {name!r}: has no {lacks}: give another one, or use --max-prompt-chars"])
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_truncation()
    special = {key: value for key, value in config.items() if key.endswith("_token")}
    special = {key: value["content"] if isinstance(value, dict) else value for key, value in special.items()}

    def count(messages: list[dict[str, str]]) -> int:
        texts, _ = render_jinja_template(
            conversations=[messages], chat_template=template, add_generation_prompt=True, **special
        )
        return len(tokenizer.encode(texts[0], add_special_tokens=False).ids)

    return count


def _tokenizer_file(name: str, file: str) -> Path | None:
    if Path(name).expanduser().is_dir():
        path = Path(name).expanduser() / file
        return path if path.is_file() else None
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(name, file))
    except Exception:  # absent file, unknown model or no network: the caller names what is missing
        return None
