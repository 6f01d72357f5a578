# SPDX-License-Identifier: Apache-2.0
"""Extensions and calls of verl, one part of verl per file. No other folder imports verl or Ray."""
