# SPDX-License-Identifier: Apache-2.0
"""The console of a training run: a line per step, a summary, and everything else in files."""
