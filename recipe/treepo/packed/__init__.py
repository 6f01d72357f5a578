# SPDX-License-Identifier: Apache-2.0
"""Prefix trees in a row, and attention within them. Knows no search and no verl."""
