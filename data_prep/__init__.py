# SPDX-License-Identifier: Apache-2.0
"""Turn raw data sets into the parquet files that verl trains on."""
