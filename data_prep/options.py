# SPDX-License-Identifier: Apache-2.0
"""Options of a preparation and their rules. All problems are reported together, before the work starts."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .overlap import DEFAULT_NGRAM
from .problems import DataSet, Purpose, is_unicode
from .prompts import TEMPLATES
from .reading import SUFFIXES, Source, exists

DEDUPLICATIONS = {
    "none": "every row stays",
    "text": "keep one of the problems that differ in white space only",
    "words": "keep one of those with equal words (as --held-out compares them) and brackets",
}
DEFAULT_VAL_SIZE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options that determine the rows, named as on the command line. None: no limit, or omitted."""

    source: Source
    subset_size: int | None = None
    val_size: int = DEFAULT_VAL_SIZE
    seed: int = 0
    template: str = "boxed"
    system_prompt: str | None = None
    example: tuple[tuple[str, str], ...] = ()
    data_source: str
    deduplicate: str = "text"
    held_out: tuple[str, ...] = ()
    ngram: int = DEFAULT_NGRAM
    tokenizer: str | None = None
    max_prompt_tokens: int | None = None
    max_prompt_chars: int | None = None

    def record(self) -> dict[str, Any]:
        """Return the options as JSON would read them back."""
        return asdict(self) | {"held_out": list(self.held_out), "example": [list(pair) for pair in self.example]}


def resolve(data_set: DataSet, given: dict[str, Any]) -> Options:
    """Fill in the defaults of a data set; `given` has the values of the command line, None if omitted."""
    on_hub = given["source"] is None
    source = given.pop("source") or data_set.repository
    own = source == data_set.repository and (on_hub or not Source(source, "").is_local)
    place = Source(
        name=source,
        split=given.pop("split") or data_set.split,
        config=given.pop("config") or (data_set.config if own else None),
        folder=data_set.folder if own else None,
        revision=given.pop("revision"),
        part=data_set.config or data_set.folder,
        on_hub=on_hub,
    )
    defaults: dict[str, Any] = {"data_source": data_set.name}
    if data_set.purpose is Purpose.EVALUATION:  # the whole set, for comparable results
        defaults |= {"val_size": 0, "deduplicate": "none"}
    return Options(source=place, **(defaults | {key: value for key, value in given.items() if value is not None}))


def option_problems(options: Options, data_set: DataSet) -> list[str]:
    """Return the problems of the options."""
    least = {"subset_size": 1, "val_size": 0, "max_prompt_tokens": 1, "max_prompt_chars": 1, "ngram": 1}
    problems = [
        f"--{key.replace('_', '-')} {value}: must be at least {low}. Use a larger number, or omit the option."
        for key, low in least.items()
        if (value := getattr(options, key)) is not None and value < low
    ]
    for key, choices in (("template", TEMPLATES), ("deduplicate", DEDUPLICATIONS)):
        if (value := getattr(options, key)) not in choices:
            problems.append(f"--{key} {value!r}: unknown. Use one of {', '.join(choices)}.")
    if (options.tokenizer is None) != (options.max_prompt_tokens is None):
        values = f"--tokenizer {options.tokenizer!r} with --max-prompt-tokens {options.max_prompt_tokens}"
        problems.append(f"{values}: one needs the other. Give both, or use --max-prompt-chars.")
    problems += _text_problems(options)
    if data_set.purpose is Purpose.EVALUATION:
        problems += _evaluation_problems(options, data_set)
    return problems + _source_problems(options.source)


def _text_problems(options: Options) -> list[str]:
    problems = []
    if options.system_prompt is not None and options.template == "system":
        rule = "--template system writes the system message itself"
        problems.append(f"--system-prompt {options.system_prompt!r}: {rule}. Use --template boxed or plain.")
    if options.system_prompt is not None and not options.system_prompt.strip():
        problems.append(f"--system-prompt {options.system_prompt!r}: blank. Give a text, or omit the option.")
    texts = [("system-prompt", options.system_prompt), ("data-source", options.data_source)]
    for pair in options.example:
        texts += [("example", text) for text in pair]
        if not all(map(str.strip, pair)):
            problems.append(f"--example {pair[0]!r} {pair[1]!r}: a text is blank. Give a problem and its solution.")
    for key, value in texts:
        if value is not None and not is_unicode(value):
            problems.append(f"--{key} {value!r}: is not valid Unicode. Write it in UTF-8.")
    if not options.data_source.strip():
        problems.append(f"--data-source {options.data_source!r}: blank. Give a name for the reward function.")
    return problems


def _evaluation_problems(options: Options, data_set: DataSet) -> list[str]:
    rule = f"{data_set.name} is an evaluation set, which stays complete"
    problems = []
    if options.val_size > 0:
        problems.append(f"--val-size {options.val_size}: {rule}. Omit the option.")
    if options.held_out:
        problems.append(f"--held-out {' '.join(options.held_out)}: {rule}. Omit the option.")
    return problems


def _source_problems(source: Source) -> list[str]:
    """Return the problems of a local source."""
    path: Path = source.path
    if source.on_hub and exists(path):  # `datasets` would read the path
        rule = "a local path of this name would be read instead of the hub's"
        return [f"--source {source.name!r}: {rule}. Name it with --source to use it, or run in another folder."]
    if not source.is_local:
        return []
    if not exists(path):
        return [f"--source {source.name!r}: no such file or folder. Check the path, or use a hub name."]
    problems = [
        f"--{key} {value!r}: has no effect on a local path in --source. Omit it."
        for key, value in (("revision", source.revision), ("config", source.config))
        if value is not None
    ]
    if path.is_file() and path.suffix not in SUFFIXES:
        problems.append(f"--source {source.name!r}: unknown suffix {path.suffix!r}. Use one of {', '.join(SUFFIXES)}.")
    if path.is_dir() and not any(file.suffix in SUFFIXES for file in path.rglob("*")):
        holds = f"the folder holds no file of {', '.join(SUFFIXES)}"
        problems.append(f"--source {source.name!r}: {holds}. Name another folder.")
    return problems
