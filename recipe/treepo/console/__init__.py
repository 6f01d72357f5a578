# SPDX-License-Identifier: Apache-2.0
"""The console of a training run: a line per step and a summary; all other output goes to files."""
