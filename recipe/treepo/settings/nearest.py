# SPDX-License-Identifier: Apache-2.0
"""The name that a misspelt one stands for. Strict: a wrong suggestion that works would change the training silently."""

from collections.abc import Iterable

# Below this length, a name with another letter is another name: gspo is not grpo, fp16 is not fp32.
_SHORT = 6
_LEAST_PREFIX = 3


def near_names(name: object, names: Iterable[str]) -> list[str]:
    """Return the names that a misspelt or shortened one may stand for, nearest first; empty if it is another name."""
    found = {known: _distance(_plain(str(name)), _plain(known)) for known in names}
    return sorted((known for known in found if found[known] is not None), key=lambda known: found[known] or 0)


def closest_name(name: object, names: Iterable[str]) -> str | None:
    """Return the only name that a misspelt one can stand for, None if there is none or a choice."""
    names = list(names)
    found = near_names(name, names)
    found = [
        known for known in found if known.rstrip("+") == known or known.rstrip("+") not in found
    ]  # verl's KL names
    distances = [_distance(_plain(str(name)), _plain(known)) for known in found[:2]]
    return found[0] if found and (len(found) == 1 or distances[0] != distances[1]) else None


def is_near(name: str, known: str) -> bool:
    """Return whether a misspelt or shortened name may stand for the known one."""
    return _distance(_plain(name), _plain(known)) is not None


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "_")


def _distance(name: str, known: str) -> int | None:
    """Return the number of typing mistakes between two names, None if they are different names."""
    if name.replace("_", "") == known.replace("_", ""):
        return 0
    if not name or not known or name[0] != known[0]:
        return None  # few mistype the first letter: sapo is not dapo, xpu is not gpu
    words, others = name.split("_"), known.split("_")
    if sorted(words) == sorted(others):
        return 1
    shorter = min(len(name), len(known))
    edits = _edits(name, known)
    if edits <= (1 if shorter < 2 * _SHORT else 2) and shorter > 1:
        replaced = len(name) == len(known) and sorted(name) != sorted(known)
        return None if replaced and shorter < _SHORT else edits
    if all(map(_abbreviates, words, others)) and len(words) > 1 and len(words) <= len(others):
        return 3 + len(others) - len(words)  # the start of a name, or abbreviated words
    return None


def _abbreviates(word: str, other: str) -> bool:
    """Return whether a word is the beginning of another."""
    short, long = sorted((word, other), key=len)
    return word == other or len(short) >= _LEAST_PREFIX and long.startswith(short)


def _edits(name: str, known: str) -> int:
    """Return the least number of letters added, removed, replaced or swapped with the next one."""
    rows = [list(range(len(known) + 1))]
    for i, letter in enumerate(name, start=1):
        row = [i]
        for j, other in enumerate(known, start=1):
            least = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == known[j - 2] and name[i - 2] == other:
                least = min(least, rows[-2][j - 2] + 1)
            row.append(least)
        rows.append(row)
    return rows[-1][-1]
