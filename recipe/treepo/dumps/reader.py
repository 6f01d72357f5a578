# SPDX-License-Identifier: Apache-2.0
"""Read a dump, even while it is being written. File contents are untrusted: wrong types raise :class:`DumpError`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from recipe.treepo.dumps.lines import FORMAT
from recipe.treepo.dumps.members import DumpError, Member, load, members

SUFFIX = ".jsonl.gz"
MOST_NUMBER = 2**53
"""Larger numbers are not exact as floats; only a damaged file has them."""


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """A tree of the dump, with its summary.

    Attributes:
        member: Line of the tree.
        folder: Folder of its step.
    """

    member: Member
    folder: str

    @property
    def summary(self) -> Mapping[str, Any]:
        """The line's summary; ``lines.py`` defines its keys."""
        return self.member.summary

    @property
    def uid(self) -> str:
        """verl's id of the prompt."""
        return str(self.summary.get("uid"))


@dataclass(slots=True)
class Dump:
    """A folder of trees.

    Attributes:
        folder: The folder.
    """

    folder: Path
    _members: dict[Path, list[Member]] = field(default_factory=dict)

    def refresh(self) -> None:
        """Read the summaries of lines added since the last call.

        Raises:
            DumpError: if the folder holds no dump of this format.
        """
        if not self.folder.is_dir():
            raise DumpError(f"{self.folder}: there is no such folder")
        for path in sorted(self.folder.glob(f"*/*{SUFFIX}")):
            known = self._members.setdefault(path, [])
            start = known[-1].offset + known[-1].size if known else 0
            for member in members(path, start):
                if member.summary.get("format") != FORMAT:
                    raise DumpError(
                        f"{path} has format {member.summary.get('format')}; this version reads {FORMAT}. "
                        "Use the version of the recipe that wrote the file."
                    )
                known.append(member)
        if not self._members and next(self.folder.glob("*step_*/*.json"), None) is not None:
            raise DumpError(
                f"{self.folder} holds trees of a format older than {FORMAT}. Sample again, or use the version of "
                "the recipe that wrote them."
            )

    def trees(self) -> list[TreeEntry]:
        """Return the complete trees in the order of their steps."""
        entries = [
            TreeEntry(member, path.parent.name)
            for path, found in self._members.items()
            for member in found
            if member.summary.get("kind") == "tree"
        ]
        return sorted(entries, key=lambda entry: (_integer(entry.summary, "step"), entry.folder, _number(entry)))

    def load(self, entry: TreeEntry) -> dict[str, Any]:
        """Return a tree with the credit of its trajectories.

        Returns:
            The checked line of the tree (``lines.py``), with the text of every node. Each of its ``trajectories``
            also has
            ``advantages``: (node, advantage) pairs, None without credit from a trainer.

        Raises:
            DumpError: if a line is damaged.
        """
        tree = load(entry.member)
        check_tree(tree, entry.member.path)
        for node in tree["nodes"]:
            if node["text"] is None:
                node["text"] = "".join(tree["vocabulary"][str(token)] for token in node["token_ids"])
        credits: dict[int, dict[str, Any]] = {}
        for path, found in self._members.items():
            if path.parent.name != entry.folder:
                continue
            for member in found:
                if member.summary.get("kind") == "credit" and str(member.summary.get("uid")) == entry.uid:
                    credit = load(member)
                    credits[_integer(credit, "leaf")] = credit
        for trajectory in tree["trajectories"]:
            credit = credits.get(trajectory["leaf"], {})
            trajectory["advantages"] = _advantages(credit.get("advantages"), len(tree["nodes"]))
            if trajectory.get("reward") is None and _is_number(credit.get("reward")):
                trajectory["reward"] = credit["reward"]
                parts = credit.get("parts")
                trajectory["parts"] = parts if isinstance(parts, dict) else {}
        return tree


_NODE_TYPES: dict[str, type | tuple[type, ...]] = {
    "key": str,
    "depth": int,
    "offset": int,
    "kind": str,
    "text": (str, type(None)),
    "token_ids": list,
    "logprobs": list,
    "cached_tokens": (int, type(None)),
    "started": (int, float),
    "ended": (int, float),
    "versions": list,
    "partial": bool,
    "turn_over": bool,
    "finish_reason": (str, type(None)),
    "finish_detail": str,
    "dropped": bool,
    "messages": (list, type(None)),
}
_TREE_TYPES: dict[str, type | tuple[type, ...]] = {
    "uid": str,
    "step": int,
    "split": str,
    "number": int,
    "data_source": str,
    "prompt": str,
    "ground_truth": (str, type(None)),
    "settings": dict,
    "prompt_ids": list,
    "statistics": dict,
    "nodes": list,
    "trajectories": list,
    "vocabulary": dict,
}


def check_tree(tree: dict[str, Any], path: Path) -> None:
    """Check types and structure of a tree's line.

    Raises:
        DumpError: naming the first fault.
    """

    def require(holds: bool, what: str) -> None:
        if not holds:
            raise DumpError(f"{path} is damaged: {what}")

    require(tree.get("format") == FORMAT, f"format is {tree.get('format')!r}, not {FORMAT!r}")
    for key, kind in _TREE_TYPES.items():
        require(_is_a(tree.get(key), kind), f"{key} of a tree has a wrong type")
    require(all(isinstance(text, str) for text in tree["vocabulary"].values()), "the text of a token is not a string")
    require(bool(tree["nodes"]), "the tree has no nodes")
    for number, node in enumerate(tree["nodes"]):
        require(isinstance(node, dict), f"node {number} is not a mapping")
        _check_node(tree, number, node, require)
    inner = {node["parent"] for node in tree["nodes"]}
    leaves = set()
    for trajectory in tree["trajectories"]:
        require(isinstance(trajectory, dict), "a trajectory is not a mapping")
        leaf = trajectory.get("leaf")
        require(_is_integer(leaf) and 0 <= leaf < len(tree["nodes"]), "a trajectory has no leaf")
        require(leaf not in inner and leaf not in leaves, f"node {leaf} is not a leaf, or belongs to two trajectories")
        leaves.add(leaf)
        require(
            trajectory.get("reward") is None or _is_number(trajectory["reward"]),
            f"the reward of leaf {leaf} is not a number",
        )
        require(isinstance(trajectory.get("parts"), dict), f"the reward parts of leaf {leaf} are not a mapping")


def _check_node(tree: dict[str, Any], number: int, node: dict[str, Any], require: Callable[[bool, str], None]) -> None:
    for key, kind in _NODE_TYPES.items():
        require(_is_a(node.get(key), kind), f"{key} of node {number} has a wrong type")
    parent: Any = node.get("parent")
    require(_is_integer(parent) and _is_integer(node.get("index")), f"node {number} has no number or parent")
    require(node["index"] == number, f"node {number} has the number {node['index']}")
    # Nodes are in depth-first order: a parent has a smaller number, so there are no cycles.
    require(parent == -1 if number == 0 else 0 <= parent < number, f"node {number} has the parent {parent}")
    require(all(map(_is_integer, node["token_ids"])), f"a token id of node {number} is not an integer")
    known = node["text"] is not None or all(str(token) in tree["vocabulary"] for token in node["token_ids"])
    require(known, f"node {number} has a token without text")
    require(
        all(item is None or _is_number(item) for item in node["logprobs"]),
        f"a log-probability of node {number} is not a number",
    )
    require(
        len(node["logprobs"]) in (0, len(node["token_ids"])), f"node {number} has a wrong number of log-probabilities"
    )
    versions = node["versions"]
    require(
        all(item is None or _is_integer(item) for item in versions),
        f"a policy version of node {number} is not an integer",
    )
    require(node.get("score") is None or _is_number(node["score"]), f"the score of node {number} is not a number")
    require(_is_number(node["started"]) and _is_number(node["ended"]), f"a time of node {number} is not a number")
    above = tree["nodes"][parent] if number else None
    end = above["offset"] + len(above["token_ids"]) if above else 0
    require(node["offset"] == end, f"the offset of node {number} is not the end of its parent")


def _advantages(pairs: Any, nodes: int) -> list[tuple[int, float | None]] | None:
    if not isinstance(pairs, list):
        return None
    return [
        (pair[0], pair[1] if _is_number(pair[1]) else None)
        for pair in pairs
        if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], int) and 0 <= pair[0] < nodes
    ]


def _is_a(value: Any, kind: type | tuple[type, ...]) -> bool:
    """Return whether a value has a type; booleans are not numbers."""
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _is_number(value: Any) -> bool:
    return _is_a(value, (int, float)) and abs(value) <= MOST_NUMBER  # also false for infinity and NaN


def _is_integer(value: Any) -> TypeGuard[int]:
    return _is_a(value, int) and abs(value) <= MOST_NUMBER


def _integer(mapping: Mapping[str, Any], key: str) -> int:
    value = mapping.get(key)
    return value if _is_integer(value) else 0


def _number(entry: TreeEntry) -> tuple[int, str]:
    return _integer(entry.summary, "number"), entry.uid
