# SPDX-License-Identifier: Apache-2.0
"""The examples of own policies, with values worked out by hand."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.paths import ROOT
from recipe.treepo.advantages.forest import build_forest
from recipe.treepo.examples.branch_by_uncertainty import BranchByUncertainty
from recipe.treepo.examples.leaf_minus_parent import LeafMinusParent
from recipe.treepo.examples.prune_wrong_sums import RightSums
from recipe.treepo.examples.stop_at_word import StopAtWord
from recipe.treepo.policies import PolicyContext

CONTEXT = PolicyContext()
NAMES = ("branch_by_uncertainty", "leaf_minus_parent", "prune_wrong_sums", "recheck", "stop_at_word")


@pytest.mark.parametrize("name", NAMES)
def test_an_example_fits_on_a_screen(name):
    assert len((ROOT / f"examples/{name}.py").read_text().splitlines()) <= 40


@pytest.mark.parametrize(
    ("room", "options", "expected"),
    [
        # Surprise 1, 4 and 2 per child. Each further one goes to the highest quotient: 4, 2 (path 2), 2 (path 3).
        (6, {}, [1, 3, 2]),
        (3, {}, [1, 1, 1]),
        (9, {}, [1, 3, 2]),  # at most twice as many as before
        (9, {"growth": 3, "most": 4}, [2, 4, 3]),
        (9, {"growth": 3, "most": 2}, [2, 2, 2]),
    ],
)
def test_children_go_where_the_model_was_least_certain(room, options, expected):
    paths = [SimpleNamespace(segment_logprobs=logprobs) for logprobs in ([-1.0, -1.0], [-8.0, 0.0], [-2.0])]
    counts = BranchByUncertainty(**options).children(paths, room, CONTEXT)
    assert (counts, sum(counts) <= room) == (expected, True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4 * 6 = 24. 24 - 5 = 18. 18 + 3 = 21.", 2 / 3),
        ("no sums", 1.0),
        ("1 + 1 = 3.", 0.0),
        ("12 + 3 = 15, and 3 - 5 = -2", 1.0),  # the second has a sign, and is left out
        # Parts of longer sums, decimals and signs are left out, and so is the last number, which may lack digits.
        ("12 * 12 = 14", 1.0),
        ("12 * 12 = 14 ", 0.0),
        ("2.5 + 1 = 3.5, -3 + 5 = 2, 3 + 4 * 2 = 11, 10 - 2 + 3 = 11, 3 + 1 = 4.5, 1 + 999 = 1,000.", 1.0),
        ("1 + 1 = 2.\n2 + 2 = 5.", 0.5),
    ],
)
def test_the_score_is_the_share_of_right_sums(text, expected):
    assert asyncio.run(RightSums().score(SimpleNamespace(text=text), CONTEXT)) == pytest.approx(expected)


def test_a_path_ends_at_the_word_only():
    rule = StopAtWord("roughly")
    assert rule.ends(SimpleNamespace(text="gives roughly 3"), CONTEXT)
    assert not rule.ends(SimpleNamespace(text="goughly, roughlyish"), CONTEXT)


def test_the_credit_is_the_change_of_the_mean_reward():
    # Root 1/3; node 1 with the leaves 2 (reward 1) and 3 (0): mean 1/2; leaf 4 (0).
    forest = build_forest(["a"] * 3, [[(1, 0), (2, 2)], [(1, 0), (3, 2)], [(4, 0)]])
    credit = LeafMinusParent().credit(forest, np.array([1.0, 0.0, 0.0]))
    assert credit[:2, 1:].tolist() == [pytest.approx([1 / 6, 1 / 2]), pytest.approx([1 / 6, -1 / 2])]
    assert credit[2, 1] == pytest.approx(-1 / 3)
