# SPDX-License-Identifier: Apache-2.0
"""Untrusted work in processes with limits of time and memory. Standard library only."""
