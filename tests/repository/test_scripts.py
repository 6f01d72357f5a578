# SPDX-License-Identifier: Apache-2.0
"""Shell scripts: ``--help`` only prints the header, and wrong keys fail before long work."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from helpers.paths import ROOT

SOURCED = ("common.sh", "help.sh")
SCRIPTS = sorted(path for path in (ROOT / "scripts").rglob("*.sh") if path.name not in SOURCED)
NAMES = [str(script.relative_to(ROOT)) for script in SCRIPTS]


def run_script(script: str, arguments: list[str], folder: Path) -> subprocess.CompletedProcess:
    """Run a script from ``folder``; each call of a set-up program leaves a file there."""
    traps = folder / "traps"
    traps.mkdir()
    for program in ("git", "python", "python3", "python3.11", "python3.12", "nvidia-smi", "uv", "pip"):
        (traps / program).write_text(f'#!/bin/bash\ntouch "{folder}/called_{program}"\nexit 1\n')
        (traps / program).chmod(0o755)
    environment = {"PATH": f"{traps}:/usr/bin:/bin", "HOME": str(folder), "VENV": str(folder / "venv")}
    return subprocess.run(
        ["bash", str(ROOT / script), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def header(script: str) -> list[str]:
    first, *lines = (ROOT / script).read_text().splitlines()
    assert first == "#!/usr/bin/env bash"
    length = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return [line.removeprefix("#").removeprefix(" ") for line in lines[:length]]


def test_the_scripts_are_found():
    assert {"run_treepo_qwen0.5b.sh", "setup.sh", "run_tests.sh", "quick.sh"} <= {path.name for path in SCRIPTS}


@pytest.mark.parametrize("script", NAMES)
@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--dry-run", "treepo.depth=5", "--help"]])
def test_help_prints_the_header_and_does_nothing(script, arguments, tmp_path):
    done = run_script(script, arguments, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == header(script)
    # no virtual environment, no outputs, no program calls
    assert os.listdir(tmp_path) == ["traps"]


@pytest.mark.parametrize("script", NAMES)
def test_the_header_has_the_purpose_and_the_usage(script):
    purpose, *rest = header(script)
    assert purpose.split()[0] in ("Trains", "Evaluates", "Checks", "Makes", "Measures", "Locks", "Sets")
    assert any(line.startswith(f"  bash {script}") for line in rest)
    assert max(map(len, [purpose, *rest])) <= 120


def test_the_knobs_have_one_place():
    base = header("scripts/run_treepo_qwen0.5b.sh")
    knobs = ("PRESET", "CHAT", "MODEL_PATH", "TRAIN_FILE", "OUTPUTS", "EXPERIMENT", "SEED")
    assert all(any(line.startswith(f"  {knob} ") for line in base) for knob in knobs)
    for name in ("run_grpo", "run_recheck", "run_calculator", "evaluate"):
        assert "bash scripts/run_treepo_qwen0.5b.sh --help" in "\n".join(header(f"scripts/{name}_qwen0.5b.sh"))


def test_an_argument_that_contains_help_is_not_a_request_for_it(tmp_path):
    done = run_script("scripts/setup.sh", ["x=--help"], tmp_path)
    assert done.returncode == 2 and "no Python 3.11 or 3.12" in done.stderr
    assert {"called_python3.11", "called_nvidia-smi"} <= set(os.listdir(tmp_path))


# --- order of work ---------------------------------------------------------------------------------------------


def calls_of(
    script: str, arguments: list[str], folder: Path, valid: bool = True, **variables: str
) -> tuple[int, list[str]]:
    """Run a copy of a script with a recording python and no set-up; return exit status and calls.

    Args:
        valid: Whether the configuration passes the check of the dry run.
        variables: Environment variables; default: PRESET=tiny.
    """
    (folder / "scripts").mkdir(exist_ok=True)
    for name in (*SOURCED, "run_treepo_qwen0.5b.sh", Path(script).name):
        shutil.copy(ROOT / "scripts" / name, folder / "scripts")
    (folder / "scripts/setup.sh").write_text("")
    python, log = folder / "venv/bin/python", folder / "calls"
    python.parent.mkdir(parents=True, exist_ok=True)
    fails = "" if valid else 'for x in "$@"; do [[ "$x" != --dry-run ]] || { echo "error: wrong" >&2; exit 1; }; done'
    python.write_text(f"""#!/bin/bash\nline="$*"; echo "${{line//$'\\n'/ }}" >>"{log}"\n{fails}\n""")
    python.chmod(0o755)
    log.unlink(missing_ok=True)
    environment = {"PATH": "/usr/bin:/bin", "PLATFORM": "cpu", "PRESET": "tiny", "VENV": str(folder / "venv")}
    environment |= variables
    done = subprocess.run(
        ["bash", str(folder / "scripts" / Path(script).name), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ("error: wrong" in done.stderr) is not valid
    words = [call.removeprefix("-m ").split() for call in (log.read_text().splitlines() if log.exists() else ())]
    return done.returncode, [f"{call[0]}{' --dry-run' if '--dry-run' in call else ''}" for call in words]


@pytest.mark.parametrize(
    ("script", "module"), [("run_treepo_qwen0.5b.sh", "main_treepo"), ("evaluate_qwen0.5b.sh", "main_eval")]
)
def test_data_are_made_for_a_run_and_not_for_a_dry_run(script, module, tmp_path):
    module = f"recipe.treepo.{module}"
    made = ["tiny.problems", "data_prep"]
    assert calls_of(script, ["treepo.depth=3"], tmp_path) == (0, [*made, module])
    assert calls_of(script, ["--cfg", "job"], tmp_path) == (0, [*made, module])
    assert calls_of(script, ["--dry-run"], tmp_path) == (0, [f"{module} --dry-run"])
    assert sorted(os.listdir(tmp_path)) == ["calls", "scripts", "venv"]
    assert calls_of(script, ["treepo.dept=3", "--dry-run"], tmp_path, valid=False) == (1, [f"{module} --dry-run"])


@pytest.mark.parametrize(
    ("script", "module"),
    [
        ("run_treepo_qwen0.5b.sh", "main_treepo"),
        ("run_grpo_qwen0.5b.sh", "main_treepo"),
        ("evaluate_qwen0.5b.sh", "main_eval"),
    ],
)
def test_the_model_of_the_preset_small_is_fetched_for_a_run_unless_another_is_named(script, module, tmp_path):
    made = ["small.problems", "data_prep", f"recipe.treepo.{module}"]
    assert calls_of(script, [], tmp_path, PRESET="small") == (0, ["small.model", *made])
    assert calls_of(script, [], tmp_path, PRESET="small", MODEL_PATH="mine") == (0, made)
    assert calls_of(script, ["--dry-run"], tmp_path, PRESET="small") == (0, [f"recipe.treepo.{module} --dry-run"])


def test_a_run_ends_where_the_model_cannot_be_fetched(tmp_path):
    calls_of("run_treepo_qwen0.5b.sh", [], tmp_path, PRESET="small")
    python = tmp_path / "venv/bin/python"
    python.write_text(
        '#!/bin/bash\n[[ "$*" != *small.model* ]] || { echo "error: no network" >&2; exit 1; }\ntouch ran\n'
    )
    environment = {"PATH": "/usr/bin:/bin", "PLATFORM": "cpu", "PRESET": "small", "VENV": str(tmp_path / "venv")}
    command = ["bash", tmp_path / "scripts/run_treepo_qwen0.5b.sh"]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (1, "error: no network\n") and not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("preset", "platform"), [("small", "cpu"), ("gpu_thinking", "gpu")])
def test_some_presets_have_no_conversations(preset, platform, tmp_path):
    done = subprocess.run(
        ["bash", str(ROOT / "scripts/run_recheck_qwen0.5b.sh")],
        env={"PATH": "/usr/bin:/bin", "PLATFORM": platform, "PRESET": preset, "VENV": str(tmp_path / "venv")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert f"PRESET={preset}: has no variant for conversations. Use PRESET=tiny or gpu" in done.stderr


@pytest.mark.parametrize(
    ("preset", "model"), [("gpu", "Qwen/Qwen2.5-0.5B"), ("gpu_thinking", "Qwen/Qwen3-0.6B"), ("tiny", "tiny/model")]
)
def test_each_preset_has_its_model(preset, model, tmp_path):
    assert calls_of("run_treepo_qwen0.5b.sh", ["--dry-run"], tmp_path, PRESET=preset)[0] == 0
    words = (tmp_path / "calls").read_text().split()
    assert f"preset={preset}" in words and f"platform={'cpu' if preset == 'tiny' else 'gpu'}" in words
    [path] = [word for word in words if word.startswith("actor_rollout_ref.model.path=")]
    assert path.endswith(f"{'/' if preset == 'tiny' else '='}{model}")


def test_the_check_on_a_gpu_compares_engines_first_and_then_runs(tmp_path):
    engine, step = "benchmarks.packed_speed", "benchmarks.step_speed"
    status, calls = calls_of("check_gpu.sh", [], tmp_path, PLATFORM="gpu")
    assert (status, calls) == (0, [engine, engine, "tiny.problems", "data_prep", step])
    assert calls_of("check_gpu.sh", ["engine", "--prompts", "1"], tmp_path)[1] == [engine, engine]
    assert [line.split()[-2:] for line in (tmp_path / "calls").read_text().splitlines()] == [["--prompts", "1"]] * 2
    assert calls_of("check_gpu.sh", ["training"], tmp_path, PLATFORM="cpu") == (2, [])
    assert calls_of("check_gpu.sh", ["all"], tmp_path, PLATFORM="gpu") == (2, [])


def test_the_check_on_a_gpu_ends_at_the_first_failure(tmp_path):
    fails = tmp_path / "fails"
    fails.write_text(f"#!/bin/bash\necho call >>{tmp_path}/engine\nexit 3\n")
    fails.chmod(0o755)
    assert calls_of("check_gpu.sh", [], tmp_path, PLATFORM="gpu", PYTHON=str(fails)) == (3, [])
    assert (tmp_path / "engine").read_text() == "call\n"
