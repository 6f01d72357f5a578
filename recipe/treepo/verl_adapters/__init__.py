# SPDX-License-Identifier: Apache-2.0
"""Everything that imports verl or Ray."""
