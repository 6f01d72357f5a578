# SPDX-License-Identifier: Apache-2.0
"""Metrics that a configuration makes constant; they are left out of the log so that the others stand out."""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf

from recipe.treepo.search.stopping import RULES, FinishReason
from recipe.treepo.settings.schema import TreePOSettings, leads_conversations

# Metrics of conversations, with the finish reasons that exist in conversations only.
CONVERSATION = ("steps", "failed_steps", "interaction_s", "finish/interaction", "finish/turns", "finish/error")
# Metrics of scores.
SCORES = ("score_calls", "score_s")
# verl's metrics of the distance between the sampling policy and the updated one.
ONE_UPDATE = ("actor/pg_clipfrac", "actor/pg_clipfrac_lower", "actor/ppo_kl")
# Failure counts in the reward; of verl's statistics over the samples of a prompt, the mean suffices.
FAILURES = ("reward_too_long", "reward_timeout", "reward_crash")
_STATISTICS = re.compile(rf"val-aux/.*/({'|'.join(FAILURES)})/(std|best|worst|maj)@")

_Value = TypeVar("_Value")


def without_constants(metrics: Mapping[str, _Value], is_constant: Callable[[str], bool]) -> dict[str, _Value]:
    """Return the metrics that can vary, and constant ones that are unexpectedly not 0."""
    return {name: value for name, value in metrics.items() if not is_constant(name) or _differs(value)}


def constant_metrics(config: DictConfig, settings: TreePOSettings, *, trainer: str) -> Callable[[str], bool]:
    """Return a predicate on metric names: whether a metric is 0 by construction, or repeats another one.

    Args:
        config: Whole configuration.
        trainer: Name of the trainer in verl.
    """
    constant = {f"treepo/finish/{rule}" for rule in RULES if rule not in settings.stopping}
    if not leads_conversations(settings, config.actor_rollout_ref.rollout.agent.default_agent_loop):
        constant |= {f"treepo/{name}" for name in CONVERSATION}
    if settings.own_stopping_rule.path is None:
        constant.add(f"treepo/finish/{FinishReason.CUSTOM}")
    if settings.own_branching.path is None and settings.score.prune_below is settings.score.prune_above is None:
        constant.add("treepo/pruned_paths")
    if settings.score.custom.path is None:
        constant |= {f"treepo/{name}" for name in SCORES}
    if settings.min_response_length == 0:
        constant.add("treepo/dropped_paths")
    if config.trainer.nnodes * config.trainer.n_gpus_per_node == 1:
        constant.add("global_seqlen/minmax_diff")
    if trainer == "sync" and _updates_once(config):
        constant |= set(ONE_UPDATE)

    def is_constant(name: str) -> bool:
        if trainer == "sync" and name.startswith("training/off_policy/trajectory_staleness"):
            return True
        return name in constant or _STATISTICS.match(name) is not None

    return is_constant


def _updates_once(config: DictConfig) -> bool:
    """Return whether each step is a single update of the sampling policy."""
    actor = config.actor_rollout_ref.actor
    bypass = OmegaConf.select(config, "algorithm.rollout_correction.bypass_mode")
    return not bypass and actor.ppo_epochs == 1 and actor.ppo_mini_batch_size >= config.data.train_batch_size


def _differs(value: Any) -> bool:
    try:
        return float(value) != 0
    except (TypeError, ValueError):
        return True
