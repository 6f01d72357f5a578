# SPDX-License-Identifier: Apache-2.0
"""Metrics of the sampling cost of a batch, for trees and plain samples."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from recipe.treepo.search.statistics import TreeStatistics
from recipe.treepo.search.stopping import FinishReason
from recipe.treepo.verl_adapters.trajectory import CUT_FIELD, THINKING_TOKENS

# Details of an interaction with their own metric in a step.
MOST_DETAILS = 20
# Finish reasons of trajectories.
_ENDS = [reason for reason in FinishReason if reason is not FinishReason.PRUNED]

# Metric names below treepo/ -> unit and meaning. scripts/metrics_page.py writes docs/reference/metrics.md from these
# tables. A word in capitals stands for a variable part of the name.
#
# Fields of TreeStatistics logged as sums over the batch, for trees and plain samples.
SUMS = {
    "engine_calls": ("requests", "Requests that the engine answered; a plain sample counts as one"),
    "decoded_tokens": ("tokens", "Tokens that the engine sampled"),
    "computed_prompt_tokens": (
        "tokens",
        "Input tokens of all requests that the engine computed; absent if it does not count cached tokens (SGLang)",
    ),
    "cached_prompt_tokens": (
        "tokens",
        "Input tokens of all requests that came from the engine's prefix cache; absent likewise",
    ),
    "unique_tokens": ("tokens", "Response tokens, each shared token counted once"),
    "total_tokens": ("tokens", "Response tokens, each shared token counted in every trajectory"),
    "trajectories": ("trajectories", "Trajectories of the batch"),
}
RATIOS = {
    "unique_over_total": ("ratio", "`unique_tokens` / `total_tokens`; 1 without sharing"),
    "waste": (
        "ratio",
        "(`computed_prompt_tokens` + `decoded_tokens`) / (prompt tokens, once per prompt, + `unique_tokens`); "
        "1 if each token is computed once; absent without `computed_prompt_tokens`",
    ),
    "right": ("share", "Mean of the finite `acc` that the reward function returns"),
    "thinking_tokens": (
        "tokens",
        "Mean tokens of a trajectory inside thoughts; absent without tags in template, prompt and `treepo.thinking`",
    ),
}
# Fields of TreeStatistics logged as sums over the batch, for trees only.
_SUMS_OF_TREES = {
    "overrun_tokens": ("tokens", "Decoded tokens beyond the end of a path, which are cut off"),
    "failed_calls": ("requests", "Requests that failed, each retry counted"),
    "abandoned_paths": ("paths", "Paths without a result, because the engine or the interaction failed"),
    "dropped_paths": ("paths", "Paths shorter than `treepo.min_response_length`"),
    "pruned_paths": ("paths", "Paths that a policy of yours or `treepo.score` gave up"),
    "score_calls": ("calls", "Scores of paths (`treepo.score`)"),
    "missing_trajectories": ("trajectories", "Trajectories lost because their paths were abandoned repeatedly"),
}
_SUMS_OF_CONVERSATIONS = {
    "steps": ("steps", "Calls of `Interaction.step`"),
    "failed_steps": ("turns", "Turns after which the interaction failed"),
}
TREES = {
    "cut_prompts": (
        "prompts",
        "Prompts whose beginning was cut off at `data.max_prompt_length`; they fail with `data.truncation=error`",
    ),
    "fallbacks_per_prompt": ("branches", "Branches per prompt that resume from a finished path or the root"),
    "depth/mean": ("segments", "Mean number of segments of a trajectory"),
    "depth/max": ("segments", "Largest number of segments of a trajectory"),
    "branching": ("nodes", "Mean number of children of the nodes that have any"),
    "search_s/mean": ("seconds", "Mean wall time of a search (one prompt), engine included"),
    "search_s/max": ("seconds", "Longest wall time of a search"),
    "score_s": ("seconds", "Time that paths wait for their scores, summed over the paths"),
    "search_busy_s": ("seconds", "Time in which the searches themselves work, summed over the batch"),
    "finish/REASON": ("share", f"Trajectories that ended for this reason: {', '.join(_ENDS)}"),
    **_SUMS_OF_TREES,
}
CONVERSATIONS = {
    **_SUMS_OF_CONVERSATIONS,
    "interaction_s": ("seconds", "Time that paths wait for the interaction, summed over the paths"),
    "finish_detail/DETAIL": (
        "share",
        "Trajectories that ended with this text from `Interaction.check_finished`; "
        f"`other` sums all but the {MOST_DETAILS} most frequent texts",
    ),
}
# Metrics logged by other files, by full name.
OTHERS = {
    "treepo/dump_failures": ("lines", "Lines of tree dumps that could not be written so far; absent while 0"),
    "treepo/reward_errors": (
        "trajectories",
        "Trajectories with a failed reward (`treepo.reward_errors`); absent while 0",
    ),
    "treepo/trained_trajectories": (
        "trajectories",
        "Trajectories that the step trained on, without verl's padding; at most train_batch_size x n",
    ),
    "treepo/lost_trajectories": (
        "trajectories",
        "Trajectories of the drawn prompts that are not in the batch: all n of failed prompts, and "
        "`treepo/missing_trajectories`; absent while 0",
    ),
    "treepo/stale_tokens": (
        "share",
        "Trained tokens older than `treepo.stale_tokens.max_age`; absent with the policy `keep`",
    ),
    "treepo/removed_trajectories": (
        "trajectories",
        "Trajectories removed from the batch for these rewards; `treepo/trajectories` counts them, because they were "
        "sampled",
    ),
    "val-aux/reward_errors": (
        "trajectories",
        "Trajectories of a validation with a failed reward; they count as wrong; absent while 0",
    ),
    "actor/packing/unique_over_total": (
        "ratio",
        "Packed training: tokens that the update computes / tokens of all trajectories, prompts included",
    ),
    "actor/packing/forward_unique_over_total": ("ratio", "The same for the last forward pass before the update"),
}


def sampling_metrics(rows: Iterable[tuple[str, int, int, Mapping[str, Any]]]) -> dict[str, float]:
    """Return metrics of one batch under ``treepo/``: ``SUMS``, ``RATIOS``; with trees ``TREES``, ``CONVERSATIONS``.

    A prompt that failed as a whole counts in none of them; verl logs it. Numbers that need the engine's count of cached
    tokens are left out if one request lacks it.

    Args:
        rows: Prompt id, prompt tokens, response tokens and verl's ``extra_fields`` of each trajectory. A plain sample
            counts as one call, even if verl's tool agent made several.
    """
    trees: dict[str, TreeStatistics] = {}
    samples: list[TreeStatistics] = []
    prompt_tokens: dict[str, int] = {}
    cut_prompts: set[str] = set()
    accuracies: list[float] = []
    thinking: list[int] = []
    for prompt_id, prompt_length, response_length, extra in rows:
        prompt_tokens[prompt_id] = prompt_length
        if extra.get(CUT_FIELD):
            cut_prompts.add(prompt_id)
        accuracies += _accuracy(extra)
        if THINKING_TOKENS in extra:
            thinking.append(extra[THINKING_TOKENS])
        statistics = extra.get("tree_statistics")
        if statistics is not None:  # every trajectory has the numbers of its whole tree
            if prompt_id not in trees:
                trees[prompt_id] = TreeStatistics(**statistics)
            continue
        samples.append(
            TreeStatistics.of_plain_sample(
                prompt_tokens=prompt_length,
                cached_tokens=extra.get("num_cached_tokens"),
                response_tokens=response_length,
            )
        )
    total = TreeStatistics.total([*trees.values(), *samples])
    sums = {name: getattr(total, name) for name in SUMS}
    metrics = {f"treepo/{name}": float(number) for name, number in sums.items() if number is not None}
    metrics["treepo/unique_over_total"] = total.unique_tokens / max(1, total.total_tokens)
    if accuracies:
        metrics["treepo/right"] = sum(accuracies) / len(accuracies)
    if thinking:
        metrics["treepo/thinking_tokens"] = sum(thinking) / len(thinking)
    if total.computed_prompt_tokens is not None:
        needed = sum(prompt_tokens.values()) + total.unique_tokens
        metrics["treepo/waste"] = (total.computed_prompt_tokens + total.decoded_tokens) / max(1, needed)
    if trees:
        metrics |= _tree_metrics(list(trees.values())) | {"treepo/cut_prompts": float(len(cut_prompts))}
    return metrics


def _accuracy(extra: Mapping[str, Any]) -> list[float]:
    """Return the reward function's ``acc`` as a list of one number, empty without one."""
    info = extra.get("reward_extra_info")
    value = info.get("acc") if isinstance(info, Mapping) else None
    return [float(value)] if isinstance(value, int | float) and math.isfinite(value) else []


def _tree_metrics(trees: Sequence[TreeStatistics]) -> dict[str, float]:
    total = TreeStatistics.total(trees)
    leaves, reasons = total.trajectories, total.finish_reasons
    return {
        **{f"treepo/finish/{reason}": reasons.get(reason, 0) / leaves for reason in _ENDS},
        **{f"treepo/finish_detail/{detail}": n / leaves for detail, n in _most_frequent(total.finish_details)},
        "treepo/interaction_s": total.interaction_seconds,
        "treepo/fallbacks_per_prompt": total.fallbacks / len(trees),
        "treepo/depth/mean": total.depth_sum / leaves,
        "treepo/depth/max": float(total.depth_max),
        "treepo/branching": total.children / total.parents,
        **{f"treepo/{name}": float(getattr(total, name)) for name in (*_SUMS_OF_TREES, *_SUMS_OF_CONVERSATIONS)},
        "treepo/search_s/mean": total.search_seconds / len(trees),
        "treepo/search_s/max": max(tree.search_seconds for tree in trees),
        "treepo/score_s": total.score_seconds,
        "treepo/search_busy_s": total.busy_seconds,
    }


def _most_frequent(details: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return the most frequent details by name, the rest as ``other``; this bounds the number of metrics."""
    frequent = sorted(details.items(), key=lambda item: (-item[1], item[0]))[:MOST_DETAILS]
    rest = sum(details.values()) - sum(count for _, count in frequent)
    return sorted(frequent) + ([("other", rest)] if rest else [])
