# SPDX-License-Identifier: Apache-2.0
"""Prefix trees packed in a row, and attention within them. Independent of search and verl."""
