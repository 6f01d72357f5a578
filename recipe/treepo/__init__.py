# SPDX-License-Identifier: Apache-2.0
"""TreePO (arXiv 2508.17445) for verl: tree-structured rollout and tree-based advantages.

Users run ``main_treepo`` and ``main_eval``, name ``rollout``, ``reward`` and ``config`` in a configuration, and import
``interaction`` and ``tools``; verl loads ``plugin``. The folders are internal:

- ``search``: the tree and how it grows
- ``advantages``: paths and rewards in, credits out
- ``answers``, ``sandbox``: find and compare answers; untrusted work in limited processes
- ``dumps``, ``viewer``: trees in files, and their pages (``python -m recipe.treepo.viewer DIR``)
- ``packed``: prefix trees in a row, attention within them
- ``settings``: keys, values and rules
- ``verl_adapters``: everything that imports verl or Ray
- ``evaluation``: arms, records, scores, report
- ``command_line``: ``--help`` and ``--dry-run``
"""
