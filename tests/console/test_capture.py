# SPDX-License-Identifier: Apache-2.0
"""All output goes to the log, and back to the screen at the end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.paths import ROOT
from recipe.treepo.console.capture import Capture, held


def write(text: str) -> None:
    os.write(1, text.encode())


def identities() -> list[tuple[int, int]]:
    return [(os.fstat(descriptor).st_dev, os.fstat(descriptor).st_ino) for descriptor in (1, 2)]


PROGRAM = """
import os, subprocess, sys
from pathlib import Path
from recipe.treepo.console.capture import Capture

print("first", end=" ")
with Capture(Path(sys.argv[1])) as capture:
    print("python")
    print("stderr", file=sys.stderr)
    os.write(1, b"C\\n")
    subprocess.run(["sh", "-c", "echo child; echo error >&2"], check=True)
    print("end", end="")
    os.write(capture.screen, b"for the screen ")
print("last")
"""


def test_everything_is_in_the_log_in_order(tmp_path):
    log = tmp_path / "console.log"
    log.write_text("before\n")
    # in a program of its own: pytest replaces sys.stdout
    done = subprocess.run([sys.executable, "-c", PROGRAM, log], capture_output=True, text=True, check=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("first for the screen last\n", "")
    assert log.read_text() == "before\npython\nstderr\nC\nchild\nerror\nend"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_descriptors_are_restored_after_an_error(tmp_path, error, capfd):
    before, open_before = identities(), set(os.listdir("/proc/self/fd"))
    with pytest.raises(error), Capture(tmp_path / "log"):
        assert identities() != before
        raise error
    assert identities() == before
    assert set(os.listdir("/proc/self/fd")) == open_before


def test_a_log_that_cannot_be_opened_changes_nothing(tmp_path):
    before = identities()
    with pytest.raises(OSError, match="No such file"), Capture(tmp_path / "missing/log"):
        pass
    assert identities() == before


def test_programs_do_not_inherit_the_screen(tmp_path):
    with Capture(tmp_path / "log") as capture:
        assert not os.get_inheritable(capture.screen) and not os.get_inheritable(capture.error_screen)


def test_held_output_is_printed_after_an_error_only(tmp_path, capfd):
    path = tmp_path / "held"
    with held(path):
        write("quiet\n")
    assert (path.read_text(), capfd.readouterr().err) == ("quiet\n", "")
    with pytest.raises(SystemExit, match="reason"), held(path):
        write("loud\n")
        sys.exit("reason")
    assert capfd.readouterr().err == "quiet\nloud\n" and not Path(path).exists()
