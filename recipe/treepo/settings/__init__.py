# SPDX-License-Identifier: Apache-2.0
"""The keys of the ``treepo`` group: schema, values, and rules between keys. Imports neither torch nor verl."""
