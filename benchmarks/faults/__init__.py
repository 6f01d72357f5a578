# SPDX-License-Identifier: Apache-2.0
"""Faults on purpose in real runs: ``python -m benchmarks.faults``."""
