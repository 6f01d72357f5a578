# SPDX-License-Identifier: Apache-2.0
import random
from collections import Counter

import pytest

from recipe.treepo.branching import level_budget, share_evenly
from recipe.treepo.engine import Segment
from recipe.treepo.fallback import random_segment_boundaries
from recipe.treepo.stopping import FinishReason, StoppingRules
from recipe.treepo.tree import ROOT, Tree
from scripted_engine import EOS, decode


def small_tree() -> Tree:
    """Root -> 1 (tokens 10 11) -> 2 (12) and 3 (13 14); root -> 4 (15). Leaves 2, 3, 4."""
    tree = Tree([1, 2])
    tree.add(ROOT, Segment([10, 11], [-0.1, -0.2], min_version=3, max_version=3))
    tree.add(1, Segment([12], [-0.3], min_version=4, max_version=5))
    tree.add(1, Segment([13, 14], [-0.4, -0.5]))
    tree.add(ROOT, Segment([15], [-0.6]))
    for leaf, reason in ((2, FinishReason.EOS), (3, FinishReason.LENGTH), (4, FinishReason.EOS)):
        tree.finish(leaf, reason)
    return tree


def test_a_trajectory_is_the_walk_from_the_root():
    tree = small_tree()
    tree.check()
    assert tree.path(3) == [0, 1, 3]
    assert tree.response_ids(3) == [10, 11, 13, 14]
    assert tree.response_logprobs(3) == [-0.1, -0.2, -0.4, -0.5]
    assert tree.input_ids(1) == [1, 2, 10, 11]
    assert tree.tree_path(3) == [(1, 0), (3, 2)]
    assert tree.tree_path(4) == [(4, 0)]


def test_versions_span_the_path_and_are_unknown_where_the_engine_told_none():
    tree = small_tree()
    assert tree.versions(2) == (3, 5)
    assert tree.versions(4) == (None, None)


def test_statistics_count_shared_tokens_once_in_unique_and_per_trajectory_in_total():
    statistics = small_tree().statistics()
    # unique: 2 + 1 + 2 + 1; total: (2 + 1) + (2 + 2) + 1
    assert (statistics["unique_tokens"], statistics["total_tokens"]) == (6, 8)
    assert (statistics["depth_sum"], statistics["depth_max"]) == (2 + 2 + 1, 2)
    assert (statistics["children"], statistics["parents"]) == (4, 2)
    reasons = {reason: statistics[f"finish_{reason}"] for reason in FinishReason}
    assert reasons == {"eos": 2, "answer": 0, "length": 1, "depth": 0}


def test_a_finished_path_takes_no_child_and_a_parent_does_not_finish():
    tree = small_tree()
    with pytest.raises(AssertionError, match="cannot have children"):
        tree.add(2, Segment([1], [0.0]))
    with pytest.raises(AssertionError, match="cannot be a leaf"):
        tree.finish(1, FinishReason.EOS)
    with pytest.raises(AssertionError, match="ended already"):
        tree.finish(2, FinishReason.EOS)


@pytest.mark.parametrize("damage", ["offset", "depth", "parent", "empty", "reason"])
def test_check_sees_damage(damage):
    tree = small_tree()
    node = tree.nodes[3]
    match damage:
        case "offset":
            node.offset = 1
        case "depth":
            node.depth = 3
        case "parent":
            node.parent = 4
        case "empty":
            node.segment = Segment([], [])
        case "reason":
            node.finish_reason = None
    with pytest.raises(AssertionError):
        tree.check()


@pytest.mark.parametrize(
    ("width", "finished", "level", "divergence", "budget"),
    [(8, 0, 1, 3, 3), (8, 0, 3, 3, 8), (8, 3, 4, 2, 5), (8, 2, 2, 2, 4), (8, 7, 3, 2, 1), (8, 0, 5, 1, 5)],
)
def test_level_budget_follows_the_rule(width, finished, level, divergence, budget):
    assert level_budget(width=width, finished=finished, level_size=level, divergence=divergence) == budget


def test_remainders_go_to_paths_drawn_at_random():
    rng = random.Random(0)
    shares = Counter(tuple(share_evenly(8, 3, rng)) for _ in range(3000))
    # 8 = 2 + 3 + 3: which path gets the small share is a matter of chance, 1000 times each; 5 sigma = 130
    assert set(shares) == {(2, 3, 3), (3, 2, 3), (3, 3, 2)}
    assert all(870 < count < 1130 for count in shares.values())


def test_fallback_draws_a_leaf_then_one_of_its_inner_boundaries():
    drawn = Counter(random_segment_boundaries(small_tree(), 6000, random.Random(0)))
    # Leaves 2 and 3 (each 1/3) offer the root and node 1, leaf 4 (1/3) only the root: root 2/3, node 1 1/3.
    assert set(drawn) == {ROOT, 1}
    assert abs(drawn[1] - 2000) < 5 * (6000 * 2 / 9) ** 0.5


def rules(*order: FinishReason, eos=EOS) -> StoppingRules:
    return StoppingRules(
        order=order or tuple(FinishReason), eos_token_ids=frozenset(eos), response_length=40, depth=5, decode=decode
    )


def test_each_end_token_of_the_model_ends_a_path_also_as_the_first_token():
    assert rules().reason([97, EOS[0]], 1) is FinishReason.EOS
    assert rules().reason([EOS[1]], 1) is FinishReason.EOS
    assert rules().reason([EOS[1], 97], 1) is None
    assert rules(eos=()).reason([97, EOS[0]], 1) is None


def test_an_answer_across_a_segment_boundary_is_seen():
    response = list(b"so \\boxed{4" + b"2}")
    assert rules().reason(response[:-2], 1) is None
    assert rules().reason(response, 2) is FinishReason.ANSWER


def test_the_first_rule_in_the_order_names_the_reason():
    full = [*[97] * 39, EOS[0]]
    assert rules().reason(full, 5) is FinishReason.EOS
    order = (FinishReason.DEPTH, FinishReason.EOS, FinishReason.LENGTH)
    assert rules(*order).reason(full, 5) is FinishReason.DEPTH
    assert rules(*order).reason(list(b"\\boxed{1}"), 4) is None
    assert rules().reason([97] * 40, 5) is FinishReason.LENGTH
    assert rules().reason([97] * 39, 5) is FinishReason.DEPTH


def test_rules_that_need_not_end_are_refused():
    with pytest.raises(AssertionError, match="need not end"):
        rules(FinishReason.EOS, FinishReason.DEPTH)
