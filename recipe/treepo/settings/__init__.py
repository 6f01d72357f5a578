# SPDX-License-Identifier: Apache-2.0
"""The keys of the ``treepo`` group: schema, values, and the rules between keys. No torch, no verl."""
