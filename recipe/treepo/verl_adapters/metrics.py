# SPDX-License-Identifier: Apache-2.0
"""Cost of sampling a batch, as metrics for verl's logger; counts trees and plain samples alike."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from recipe.treepo.search.statistics import TreeStatistics
from recipe.treepo.search.stopping import FinishReason

# Details of an interaction that get a metric of their own in a step.
MOST_DETAILS = 20

# Fields of TreeStatistics that are logged as their sum over the batch: for all samples, and for trees only.
SUMS = (
    "engine_calls",
    "decoded_tokens",
    "computed_prompt_tokens",
    "cached_prompt_tokens",
    "unique_tokens",
    "total_tokens",
    "trajectories",
)
_SUMS_OF_TREES = (
    "overrun_tokens",
    "failed_calls",
    "abandoned_paths",
    "dropped_paths",
    "missing_trajectories",
    "steps",
    "failed_steps",
)


def sampling_metrics(rows: Iterable[tuple[str, int, int, Mapping[str, Any]]]) -> dict[str, float]:
    """Return metrics of one batch under ``treepo/``.

    Sums over the batch: ``engine_calls``, ``decoded_tokens``, ``computed_prompt_tokens`` and
    ``cached_prompt_tokens`` (the engine's own count), ``unique_tokens`` and ``total_tokens`` of the responses,
    ``trajectories``. ``right``: mean ``acc`` of the trajectories whose reward function returns it. Ratios:
    ``unique_over_total``; ``waste`` = (computed prompt + decoded) / (prompt once per
    prompt + unique response tokens), 1 is the limit. With trees also ``finish/<reason>`` (share of trajectories),
    ``fallbacks_per_prompt``, ``depth/mean`` and ``depth/max`` (segments), ``branching`` (children per node that has
    any), ``search_s/mean`` and ``search_s/max`` (seconds per prompt, waiting for the engine included), and sums over
    the batch of ``search_busy_s`` (seconds in which the searches themselves worked), ``overrun_tokens`` (decoded beyond
    the end of a path and cut off), ``failed_calls``, ``abandoned_paths``, ``dropped_paths`` and
    ``missing_trajectories``; of conversations ``steps`` and ``failed_steps`` of the interaction, ``interaction_s``
    (seconds that paths waited for it) and ``finish_detail/<what check_finished said>`` (share of
    trajectories; what is not among the most frequent is counted as ``other``). A
    prompt that failed as a whole is in none of these numbers; verl logs it.

    Args:
        rows: For each trajectory: prompt id, prompt tokens, response tokens, and verl's ``extra_fields``. A plain
            sample counts as one call, also where verl's tool agent made several.
    """
    trees: dict[str, TreeStatistics] = {}
    samples: list[TreeStatistics] = []
    prompt_tokens: dict[str, int] = {}
    accuracies: list[float] = []
    for prompt_id, prompt_length, response_length, extra in rows:
        prompt_tokens[prompt_id] = prompt_length
        accuracies += _accuracy(extra)
        statistics = extra.get("tree_statistics")
        if statistics is not None:  # every trajectory of a tree carries the tree's numbers
            if prompt_id not in trees:
                trees[prompt_id] = TreeStatistics(**statistics)
            continue
        cached = extra.get("num_cached_tokens") or 0
        samples.append(
            TreeStatistics.of_plain_sample(
                prompt_tokens=prompt_length, cached_tokens=cached, response_tokens=response_length
            )
        )
    total = TreeStatistics.total([*trees.values(), *samples])
    metrics = {f"treepo/{name}": float(getattr(total, name)) for name in SUMS}
    metrics["treepo/unique_over_total"] = total.unique_tokens / max(1, total.total_tokens)
    if accuracies:
        metrics["treepo/right"] = sum(accuracies) / len(accuracies)
    needed = sum(prompt_tokens.values()) + total.unique_tokens
    metrics["treepo/waste"] = (total.computed_prompt_tokens + total.decoded_tokens) / max(1, needed)
    if trees:
        metrics |= _tree_metrics(list(trees.values()))
    return metrics


def _accuracy(extra: Mapping[str, Any]) -> list[float]:
    """Return what the reward function said about being right, as a list of one number or none."""
    info = extra.get("reward_extra_info")
    value = info.get("acc") if isinstance(info, Mapping) else None
    return [float(value)] if isinstance(value, int | float) else []


def _tree_metrics(trees: Sequence[TreeStatistics]) -> dict[str, float]:
    total = TreeStatistics.total(trees)
    leaves, reasons = total.trajectories, total.finish_reasons
    return {
        **{f"treepo/finish/{reason}": reasons.get(reason, 0) / leaves for reason in FinishReason},
        **{f"treepo/finish_detail/{detail}": n / leaves for detail, n in _most_frequent(total.finish_details)},
        "treepo/interaction_s": total.interaction_seconds,
        "treepo/fallbacks_per_prompt": total.fallbacks / len(trees),
        "treepo/depth/mean": total.depth_sum / leaves,
        "treepo/depth/max": float(total.depth_max),
        "treepo/branching": total.children / total.parents,
        **{f"treepo/{name}": float(getattr(total, name)) for name in _SUMS_OF_TREES},
        "treepo/search_s/mean": total.search_seconds / len(trees),
        "treepo/search_s/max": max(tree.search_seconds for tree in trees),
        "treepo/search_busy_s": total.busy_seconds,
    }


def _most_frequent(details: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return the most frequent details by name, then the rest as one: texts must not become metrics without limit."""
    frequent = sorted(details.items(), key=lambda item: (-item[1], item[0]))[:MOST_DETAILS]
    rest = sum(details.values()) - sum(count for _, count in frequent)
    return sorted(frequent) + ([("other", rest)] if rest else [])
