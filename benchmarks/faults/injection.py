# SPDX-License-Identifier: Apache-2.0
"""Make one fault in a run. verl loads this file in each of its processes (``VERL_USE_EXTERNAL_MODULES``).

``TREEPO_FAULT`` names the fault. It happens once, in the step given by ``TREEPO_FAULT_STEP``; the file
``TREEPO_FAULT_MARK`` says that it has happened.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

FAULT = os.environ.get("TREEPO_FAULT", "")
STEP = int(os.environ.get("TREEPO_FAULT_STEP", "2"))
MARK = Path(os.environ.get("TREEPO_FAULT_MARK", "/nonexistent"))
# Requests of a rollout before its fault.
REQUESTS = 40


def processes_of(run: str) -> dict[int, str]:
    """Return the processes that were started with ``TREEPO_FAULT_MARK=run``, and the name of each."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"TREEPO_FAULT_MARK={run}\0".encode() in (folder / "environ").read_bytes() + b"\0":
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except OSError:  # it has ended, or belongs to someone else
            continue
    return found


def is_driver(command: str) -> bool:
    """Return whether a command line is that of a run's driver, not of what starts it."""
    return "-m recipe.treepo.main_treepo" in command and "supervise.py" not in command


def happens() -> bool:
    """Return whether the fault happens now; True in one call of all processes."""
    try:
        MARK.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def kill(name: str) -> None:
    """Kill the processes of this run whose name contains ``name``, as the kernel does when memory is short."""
    for pid, command in processes_of(str(MARK)).items():
        if name in command and "supervise.py" not in command:
            os.kill(pid, signal.SIGKILL)


def in_rollout(module: ModuleType) -> None:
    """Faults between two requests of a tree."""
    wait, requests = module._await_or_cancel, []

    async def faulty(ref: Any) -> Any:
        output = await wait(ref)
        requests.append(1)
        if len(requests) > REQUESTS * STEP and (happens() or FAULT == "rollout stalls"):
            match FAULT:
                case "engine dies in rollout":
                    kill("VLLM::EngineCore")
                case "server dies in rollout":
                    kill("ray::vLLMHttpServer")
                case "driver dies":
                    kill("-m recipe.treepo.main_treepo")
                case "agent-loop worker dies":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "rollout stalls":
                    await asyncio.sleep(3600)
        return output

    module._await_or_cancel = faulty


def in_transfer(module: ModuleType) -> None:
    """Faults before weights are sent: once before training, then once per step."""
    send, transfers = module.BucketedWeightSender.async_send_weights, []

    async def faulty(self: Any, weights: Any) -> None:
        transfers.append(1)
        if len(transfers) > STEP and happens():
            if FAULT == "transfer stalls":
                time.sleep(3600)
            kill("VLLM::EngineCore")
        await send(self, weights)

    module.BucketedWeightSender.async_send_weights = faulty


def in_update(module: ModuleType) -> None:
    """Death of a training worker in its update."""
    update, updates = module.TrainingWorker.train_batch, []

    def faulty(self: Any, *arguments: Any, **named: Any) -> Any:
        updates.append(1)
        if len(updates) >= STEP and happens():
            os.kill(os.getpid(), signal.SIGKILL)
        return update(self, *arguments, **named)

    module.TrainingWorker.train_batch = faulty


CLIENT = "recipe.treepo.verl_adapters.server_engine"
SENDER = "verl.workers.rollout.vllm_rollout.bucketed_weight_transfer"
# Fault: module to change when it is imported, and the change.
FAULTS: dict[str, tuple[str, Callable[[ModuleType], None]]] = {
    "engine dies in rollout": (CLIENT, in_rollout),
    "server dies in rollout": (CLIENT, in_rollout),
    "agent-loop worker dies": (CLIENT, in_rollout),
    "driver dies": (CLIENT, in_rollout),
    "rollout stalls": (CLIENT, in_rollout),
    "engine dies in transfer": (SENDER, in_transfer),
    "transfer stalls": (SENDER, in_transfer),
    "training worker dies": ("verl.workers.engine_workers", in_update),
}


def register() -> None:
    """Make the plugin import ``change.py`` after the module that the fault changes."""
    from recipe.treepo.plugin import REGISTRATIONS

    module, _ = FAULTS[FAULT]
    REGISTRATIONS[module] = (*REGISTRATIONS.get(module, ()), "benchmarks.faults.change")


if FAULT in FAULTS:
    register()
