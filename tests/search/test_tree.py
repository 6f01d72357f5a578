# SPDX-License-Identifier: Apache-2.0
import pytest

from recipe.treepo.search.engine import Segment
from recipe.treepo.search.node import ROOT, name_order
from recipe.treepo.search.statistics import TreeStatistics
from recipe.treepo.search.stopping import FinishReason
from recipe.treepo.search.tree import Tree


def small_tree() -> Tree:
    """Build root -> 1 (tokens 10 11) -> 2 (12) and 3 (13 14); root -> 4 (15). Leaves 2, 3, 4."""
    tree = Tree([1, 2])
    tree.add(ROOT, Segment([10, 11], [-0.1, -0.2], min_version=3, max_version=3), key="0")
    tree.add(1, Segment([12], [-0.3], min_version=4, max_version=5), key="0.0")
    tree.add(1, Segment([13, 14], [-0.4, -0.5]), key="0.1")
    tree.add(ROOT, Segment([15], [-0.6]), key="1")
    for leaf, reason in ((2, FinishReason.EOS), (3, FinishReason.LENGTH), (4, FinishReason.EOS)):
        tree.finish(leaf, reason)
    return tree


def test_a_trajectory_is_the_walk_from_the_root():
    tree = small_tree()
    tree.check()
    assert [node.index for node in tree.path(3).nodes] == [0, 1, 3]
    assert tree.path(3).response_ids == [10, 11, 13, 14]
    assert tree.path(3).logprobs == [-0.1, -0.2, -0.4, -0.5]
    assert tree.path(3).spans == [(1, 0), (3, 2)]
    assert tree.path(4).spans == [(4, 0)]


def test_versions_span_the_path_and_may_be_unknown():
    tree = small_tree()
    assert tree.path(2).versions == (3, 5)
    assert tree.path(4).versions == (None, None)


def test_statistics_count_shared_tokens_once_in_unique_and_per_trajectory_in_total():
    statistics = TreeStatistics.of(small_tree())
    # unique: 2 + 1 + 2 + 1; total: (2 + 1) + (2 + 2) + 1
    assert (statistics.unique_tokens, statistics.total_tokens) == (6, 8)
    assert (statistics.depth_sum, statistics.depth_max) == (2 + 2 + 1, 2)
    assert (statistics.children, statistics.parents) == (4, 2)
    assert statistics.finish_reasons == {"eos": 2, "length": 1}


def test_nodes_without_a_leaf_below_have_no_unique_tokens():
    tree = small_tree()
    tree.add(ROOT, Segment([16, 17, 18], [-0.7] * 3), key="2")
    tree.finish(5, FinishReason.EOS, dropped=True)
    tree.check()
    statistics = TreeStatistics.of(tree)
    assert (statistics.unique_tokens, statistics.trajectories) == (6, 3)


def test_a_finished_path_takes_no_child_and_a_parent_does_not_finish():
    tree = small_tree()
    with pytest.raises(AssertionError, match="cannot have children"):
        tree.add(2, Segment([1], [0.0]), key="0.0.0")
    with pytest.raises(AssertionError, match="cannot be a leaf"):
        tree.finish(1, FinishReason.EOS)
    with pytest.raises(AssertionError, match="ended already"):
        tree.finish(2, FinishReason.EOS)


@pytest.mark.parametrize("damage", ["offset", "depth", "parent", "empty", "reason", "name", "dropped"])
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
        case "name":
            node.key = "1"
        case "dropped":
            node.dropped = True
    with pytest.raises(AssertionError):
        tree.check()


def test_a_cut_inside_a_segment_splits_its_node_once_and_a_cut_at_a_boundary_none():
    tree = small_tree()
    assert tree.split(3, 2) == 1
    assert tree.split(3, 0) == ROOT
    assert len(tree.nodes) == 5
    upper = tree.split(3, 1)
    tree.check()
    assert (tree.nodes[upper].key, tree.nodes[upper].segment.token_ids) == ("0@1", [10])
    assert (tree.nodes[upper].depth, tree.nodes[upper].partial, tree.nodes[upper].segment.min_version) == (1, True, 3)
    assert (tree.nodes[1].key, tree.nodes[1].segment.token_ids, tree.nodes[1].offset) == ("0", [11], 1)
    assert [node.index for node in tree.path(3).nodes] == [0, upper, 1, 3]
    assert tree.path(3).response_ids == [10, 11, 13, 14]
    assert tree.split(2, 1) == upper
    assert tree.path(1).segment_logprobs == [-0.1, -0.2]


@pytest.mark.parametrize("cuts", [(1, 3), (3, 1)])
def test_the_order_of_cuts_does_not_matter(cuts):
    tree = Tree([1])
    tree.add(ROOT, Segment([5, 6, 7, 8], [-0.1, -0.2, -0.3, -0.4]), key="0")
    tree.finish(1, FinishReason.EOS)
    for cut in cuts:
        tree.split(1, cut)
    tree.renumber()
    tree.check()
    assert [(node.key, node.parent, node.offset, node.segment.token_ids) for node in tree.nodes[1:]] == [
        ("0@1", 0, 0, [5]),
        ("0@3", 1, 1, [6, 7]),
        ("0", 2, 3, [8]),
    ]
    assert tree.leaves == [3]


def test_numbers_follow_the_names_and_not_the_order_of_growth():
    trees = []
    for order in (("0", "1", "10", "2"), ("10", "2", "1", "0")):
        tree = Tree([1])
        for key in order:
            tree.finish(tree.add(ROOT, Segment([int(key)], [-1.0]), key=key).index, FinishReason.EOS)
        tree.renumber()
        tree.check()
        trees.append([(node.key, node.index) for node in tree.nodes])
    assert trees[0] == trees[1] == [("", 0), ("0", 1), ("1", 2), ("2", 3), ("10", 4)]
    assert sorted(["0.10", "0.2", "0.2~1", "0.2@7"], key=name_order)[0] == "0.2"


def test_names_are_given_once():
    tree = small_tree()
    root = tree.nodes[ROOT]
    assert [root.new_child_key(), root.new_child_key()] == ["0", "1"]
    leaf = tree.nodes[2]
    assert [leaf.new_child_key(), leaf.new_fallback_key(), leaf.new_child_key()] == ["0.0.0", "0.0~1", "0.0.2"]
