# SPDX-License-Identifier: Apache-2.0
"""Helpers of the benchmarks: process sessions, verl's records, reports; and the index of commands."""

import json
import re
import subprocess
import sys
import time

import pytest

from benchmarks.common import process_session
from benchmarks.common.process_session import living, run_session, stop_session
from benchmarks.common.records import read_records, read_run, save, write_report
from helpers.paths import ROOT


def test_an_unfinished_line_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_records(path) == []
    path.write_text('{"step": 0, "data": {}}\n{"step": 1, "da')
    assert read_records(path) == [{"step": 0, "data": {}}]


def test_the_records_of_a_run_are_those_of_all_starts_in_their_order(tmp_path):
    assert read_run(tmp_path) == []
    for number, folder in enumerate(("start_1", "start_2", "start_10", ".")):
        (tmp_path / "logs" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "logs" / folder / "metrics.jsonl").write_text(f'{{"step": {number}, "data": {{}}}}\n')
    assert [record["step"] for record in read_run(tmp_path)] == [0, 1, 2, 3]


def test_a_report_has_command_machine_table_and_results(tmp_path):
    path = tmp_path / "new/page.md"
    write_report(path, command="python -m this", about="2 CPUs", table="| a |", results={"arms": [1]})
    assert path.read_text() == "`python -m this`\n\n2 CPUs\n\n| a |\n"
    assert json.loads(path.with_suffix(".json").read_text()) == {"command": "python -m this", "arms": [1]}


def test_a_result_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "result.json"
    save(path, {"calls": 1})
    with pytest.raises(TypeError):
        save(path, {"calls": object()})
    assert json.loads(path.read_text()) == {"calls": 1}


def test_all_processes_of_a_session_are_ended(monkeypatch):
    monkeypatch.setattr(process_session, "PATIENCE_SECONDS", 1.0)
    # The child ignores SIGTERM; its own child has a separate process group, as Ray's workers have.
    code = (
        "import signal, subprocess, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print(subprocess.Popen(['sleep', '60'], process_group=0).pid, flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    child.stdout.readline()
    assert len(living(child.pid)) == 2
    started = time.monotonic()
    stop_session(child)
    assert time.monotonic() - started < 20
    assert child.returncode == -9
    assert living(child.pid) == []
    stop_session(child)  # no effect on a session that has ended


def run(code: str, folder, time_limit: float = 60.0) -> str:
    return run_session(
        [sys.executable, "-c", code],
        folder=folder,
        environment={"ADDED": "yes"},
        log=folder / "log.txt",
        time_limit=time_limit,
    )


def test_a_command_runs_in_its_folder_with_its_environment(tmp_path):
    assert run("import os; print(os.getcwd(), os.environ['ADDED'])", tmp_path) == "exit"
    assert (tmp_path / "log.txt").read_text() == f"{tmp_path} yes\n"


def test_a_command_is_ended_at_its_time_limit(tmp_path):
    started = time.monotonic()
    assert run("import time; time.sleep(60)", tmp_path, time_limit=0.5) == "time limit"
    assert time.monotonic() - started < 30


def test_a_failed_command_raises_with_the_end_of_its_log(tmp_path):
    with pytest.raises(RuntimeError, match="(?s)exit status 3; .*log.txt ends with.*the reason"):
        run("print('the reason'); raise SystemExit(3)", tmp_path)


def test_each_module_at_the_root_is_a_command_with_a_line_in_the_index():
    files = {path.stem: path for path in (ROOT / "benchmarks").glob("*.py")}
    files |= {path.parent.name: path for path in (ROOT / "benchmarks").glob("*/__main__.py")}
    assert all('if __name__ == "__main__":' in path.read_text() for path in files.values())
    index = (ROOT / "benchmarks/README.md").read_text()
    assert sorted(set(re.findall(r"^\| `python -m benchmarks\.(\w+)", index, re.MULTILINE))) == sorted(files)


def test_a_second_signal_does_not_end_the_cleaning_up(tmp_path):
    code = (
        "import time\nfrom benchmarks.common.process_session import exit_on_signals\nexit_on_signals()\n"
        "try:\n    print('ready', flush=True)\n    time.sleep(60)\nfinally:\n    print('ending', flush=True)\n"
        "    time.sleep(1)\n    print('ended', flush=True)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert child.stdout.readline() == "ready\n"
    child.terminate()
    assert child.stdout.readline() == "ending\n"
    child.terminate()
    assert child.stdout.read() == "ended\n" and child.wait(60) == 128 + 15
