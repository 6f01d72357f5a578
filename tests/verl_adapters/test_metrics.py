# SPDX-License-Identifier: Apache-2.0
from dataclasses import asdict

import pytest

from recipe.treepo.interaction import Reply
from recipe.treepo.search.engine import Segment
from recipe.treepo.search.node import ROOT
from recipe.treepo.search.statistics import TreeStatistics
from recipe.treepo.search.stopping import FinishReason
from recipe.treepo.search.tree import Tree
from recipe.treepo.verl_adapters.metrics import sampling_metrics


def two_leaf_tree() -> Tree:
    """Return a tree: prompt of 5 tokens; root -> 1 (4) -> 2 (3), 3 (1). Three calls have 5, 9 and 9 input tokens."""
    tree = Tree([7] * 5)
    tree.add(ROOT, Segment([1] * 4, [0.0] * 4), key="0")
    tree.add(1, Segment([2] * 3, [0.0] * 3), key="0.0")
    tree.add(1, Segment([3], [0.0]), key="0.1")
    tree.finish(2, FinishReason.LENGTH)
    tree.finish(3, FinishReason.EOS)
    counters = tree.counters
    counters.engine_calls, counters.decoded_tokens = 3, 8
    counters.computed_prompt_tokens, counters.cached_prompt_tokens = 23 - 16, 16
    counters.failed_calls, counters.abandoned_paths, counters.overrun_tokens = 4, 1, 2
    counters.fallbacks, counters.search_seconds, counters.busy_seconds = 1, 4.0, 1.5
    return tree


def test_a_tree_counts_once_however_many_trajectories_carry_its_numbers():
    extra = {"tree_statistics": asdict(TreeStatistics.of(two_leaf_tree()))}
    metrics = sampling_metrics([("a", 5, 7, extra), ("a", 5, 5, extra)])
    assert metrics["treepo/engine_calls"] == 3
    assert metrics["treepo/decoded_tokens"] == 8
    assert metrics["treepo/computed_prompt_tokens"] == 23 - 16
    assert metrics["treepo/cached_prompt_tokens"] == 16
    assert metrics["treepo/unique_over_total"] == 8 / 12
    # (7 computed + 8 decoded) over (5 of the prompt + 8 unique)
    assert metrics["treepo/waste"] == 15 / 13
    assert metrics["treepo/overrun_tokens"] == 2
    assert (metrics["treepo/failed_calls"], metrics["treepo/abandoned_paths"], metrics["treepo/dropped_paths"]) == (
        4,
        1,
        0,
    )
    assert metrics["treepo/finish/eos"] == metrics["treepo/finish/length"] == 0.5
    assert metrics["treepo/fallbacks_per_prompt"] == 1
    assert (metrics["treepo/depth/mean"], metrics["treepo/depth/max"]) == (2, 2)
    # the root has 1 child and node 1 has 2
    assert metrics["treepo/branching"] == 1.5
    assert (metrics["treepo/search_s/mean"], metrics["treepo/search_busy_s"]) == (4.0, 1.5)


def test_prompts_that_were_cut_count_once():
    extra = {"tree_statistics": asdict(TreeStatistics.of(two_leaf_tree()))}
    cut, whole = {**extra, "tree_prompt_cut": True}, {**extra, "tree_prompt_cut": False}
    rows = [("a", 5, 7, cut), ("a", 5, 5, cut), ("b", 5, 7, whole), ("c", 5, 7, cut)]
    assert sampling_metrics(rows)["treepo/cut_prompts"] == 2
    assert sampling_metrics([("a", 5, 7, extra)])["treepo/cut_prompts"] == 0


PLAIN_ROWS = [(name, prompt, response, {"num_cached_tokens": cached}) for name, prompt, response, cached in (
    ("a", 10, 6, 4), ("a", 10, 8, 0), ("b", 3, 1, 0)
)]  # fmt: skip
NEED_CACHED_TOKENS = ("treepo/computed_prompt_tokens", "treepo/cached_prompt_tokens", "treepo/waste")


def test_a_plain_sample_is_one_call_whose_tokens_are_all_its_own():
    metrics = sampling_metrics(PLAIN_ROWS)
    assert metrics["treepo/engine_calls"] == 3
    assert metrics["treepo/decoded_tokens"] == metrics["treepo/total_tokens"] == 15
    assert (metrics["treepo/computed_prompt_tokens"], metrics["treepo/cached_prompt_tokens"]) == (19, 4)
    assert metrics["treepo/unique_over_total"] == 1
    # (19 + 15) over (10 + 3 of the prompts + 15)
    assert metrics["treepo/waste"] == 34 / 28
    assert "treepo/branching" not in metrics and "treepo/failed_calls" not in metrics


@pytest.mark.parametrize("extra", [{}, {"num_cached_tokens": None}])  # verl's SGLang server; verl's async client
def test_without_the_engines_count_of_cached_tokens_its_numbers_are_absent_and_all_others_stay(extra):
    known = sampling_metrics(PLAIN_ROWS)
    others = {name: number for name, number in known.items() if name not in NEED_CACHED_TOKENS}
    assert len(others) == len(known) - 3
    assert sampling_metrics([*PLAIN_ROWS[:2], ("b", 3, 1, extra)]) == others
    statistics = asdict(TreeStatistics.of(two_leaf_tree()))
    known = sampling_metrics([("a", 5, 7, {"tree_statistics": statistics})])
    unknown = statistics | {"computed_prompt_tokens": None, "cached_prompt_tokens": None}
    found = sampling_metrics([("a", 5, 7, {"tree_statistics": unknown})])
    assert found == {name: number for name, number in known.items() if name not in NEED_CACHED_TOKENS}
    # one tree without the count among others
    mixed = sampling_metrics([("a", 5, 7, {"tree_statistics": unknown}), ("b", 5, 7, {"tree_statistics": statistics})])
    assert mixed["treepo/decoded_tokens"] == 16 and not mixed.keys() & set(NEED_CACHED_TOKENS)


def test_right_is_the_mean_accuracy_where_the_reward_function_returns_one():
    infos = [{"acc": True}, {"acc": 0.0}, {"acc": 1}, {"acc": 1.0}, {"acc": "yes"}, {"acc": float("nan")}, {}, None]
    rows = [("a", 10, 6, {"reward_extra_info": info}) for info in infos]
    assert sampling_metrics(rows)["treepo/right"] == 3 / 4
    assert "treepo/right" not in sampling_metrics([("a", 10, 6, {})])


def test_thinking_tokens_are_a_mean_per_trajectory_of_thinking_models():
    rows = [("a", 10, 6, {"thinking_tokens": count}) for count in (6, 0, 3)]
    assert sampling_metrics(rows)["treepo/thinking_tokens"] == 3.0
    assert "treepo/thinking_tokens" not in sampling_metrics([("a", 10, 6, {})])


def talking_tree(details: list[str]) -> Tree:
    """Return a tree: a turn, a reply, and a turn per detail, with which the interaction ends it ("": end token)."""
    tree = Tree([7] * 5)
    first = tree.add(ROOT, Segment([1] * 2, [0.0] * 2), key="0")
    first.turn_over = True
    reply = tree.add_reply(first.index, [8] * 3, Reply(messages=[{"role": "user", "content": "?"}]), key="0+")
    for number, detail in enumerate(details):
        node = tree.add(reply.index, Segment([2], [0.0]), key=f"0+.{number}")
        tree.finish(node.index, FinishReason.INTERACTION if detail else FinishReason.EOS, detail=detail)
    tree.check()
    return tree


def test_conversations_count_steps_time_and_finish_details():
    won, lost = talking_tree(["won", "won", "lost", ""]), talking_tree(["cut_off"])
    won.counters.steps, won.counters.failed_steps, won.counters.interaction_seconds = 5, 2, 1.5
    lost.counters.steps, lost.counters.failed_steps, lost.counters.interaction_seconds = 1, 1, 0.25
    rows = [
        (name, 5, 6, {"tree_statistics": asdict(TreeStatistics.of(tree))})
        for name, tree in (("a", won), ("b", lost))
        for _ in tree.leaves
    ]
    metrics = sampling_metrics(rows)
    assert (metrics["treepo/steps"], metrics["treepo/failed_steps"]) == (6, 3)
    assert metrics["treepo/interaction_s"] == pytest.approx(1.75)
    details = {key: value for key, value in metrics.items() if "finish_detail" in key}
    prefix = "treepo/finish_detail"
    assert details == {f"{prefix}/cut_off": 0.2, f"{prefix}/lost": 0.2, f"{prefix}/won": 0.4}
    assert (metrics["treepo/finish/interaction"], metrics["treepo/finish/eos"]) == (0.8, 0.2)
    assert (metrics["treepo/finish/turns"], metrics["treepo/finish/error"]) == (0, 0)
    # 2 + 3 + 4 tokens of one tree and 2 + 3 + 1 of the other, over 4 and 1 trajectories of 6
    assert metrics["treepo/unique_over_total"] == 15 / 30
    # the roots have 1 child each, the first turns 4 and 1; the replies in between do not count as branching
    assert metrics["treepo/branching"] == 7 / 4


def test_only_the_most_frequent_details_get_a_metric_of_their_own():
    # 30 texts, two of them twice; among equals, the first by name are kept.
    details = [f"d{number:02}" for number in range(30)] + ["d28", "d29"]
    metrics = sampling_metrics([("a", 5, 6, {"tree_statistics": asdict(TreeStatistics.of(talking_tree(details)))})])
    kept = {key.rpartition("/")[2]: round(32 * value) for key, value in metrics.items() if "finish_detail" in key}
    assert kept == {**{f"d{number:02}": 1 for number in range(18)}, "d28": 2, "d29": 2, "other": 10}


def test_without_conversations_there_are_no_steps_or_details():
    metrics = sampling_metrics([("a", 5, 7, {"tree_statistics": asdict(TreeStatistics.of(two_leaf_tree()))})])
    assert (metrics["treepo/steps"], metrics["treepo/failed_steps"], metrics["treepo/interaction_s"]) == (0, 0, 0)
    assert not [key for key in metrics if "finish_detail" in key]
