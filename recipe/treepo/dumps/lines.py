# SPDX-License-Identifier: Apache-2.0
"""The lines of a dump: one for each tree, and one for the credit of each trajectory."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from recipe.treepo.search.incremental_text import IncrementalText
from recipe.treepo.search.node import Node
from recipe.treepo.search.statistics import TreeStatistics
from recipe.treepo.search.tree import Tree

FORMAT = "treepo-tree/1"
RESUMED = re.compile(r"[~^]\d+$")
"""End of the key of a resumed path's first node (``Node.key``)."""
MOST_SUMMARY_CHARACTERS = 300
MOST_PART_CHARACTERS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeOrigin:
    """Origin of a tree.

    Attributes:
        uid: verl's id of the prompt.
        step: Training step.
        split: ``train``, ``val`` or the name of a run of an evaluation.
        number: Number of the prompt within its step.
        data_source: Data set of the prompt.
        row: The row's ``extra_info.index``, None without one.
        prompt: Text of the prompt, with the chat template's tokens.
        ground_truth: Correct answer as text, None without one.
        settings: Settings of the search, for display.
    """

    uid: str
    step: int
    split: str
    number: int
    data_source: str
    row: int | str | None
    prompt: str
    ground_truth: str | None
    settings: Mapping[str, Any]

    @property
    def folder(self) -> str:
        """Folder of the step."""
        return step_folder(self.split, self.step)


def step_folder(split: str, step: int) -> str:
    """Return the name of a step's folder."""
    return f"{split}_{step:06}"


def tree_line(
    tree: Tree,
    origin: TreeOrigin,
    rewards: Sequence[Mapping[str, Any] | None],
    decode: Callable[[list[int]], str],
    calls: Sequence[Mapping[str, Any]] = (),
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a tree as a line, and the line's summary.

    Args:
        rewards: ``reward`` and its parts for each leaf, None if the reward is not yet known.
        decode: Function from token ids to text that keeps special tokens.
        calls: Engine calls, for ``treepo.dump.calls``.
    """
    text = IncrementalText(decode)
    statistics = TreeStatistics.of(tree)
    token_ids = sorted({token for node in tree.nodes for token in node.segment.token_ids})
    vocabulary = {token: decode([token]) for token in token_ids}
    nodes = [_node(tree, node, text, vocabulary) for node in tree.nodes]
    line = {
        "format": FORMAT,
        "kind": "tree",
        **asdict(origin),
        "settings": dict(origin.settings),
        "prompt_ids": tree.prompt_ids,
        "statistics": asdict(statistics),
        "nodes": nodes,
        "trajectories": [
            {"leaf": leaf, **_parts(reward or {})} for leaf, reward in zip(tree.leaves, rewards, strict=True)
        ],
        "vocabulary": {str(token): piece for token, piece in vocabulary.items()},
    }
    if calls:
        line["calls"] = list(calls)
    return line, _summary(origin, statistics, line["trajectories"])


def credit_line(
    uid: str, leaf: int, reward: Mapping[str, Any], advantages: Iterable[tuple[int, float]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the credit of a trajectory as a line, and the line's summary.

    Args:
        leaf: Number of the trajectory's last node.
        reward: ``reward`` and its parts.
        advantages: Pairs (node, mean advantage of the node's trained tokens), from the root's child to the leaf.
    """
    values = [[node, _finite(value)] for node, value in advantages]
    line = {"format": FORMAT, "kind": "credit", "uid": uid, "leaf": leaf, **_parts(reward), "advantages": values}
    return line, {"format": FORMAT, "kind": "credit", "uid": uid}


def _node(tree: Tree, node: Node, text: IncrementalText, vocabulary: Mapping[int, str]) -> dict[str, Any]:
    path = tree.path(node.index)
    segment = node.segment
    added = text.added(path.response_ids, node.offset)
    joined = "".join(vocabulary[token] for token in segment.token_ids)
    return {
        "index": node.index,
        "parent": node.parent,
        "key": node.key,
        "depth": node.depth,
        "offset": node.offset,
        "kind": _kind(node),
        # Omitted if it equals the joined token texts of the vocabulary; texts are a third of a dump's size.
        "text": None if added == joined else added,
        "token_ids": list(segment.token_ids),
        "logprobs": [_finite(round(logprob, 3)) for logprob in segment.logprobs],
        "cached_tokens": segment.cached_tokens,
        "started": round(segment.started, 3),
        "ended": round(segment.ended, 3),
        "versions": [segment.min_version, segment.max_version],
        "partial": node.partial,
        "turn_over": node.turn_over,
        "finish_reason": None if node.finish_reason is None else str(node.finish_reason),
        "finish_detail": node.finish_detail,
        "dropped": node.dropped,
        "score": node.score,
        "messages": None if node.reply is None else _plain(node.reply.messages),
    }


def _kind(node: Node) -> str:
    """Return ``root``, ``sampled``, ``fallback`` (first node of a resumed path) or ``reply``."""
    if node.parent < 0:
        return "root"
    if not node.is_generated:
        return "reply"
    return "fallback" if RESUMED.search(node.key) else "sampled"


def _summary(
    origin: TreeOrigin, statistics: TreeStatistics, trajectories: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    rewards = [one["reward"] for one in trajectories if one.get("reward") is not None]
    return {
        "format": FORMAT,
        "kind": "tree",
        "uid": origin.uid,
        "step": origin.step,
        "split": origin.split,
        "number": origin.number,
        "data_source": origin.data_source[:MOST_SUMMARY_CHARACTERS],
        "prompt": origin.prompt[-MOST_SUMMARY_CHARACTERS:],
        "trajectories": statistics.trajectories,
        "reward": sum(rewards) / len(rewards) if rewards else None,
        "mixed": len(set(rewards)) > 1,
        "unique_tokens": statistics.unique_tokens,
        "total_tokens": statistics.total_tokens,
        "depth": statistics.depth_max,
        "fallbacks": statistics.fallbacks,
        "failures": sum(
            (
                statistics.failed_calls,
                statistics.abandoned_paths,
                statistics.dropped_paths,
                statistics.missing_trajectories,
                statistics.failed_steps,
            )
        ),
    }


def _parts(reward: Mapping[str, Any]) -> dict[str, Any]:
    """Split a reward into ``reward`` and ``parts``."""
    parts = {str(key): _plain(value) for key, value in reward.items() if key != "reward"}
    return {"reward": _plain(reward.get("reward")), "parts": parts}


def _plain(value: Any) -> Any:
    """Return a JSON value; objects other than numbers, texts and containers become shortened text."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(below) for key, below in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(below) for below in value]
    if isinstance(value, str):
        return value
    try:
        return _finite(float(value))
    except (TypeError, ValueError):
        return str(value)[:MOST_PART_CHARACTERS]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
