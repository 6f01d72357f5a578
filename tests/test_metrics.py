# SPDX-License-Identifier: Apache-2.0
from recipe.treepo.engine import Segment
from recipe.treepo.metrics import sampling_metrics
from recipe.treepo.stopping import FinishReason
from recipe.treepo.tree import ROOT, Tree


def two_leaf_tree() -> Tree:
    """Prompt of 5; root -> 1 (4 tokens) -> 2 (3 tokens), 3 (1 token). Three calls with 5, 9 and 9 input tokens."""
    tree = Tree([7] * 5)
    tree.add(ROOT, Segment([1] * 4, [0.0] * 4), key="0")
    tree.add(1, Segment([2] * 3, [0.0] * 3), key="0.0")
    tree.add(1, Segment([3], [0.0]), key="0.1")
    tree.finish(2, FinishReason.LENGTH)
    tree.finish(3, FinishReason.EOS)
    counters = tree.counters
    counters.engine_calls, counters.decoded_tokens, counters.prompt_tokens, counters.cached_tokens = 3, 8, 23, 16
    counters.failed_calls, counters.given_up_paths, counters.overrun_tokens = 4, 1, 2
    counters.fallbacks, counters.search_seconds, counters.busy_seconds = 1, 4.0, 1.5
    return tree


def test_a_tree_counts_once_however_many_trajectories_carry_its_numbers():
    extra = {"tree_statistics": two_leaf_tree().statistics()}
    metrics = sampling_metrics([("a", 5, 7, extra), ("a", 5, 5, extra)])
    assert metrics["treepo/engine_calls"] == 3
    assert metrics["treepo/decoded_tokens"] == 8
    assert metrics["treepo/computed_prompt_tokens"] == 23 - 16
    assert metrics["treepo/cached_prompt_tokens"] == 16
    assert metrics["treepo/unique_over_total"] == 8 / 12
    # (7 computed + 8 decoded) over (5 of the prompt + 8 unique)
    assert metrics["treepo/waste"] == 15 / 13
    assert metrics["treepo/overrun_tokens"] == 2
    assert (metrics["treepo/failed_calls"], metrics["treepo/given_up_paths"], metrics["treepo/dropped_paths"]) == (
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


def test_a_plain_sample_is_one_call_whose_tokens_are_all_its_own():
    rows = [("a", 10, 6, {"num_cached_tokens": 4}), ("a", 10, 8, {"num_cached_tokens": None}), ("b", 3, 1, {})]
    metrics = sampling_metrics(rows)
    assert metrics["treepo/engine_calls"] == 3
    assert metrics["treepo/decoded_tokens"] == metrics["treepo/total_tokens"] == 15
    assert (metrics["treepo/computed_prompt_tokens"], metrics["treepo/cached_prompt_tokens"]) == (19, 4)
    assert metrics["treepo/unique_over_total"] == 1
    # (19 + 15) over (10 + 3 of the prompts + 15)
    assert metrics["treepo/waste"] == 34 / 28
    assert "treepo/branching" not in metrics and "treepo/failed_calls" not in metrics
