# SPDX-License-Identifier: Apache-2.0
from hypothesis import settings

# Wall-clock deadlines per example say nothing on shared cores.
settings.register_profile("treepo", deadline=None)
settings.load_profile("treepo")
