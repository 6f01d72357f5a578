# SPDX-License-Identifier: Apache-2.0
"""Advantages from trees: paths and rewards in, credits out. Pure numpy."""
