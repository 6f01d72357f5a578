# SPDX-License-Identifier: Apache-2.0
"""Real runs of the tiny preset, each with one fault, and what a person sees of it."""

import os
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.faults.injection import processes_of

ROOT = Path(__file__).parents[2]
STEPS, BATCH, WIDTH = 4, 8, 8
# Seconds until a run is given up, and after its end until what it left is counted.
GIVEN_UP, SETTLED = 600.0, 5.0


@dataclass(frozen=True)
class Fault:
    """A fault and the end that is expected of it.

    Attributes:
        what: What happens, for the table.
        name: Name in ``injection.py``; None for faults of the reward function or the configuration.
        overrides: Overrides of the run.
        reward: Source of a reward function.
        status: Exit status.
        says: Text on the last lines of the screen.
    """

    what: str
    name: str | None = None
    overrides: tuple[str, ...] = ()
    reward: str | None = None
    status: int = 75
    says: str = ""


@dataclass
class Outcome:
    """What came of a fault.

    Attributes:
        seconds: From the fault to the end of the run, None if there was no end or no fault.
        screen: What the run printed.
        left: Processes, shared memory and sockets that it left.
    """

    fault: Fault
    status: int | None
    seconds: float | None
    screen: list[str]
    left: list[str] = field(default_factory=list)

    @property
    def is_as_expected(self) -> bool:
        """Return whether the run ended as expected and left nothing."""
        last = " ".join(self.screen[-12:])
        return self.status == self.fault.status and self.fault.says in last and not self.left


def things() -> set[str]:
    """Return shared memory and sockets of verl on this machine."""
    return {str(path) for folder in ("/dev/shm", "/tmp") for path in Path(folder).glob("*") if _is_verls(path.name)}


def _is_verls(name: str) -> bool:
    return name.startswith(("verl_weights", "psm_", "rl-colocate", "torch_"))


def run(fault: Fault, folder: Path, *overrides: str) -> Outcome:
    """Run training with a fault in a new folder."""
    folder.mkdir(parents=True, exist_ok=True)
    mark, before = folder / "mark", things()
    environment = {
        **os.environ,
        "PRESET": "tiny",
        "TENSORBOARD_DIR": str(folder / "tensorboard"),
        "TREEPO_FAULT": fault.name or "",
        "TREEPO_FAULT_MARK": str(mark),
        "VERL_USE_EXTERNAL_MODULES": "benchmarks.faults.injection",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
    if fault.reward is not None:
        (folder / "faulty_reward.py").write_text(fault.reward, encoding="utf-8")
        overrides = (f"reward.custom_reward_function.path={folder}/faulty_reward.py", *overrides)
    command = ["bash", "scripts/run_treepo_qwen0.5b.sh", *sizes(folder), *fault.overrides, *overrides]
    status: int | None = None
    with (folder / "screen.txt").open("w") as screen:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=screen, stderr=subprocess.STDOUT)
        try:
            status = process.wait(GIVEN_UP)
        except subprocess.TimeoutExpired:
            process.kill()
    ended = time.time()
    seconds = ended - mark.stat().st_mtime if mark.exists() and status is not None else None
    time.sleep(SETTLED)
    left = [f"process {pid}: {command[:60]}" for pid, command in processes_of(str(mark)).items()]
    lines = (folder / "screen.txt").read_text(errors="replace").splitlines()
    return Outcome(fault, status, seconds, lines, left + sorted(things() - before))


def sizes(folder: Path) -> tuple[str, ...]:
    """Return the overrides of a small run with its files in a folder."""
    return (
        f"data.train_batch_size={BATCH}",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={BATCH}",
        f"actor_rollout_ref.rollout.n={WIDTH}",
        f"trainer.total_training_steps={STEPS}",
        "trainer.save_freq=1",
        "trainer.val_before_train=False",
        "trainer.test_freq=-1",
        f"trainer.default_local_dir={folder}/checkpoints",
        f"hydra.run.dir={folder}/hydra",
    )


REWARD = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    number = len(solution_str) % 7
    {body}
    return float(str(ground_truth) in solution_str)
"""

FAULTS = (
    Fault("vLLM's engine process is killed during the rollout", "engine dies in rollout", says="vLLM engine has died"),
    Fault("vLLM's engine process is killed before the weights are sent", "engine dies in transfer", says="vLLM engine"),
    Fault("verl's server process is killed during the rollout", "server dies in rollout", says="engine server"),
    Fault("a worker is killed during the update", "training worker dies", says="training worker"),
    Fault("a worker with trees is killed", "agent-loop worker dies", says="agent-loop worker"),
    Fault(
        "the rollout stands still",
        "rollout stalls",
        ("treepo.watchdog.rollout_seconds=20",),
        says="treepo.watchdog.rollout_seconds=20",
    ),
    Fault(
        "the transfer of the weights stands still",
        "transfer stalls",
        ("treepo.watchdog.weights_seconds=20",),
        says="treepo.watchdog.weights_seconds=20",
    ),
)
