# SPDX-License-Identifier: Apache-2.0
"""What sampling a batch cost, as numbers for verl's logger. Pure: counts trees and plain samples alike."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from recipe.treepo.search.stopping import FinishReason

# Details of an interaction that get a metric of their own in a step.
MOST_DETAILS = 20

# Of the statistics of trees and plain samples, what is added up over a batch.
SUMMED = (
    "engine_calls",
    "decoded_tokens",
    "computed_prompt_tokens",
    "cached_prompt_tokens",
    "unique_tokens",
    "total_tokens",
    "trajectories",
)

_SUMMED_OF_TREES = (
    "overrun_tokens",
    "failed_calls",
    "given_up_paths",
    "dropped_paths",
    "missing_trajectories",
    "steps",
    "failed_steps",
)


def sampling_metrics(rows: Iterable[tuple[str, int, int, Mapping[str, Any]]]) -> dict[str, float]:
    """Return metrics of one batch under ``treepo/``.

    Sums over the batch: ``engine_calls``, ``decoded_tokens``, ``computed_prompt_tokens`` and
    ``cached_prompt_tokens`` (the engine's own count), ``unique_tokens`` and ``total_tokens`` of the responses,
    ``trajectories``. Ratios: ``unique_over_total``; ``waste`` = (computed prompt + decoded) / (prompt once per
    prompt + unique response tokens), 1 is the limit. With trees also ``finish/<reason>`` (share of trajectories),
    ``fallbacks_per_prompt``, ``depth/mean`` and ``depth/max`` (segments), ``branching`` (children per node that has
    any), ``search_s/mean`` and ``search_s/max`` (seconds per prompt, waiting for the engine included), and sums over
    the batch of ``search_busy_s`` (seconds in which the searches themselves worked), ``overrun_tokens`` (decoded beyond
    the end of a path and cut off), ``failed_calls``, ``given_up_paths``, ``dropped_paths`` and
    ``missing_trajectories``; of conversations ``steps`` and ``failed_steps`` of the interaction, ``interaction_s``
    (seconds that paths waited for it) and ``finish_detail/<what check_finished said>`` (share of
    trajectories; what is not among the most frequent is counted as ``other``). A
    prompt that failed as a whole is in none of these numbers; verl logs it.

    Args:
        rows: For each trajectory: prompt id, prompt tokens, response tokens, and verl's ``extra_fields``. A plain
            sample counts as one call, also where verl's tool agent made several.
    """
    trees: dict[str, Mapping[str, Any]] = {}
    sums = dict.fromkeys(SUMMED, 0)
    prompt_tokens: dict[str, int] = {}
    for prompt_id, prompt_length, response_length, extra in rows:
        prompt_tokens[prompt_id] = prompt_length
        statistics = extra.get("tree_statistics")
        if statistics is None:
            _add(sums, _plain_sample(prompt_length, response_length, extra))
        elif prompt_id not in trees:  # every trajectory of a tree carries the tree's numbers
            trees[prompt_id] = statistics
            _add(sums, statistics)
    metrics = {f"treepo/{name}": float(value) for name, value in sums.items()}
    metrics["treepo/unique_over_total"] = sums["unique_tokens"] / max(1, sums["total_tokens"])
    needed = sum(prompt_tokens.values()) + sums["unique_tokens"]
    metrics["treepo/waste"] = (sums["computed_prompt_tokens"] + sums["decoded_tokens"]) / max(1, needed)
    if trees:
        metrics |= _tree_metrics(list(trees.values()))
    return metrics


def _add(sums: dict[str, int], numbers: Mapping[str, Any]) -> None:
    for name in SUMMED:
        sums[name] += numbers[name]


def _plain_sample(prompt_length: int, response_length: int, extra: Mapping[str, Any]) -> dict[str, int]:
    cached = extra.get("num_cached_tokens") or 0
    return {
        "engine_calls": 1,
        "decoded_tokens": response_length,
        "computed_prompt_tokens": prompt_length - cached,
        "cached_prompt_tokens": cached,
        "unique_tokens": response_length,
        "total_tokens": response_length,
        "trajectories": 1,
    }


def _tree_metrics(trees: list[Mapping[str, Any]]) -> dict[str, float]:
    def total(name: str) -> float:
        return sum(tree[name] for tree in trees)

    leaves, seconds = total("trajectories"), total("search_seconds")
    details: Counter[str] = sum((Counter(tree["finish_details"]) for tree in trees), Counter())
    return {
        **{f"treepo/finish/{reason}": total(f"finish_{reason}") / leaves for reason in FinishReason},
        **{f"treepo/finish_detail/{detail}": count / leaves for detail, count in _named(details)},
        "treepo/interaction_s": total("interaction_seconds"),
        "treepo/fallbacks_per_prompt": total("fallbacks") / len(trees),
        "treepo/depth/mean": total("depth_sum") / leaves,
        "treepo/depth/max": float(max(tree["depth_max"] for tree in trees)),
        "treepo/branching": total("children") / total("parents"),
        **{f"treepo/{name}": float(total(name)) for name in _SUMMED_OF_TREES},
        "treepo/search_s/mean": seconds / len(trees),
        "treepo/search_s/max": max(tree["search_seconds"] for tree in trees),
        "treepo/search_busy_s": total("busy_seconds"),
    }


def _named(details: Counter[str]) -> list[tuple[str, int]]:
    """Return the most frequent details by name, and last the others together: texts must not become metrics freely."""
    frequent = sorted(details.items(), key=lambda item: (-item[1], item[0]))[:MOST_DETAILS]
    others = details.total() - sum(count for _, count in frequent)
    return sorted(frequent) + ([("other", others)] if others else [])
