# SPDX-License-Identifier: Apache-2.0
"""``main_treepo`` and ``main_eval`` as programs in an empty folder: imports, output and files."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from helpers.configs import DATA
from helpers.paths import ROOT
from recipe.treepo.command_line.help_text import help_text
from recipe.treepo.command_line.pages import EVALUATION_PAGE, TRAINING_PAGE
from recipe.treepo.main_eval import with_group

TINY = ["platform=cpu", "preset=tiny"]
MODULES = ("main_treepo", "main_eval")
HEAVY = ("ray", "torch", "verl", "vllm")
# Runs an entry point, and reports its imports on stderr.
REPORT = """
import sys
from recipe.treepo import {module} as entry_point
{before}
try:
    entry_point.main()
finally:
    print("imported:", *(name for name in {heavy} if name in sys.modules), file=sys.stderr)
"""


def run(module: str, *arguments: str, folder: Path, before: str = "") -> subprocess.CompletedProcess:
    """Run an entry point in ``folder``, after the code ``before``."""
    code = REPORT.format(module=module, before=before, heavy=HEAVY)
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def imported(done: subprocess.CompletedProcess) -> list[str]:
    (line,) = re.findall(r"^imported:(.*)", done.stderr, re.MULTILINE)
    return line.split()


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


@pytest.mark.parametrize(("module", "page"), [("main_treepo", TRAINING_PAGE), ("main_eval", EVALUATION_PAGE)])
def test_help_prints_the_page_and_imports_nothing_heavy(module, page, empty):
    done = run(module, "treepo.dept=3", "--help", "--dry-run", folder=empty)
    assert (done.returncode, done.stdout, imported(done)) == (0, help_text(page) + "\n", [])
    assert os.listdir(empty) == []


def test_hydras_help_is_hydras(empty):
    done = run("main_treepo", "--hydra-help", folder=empty)
    assert done.returncode == 0
    assert done.stdout.startswith("Hydra (") and "--multirun,-m : Run multiple jobs" in done.stdout
    assert os.listdir(empty) == []


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("dry_run", [["--dry-run"], []])
def test_problems_with_our_keys_are_reported_before_verl_is_imported(module, dry_run, empty):
    arguments = [*TINY, "treepo.dept=5", "treepo.retries=x", "treepo.max_divergence=1", *dry_run]
    done = run(module, *arguments, folder=empty)
    assert (done.returncode, done.stdout, imported(done)) == (1, "", [])
    assert "treepo.dept=5: " in done.stderr and "Did you mean treepo.depth?" in done.stderr
    assert "treepo.retries=x: " in done.stderr
    assert os.listdir(empty) == []


@pytest.mark.parametrize("module", MODULES)
def test_rules_between_keys_are_checked_before_verl_is_imported(module, empty):
    out = ["evaluation.out_dir=out"] if module == "main_eval" else []
    done = run(module, *TINY, "treepo.max_divergence=1", *out, folder=empty)
    assert (done.returncode, done.stdout, imported(done)) == (1, "", [])
    assert "treepo.max_divergence=1: " in done.stderr
    assert "data.val_files=~/data/rlhf/gsm8k/test.parquet: " in done.stderr
    assert os.listdir(empty) == []


def test_where_hydra_stops_our_problems_are_reported_too(empty):
    done = run("main_treepo", *TINY, "treepo.dept=5", "treepo.depth=x", "~trainer.foo", folder=empty)
    assert (done.returncode, done.stdout, imported(done)) == (1, "", [])
    assert "Could not delete from config" in done.stderr and "2 problem(s)" in done.stderr
    assert "treepo.dept=5: " in done.stderr
    assert "treepo.depth=x: " in done.stderr
    assert os.listdir(empty) == []


@pytest.mark.parametrize("module", MODULES)
def test_keys_that_verl_does_not_have_are_reported_with_all_other_problems(module, empty):
    arguments = [*TINY, "treepo.depth=x", "trainer.foo=1", "data.train_batchsize=4"]
    arguments += ["evaluation.out_dir=out"] if module == "main_eval" else ["actor_rollout_ref.rollout.top_p=2"]
    done = run(module, *arguments, "--dry-run", folder=empty)
    assert (done.returncode, done.stdout, imported(done)) == (1, "", [])
    keys = ["trainer.foo=1: ", "data.train_batchsize=4: ", "treepo.depth=x: "]
    keys += [] if module == "main_eval" else ["actor_rollout_ref.rollout.top_p=2: "]
    assert f"{len(keys)} problem(s)" in done.stderr and all(key in done.stderr for key in keys)
    assert os.listdir(empty) == []


def test_names_of_verls_registries_are_reported_with_all_other_problems(empty):
    loss = "actor_rollout_ref.actor.policy_loss.loss_mode=gspoo"
    done = run("main_treepo", *TINY, loss, "trainer.resume_mode=resume_path", "--dry-run", folder=empty)
    assert (done.returncode, done.stdout) == (1, "") and "Traceback" not in done.stderr
    assert "2 problem(s)" in done.stderr and f"{loss}: " in done.stderr
    assert "Use actor_rollout_ref.actor.policy_loss.loss_mode=gspo." in done.stderr


def test_a_dry_run_of_several_configurations_is_refused(empty):
    done = run("main_eval", *TINY, "treepo.depth=3,4", "--multirun", "--dry-run", folder=empty)
    assert (done.returncode, done.stdout, imported(done)) == (1, "", [])
    assert "--dry-run=True: " in done.stderr and "--multirun" in done.stderr
    assert os.listdir(empty) == []


def test_a_dry_run_of_training_prints_yaml_and_writes_nothing(empty):
    own = ["hydra.run.dir=run", "hydra/job_logging=default", "trainer.default_local_dir=${hydra:job.name}/x"]
    done = run("main_treepo", *TINY, *own, "--dry-run", folder=empty)
    assert done.returncode == 0
    found = yaml.safe_load(done.stdout)
    assert done.stdout.startswith("# The configuration is valid. ")
    assert found["treepo"] == {"depth": 4, "segment_length": 32}
    assert found["trainer"]["default_local_dir"] == "main_treepo/x"
    assert "note: data.train_files=~/data/rlhf/gsm8k/train.parquet: " in done.stderr
    assert os.listdir(empty) == []


def test_a_dry_run_of_an_evaluation_prints_its_runs_and_yaml_and_writes_nothing(empty):
    arguments = [*TINY, "evaluation.out_dir=out", "evaluation.n=2", "hydra.run.dir=run"]
    done = run("main_eval", *arguments, "--dry-run", folder=empty)
    assert (done.returncode, imported(done)) == (0, [])
    first, *runs = [line for line in done.stdout.splitlines() if line.startswith("#")]
    assert first.startswith("# The configuration is valid. ")
    assert runs == ["# plain, n 2: independent samples", "# tree, n 2: trees"]
    assert yaml.safe_load(done.stdout)["evaluation"] == {"out_dir": "out", "n": 2}
    full = run("main_eval", *arguments, "--dry-run", "--full", folder=empty)
    with initialize_config_module("recipe.treepo.config", version_base=None):
        config = compose("treepo_trainer", with_group(arguments[:-1]))
    assert full.stdout == "\n".join(runs) + "\n" + OmegaConf.to_yaml(config, resolve=True)
    assert os.listdir(empty) == []


def test_a_run_is_checked_first_and_then_trains_with_the_same_configuration(empty):
    arguments = [*TINY, f"actor_rollout_ref.model.path={ROOT}/tiny/model", "hydra.run.dir=run", "treepo.retries=5"]
    # Any existing file will do: columns are checked only in files named .parquet.
    arguments += [f"data.{name}_files={DATA}" for name in ("train", "val")]
    before = """
from omegaconf import OmegaConf
checked, prepare = [], entry_point.prepare
def remember(config, problems, **options):
    import os
    assert not os.path.exists("run")
    checked.append(OmegaConf.to_yaml(config))
    prepare(config, problems, **options)
def train(config, early):
    assert "validate_config" in early.read_text()  # verl's output is held back
    print("trained", [OmegaConf.to_yaml(config)] == checked, config.treepo.retries, config.trainer.device)
entry_point.prepare, entry_point.train = remember, train
"""
    done = run("main_treepo", *arguments, folder=empty, before=before)
    assert (done.returncode, done.stdout) == (0, "trained True 5 cpu\n"), done.stderr
    # Hydra's record of the run is the same as without the check.
    assert os.listdir(empty) == ["run"]
    assert sorted(os.listdir(empty / "run/.hydra")) == ["config.yaml", "hydra.yaml", "overrides.yaml"]
    overrides = yaml.safe_load((empty / "run/.hydra/overrides.yaml").read_text())
    assert overrides == [argument for argument in arguments if not argument.startswith("hydra")]
    assert re.findall(r"file:\S+", (empty / "run/.hydra/hydra.yaml").read_text()) == []


def test_a_failed_run_ends_with_its_cause(empty):
    arguments = [*TINY, f"actor_rollout_ref.model.path={ROOT}/tiny/model", "hydra.run.dir=run"]
    arguments += [f"data.{name}_files={DATA}" for name in ("train", "val")]
    arguments.append("trainer.default_local_dir=mine/checkpoints")
    before = """
from recipe.treepo.verl_adapters import run
def run_ppo(config, **options):
    print("noise")
    raise ValueError("boom")
run.run_ppo = run_ppo
"""
    done = run("main_treepo", *arguments, folder=empty, before=before)
    assert done.returncode == 1
    *_, frame, error, imported = done.stderr.splitlines()
    assert frame.endswith(" run_ppo") and error == "error: ValueError: boom" and imported.startswith("imported:")
    title, folders, *_, resume = done.stdout.splitlines()
    assert title.startswith("treepo  ") and folders == "logs: mine/logs" and resume.startswith("  resume: ")
    log = (empty / "mine/logs/console.log").read_text()
    assert "noise\n" in log and "validate_config" in log and "ValueError: boom" in log
    assert sorted(os.listdir(empty)) == ["mine", "run"]
