# SPDX-License-Identifier: Apache-2.0
"""Rollout manager to name in a configuration: ``recipe.treepo.rollout.TreeAgentLoopManager``."""

from recipe.treepo.verl_adapters.worker import TreeAgentLoopManager

__all__ = ["TreeAgentLoopManager"]
