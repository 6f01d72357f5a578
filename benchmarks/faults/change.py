# SPDX-License-Identifier: Apache-2.0
"""Change the module that the fault of this run needs; imported after it."""

import sys

from benchmarks.faults.injection import FAULT, FAULTS

name, change = FAULTS[FAULT]
change(sys.modules[name])
