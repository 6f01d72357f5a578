# SPDX-License-Identifier: Apache-2.0
"""TreePO (arXiv 2508.17445) for verl: tree-structured rollout and tree-based advantages.

Public modules:

- ``main_treepo``, ``main_eval``: programs to run
- ``rollout``, ``reward``, ``config``: names for a configuration
- ``interaction``, ``tools``: classes to import
- ``plugin``: loaded by verl

All folders are internal:

- ``search``: the tree and its growth
- ``advantages``: credits from paths and rewards
- ``answers``, ``sandbox``: find and compare answers; untrusted work in limited processes
- ``dumps``, ``viewer``: trees in files, and their pages (``python -m recipe.treepo.viewer DIR``)
- ``console``: table, summary and logs of a training run
- ``packed``: prefix trees in a row, attention within them
- ``settings``: keys, values and rules of the ``treepo`` group
- ``verl_adapters``: everything that imports verl or Ray
- ``evaluation``: arms, records, scores, report
- ``command_line``: ``--help`` and ``--dry-run``
"""
