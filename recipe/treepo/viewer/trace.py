# SPDX-License-Identifier: Apache-2.0
"""The requests of trees as a Chrome trace, for ui.perfetto.dev; it shows whether a prompt waits.

Each step and worker is a process, each tree a row, each request an event. A row of the format can hold only nested
events, but requests of a tree overlap. A tree therefore has as many rows as it had requests in flight.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from recipe.treepo.dumps.reader import Dump, TreeEntry
from recipe.treepo.viewer.layout import TreeLine
from recipe.treepo.viewer.visible import one_line

MOST_ROWS = 1_000
"""Row numbers reserved for a tree."""


@dataclass(slots=True)
class Request:
    """One engine call.

    Attributes:
        started, ended: Seconds since the epoch.
        nodes: Nodes made from its tokens.
    """

    started: float
    ended: float
    nodes: list[Mapping[str, Any]] = field(default_factory=list)


def chrome_trace(dump: Dump, entries: Sequence[TreeEntry]) -> dict[str, Any]:
    """Return the trace of some trees.

    Raises:
        DumpError: if a tree is damaged.
    """
    processes: dict[tuple[str, str], int] = {}
    trees = []
    for entry in entries:
        place = (entry.folder, entry.member.path.name.removesuffix(".jsonl.gz"))
        trees.append((processes.setdefault(place, len(processes) + 1), dump.load(entry)))
    events = [
        _named("process_name", process, 0, " ".join(one_line(part, 80) for part in place))
        for place, process in processes.items()
    ]
    found = [(process, tree, requests(tree)) for process, tree in trees]
    origin = min((request.started for *_, calls in found for request in calls), default=0.0)
    for number, (process, tree, calls) in enumerate(found):
        events += _tree_events(process, number * MOST_ROWS + 1, tree, calls, origin)
    return {"displayTimeUnit": "ms", "traceEvents": events}


def requests(tree: TreeLine) -> list[Request]:
    """Return the distinct requests of a tree, sorted by start.

    A request that spans several segments, or whose segment was split, has several nodes, each below the other and with
    the
    same times.
    """
    request_of: dict[int, Request] = {}
    calls = []
    for node in tree["nodes"][1:]:
        if node["kind"] == "reply" or not node["ended"]:
            continue
        above = request_of.get(node["parent"])
        if above is None or (above.started, above.ended) != (node["started"], node["ended"]):
            above = Request(node["started"], node["ended"])
            calls.append(above)
        above.nodes.append(node)
        request_of[node["index"]] = above
    return sorted(calls, key=lambda call: (call.started, call.ended))


def _tree_events(
    process: int, first: int, tree: TreeLine, calls: Sequence[Request], origin: float
) -> Iterator[dict[str, Any]]:
    name = f"prompt {tree['number']} {one_line(tree['uid'], 40)}"
    free_from: list[float] = []  # end of each row's last request
    for call in calls:
        row = next((row for row, end in enumerate(free_from) if end <= call.started), len(free_from))
        if row == len(free_from):
            free_from.append(0.0)
            yield _named("thread_name", process, first + row, name if row == 0 else f"{name} ({row + 1})")
        free_from[row] = call.ended
        yield {
            "ph": "X",
            "cat": "request",
            "name": one_line(call.nodes[0]["key"], 60),
            "pid": process,
            "tid": first + row,
            "ts": round((call.started - origin) * 1e6),
            "dur": max(round((call.ended - call.started) * 1e6), 0),
            "args": {
                "nodes": [one_line(node["key"], 60) for node in call.nodes],
                "tokens": sum(len(node["token_ids"]) for node in call.nodes),
                **({} if (cached := call.nodes[0]["cached_tokens"]) is None else {"cached_tokens": cached}),
            },
        }


def _named(kind: str, process: int, row: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": process, "tid": row, "args": {"name": name}}
