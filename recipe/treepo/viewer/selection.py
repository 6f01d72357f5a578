# SPDX-License-Identifier: Apache-2.0
"""The selection of trees of a dump, and the names of their pages."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from recipe.treepo.dumps.members import DumpError
from recipe.treepo.dumps.reader import Dump, TreeEntry
from recipe.treepo.viewer.layout import finite


def select(dump: Dump, *, step: int | None = None, uid: str | None = None) -> list[TreeEntry]:
    """Return the trees of a step, of a prompt, or all.

    Args:
        uid: verl's id of the prompt, or a prefix of it.
    """
    entries = dump.trees()
    if step is not None:
        entries = [entry for entry in entries if entry.summary.get("step") == step]
    if uid is not None:
        exact = [entry for entry in entries if entry.uid == uid]
        entries = exact or [entry for entry in entries if entry.uid.startswith(uid)]
    return entries


def require_trees(dump: Dump, entries: Sequence[TreeEntry], step: int | None, uid: str | None) -> None:
    """Check that the selection is not empty.

    Raises:
        DumpError: naming a step or id that exists.
    """
    if entries:
        return
    found = dump.trees()
    if not found:
        raise DumpError(f"DIR={dump.folder}: must hold trees. First sample with treepo.dump.dir set to it.")
    steps = sorted({number for entry in found if (number := finite(entry.summary.get("step"))) is not None})
    if step is not None and step not in steps:
        raise DumpError(f"--step={step}: must be a step of the dump. It has {_some(steps)}.")
    uids = [entry.uid for entry in (select(dump, step=step) if step is not None else found)]
    raise DumpError(f"--uid={uid}: must be the id of a prompt or a prefix of it. One id is {uids[0]!r}.")


def page_name(entry: TreeEntry) -> str:
    """Return the file name of a tree's page: stable across readings of the dump, and safe on any disk."""
    place = f"{entry.folder}\0{entry.member.path.name}\0{entry.member.offset}"
    digest = hashlib.sha256(place.encode("utf-8", "backslashreplace")).hexdigest()[:10]
    folder = re.sub(r"[^A-Za-z0-9_-]", "-", entry.folder)[:60]
    return f"{folder}-{digest}.html"


def sharing(summary: Mapping[str, Any]) -> float | None:
    """Return response tokens of all trajectories per generated token; 1.0 means no sharing."""
    total, unique = finite(summary.get("total_tokens")), finite(summary.get("unique_tokens"))
    return total / unique if total is not None and unique else None


def _some(steps: Sequence[float]) -> str:
    words = [f"{step:.0f}" for step in steps]
    return ", ".join(words) if len(words) <= 12 else f"{', '.join(words[:6])}, ..., {', '.join(words[-3:])}"
