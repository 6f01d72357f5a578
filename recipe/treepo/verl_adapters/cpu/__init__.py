# SPDX-License-Identifier: Apache-2.0
"""verl and vLLM on machines without a GPU."""
