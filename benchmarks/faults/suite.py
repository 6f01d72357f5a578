# SPDX-License-Identifier: Apache-2.0
"""Real runs of the tiny preset, each with one fault, and what a person sees of it."""

import contextlib
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

from benchmarks.common.process_session import stop_session
from benchmarks.common.records import read_run
from benchmarks.faults.injection import DRIVER, OUTSIDE, kill, named, notes_file, processes_of
from recipe.treepo.settings.schema import Phase

ROOT = Path(__file__).parents[2]
STEPS, BATCH, WIDTH = 4, 8, 8
KILLED_STEPS = 12  # of a run with random kills, some of which wait for the next step
# Seconds until a run is given up, and at most after its end until nothing is left.
GIVEN_UP, SETTLED = 900.0, 30.0
DISK_MIB = 96
# Phases that random kills hit, and the maximum seconds after their beginnings: about their lengths on two cores.
LONGEST = {Phase.START: 25.0, Phase.ROLLOUT: 6.0, Phase.TRAINING: 5.0, Phase.WEIGHTS: 0.5, Phase.CHECKPOINT: 1.0}
# Parts of the names of processes that random kills hit; "" is in all names.
VICTIMS = (DRIVER, "ray::TaskRunner", "")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault and the end that is expected of it.

    Attributes:
        what: What happens, for the table.
        name: Name in ``injection.py``; None for faults of the reward function and the disk.
        overrides: Overrides of the run.
        reward: Source of a reward function.
        disk: Folder of the run whose disk fills up after the first step; this needs root.
        restarts: Number of new starts.
        status: Exit status.
        says: Text on the last lines of the screen.
    """

    what: str
    name: str | None = None
    overrides: tuple[str, ...] = ()
    reward: str | None = None
    disk: str | None = None
    restarts: int = 0
    status: int = os.EX_TEMPFAIL
    says: str = "done: "


class Counted(NamedTuple):
    """Trajectories of a step: trained, removed for their rewards, and lost before that."""

    trained: int
    removed: int
    lost: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a fault.

    Attributes:
        status: Exit status, None if the run was given up.
        seconds: From the fault to the end of the run, None if the fault has no moment.
        screen: What the run printed.
        left: Processes, shared memory and sockets that it left.
        counted: Trajectories of each step, all of its starts included.
        failed_prompts: Prompts that the fault let fail.
    """

    fault: Fault
    status: int | None
    seconds: float | None
    screen: list[str]
    left: list[str]
    counted: list[Counted]
    failed_prompts: int

    @property
    def is_as_expected(self) -> bool:
        """Return whether the run ended as expected, lost nothing in its steps, and left nothing."""
        is_complete = all(sum(step) == BATCH * WIDTH for step in self.counted) and (
            sum(step.lost for step in self.counted) == WIDTH * self.failed_prompts
        )
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
    with small_disk(folder / fault.disk) if fault.disk else contextlib.nullcontext():
        process = start(folder, *fault.overrides, *overrides, fault=fault.name or "", restarts=fault.restarts)
        if fault.disk:
            threading.Thread(target=fill, args=(folder, folder / fault.disk), daemon=True).start()
        status = ended(process)
        moment = time.time()
    seconds = moment - mark.stat().st_mtime if mark.exists() and status is not None else None
    limit = time.monotonic() + SETTLED
    while (left := left_of(str(mark), before)) and time.monotonic() < limit:
        time.sleep(1.0)
    lines = (folder / "screen.txt").read_text(errors="replace").splitlines()
    return Outcome(
        fault=fault,
        status=status,
        seconds=seconds,
        screen=lines,
        left=left,
        counted=list(counted(folder)),
        failed_prompts=notes(folder).count("failed"),
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


def ended(process: subprocess.Popen[bytes], limit: float = GIVEN_UP) -> int | None:
    """Wait for the end of a run and return its status; None if it was given up."""
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        stop_session(process)
        return None


def left_of(run: str, before: set[str]) -> list[str]:
    """Return the processes of a run, and shared memory and sockets that were not there before."""
    processes = [f"process {pid}: {command[:60]}" for pid, command in processes_of(run).items()]
    return processes + sorted(things() - before)


def things() -> set[str]:
    """Return shared memory and sockets of verl and vLLM on this machine."""
    names = ("verl_weights", "psm_", "rl-colocate")
    files = [path for folder in ("/dev/shm", "/tmp") for path in Path(folder).glob("*")]
    return {str(path) for path in files if path.name.startswith(names)}


def counted(folder: Path) -> Iterator[Counted]:
    """Yield the trajectories of each step of a run, all its starts included."""
    for record in read_run(folder):
        metrics = record["data"]
        if "treepo/trained_trajectories" in metrics:
            yield Counted(*(int(metrics.get(f"treepo/{name}_trajectories", 0)) for name in Counted._fields))


def notes(folder: Path) -> list[str]:
    """Return what the processes of a run have told so far; see ``injection.note``."""
    file = notes_file(str(folder / "mark"))
    return file.read_text().splitlines() if file.exists() else []


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount a small file system at a folder."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def fill(run: Path, disk: Path) -> None:
    """Fill a disk after the first step of a run."""
    while not list(counted(run)):
        time.sleep(0.2)
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(2**20))


def prompts_of(folder: Path) -> dict[str, list[str]]:
    """Return the prompts of each step, sorted, from verl's dump of the rollouts."""
    return {
        file.stem: sorted({json.loads(line)["input"] for line in file.read_text().splitlines()})
        for file in (folder / "rollouts").glob("*.jsonl")
    }


@dataclass(frozen=True)
class Kill:
    """A kill of a run.

    Attributes:
        phase: Phase that it waits for.
        seconds: Seconds after the beginning of the phase.
        victim: Part of the names of the killed processes.
    """

    phase: Phase
    seconds: float
    victim: str


def random_kills(number: int, seed: int) -> list[Kill]:
    """Return kills at random moments, spread evenly over the phases of a run."""
    moments = random.Random(seed)
    phases = list(islice(cycle(LONGEST), number))
    moments.shuffle(phases)
    victims = list(islice(cycle(VICTIMS), number))
    moments.shuffle(victims)
    return [
        Kill(phase, moments.uniform(0, LONGEST[phase]), victim) for phase, victim in zip(phases, victims, strict=True)
    ]


class Killer(threading.Thread):
    """Thread that kills a run again and again until it ends.

    Attributes:
        hit: The phase of the run at each kill so far, and what was killed.
    """

    def __init__(self, folder: Path, kills: Sequence[Kill], process: subprocess.Popen[bytes]) -> None:
        super().__init__(daemon=True)
        self.hit: list[str] = []
        self._folder, self._kills, self._process = folder, kills, process
        self._earlier: set[int] = set()  # drivers of starts with a kill

    def run(self) -> None:
        run = str(self._folder / "mark")
        for one in self._kills:
            if not self._until(self._starts):
                return
            seen = len(notes(self._folder))
            if not self._until(partial(self._enters, one.phase, seen)):
                return
            time.sleep(one.seconds)
            if not self._until(partial(kill, run, one.victim)):
                return
            phase = (notes(self._folder)[seen:] or [Phase.START.value])[-1]
            self.hit.append(f"{phase}: {one.victim or 'all processes'}")

    def _starts(self) -> bool:
        """Return whether there is a driver without a kill."""
        drivers = set(named(str(self._folder / "mark"), DRIVER))
        is_new = bool(drivers - self._earlier)
        self._earlier |= drivers
        return is_new

    def _enters(self, phase: Phase, seen: int) -> bool:
        return phase is Phase.START or phase.value in notes(self._folder)[seen:]

    def _until(self, condition: Callable[[], object]) -> bool:
        """Wait for a condition; return False if the run ends before."""
        while not condition():
            if self._process.poll() is not None:
                return False
            time.sleep(0.05)
        return True


def run_with_kills(folder: Path, kills: Sequence[Kill]) -> tuple[int | None, list[str]]:
    """Run training and kill it again and again; return the status, and for each kill the phase that it hit."""
    folder.mkdir(parents=True)
    process = start(folder, f"trainer.total_training_steps={KILLED_STEPS}", fault=OUTSIDE, restarts=len(kills))
    killer = Killer(folder, kills, process)
    killer.start()
    return ended(process, GIVEN_UP + 120.0 * len(kills)), killer.hit


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
    Fault(what="the driver is killed", name="driver dies", status=-signal.SIGKILL, says=""),
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
    Fault(what="every fourth prompt fails", name="prompts fail", status=0, says="trajectories of failed prompts"),
    Fault(
        what="the disk of the checkpoints fills up", disk="checkpoints", status=1, says="earlier checkpoints are kept"
    ),
    Fault(
        what="the disk of the trees fills up",
        disk="trees",
        overrides=("treepo.dump.every=1",),
        status=0,
        says="lines could not be written",
    ),
    Fault(what="the disk of the logs fills up", disk="logs", status=0, says="logs were not copied completely"),
)
