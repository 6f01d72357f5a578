# SPDX-License-Identifier: Apache-2.0
"""Metrics that a configuration makes constant: they are not logged, so that a person finds those that say something."""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf

from recipe.treepo.search.stopping import RULES
from recipe.treepo.settings.schema import TreePOSettings, leads_conversations

# Metrics of conversations, and what a path that leads none never ends by.
CONVERSATION = ("steps", "failed_steps", "interaction_s", "finish/interaction", "finish/turns", "finish/error")
# What verl logs of the distance between the policy that sampled and the one that is updated.
ONE_UPDATE = ("actor/pg_clipfrac", "actor/pg_clipfrac_lower", "actor/ppo_kl")
# verl's statistics over the samples of a prompt, of a part of the reward that counts failures. The mean says it all.
FAILURES = ("reward_too_long", "reward_timeout", "reward_crash")
_STATISTICS = re.compile(rf"val-aux/.*/({'|'.join(FAILURES)})/(std|best|worst|maj)@")

_Value = TypeVar("_Value")


def without_constants(metrics: Mapping[str, _Value], is_constant: Callable[[str], bool]) -> dict[str, _Value]:
    """Return the metrics that can change, and those that did although they should not."""
    return {name: value for name, value in metrics.items() if not is_constant(name) or _differs(value)}


def constant_metrics(config: DictConfig, settings: TreePOSettings, *, trainer: str) -> Callable[[str], bool]:
    """Return a function that tells of a metric's name whether it is 0 by construction, or repeats another one.

    Args:
        config: The whole configuration.
        trainer: verl's name of the trainer.
    """
    constant = {f"treepo/finish/{rule}" for rule in RULES if rule not in settings.stopping}
    if not leads_conversations(settings, config.actor_rollout_ref.rollout.agent.default_agent_loop):
        constant |= {f"treepo/{name}" for name in CONVERSATION}
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
    """Tell whether a step is one update of the policy that sampled."""
    actor = config.actor_rollout_ref.actor
    bypass = OmegaConf.select(config, "algorithm.rollout_correction.bypass_mode")
    return not bypass and actor.ppo_epochs == 1 and actor.ppo_mini_batch_size >= config.data.train_batch_size


def _differs(value: Any) -> bool:
    try:
        return float(value) != 0
    except (TypeError, ValueError):
        return True
