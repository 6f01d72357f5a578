# SPDX-License-Identifier: Apache-2.0
"""``--help`` of ``main_treepo`` and ``main_eval``: keys, defaults and meanings are read from ``config/``."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from recipe.treepo.command_line.arguments import OwnGroup
from recipe.treepo.command_line.composition import plain_values
from recipe.treepo.settings.values import all_keys

ROOT = Path(__file__).parents[3]
CONFIG = Path(__file__).parents[1] / "config"
WIDTH = 118
NAME_WIDTH = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class HelpPage:
    """The parts of a help text that are not read from ``config/``.

    Attributes:
        choices: Default of each Hydra group that is listed; the others are its files.
        columns: Number of keys on a line.
        examples: Commands, each with its meaning.
    """

    purpose: str
    usage: str
    about: str
    group: OwnGroup
    choices: Mapping[str, str]
    columns: int
    examples: Sequence[tuple[str, str]]


OPTIONS = """\
  --dry-run      check the configuration, print the keys that differ from the defaults; nothing is started or written
  --full         with --dry-run: print all keys
  --hydra-help   Hydra's own options, among them --cfg, --info, --multirun and --config-dir
"""


def help_text(page: HelpPage) -> str:
    """Return the help text of an entry point."""
    examples = "\n".join(f"  # {meaning}\n  {command}" for command, meaning in page.examples)
    parts = [
        page.purpose,
        f"  {page.usage}",
        page.about,
        OPTIONS.rstrip("\n"),
        "Configurations by name, GROUP=NAME, the default first:\n" + "\n".join(_choices(page.choices)),
        f"Keys with their defaults; ranges and reasons: {page.group.see}\n" + "\n".join(_keys(page)),
        f"Examples:\n{examples}",
    ]
    return "\n\n".join(parts)


def _choices(defaults: Mapping[str, str]) -> list[str]:
    lines = []
    for group, default in defaults.items():
        names = sorted(path.stem for path in (CONFIG / group).glob("*.yaml"))
        listed = ", ".join([default, *(name for name in names if name != default)])
        lines += textwrap.wrap(listed, WIDTH, initial_indent=f"  {group:<12}", subsequent_indent=" " * 14)
    return lines


# --- keys ------------------------------------------------------------------------------------------------------


def _keys(page: HelpPage) -> list[str]:
    name = page.group.name
    text = (ROOT / page.group.see).read_text()
    defaults, meanings = plain_values(OmegaConf.create(text)), first_words(text)
    if name not in defaults:  # the file is the group
        defaults, meanings = {name: defaults}, {f"{name}.{key}": words for key, words in meanings.items()}
    groups = all_keys({name: page.group.keys})
    lines = []
    for group, keys in groups.items():
        lines.append(f"{group}." if group == name else f"{group}.  {meanings[group]}")
        leaves = [key for key in keys if f"{group}.{key}" not in groups]
        cells = [_cell(key, _lookup(defaults, f"{group}.{key}"), meanings[f"{group}.{key}"]) for key in leaves]
        lines += _in_columns(cells, page.columns)
    return lines


def first_words(text: str) -> dict[str, str]:
    """Return the first words of the comment above each key of a YAML file, by the key's full name."""
    found: dict[str, str] = {}
    outer: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            comment.append(line.lstrip().lstrip("#").strip())
            continue
        if match := re.match(r"( *)([\w.]+):", line):
            depth = len(match[1])
            outer = [(indent, name) for indent, name in outer if indent < depth] + [(depth, match[2])]
            if comment:
                words = re.split(r"[.,:;]( |$)| \(", " ".join(comment), maxsplit=1)[0]
                found[".".join(name for _, name in outer)] = words
        comment = []
    return found


def _lookup(values: Mapping[str, Any], name: str) -> Any:
    for key in name.split("."):
        values = values[key]
    return values


def _cell(key: str, default: Any, meaning: str) -> str:
    return f"{f'{key}={_written(default)}':<{NAME_WIDTH}} {meaning}"


def _written(value: Any) -> str:
    """Return a value as on a command line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_written(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value)


def _in_columns(cells: Sequence[str], columns: int) -> list[str]:
    """Put cells side by side, the first ones in the first column; a row that does not fit is divided."""
    rows, width, lines = -(-len(cells) // columns), WIDTH // columns, []
    for number in range(rows):
        row = [f"  {cell}" for cell in cells[number::rows]]
        fits = all(len(cell) < width for cell in row[:-1]) and len(row[-1]) <= width
        lines += ["".join(f"{cell:<{width}}" for cell in row).rstrip()] if fits else row
    return lines
