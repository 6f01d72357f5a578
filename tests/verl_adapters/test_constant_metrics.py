# SPDX-License-Identifier: Apache-2.0
"""Metrics left out of the log because the configuration makes them constant."""

import pytest

from helpers.composition import composed
from helpers.paths import ROOT
from recipe.treepo.settings.schema import load_settings
from recipe.treepo.verl_adapters.constant_metrics import constant_metrics, without_constants

MODEL = f"actor_rollout_ref.model.path={ROOT}/tiny/model"
INTERACTION = f"treepo.interaction.path={ROOT}/examples/recheck.py", "treepo.interaction.name=Recheck"


def is_constant(*overrides: str, trainer: str = "sync"):
    config = composed("platform=cpu", "preset=tiny", MODEL, *overrides)
    return constant_metrics(config, load_settings(config), trainer=trainer)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("treepo/finish/stop", ["treepo.stop_strings=[x]", "treepo.stopping=[stop,eos,length,depth]"]),
        ("treepo/finish/interaction", INTERACTION),
        ("treepo/failed_steps", INTERACTION),
        ("treepo/dropped_paths", ["treepo.min_response_length=3"]),
        ("actor/ppo_kl", ["actor_rollout_ref.actor.ppo_mini_batch_size=8"]),
        ("actor/pg_clipfrac", ["actor_rollout_ref.actor.ppo_epochs=2"]),
    ],
)
def test_a_metric_is_constant_unless_the_configuration_lets_it_change(name, overrides):
    assert is_constant()(name)
    assert not is_constant(*overrides)(name)


def test_other_trainers_and_more_ranks_let_more_change():
    for name in ("training/off_policy/trajectory_staleness/mean", "actor/ppo_kl"):
        assert is_constant()(name) and not is_constant(trainer="separate_async")(name)
    balance = "global_seqlen/minmax_diff"
    assert is_constant()(balance) and not is_constant("trainer.n_gpus_per_node=2")(balance)


@pytest.mark.parametrize(
    "name", ["treepo/finish/eos", "treepo/failed_calls", "critic/score/mean", "val-aux/sums/reward_timeout/mean@4"]
)
def test_possible_values_are_logged(name):
    assert not is_constant()(name)


def test_reward_failures_are_logged_as_means_unless_they_occur():
    metrics = {
        "val-aux/sums/reward_timeout/mean@4": 0.0,
        "val-aux/sums/reward_timeout/best@4/std": 0.0,
        "val-aux/sums/reward_crash/std@4": 0.5,
        "val-aux/sums/reward_boxed/std@4": 0.0,
        "treepo/finish/stop": 0.0,
        "treepo/finish/turns": 0.25,
    }
    kept = without_constants(metrics, is_constant())
    assert kept == {
        "val-aux/sums/reward_timeout/mean@4": 0.0,
        "val-aux/sums/reward_crash/std@4": 0.5,
        "val-aux/sums/reward_boxed/std@4": 0.0,
        "treepo/finish/turns": 0.25,
    }
