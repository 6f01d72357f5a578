# SPDX-License-Identifier: Apache-2.0
"""Evaluation without training: sample, score, count and report; entry point ``recipe.treepo.main_eval``."""
