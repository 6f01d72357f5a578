# SPDX-License-Identifier: Apache-2.0
"""The wheel, used from a clean environment; and a package named ``recipe`` that hides ours.

The clean environment has the locked packages and the wheel: no checkout, test tool or set-up tool. The wheel is really
installed. The locked packages are links into the environment that runs the tests, whose versions
``test_requirements.py`` compares with the lock. Installing them again would need uv's cache on the same disk and 30
seconds of processor time: the links' bytecode is compiled already, the cache has none.
"""

import json
import os
import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
import yaml

from helpers.locked import PLATFORM, ROOT, platform_here

DRY_RUN = [
    "-m", "recipe.treepo.main_treepo", "preset=tiny", f"platform={PLATFORM}", "actor_rollout_ref.model.path=model",
    "data.train_files=train.parquet", "data.val_files=val.parquet", "--dry-run",
]  # fmt: skip


def run(*command: object, folder: Path, **variables: str) -> subprocess.CompletedProcess:
    """Run a command in ``folder`` without the settings of this process that change where Python or verl look."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VERL_", "VIRTUAL_ENV"))}
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=folder, env=kept | variables, capture_output=True, text=True, timeout=240)


def install(*arguments: object, folder: Path) -> None:
    done = run(sys.executable, "-m", "uv", *arguments, "--offline", folder=folder)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", folder]
    install("build", *options, ROOT, folder=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture
def python(tmp_path) -> Path:
    """Interpreter of an environment with the platform's locked packages and nothing of ours."""
    install("venv", "--python", sys.executable, tmp_path / "venv", folder=tmp_path)
    (site,) = tmp_path.glob("venv/lib/python3*/site-packages")
    for line in platform_here():
        package = distribution(line.name)
        for top in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
            source = Path(str(package.locate_file(top))).resolve()
            if top == "recipe":  # TransferQueue has one, too: the wheel must not be installed through a link
                (site / top).mkdir(exist_ok=True)
                for child in source.iterdir():
                    if child.name != "treepo":
                        (site / top / child.name).symlink_to(child)
            elif not (site / top).exists():  # a namespace package, such as google, has several distributions
                (site / top).symlink_to(source)
    return tmp_path / "venv/bin/python"


@pytest.fixture
def installed(wheel, python) -> Path:
    """Interpreter of the same environment with the wheel."""
    install("pip", "install", "--python", python, "--no-deps", wheel, folder=wheel.parent)
    return python


def configuration(done: subprocess.CompletedProcess) -> dict:
    """The configuration that a dry run printed, after verl's own lines."""
    assert done.returncode == 0, done.stderr
    return yaml.safe_load("".join(done.stdout.partition("actor_rollout_ref:")[1:]))


@pytest.fixture
def empty(tmp_path) -> Path:
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def test_the_wheel_holds_our_packages_with_their_configuration_and_nothing_else(wheel):
    ours = [ROOT / "treepo_verl_plugin.py"]
    ours += [file for folder in ("recipe/treepo", "data_prep") for file in (ROOT / folder).rglob("*") if file.is_file()]
    expected = {str(file.relative_to(ROOT)) for file in ours if "__pycache__" not in file.parts}
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == expected
    assert {"recipe/treepo/config/treepo_trainer.yaml", "recipe/treepo/config/preset/tiny.yaml"} < held
    assert {name.partition("/")[0] for name in held} == {"recipe", "data_prep", "treepo_verl_plugin.py"}
    assert {Path(name).suffix for name in held} == {".py", ".yaml", ".txt", ".html", ".css", ".js"}


def test_installing_the_wheel_leaves_the_environment_of_the_tests_alone(installed):
    place = "lib/python3*/site-packages/recipe/treepo"
    assert [path.resolve().is_relative_to(installed.parents[2]) for path in installed.parents[1].glob(place)] == [True]
    assert list(Path(sys.prefix).glob(place)) == []


def test_a_dry_run_from_the_wheel_finds_the_presets(installed, empty):
    composed = configuration(run(installed, *DRY_RUN, folder=empty))
    preset = yaml.safe_load((ROOT / "recipe/treepo/config/preset/tiny.yaml").read_text())
    assert composed["treepo"]["depth"] == preset["treepo"]["depth"]


def test_data_preparation_runs_from_the_wheel(installed, empty):
    done = run(installed, "-m", "data_prep", folder=empty)
    assert done.returncode == 0 and "numina_math_tir" in done.stdout


def test_verl_loads_the_plugin_of_the_wheel(installed, empty):
    code = """
import json, sys
import verl
files = {name: sys.modules[name].__file__ for name in ("recipe.treepo.plugin", "treepo_verl_plugin", "verl")}
print(json.dumps([files, [type(finder).__name__ for finder in sys.meta_path]]))
"""
    done = run(installed, "-c", code, folder=empty)
    assert done.returncode == 0, done.stderr
    files, finders = json.loads(done.stdout)
    assert all(Path(file).is_relative_to(installed.parents[1]) for file in files.values()), files
    assert "_RegisterAfterImport" in finders


def test_verl_does_not_start_where_another_package_hides_the_plugin(installed, empty):
    hiding = empty / "recipe/__init__.py"
    hiding.parent.mkdir()
    hiding.touch()
    done = run(installed, "-c", "import verl; print('went on')", folder=empty)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith(f"error: recipe={hiding}: ")


def test_a_checkout_that_is_not_installed_loads_its_plugin(python, empty):
    composed = configuration(run(python, *DRY_RUN, folder=empty, PYTHONPATH=str(ROOT)))
    assert composed["algorithm"]["adv_estimator"] == "treepo"  # registered by the plugin, and checked


# --- a package named recipe that hides ours: the check alone, without verl --------------------------------------------


def check(folder: Path, files: dict[str, str]) -> subprocess.CompletedProcess:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return run(sys.executable, "-m", "treepo_verl_plugin", folder=folder, PYTHONPATH=str(ROOT))


@pytest.mark.parametrize(
    ("file", "content", "kind"),
    [
        ("recipe/__init__.py", "", "regular package"),
        ("recipe/__init__.py", "raise ImportError('a package that fails itself')", "regular package"),
        ("recipe.py", "", "module"),
    ],
)
def test_the_check_names_the_package_that_hides_ours(empty, file, content, kind):
    done = check(empty, {file: content})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: recipe={empty / file}: this {kind} hides TreePO's package recipe.treepo.")
    assert f"or keep {empty} off Python's path" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "files",
    [
        {"recipe/dapo/__init__.py": ""},  # a namespace package, too: both are found
        {"recipe/__init__.py": "__path__ = __import__('pkgutil').extend_path(__path__, __name__)"},
    ],
    ids=["namespace", "extended"],
)
def test_other_recipes_may_stand_beside_ours(empty, files):
    done = check(empty, files)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
