# SPDX-License-Identifier: Apache-2.0
"""Untrusted work in processes with time and memory limits. Standard library only."""
