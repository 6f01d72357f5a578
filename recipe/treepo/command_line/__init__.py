# SPDX-License-Identifier: Apache-2.0
"""The command line of ``main_treepo`` and ``main_eval``: arguments, help, composition and dry run. Imports no verl."""
