# SPDX-License-Identifier: Apache-2.0
"""Real runs of the tiny preset, each with one fault, and what a person sees of it."""

import contextlib
import json
import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common.process_session import stop_session
from benchmarks.faults.injection import DRIVER, kill, processes_of

ROOT = Path(__file__).parents[2]
STEPS, BATCH, WIDTH = 4, 8, 8
# Seconds until a run is given up, and after its end until what it left is counted.
GIVEN_UP, SETTLED = 900.0, 5.0
DISK_MIB = 24  # two checkpoints


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault and the end that is expected of it.

    Attributes:
        what: What happens, for the table.
        name: Name in ``injection.py``; None for faults of the reward function and the disk.
        overrides: Overrides of the run.
        reward: Source of a reward function.
        is_disk: Whether the disk of the checkpoints is small; this needs root.
        restarts: Number of new starts.
        status: Exit status.
        says: Text on the last lines of the screen.
    """

    what: str
    name: str | None = None
    overrides: tuple[str, ...] = ()
    reward: str | None = None
    is_disk: bool = False
    restarts: int = 0
    status: int = os.EX_TEMPFAIL
    says: str = "done: "


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a fault.

    Attributes:
        status: Exit status, None if the run was given up.
        seconds: From the fault to the end of the run, None if the fault has no moment.
        screen: What the run printed.
        left: Processes, shared memory and sockets that it left.
        counted: Trajectories of each step: trained, and removed for their rewards.
    """

    fault: Fault
    status: int | None
    seconds: float | None
    screen: list[str]
    left: list[str]
    counted: list[tuple[int, int]]

    @property
    def is_as_expected(self) -> bool:
        """Return whether the run ended as expected, lost nothing in its steps, and left nothing."""
        is_complete = all(sum(step) == BATCH * WIDTH for step in self.counted)
        return self.status == self.fault.status and self.fault.says in self.seen and is_complete and not self.left

    @property
    def seen(self) -> str:
        """Return the end of the screen: the last line, or the summary of a run without an error."""
        return self.screen[-1] if self.fault.status else " ".join(self.screen[-12:])


def run(fault: Fault, folder: Path, *overrides: str) -> Outcome:
    """Run training with a fault in a new folder."""
    folder.mkdir(parents=True)
    mark, before = folder / "mark", things()
    if fault.reward is not None:
        (folder / "faulty_reward.py").write_text(fault.reward, encoding="utf-8")
        overrides = (f"reward.custom_reward_function.path={folder}/faulty_reward.py", *overrides)
    with small_disk(folder / "checkpoints") if fault.is_disk else contextlib.nullcontext():
        process = start(folder, *fault.overrides, *overrides, fault=fault.name or "", restarts=fault.restarts)
        status = ended(process)
        moment = time.time()
    seconds = moment - mark.stat().st_mtime if mark.exists() and status is not None else None
    time.sleep(SETTLED)
    left = [f"process {pid}: {command[:60]}" for pid, command in processes_of(str(mark)).items()]
    lines = (folder / "screen.txt").read_text(errors="replace").splitlines()
    return Outcome(
        fault=fault,
        status=status,
        seconds=seconds,
        screen=lines,
        left=left + sorted(things() - before),
        counted=list(counted(folder)),
    )


def start(folder: Path, *overrides: str, fault: str = "", restarts: int = 0) -> subprocess.Popen[bytes]:
    """Start the run script with its files and its screen in a folder."""
    environment = {
        **os.environ,
        "PRESET": "tiny",
        "RESTARTS": str(restarts),
        "TENSORBOARD_DIR": str(folder / "tensorboard"),
        "TREEPO_FAULT": fault,
        "TREEPO_FAULT_MARK": str(folder / "mark"),
        "VERL_USE_EXTERNAL_MODULES": "benchmarks.faults.injection",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
    sizes = (
        f"data.train_batch_size={BATCH}",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={BATCH}",
        f"actor_rollout_ref.rollout.n={WIDTH}",
        f"trainer.total_training_steps={STEPS}",
        "trainer.save_freq=1",
        "trainer.val_before_train=False",
        "trainer.test_freq=-1",
        f"trainer.default_local_dir={folder}/checkpoints",
        f"trainer.rollout_data_dir={folder}/rollouts",
        f"hydra.run.dir={folder}/hydra",
        f"treepo.dump.dir={folder}/trees",
    )
    command = ["bash", "scripts/run_treepo_qwen0.5b.sh", *sizes, *overrides]
    with (folder / "screen.txt").open("w") as screen:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=screen, stderr=subprocess.STDOUT, start_new_session=True
        )


def ended(process: subprocess.Popen[bytes]) -> int | None:
    """Wait for the end of a run and return its status; None if it was given up."""
    try:
        return process.wait(GIVEN_UP)
    except subprocess.TimeoutExpired:
        stop_session(process)
        return None


def things() -> set[str]:
    """Return shared memory and sockets of verl and vLLM on this machine."""
    names = ("verl_weights", "psm_", "rl-colocate")
    files = [path for folder in ("/dev/shm", "/tmp") for path in Path(folder).glob("*")]
    return {str(path) for path in files if path.name.startswith(names)}


def counted(folder: Path) -> Iterator[tuple[int, int]]:
    """Yield trained and removed trajectories of each step of a run, all its starts included."""
    for file in sorted((folder / "logs").glob("**/metrics.jsonl")):
        for line in file.read_text().splitlines():
            metrics = json.loads(line)["data"]
            if "treepo/trained_trajectories" in metrics:
                yield int(metrics["treepo/trained_trajectories"]), int(metrics.get("treepo/removed_trajectories", 0))


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount a small file system at a folder."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def prompts_of(folder: Path) -> dict[str, list[str]]:
    """Return the prompts of each step, sorted, from verl's dump of the rollouts."""
    return {
        file.stem: sorted({json.loads(line)["input"] for line in file.read_text().splitlines()})
        for file in (folder / "rollouts").glob("*.jsonl")
    }


def run_with_kills(folder: Path, kills: int, seed: int) -> tuple[int | None, list[str]]:
    """Run training and kill its driver at random moments; return the status, and what was going on at each."""
    folder.mkdir(parents=True)
    process, moments = start(folder, restarts=kills), random.Random(seed)
    doing: list[str] = []

    def kill_often() -> None:
        for _ in range(kills):
            if process.poll() is not None:
                return
            time.sleep(moments.uniform(5, 110))
            lines = (folder / "screen.txt").read_text(errors="replace").splitlines()
            if kill(str(folder / "mark"), DRIVER):
                doing.append(lines[-1].strip())

    threading.Thread(target=kill_often, daemon=True).start()
    return ended(process), doing


# One kind of failure after another; correct answers are rewarded as usual.
REWARD = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    kind = len(solution_str) % 12
    if kind == 0:
        raise ValueError("no number")
    if kind == 1:
        return None
    if kind == 2:
        return "six"
    if kind == 3:
        return float("nan")
    return float(str(ground_truth) in solution_str)
"""
HANGS = """
import time

def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    time.sleep(3600)
"""
FAULTS = (
    Fault(what="vLLM's engine is killed in the rollout", name="engine dies in rollout", says="vLLM engine has died"),
    Fault(
        what="vLLM's engine is killed before the weights", name="engine dies in transfer", says="vLLM engine has died"
    ),
    Fault(what="verl's server is killed in the rollout", name="server dies in rollout", says="engine server 0"),
    Fault(what="a training worker is killed in its update", name="training worker dies", says="training worker 0"),
    Fault(what="an agent-loop worker is killed", name="agent-loop worker dies", says="agent-loop worker 0"),
    Fault(
        what="the rollout stands still, limit 20 s",
        name="rollout stalls",
        overrides=("treepo.watchdog.rollout_seconds=20",),
        says="treepo.watchdog.rollout_seconds=20",
    ),
    Fault(
        what="the transfer of the weights stands still, limit 20 s",
        name="transfer stalls",
        overrides=("treepo.watchdog.weights_seconds=20",),
        says="treepo.watchdog.weights_seconds=20",
    ),
    Fault(what="the driver is killed, RESTARTS=1", name="driver dies", restarts=1, status=0),
    Fault(
        what="a third of the rewards raise, are None, text or NaN",
        overrides=("treepo.reward_errors.max_share=1",),
        reward=REWARD,
        status=0,
    ),
    Fault(
        what="all rewards hang, limit 5 s",
        overrides=("treepo.reward_errors.timeout_seconds=5",),
        reward=HANGS,
        status=1,
        says="did not return in time: 5 seconds",
    ),
    Fault(what="the disk of the checkpoints is full", is_disk=True, status=1, says="earlier checkpoints are kept"),
)
