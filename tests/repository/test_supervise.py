# SPDX-License-Identifier: Apache-2.0
"""New starts of a run: after which ends, how many, and what an earlier start left."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.paths import ROOT

# A run that counts its starts in the file $1 and ends each with the next of the statuses $2...; killN kills itself.
RUN = """
import os, signal, sys
from pathlib import Path
counted, *ends = sys.argv[1:]
number = len(Path(counted).read_text()) if Path(counted).exists() else 0
Path(counted).write_text("x" * (number + 1))
end = ends[number]
if end.startswith("kill"):
    os.kill(os.getpid(), int(end.removeprefix("kill")))
sys.exit(int(end))
"""


def supervised(folder: Path, restarts: int, *ends: str) -> tuple[int, int, str]:
    """Return the status, the number of starts and the output."""
    command = [sys.executable, "scripts/supervise.py", str(restarts), sys.executable, "-c", RUN, str(folder / "starts")]
    ended = subprocess.run([*command, *ends], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    return ended.returncode, len((folder / "starts").read_text()), ended.stdout


@pytest.mark.parametrize(
    ("restarts", "ends", "expected"),
    [
        (3, ["0"], (0, 1)),
        (3, ["75", "75", "0"], (0, 3)),
        (3, ["kill9", "0"], (0, 2)),
        (3, ["kill11", "0"], (0, 2)),
        (1, ["75", "75", "0"], (75, 2)),
        (1, ["kill9", "kill9", "0"], (137, 2)),
        (3, ["1", "0"], (1, 1)),  # an error of the configuration or the user's code
        (3, ["75", "2", "0"], (2, 2)),
        (3, ["130", "0"], (130, 1)),  # Ctrl-C
    ],
)
def test_a_run_starts_again_after_deaths_only(restarts, ends, expected, tmp_path):
    status, starts, output = supervised(tmp_path, restarts, *ends)
    assert (status, starts) == expected
    assert output.count("[treepo] ended with status") == starts - 1


def test_a_stopped_run_does_not_start_again_and_gets_the_signal(tmp_path):
    program = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
        "print('ready', flush=True)\ntime.sleep(60)"
    )
    command = [sys.executable, "scripts/supervise.py", "3", sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 75
        assert process.stdout.read() == ""


def test_what_a_killed_start_left_is_killed(tmp_path):
    program = (
        "import os, signal, subprocess, sys\n"
        "left = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True,\n"
        "                        stdout=subprocess.DEVNULL)\n"
        "from multiprocessing.shared_memory import SharedMemory\n"
        "print(left.pid, SharedMemory(create=True, size=100).name, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "scripts/supervise.py", "0", sys.executable, "-c", program]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    pid, memory = ended.stdout.split()
    stat = Path(f"/proc/{pid}/stat")
    assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"  # killed, perhaps not yet reaped
    assert not Path(f"/dev/shm/{memory}").exists()
    assert ended.returncode == 137
