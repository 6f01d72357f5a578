# SPDX-License-Identifier: Apache-2.0
"""Study of trees as samples for training: diversity, credit, learning and stability."""
