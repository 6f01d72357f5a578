# SPDX-License-Identifier: Apache-2.0
"""Convert raw data sets into parquet files in verl's schema."""
