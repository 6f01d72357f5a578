# SPDX-License-Identifier: Apache-2.0
"""Engines of a search without verl."""
