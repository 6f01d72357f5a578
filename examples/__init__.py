# SPDX-License-Identifier: Apache-2.0
"""Interactions, rewards and tools to copy and change; installed as `pkg://recipe.treepo.examples.recheck` and so on."""
