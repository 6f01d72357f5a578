# SPDX-License-Identifier: Apache-2.0
import random
from collections import Counter

import pytest

from recipe.treepo.search.branching import BranchingRules, Budget
from recipe.treepo.search.budgets import budget_of


def test_stopped_paths_count_in_the_limit_of_the_next_level():
    # Each of the 5 paths of the level, ended or open, has 3 children.
    rules = BranchingRules(divergence=(3, 3))
    assert budget_of(rules, 16).segments(5, random.Random(0)) == 15
    rules = BranchingRules(budget=Budget.LEVEL_TOKENS, level_tokens=100)
    assert budget_of(rules, 16).segments(5, random.Random(0)) == 6
    rules, rng = BranchingRules(divergence=(1, 3)), random.Random(0)
    drawn = Counter(budget_of(rules, 16).segments(5, rng) for _ in range(3000))
    assert set(drawn) == {5, 10, 15}
    assert min(drawn.values()) > 870  # 1000 each; 5 sigma = 130


@pytest.mark.parametrize(
    ("finished", "finished_tokens", "width"),
    # 100 tokens pay for 10 responses of 10 tokens; minimum 2, maximum 12.
    [(0, 0, 10), (3, 30, 10), (3, 12, 3 + 8), (5, 7, 12), (9, 95, 9)],
)
def test_a_token_budget_pays_for_whole_responses_of_those_that_have_not_ended(finished, finished_tokens, width):
    rules = BranchingRules(budget=Budget.TOTAL_TOKENS, total_tokens=100, min_width=2)
    progress = {"finished": finished, "finished_tokens": finished_tokens, "response_length": 10}
    assert budget_of(rules, 5).trajectories(12, **progress) == width
    assert budget_of(BranchingRules(), 5).trajectories(12, **progress) == 12


def test_the_least_width_is_kept_whatever_the_budget_pays_for():
    rules = BranchingRules(budget=Budget.TOTAL_TOKENS, total_tokens=40, min_width=4)
    assert budget_of(rules, 5).trajectories(12, finished=1, finished_tokens=10, response_length=10) == 4
    assert budget_of(rules, 5).fewest(12) == 4
    assert budget_of(rules, 5).fewest(3) == 3


def test_reachable_leaves_are_bounded_by_levels_and_divergence():
    # Three branches; the first may branch twice more. Two end, and the third gets 3 * 2 children. Five of these end,
    # and the sixth gets 6 * 2: 2 + 5 + 12.
    assert budget_of(BranchingRules(), 4).reachable_leaves([2, 1, 0]) == 19
    assert budget_of(BranchingRules(divergence=(1, 1)), 4).reachable_leaves([3, 3]) == 1 + 1 + 1 + 2
    assert budget_of(BranchingRules(), 4).reachable_leaves([0, 0]) == 2
    # With two children each at most: 4 + 2 + 1.
    assert budget_of(BranchingRules(max_divergence=2), 4).reachable_leaves([2, 1, 0]) == 7
    # Two segments a level, three levels to come: 6.
    rules = BranchingRules(budget=Budget.LEVEL_TOKENS, level_tokens=8)
    assert budget_of(rules, 4).reachable_leaves([2, 1]) == 6
    assert budget_of(BranchingRules(), 4).reachable_leaves([]) == 0
