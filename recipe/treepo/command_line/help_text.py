# SPDX-License-Identifier: Apache-2.0
"""``--help`` of ``main_treepo`` and ``main_eval``, with keys, defaults and meanings from ``config/``."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from recipe.treepo.command_line.arguments import OwnGroup
from recipe.treepo.settings.values import groups_of

ROOT = Path(__file__).parents[3]
CONFIG = Path(__file__).parents[1] / "config"
WIDTH = 118
NAME_WIDTH = 24
# Groups of this name have the path, the name and the options of a class.
CUSTOM = "custom"


@dataclass(frozen=True, slots=True, kw_only=True)
class HelpPage:
    """The parts of a help text that do not come from ``config/``.

    Attributes:
        choices: Default of each listed Hydra group; the other choices are its files.
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
  --dry-run      check the configuration and print the keys that differ from the defaults (all keys: --full), then stop
  --hydra-help   Hydra's own options, among them --cfg, --info, --multirun and --config-dir
"""


def help_text(page: HelpPage) -> str:
    """Return the help text of an entry point."""
    examples = "\n".join(_example(*example) for example in page.examples)
    parts = [
        page.purpose,
        f"  {page.usage}",
        page.about,
        OPTIONS.rstrip("\n"),
        "Configurations by name, GROUP=NAME, the default first:\n" + "\n".join(_choices(page.choices)),
        f"Keys with their defaults; ranges and reasons: {page.group.see}\n"
        + "\n".join(_keys(page.group, page.columns)),
        f"Examples:\n{examples}",
    ]
    return "\n\n".join(parts)


def _example(command: str, meaning: str) -> str:
    line = f"  {command}  # {meaning}"
    return line if len(line) <= WIDTH and "\n" not in line else f"  # {meaning}\n  {command}"


def _choices(defaults: Mapping[str, str]) -> list[str]:
    lines = []
    for group, default in defaults.items():
        names = sorted(path.stem for path in (CONFIG / group).glob("*.yaml"))
        listed = ", ".join([default, *(name for name in names if name != default)])
        lines += textwrap.wrap(listed, WIDTH, initial_indent=f"  {group:<12}", subsequent_indent=" " * 14)
    return lines


# --- keys ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Declared:
    """The keys of a group, in the order of its yaml file.

    Attributes:
        groups: Names in each group, outer before inner.
        defaults: Default of each key, by its full name.
        comments: Comment above each key and group, by its full name.
    """

    groups: Mapping[str, Sequence[str]]
    defaults: Mapping[str, Any]
    comments: Mapping[str, str]


def declared(group: OwnGroup) -> Declared:
    """Read the yaml file of a group."""
    text = (ROOT / group.see).read_text(encoding="utf-8")
    values, meanings = OmegaConf.create(text), comments(text)
    if group.name not in values:  # the file is the group
        values = OmegaConf.create({group.name: values})
        meanings = {f"{group.name}.{key}": comment for key, comment in meanings.items()}
    order = [name for name in meanings if name in group.keys]
    defaults = {key: OmegaConf.select(values, key) for key in order}
    return Declared(groups_of(order), defaults, meanings)


def comments(text: str) -> dict[str, str]:
    """Return the comment above each key of a YAML file, by the key's full name."""
    by_key: dict[str, str] = {}
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
                by_key[".".join(name for _, name in outer)] = " ".join(comment)
        comment = []
    return by_key


def first_words(comment: str) -> str:
    """Return a comment up to its first period, comma, colon, semicolon or parenthesis."""
    return re.split(r"[.,:;]( |$)| \(", comment, maxsplit=1)[0]


def written(value: Any) -> str:
    """Return a value as written on a command line."""
    value = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {written(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(written, value))}]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value)


def _keys(group: OwnGroup, columns: int) -> list[str]:
    declaration, lines = declared(group), []
    for name, keys in declaration.groups.items():
        heading = f"{name}." if name == group.name else f"{name}.  {first_words(declaration.comments[name])}"
        values = [f"{key}={written(declaration.defaults.get(f'{name}.{key}'))}" for key in keys]
        if name.endswith(f".{CUSTOM}"):  # all have the same keys
            lines.append(f"{heading}: {' '.join(values)}")
            continue
        if any(f"{name}.{key}" in group.keys for key in keys):
            lines.append(heading)
        cells = []
        for key in keys:
            if (full := f"{name}.{key}") in group.keys:
                value = f"{key}={written(declaration.defaults[full])}"
                cells.append(f"{value:<{NAME_WIDTH}} {first_words(declaration.comments[full])}")
        lines += _in_columns(cells, columns)
    return lines


def _in_columns(cells: Sequence[str], columns: int) -> list[str]:
    """Place cells side by side, filling columns first; split a row that is too wide."""
    rows, width, lines = -(-len(cells) // columns), WIDTH // columns, []
    for number in range(rows):
        row = [f"  {cell}" for cell in cells[number::rows]]
        fits = all(len(cell) < width for cell in row[:-1]) and len(row[-1]) <= width
        lines += ["".join(f"{cell:<{width}}" for cell in row).rstrip()] if fits else row
    return lines
