# SPDX-License-Identifier: Apache-2.0
"""TreePO (arXiv 2508.17445) for verl: tree-structured rollout and tree-based advantages."""
