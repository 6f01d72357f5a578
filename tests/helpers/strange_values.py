# SPDX-License-Identifier: Apache-2.0
"""Lines of dumps with invalid values."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

from helpers.dumped_trees import Words, origin, rich_tree
from recipe.treepo.dumps.lines import tree_line

STRANGE = [None, True, -1, 0, 1, 2.5, 10**30, 1e308, "", "x", [], [None], [[1, 2]], {}, {"a": 1}, "\ud800", "NaN"]


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Yield the path to each value within a value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in items:
        yield from places(below, (*path, key))


def with_value(value: Any, path: tuple, new: Any) -> Any:
    """Return a copy of ``value`` with another value at ``path``."""
    if not path:
        return new
    changed = copy.copy(value)
    changed[path[0]] = with_value(value[path[0]], path[1:], new)
    return changed


def strange_trees(count: int, seed: int = 0) -> Iterator[tuple[dict, dict]]:
    """Yield a tree's line with one or two replaced values, and its summary."""
    line, summary = tree_line(rich_tree(Words(50), segment=12), origin(), [None] * 8, Words(50).decode)
    line = json.loads(json.dumps(line))
    rng, found = random.Random(seed), list(places(line))
    near = [path for path in found if len(path) <= 3]  # most values are single tokens
    for _ in range(count):
        changed = line
        for _ in range(rng.choice((1, 1, 2))):
            path = rng.choice(rng.choice((found, near)))
            try:
                changed = with_value(changed, path, rng.choice(STRANGE))
            except (KeyError, IndexError, TypeError):
                break  # an earlier replacement removed the path
        yield changed, summary
