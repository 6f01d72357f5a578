# SPDX-License-Identifier: Apache-2.0
"""Write ``docs/reference/settings.md``: ``python -m recipe.treepo.command_line.settings_docs``.

Keys come from the declarations; defaults and meanings (the first sentence of each comment) from the yaml files.
"""

from collections.abc import Iterator

from recipe.treepo.command_line.arguments import TREEPO, OwnGroup
from recipe.treepo.command_line.help_text import ROOT, declared, written
from recipe.treepo.command_line.pages import EVALUATION
from recipe.treepo.evaluation.markdown import table

PAGE = ROOT / "docs/reference/settings.md"
HEAD = """\
# Settings

Written by `python -m recipe.treepo.command_line.settings_docs`; do not edit. Each yaml file says more about its keys. \
Unknown keys, wrong values, keys that contradict each other and missing files are all reported at once, before verl is \
imported.
"""


def settings_page() -> str:
    """Return the page, with a table for each group of keys."""
    return "\n".join([HEAD, *_section("Training", TREEPO), *_section("Evaluation", EVALUATION)])


def _section(title: str, group: OwnGroup) -> Iterator[str]:
    yield f"## {title}\n\n`{group.see}`\n"
    declaration = declared(group)
    texts = {key: first_sentence(comment) for key, comment in declaration.comments.items()}
    for name, keys in declaration.groups.items():
        yield f"### `{name}`\n" if name == group.name else f"### `{name}`: {texts[name]}\n"
        full_names = [f"{name}.{key}" for key in keys if f"{name}.{key}" in group.keys]
        yield table(
            ("key", "default", "meaning"),
            (
                (f"`{full.removeprefix(f'{name}.')}`", f"`{written(declaration.defaults[full])}`", texts[full])
                for full in full_names
            ),
        )
        yield ""


def first_sentence(comment: str) -> str:
    """Return the first sentence of a comment without its period."""
    return comment.partition(". ")[0].rstrip(".")


if __name__ == "__main__":
    PAGE.write_text(settings_page(), encoding="utf-8")
