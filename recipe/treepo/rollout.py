# SPDX-License-Identifier: Apache-2.0
"""The rollout manager that a configuration names: ``recipe.treepo.rollout.TreeAgentLoopManager``."""

from recipe.treepo.verl_adapters.worker import TreeAgentLoopManager

__all__ = ["TreeAgentLoopManager"]
