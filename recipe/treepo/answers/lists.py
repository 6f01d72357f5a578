# SPDX-License-Identifier: Apache-2.0
"""Split lists, sets, tuples and intervals into their items. Standard library only."""

import re

# Separators of list items, besides commas.
JOINT = re.compile(r"\s*(?:,?\s*\\text\s*\{\s*,?\s*(?:and|or)\s*\}|,?\s(?:and|or)\s|;)\s*")


def split_list(text: str) -> tuple[str, list[str]]:
    r"""Return the brackets around a list ("" for none, "\{\}" for a set) and its top-level items."""
    text = JOINT.sub(", ", text.strip())
    for opening, closing in (("\\{", "\\}"), ("(", ")"), ("[", "]"), ("(", "]"), ("[", ")")):
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening + closing):
            inner = text[len(opening) : -len(closing)]
            items = _split_at_commas(inner)
            if items is not None:
                return opening + closing, items
    return "", _split_at_commas(text) or [text]


def _split_at_commas(text: str) -> list[str] | None:
    """Split at commas outside brackets; return None if the brackets are unbalanced."""
    depth, start, items = 0, 0, []
    for position, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
            if depth < 0:
                return None
        elif character == "," and depth == 0:
            items.append(text[start:position])
            start = position + 1
    return [*items, text[start:]] if depth == 0 else None
