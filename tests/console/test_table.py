# SPDX-License-Identifier: Apache-2.0
"""The table of steps: columns that depend on the sampler, and missing or non-finite numbers."""

import math

import pytest

from recipe.treepo.console.table import Table, duration, held_out, mean_held_out

TREES = {
    "timing_s/step": 20.4,
    "critic/score/mean": 0.40625,
    "treepo/right": 0.40625,
    "treepo/unique_over_total": 0.58,
    "treepo/engine_calls": 216.0,
    "treepo/fallbacks_per_prompt": 0.5,
    "treepo/waste": 1.0926,
}
# verl's sampler has the counts but neither fallback nor sharing.
PLAIN = {key: TREES[key] for key in TREES if key != "treepo/fallbacks_per_prompt"} | {"treepo/unique_over_total": 1.0}


def test_the_table_of_a_run_with_trees():
    table = Table(validates=True)
    # 1 / 0.58 = 1.724, 1 - 0.58 = 42 %
    assert table.lines(1, TREES) == [
        " step     time  reward  right  tokens shared   calls  fallback  waste  held-out",
        "    1     20 s   0.406   41 %   1.72x (42 %)     216       0.5   1.09",
    ]
    validated = TREES | {"val-core/tiny/acc/mean@4": 0.71, "treepo/engine_calls": 12345.0, "timing_s/step": 754}
    assert table.lines(30, validated) == [
        "   30   13 min   0.406   41 %   1.72x (42 %)  12,345       0.5   1.09     0.710"
    ]


def test_plain_samples_have_no_columns_of_trees():
    header, line = Table(validates=False).lines(1, PLAIN)
    assert header.split() == ["step", "time", "reward", "right", "calls", "waste"]
    assert line.split() == ["1", "20", "s", "0.406", "41", "%", "216", "1.09"]


def test_verls_own_trainer_has_time_and_reward():
    header, line = Table(validates=False).lines(7, {"timing_s/step": 3.21, "critic/rewards/mean": -1.5, "x": 1.0})
    assert (header.split(), line.split()) == (["step", "time", "reward"], ["7", "3.2", "s", "-1.500"])


def test_a_step_without_any_number_has_a_line():
    assert Table(validates=False).lines(1, {}) == [" step", "    1"]


def test_columns_are_those_of_the_first_step():
    table = Table(validates=True)
    table.lines(1, PLAIN)
    assert table.lines(2, {"timing_s/step": 1.0} | {"treepo/fallbacks_per_prompt": 2.0})[0].split() == [
        *("2", "1.0", "s", "-", "-", "-", "-")
    ]


def test_numbers_that_are_not_finite_are_dashes():
    table = Table(validates=True)
    table.lines(1, TREES)
    broken = dict.fromkeys(TREES, math.nan) | {"val-core/tiny/acc/mean@4": math.inf}
    assert table.lines(2, broken)[0].split() == ["2"] + ["-"] * 8
    assert table.lines(3, TREES | {"treepo/unique_over_total": 0.0})[0].split()[6:8] == ["-", "216"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (99.4, "99 s"),
        (99.6, "1.7 min"),
        (596, "9.9 min"),
        (598, "10 min"),
        (5969, "99 min"),
        (5971, "1.7 h"),
        (math.nan, "-"),
    ],
)
def test_times_are_in_the_unit_that_suits_them(seconds, text):
    assert duration(seconds) == text


def test_held_out_is_verls_core_mean_of_each_source():
    metrics = {
        "val-core/math/500/acc/mean@4": 0.5,
        "val-core/aime/reward/mean@1": 0.1,
        "val-core/aime/reward/best@4/mean": 0.9,
        "val-aux/aime/acc/mean@4": 0.8,
        "val-core/aime/acc/maj@4/mean": 0.7,
    }
    assert held_out(metrics) == {"math/500": 0.5, "aime": 0.1}
    assert mean_held_out(metrics) == pytest.approx(0.3)
    assert mean_held_out({}) is None
