# SPDX-License-Identifier: Apache-2.0
"""Make one fault in a run. verl loads this file in each of its processes (``VERL_USE_EXTERNAL_MODULES``).

``TREEPO_FAULT`` names the fault. It happens once, in step 2; the file ``TREEPO_FAULT_MARK`` says that it has happened.
``killed from outside`` is none: it notes the phases of the run for whoever kills it.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from recipe.treepo.console.leftovers import processes_with

FAULT = os.environ.get("TREEPO_FAULT", "")
MARK = Path(os.environ.get("TREEPO_FAULT_MARK", "/nonexistent"))
STEP = 2
# Requests of a rollout before its fault.
REQUESTS = 40
# Parts of the names of processes.
ENGINE, DRIVER = "VLLM::EngineCore", "-m recipe.treepo.main_treepo"
# Fault of a run that is killed from outside.
OUTSIDE = "killed from outside"


def processes_of(run: str) -> dict[int, str]:
    """Return the processes that were started with ``TREEPO_FAULT_MARK=run``, and the name of each."""
    found = {}
    for pid in processes_with("TREEPO_FAULT_MARK", run):
        with contextlib.suppress(OSError):  # it has ended
            found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    return found


def named(run: str, name: str) -> list[int]:
    """Return the processes of a run whose name contains ``name``.

    What starts the driver again has its name as an argument, and is none of them.
    """
    return [pid for pid, command in processes_of(run).items() if name in command and "supervise.py" not in command]


def kill(run: str, name: str) -> list[int]:
    """Kill and return the processes of :func:`named`, as the kernel does when memory is short."""
    killed = named(run, name)
    for pid in killed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return killed


def happens() -> bool:
    """Return whether the fault happens now; True in one call of all processes."""
    try:
        MARK.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def notes_file(run: str) -> Path:
    """Return the file of what the processes of a run tell, all its starts included."""
    return Path(f"{run}.notes")


def note(text: str) -> None:
    """Tell something to whoever started the run."""
    with notes_file(str(MARK)).open("a") as file:
        file.write(f"{text}\n")


def in_rollout(module: ModuleType) -> None:
    """Faults between two requests of a tree."""
    wait, requests = module._await_or_cancel, []

    async def faulty(ref: Any) -> Any:
        output = await wait(ref)
        requests.append(1)
        if len(requests) > REQUESTS * STEP and (happens() or FAULT == "rollout stalls"):
            match FAULT:
                case "engine dies in rollout":
                    kill(str(MARK), ENGINE)
                case "server dies in rollout":
                    kill(str(MARK), "ray::vLLMHttpServer")
                case "driver dies":
                    kill(str(MARK), DRIVER)
                case "agent-loop worker dies":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "rollout stalls":
                    await asyncio.sleep(3600)
        return output

    module._await_or_cancel = faulty  # type: ignore[attr-defined]  # ModuleType has no attributes


def in_transfer(module: ModuleType) -> None:
    """Faults before weights are sent: once before training, then once per step."""
    send, transfers = module.BucketedWeightSender.async_send_weights, []

    async def faulty(self: Any, weights: Any) -> None:
        transfers.append(1)
        if len(transfers) > STEP and happens():
            if FAULT == "transfer stalls":
                time.sleep(3600)
            kill(str(MARK), ENGINE)
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


def in_prompts(module: ModuleType) -> None:
    """Failure of every fourth prompt of a worker; each is a line in the file of :func:`notes_file`."""
    run, prompts = module.TreeAgentLoop.run, []

    async def faulty(self: Any, *arguments: Any, **named: Any) -> Any:
        prompts.append(1)
        if len(prompts) % 4 == 0:
            note("failed")
            raise RuntimeError("this prompt fails")
        return await run(self, *arguments, **named)

    module.TreeAgentLoop.run = faulty


def in_phases(module: ModuleType) -> None:
    """No fault: each phase that the run enters is a line in the file of :func:`notes_file`."""
    enter = module.Watchdog.enter

    def noted(self: Any, phase: Any) -> None:
        note(phase.value)
        enter(self, phase)

    module.Watchdog.enter = noted


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
    OUTSIDE: ("recipe.treepo.verl_adapters.watchdog", in_phases),
    "prompts fail": ("recipe.treepo.verl_adapters.agent_loop", in_prompts),
    "training worker dies": ("verl.workers.engine_workers", in_update),
}


def register() -> None:
    """Make the plugin import ``change.py`` after the module that the fault changes."""
    from recipe.treepo.plugin import REGISTRATIONS

    module, _ = FAULTS[FAULT]
    REGISTRATIONS[module] = (*REGISTRATIONS.get(module, ()), "benchmarks.faults.change")


if FAULT in FAULTS:
    register()
