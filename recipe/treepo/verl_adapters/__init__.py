# SPDX-License-Identifier: Apache-2.0
"""The only folder that imports verl or Ray: each file extends or calls one part of verl."""
