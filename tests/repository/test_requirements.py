# SPDX-License-Identifier: Apache-2.0
"""Lock of all packages: requirements/*.in -> requirements/*.txt by scripts/lock.sh."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import distribution

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers.locked import FOLDER, LOCKS, PLATFORM, ROOT, Line, applies, installed_here, linux, read, versions_here

MACHINES = [linux(python, machine) for python in ("3.11", "3.12") for machine in ("x86_64", "aarch64")]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def versions(*files: str, environment: dict[str, str]) -> dict[str, str]:
    """Return the locked versions by name; files for one environment must agree."""
    found: dict[str, str] = {}
    for line in (line for file in files for line in read(file) if line.applies(environment)):
        assert found.setdefault(line.name, line.version) == line.version, line
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_each_locked_package_has_a_version_and_hashes(lock):
    lines = read(f"{lock}.txt")
    assert len(lines) >= len(read(f"{lock}.in"))
    for line in lines:
        assert line.version and line.requirement.url is None
        assert line.hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", mark) for mark in line.hashes), line


def test_only_the_cpu_build_of_torch_has_no_hash():
    (torch,) = read("cpu-torch.txt")
    assert (torch.name, torch.hashes) == ("torch", ())
    assert torch.version.endswith("+cpu")
    assert {"torch"} | {line.name for line in read("cpu-excludes.txt")} == {
        "torch",
        "torchvision",
        "torchaudio",
        "torchcodec",
    }
    assert not {line.name for line in read("cpu.txt")} & {line.name for line in read("cpu-excludes.txt")}


def test_no_requirements_file_names_an_index_or_a_folder():
    files = sorted(FOLDER.iterdir())
    assert {f"{lock}{suffix}" for lock in LOCKS for suffix in (".in", ".txt")} < {file.name for file in files}
    for file in files:
        for line in file.read_text().splitlines():
            assert "://" not in line and "www." not in line, (file.name, line)
            content = re.sub(r"--hash=sha256:[0-9a-f]{64}", "", line.partition("#")[0])
            assert not re.search(r"/|@|--|^\s*-", content), (file.name, line)


def test_a_machine_without_gpu_gets_no_cuda_package():
    names = {line.name for line in read("cpu.txt")}
    assert not [name for name in names if name.startswith(("nvidia-", "cuda-", "flashinfer"))]
    assert [line.name for line in read("gpu.txt") if line.name.startswith("nvidia-cudnn")]


@pytest.mark.parametrize(
    "machine", MACHINES, ids=lambda machine: f"{machine['python_version']}-{machine['platform_machine']}"
)
def test_the_locks_hold_all_requirements_of_the_inputs_and_of_the_package(machine):
    tools, extras = PYPROJECT["build-system"]["requires"], PYPROJECT["project"]["optional-dependencies"]
    wanted = {
        "cpu": [Requirement(text) for text in PYPROJECT["project"]["dependencies"]],
        "gpu": [Requirement(text) for text in PYPROJECT["project"]["dependencies"]],
        "tools": [Requirement(text) for text in tools],
        "test": [Requirement(text) for text in extras["test"]],
    }
    for lock, requirements in wanted.items():
        locked = versions(f"{lock}.txt", environment=machine)
        for requirement in requirements + [line.requirement for line in read(f"{lock}.in")]:
            if applies(requirement, machine):
                assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), requirement
    for platform in (["cpu.txt", "cpu-torch.txt"], ["gpu.txt"]):  # one environment, so each name has one version
        assert len(versions(*platform, "tools.txt", "test.txt", environment=machine)) > 200


def test_this_environment_has_exactly_the_locked_versions():
    here = versions_here()
    assert {line.name: here.get(line.name) for line in installed_here()} == {
        line.name: line.version for line in installed_here()
    }


def test_the_lock_is_complete_and_holds_nothing_else():
    """Set-up installs without dependencies, so the lock must hold all requirements of the installed packages."""
    here, locked = default_environment(), {line.name: line.version for line in installed_here()}
    left_out = {line.name for line in read("cpu-excludes.txt")} - {"torch"} if PLATFORM == "cpu" else set()
    inputs = [f"{PLATFORM}.in", "tools.in", "test.in", *(["cpu-torch.txt"] if PLATFORM == "cpu" else [])]
    open_requirements = [line.requirement for file in inputs for line in read(file) if line.applies(here)]
    seen: set[tuple[str, str]] = set()
    while open_requirements:
        requirement = open_requirements.pop()
        name = canonicalize_name(requirement.name)
        if name in left_out:
            continue
        assert name in locked, f"{requirement} is not locked"
        assert requirement.specifier.contains(locked[name], prereleases=True), (requirement, locked[name])
        for extra in {"", *requirement.extras}:
            if (name, extra) not in seen:
                seen.add((name, extra))
                needs = [Requirement(text) for text in distribution(name).requires or ()]
                open_requirements += [need for need in needs if applies(need, here, extra)]
    assert locked.keys() == {name for name, _ in seen}


def required_verl() -> dict[str, str]:
    """Return the fields of REQUIRED_VERL.txt as verl-recipe's installer reads them: KEY=VALUE, first value per key."""
    fields: dict[str, str] = {}
    for line in (ROOT / "recipe/treepo/REQUIRED_VERL.txt").read_text().splitlines():
        key, mark, value = line.lstrip().partition("=")
        if mark and not key.startswith("#"):
            fields.setdefault(key, value.rstrip())
    return fields


def test_the_recipe_requires_the_verl_of_the_package():
    fields = required_verl()
    assert {"MODE": "pinned_tag", "RECIPE_FOLDER": "treepo"}.items() <= fields.items()
    (verl,) = (Requirement(text) for text in PYPROJECT["project"]["dependencies"])
    (pin,) = verl.specifier
    assert fields["PIP_INSTALL"] == f"pip install {verl}"
    assert fields["TAG"] == fields["COMMIT"] == f"v{pin.version}"
    assert fields["GIT_SETUP"].startswith(f"git clone {fields['UPSTREAM']} && cd verl && git checkout {fields['TAG']}")


# --- set-up -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path):
    """Return a checkout with an up-to-date environment, whose Python cannot install packages."""
    for name in (
        "scripts/setup.sh",
        "scripts/common.sh",
        "scripts/help.sh",
        "pyproject.toml",
        "treepo_verl_plugin.py",
        "recipe/treepo/__init__.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(FOLDER, tmp_path / "requirements")
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\ncase "$2" in venv|pip|uv) exit 97;; esac\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    version = f"Python {sys.version.split()[0]}"
    parts = [f"cpu 0 {version}\n".encode()]
    parts += [file.read_bytes() for file in sorted(FOLDER.glob("*.txt"), key=lambda file: file.name)]
    parts += [(ROOT / name).read_bytes() for name in ("pyproject.toml", "scripts/setup.sh", "scripts/common.sh")]
    (tmp_path / ".venv/.treepo-setup").write_text(
        f"platform cpu, {version}\n{hashlib.sha256(b''.join(parts)).hexdigest()}  -\n"
    )
    return tmp_path


def set_up(checkout, **variables: str) -> subprocess.CompletedProcess:
    kept = {key: value for key, value in os.environ.items() if key not in ("VENV", "SETUP_TEST", "PYTHONPATH")}
    environment = {**kept, "LC_ALL": "C", "PLATFORM": "cpu", "PYTHON": str(checkout / ".venv/bin/python"), **variables}
    command = ["bash", checkout / "scripts/setup.sh"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_set_up_is_repeated_when_a_lock_changes(checkout):
    done = set_up(checkout)
    assert (done.returncode, done.stderr) == (0, "") and "is up to date" in done.stdout
    stamp = checkout / ".venv/.treepo-setup"
    up_to_date = stamp.read_text()
    for lock in (*(f"{lock}.txt" for lock in LOCKS), "cpu-torch.txt"):
        file = checkout / "requirements" / lock
        before = file.read_text()
        file.write_text(f"{before}# changed\n")
        done = set_up(checkout)
        assert done.returncode == 2 and "set-up: installing" in done.stdout and "is damaged" in done.stderr
        assert stamp.read_text() == up_to_date
        file.write_text(before)
    assert set_up(checkout).returncode == 0


def test_set_up_ends_at_once_where_another_package_hides_the_recipe(checkout, tmp_path):
    hiding = tmp_path / "elsewhere/recipe/__init__.py"
    hiding.parent.mkdir(parents=True)
    hiding.touch()
    done = set_up(checkout, PYTHONPATH=str(tmp_path / "elsewhere"))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: recipe={hiding}: this regular package hides TreePO's package")


def test_a_line_is_read_with_its_marker_and_hashes(tmp_path, monkeypatch):
    (tmp_path / "x.txt").write_text(
        "# a comment\nA_b==1.0 ; sys_platform == 'win32' \\\n    --hash=sha256:1 \\\n    --hash=sha256:2\n"
    )
    monkeypatch.setattr("helpers.locked.FOLDER", tmp_path)
    (line,) = read("x.txt")
    assert (line.name, line.version, line.hashes) == ("a-b", "1.0", ("sha256:1", "sha256:2"))
    assert not line.applies(MACHINES[0]) and Line(Requirement("a==1")).applies(MACHINES[0])
