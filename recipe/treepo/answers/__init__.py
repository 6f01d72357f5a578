# SPDX-License-Identifier: Apache-2.0
"""Find and compare answers as text. Standard library only."""
