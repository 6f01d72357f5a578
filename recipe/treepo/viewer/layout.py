# SPDX-License-Identifier: Apache-2.0
"""The geometry of a tree's picture, in tokens and rows.

The x axis counts response tokens. Each end of a path has a row: leaves, dropped paths and open paths. A node is a box
as wide as its tokens and as high as the rows of the paths through it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from recipe.treepo.dumps.lines import RESUMED

TreeLine = Mapping[str, Any]
"""A tree as :meth:`recipe.treepo.dumps.reader.Dump.load` returns it."""


class End(StrEnum):
    """The end of a path."""

    LEAF = "leaf"  # a trajectory
    DROPPED = "dropped"  # too short, pruned, or its interaction failed; not a trajectory
    OPEN = "open"  # unfinished: the engine failed, or the search stopped


class Start(StrEnum):
    """The start of a path, other than branching at a boundary."""

    FALLBACK = "fallback"  # resumed from a finished path
    ABANDONED = "abandoned"  # replaces a path that failed in the engine or the interaction
    DROPPED = "dropped"  # replaces a dropped path


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Rewards of the trajectories through a node.

    Attributes:
        size: Number of trajectories.
        mean: Mean of the known rewards, None if there are none.
        deviation: Standard deviation of the known rewards (with n - 1), None for fewer than two.
    """

    size: int
    mean: float | None
    deviation: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A node in the picture.

    Attributes:
        node: Number of the node.
        x, width: First response token, and number of tokens.
        row, rows: First row, and number of rows.
        group: Rewards of the trajectories through the node.
        advantage: Mean recorded advantage, None if none is recorded.
        logprob: Mean log-probability of the tokens, None if there are none.
        version: Newest policy version that generated any of the tokens, None if unknown.
        start: Reason for a new path here, None for ordinary branches and continuations.
        split: Whether another path resumed at the end of the node, inside its segment.
        reply: Whether an interaction added the tokens.
        lost: Whether no trajectory passes through the node.
    """

    node: int
    x: int
    width: int
    row: int
    rows: int
    group: Group
    advantage: float | None
    logprob: float | None
    version: int | None
    start: Start | None
    split: bool
    reply: bool
    lost: bool

    def value(self, color_by: str) -> float | None:
        """Return the value that colors the box: ``reward``, ``advantage``, ``logprob`` or ``version``."""
        return self.group.mean if color_by == "reward" else getattr(self, color_by)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The end of a path.

    Attributes:
        node: Last node of the path.
        tokens: Response tokens of the path.
        end: Kind of the end.
        reason: Finish reason, empty for an open path.
        detail: The interaction's own finish reason.
        reward: Reward of the trajectory, None if unknown.
        right: Whether the answer is correct: ``acc`` of the reward's parts, or else a positive reward. None if
        unknown.
    """

    node: int
    tokens: int
    end: End
    reason: str
    detail: str
    reward: float | None
    right: bool | None


@dataclass(frozen=True, slots=True)
class Layout:
    """All boxes (except the root's) by number of the node, and the rows from top to bottom.

    Attributes:
        boxes: Boxes without the root, which has no response tokens.
        rows: Ends of paths.
        root: Rewards of the whole prompt group.
        tokens: Response tokens of the longest path.
    """

    boxes: list[Box]
    rows: list[Row]
    root: Group
    tokens: int


def layout(tree: TreeLine) -> Layout:
    """Place the nodes of a tree."""
    nodes: Sequence[Mapping[str, Any]] = tree["nodes"]
    children: list[list[int]] = [[] for _ in nodes]
    for node in nodes[1:]:
        children[node["parent"]].append(node["index"])
    ends = _ends(children)
    first, count = _spans(nodes, children, ends)
    trajectories = {one["leaf"]: one for one in tree["trajectories"]}
    rewards = _collect(nodes, {leaf: [finite(one["reward"])] for leaf, one in trajectories.items()})
    groups = [_group(below) for below in rewards]
    advantages = _advantages(tree["trajectories"], len(nodes))
    boxes = [
        Box(
            node=node["index"],
            x=node["offset"],
            width=len(node["token_ids"]),
            row=first[node["index"]],
            rows=count[node["index"]],
            group=groups[node["index"]],
            advantage=mean(advantages[node["index"]]),
            logprob=mean([value for value in node["logprobs"] if value is not None]),
            version=_newest(node["versions"]),
            start=start_of(node["key"], nodes[node["parent"]]["key"]),
            split=node["partial"] and node["finish_reason"] is None,
            reply=node["kind"] == "reply",
            lost=not groups[node["index"]].size,
        )
        for node in nodes[1:]
    ]
    rows = [_row(nodes[end], trajectories.get(end)) for end in ends]
    return Layout(boxes, rows, groups[0], max(row.tokens for row in rows))


def path_to(nodes: Sequence[Mapping[str, Any]], end: int) -> list[int]:
    """Return the numbers of the nodes from the root to ``end``."""
    path = [end]
    while nodes[path[-1]]["parent"] >= 0:
        path.append(nodes[path[-1]]["parent"])
    return path[::-1]


def start_of(key: str, above: str) -> Start | None:
    """Return the reason for a new path at the node ``key`` below ``above``, None for a branch or continuation.

    The pieces of a split node (``0.1@37`` above ``0.1``) share the part of the name before ``@``.
    """
    name = key.partition("@")[0]
    if name == above.partition("@")[0]:
        return None
    if name.endswith("!"):
        return Start.ABANDONED
    if name.endswith("?"):
        return Start.DROPPED
    return Start.FALLBACK if RESUMED.search(name) else None


def finite(value: Any) -> float | None:
    """Return a number as a float, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def mean(values: Sequence[float]) -> float | None:
    """Return the mean, None for no values."""
    return math.fsum(values) / len(values) if values else None


def _ends(children: Sequence[Sequence[int]]) -> list[int]:
    """Return the path ends from top to bottom: depth first, children by number."""
    ends, stack = [], [0]
    while stack:
        node = stack.pop()
        stack.extend(reversed(children[node]))
        if not children[node]:
            ends.append(node)
    return ends


def _spans(
    nodes: Sequence[Mapping[str, Any]], children: Sequence[Sequence[int]], ends: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Return the first row of each node and its number of rows."""
    first, count = [0] * len(nodes), [0] * len(nodes)
    for row, end in enumerate(ends):
        first[end], count[end] = row, 1
    for index in range(len(nodes) - 1, -1, -1):  # a parent's number is smaller than its children's
        if children[index]:
            first[index] = min(first[child] for child in children[index])
            count[index] = sum(count[child] for child in children[index])
    return first, count


def _collect(nodes: Sequence[Mapping[str, Any]], at: Mapping[int, list[float | None]]) -> list[list[float | None]]:
    """Return the values at the path ends below each node."""
    values: list[list[float | None]] = [list(at.get(node["index"], ())) for node in nodes]
    for node in reversed(nodes[1:]):
        values[node["parent"]] += values[node["index"]]
    return values


def _group(rewards: Sequence[float | None]) -> Group:
    known = [reward for reward in rewards if reward is not None]
    center = mean(known)
    deviation = None
    if center is not None and len(known) > 1:
        deviation = math.sqrt(math.fsum((reward - center) ** 2 for reward in known) / (len(known) - 1))
    return Group(size=len(rewards), mean=center, deviation=deviation)


def _advantages(trajectories: Sequence[Mapping[str, Any]], nodes: int) -> list[list[float]]:
    advantages: list[list[float]] = [[] for _ in range(nodes)]
    for trajectory in trajectories:
        for node, value in trajectory.get("advantages") or ():
            number = finite(value)
            if number is not None:
                advantages[node].append(number)
    return advantages


def _newest(versions: Sequence[Any]) -> int | None:
    known = [version for version in versions if isinstance(version, int)]
    return max(known, default=None)


def _row(node: Mapping[str, Any], trajectory: Mapping[str, Any] | None) -> Row:
    end = End.LEAF if trajectory is not None else End.DROPPED if node["dropped"] else End.OPEN
    reward = None if trajectory is None else finite(trajectory["reward"])
    accuracy = None if trajectory is None else finite(trajectory["parts"].get("acc"))
    right = accuracy >= 0.5 if accuracy is not None else None if reward is None else reward > 0
    return Row(
        node=node["index"],
        tokens=node["offset"] + len(node["token_ids"]),
        end=end,
        reason=node["finish_reason"] or "",
        detail=node["finish_detail"],
        reward=reward,
        right=right,
    )
