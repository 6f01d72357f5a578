# SPDX-License-Identifier: Apache-2.0
"""Trees in files, format ``treepo-tree/1``: written by samplers and trainer, read by the viewer."""
