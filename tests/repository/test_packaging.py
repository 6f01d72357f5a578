# SPDX-License-Identifier: Apache-2.0
"""The wheel in a clean environment, an editable installation, and a package named ``recipe`` that hides ours.

The clean environment has the locked packages and the installed wheel, but no checkout, test tool or set-up tool. The
locked packages are links into the environment of the tests, whose versions ``test_requirements.py`` compares with the
lock. A real installation would need uv's cache on the same disk and 30 seconds of CPU time to compile bytecode.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import HeaderParser
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from helpers.locked import PLATFORM, ROOT, platform_here
from recipe.treepo.command_line.program import MODULES

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Folder of the repository -> folder in the wheel.
PLACES = {"recipe/treepo": "recipe/treepo"} | {name: f"recipe/treepo/{name}" for name in ("data_prep", "examples")}
DRY_RUN = [
    "preset=tiny", f"platform={PLATFORM}", "actor_rollout_ref.model.path=model",
    "data.train_files=train.parquet", "data.val_files=val.parquet", "--dry-run",
]  # fmt: skip
TRAIN = ["-m", "recipe.treepo.main_treepo", *DRY_RUN]
EXAMPLE = ["treepo.interaction.path=pkg://recipe.treepo.examples.recheck", "treepo.interaction.name=Recheck"]


def run(*command: object, folder: Path, **variables: str) -> subprocess.CompletedProcess:
    """Run a command in ``folder`` without this process's settings of the search paths of Python and verl."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VERL_", "VIRTUAL_ENV"))}
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=folder, env=kept | variables, capture_output=True, text=True, timeout=240)


def install(*arguments: object, folder: Path) -> None:
    done = run(sys.executable, "-m", "uv", *arguments, "--offline", folder=folder)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Return the wheel, built from the source distribution."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-build-isolation", "--python", sys.executable, "--out-dir", folder]
    install("build", *options, ROOT, folder=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture
def python(tmp_path) -> Path:
    """Return the interpreter of an environment with only the platform's locked packages."""
    install("venv", "--python", sys.executable, tmp_path / "venv", folder=tmp_path)
    (site,) = tmp_path.glob("venv/lib/python3*/site-packages")
    for line in platform_here():
        package = distribution(line.name)
        for top in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
            source = Path(str(package.locate_file(top))).resolve()
            if top == "recipe":  # also in TransferQueue; the wheel must not be installed through a link
                (site / top).mkdir(exist_ok=True)
                for child in source.iterdir():
                    if child.name != "treepo":
                        (site / top / child.name).symlink_to(child)
            elif not (site / top).exists():  # several distributions share a namespace package such as google
                (site / top).symlink_to(source)
    return tmp_path / "venv/bin/python"


@pytest.fixture
def installed(wheel, python) -> Path:
    """Return the interpreter of the same environment with the wheel."""
    install("pip", "install", "--python", python, "--no-deps", wheel, folder=wheel.parent)
    return python


def configuration(done: subprocess.CompletedProcess) -> dict:
    """Return the configuration that a dry run printed after verl's own lines."""
    assert done.returncode == 0, done.stderr
    return yaml.safe_load("".join(done.stdout.partition("actor_rollout_ref:")[1:]))


@pytest.fixture
def empty(tmp_path) -> Path:
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def test_the_wheel_holds_our_packages_with_their_configuration_and_nothing_else(wheel):
    expected = {"treepo_verl_plugin.py"}
    for folder, place in PLACES.items():
        files = [file.relative_to(ROOT / folder) for file in (ROOT / folder).rglob("*") if file.is_file()]
        expected |= {f"{place}/{file}" for file in files if "__pycache__" not in file.parts}
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == expected
    needed = ("py.typed", "config/treepo_trainer.yaml", "config/preset/tiny.yaml", "examples/recheck.py")
    assert {f"recipe/treepo/{name}" for name in needed} < held
    assert {"/".join(name.split("/")[:2]) for name in held} == {"recipe/treepo", "treepo_verl_plugin.py"}
    assert {Path(name).suffix for name in held} == {".py", ".yaml", ".txt", ".html", ".css", ".js", ".typed", ".ipynb"}


def test_the_metadata_describe_the_package(wheel):
    files = zipfile.ZipFile(wheel)
    (folder,) = {name.partition("/")[0] for name in files.namelist() if ".dist-info/" in name}
    metadata = HeaderParser().parsestr(files.read(f"{folder}/METADATA").decode())
    assert metadata["Name"] == "treepo-verl" and "\n" not in metadata["Summary"]
    assert metadata["Author"] and metadata["Keywords"] and metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_all("Requires-Dist")[0] == "verl==0.9.1" and "Typing :: Typed" in metadata.get_all("Classifier")
    assert f"{folder}/licenses/LICENSE" in files.namelist()


def test_installing_the_wheel_leaves_the_environment_of_the_tests_alone(installed):
    place = "lib/python3*/site-packages/recipe/treepo"
    assert [path.resolve().is_relative_to(installed.parents[2]) for path in installed.parents[1].glob(place)] == [True]
    assert list(Path(sys.prefix).glob(place)) == []


def test_a_dry_run_from_the_wheel_finds_the_presets_and_the_examples(installed, empty):
    composed = configuration(run(installed.with_name("treepo-train"), *DRY_RUN, *EXAMPLE, folder=empty))
    preset = yaml.safe_load((ROOT / "recipe/treepo/config/preset/tiny.yaml").read_text())
    assert composed["treepo"]["depth"] == preset["treepo"]["depth"]


def test_the_console_scripts_of_the_wheel_show_their_help(installed, empty):
    assert MODULES.keys() == PROJECT["scripts"].keys()
    for script in MODULES:
        done = run(installed.with_name(script), "--help", folder=empty)
        assert (done.returncode, done.stderr) == (0, "") and f"{script} [" in done.stdout
        assert not [module for module in MODULES.values() if module in done.stdout]
    assert os.listdir(empty) == []


def test_data_preparation_runs_from_the_wheel(installed, empty):
    done = run(installed.with_name("treepo-data"), folder=empty)
    assert done.returncode == 0 and "numina_math_tir" in done.stdout
    assert run(installed, "-m", "recipe.treepo.data_prep.check", "--help", folder=empty).returncode == 0
    assert "No module named data_prep" in run(installed, "-m", "data_prep", folder=empty).stderr


def test_verl_loads_the_plugin_and_the_examples_of_the_wheel(installed, empty):
    code = """
import json, sys
import verl
from verl.utils.import_utils import load_module
for name in ("recheck", "tool_reward", "tree_reward"):
    load_module(f"pkg://recipe.treepo.examples.{name}")
ours = ("recipe.treepo.plugin", "recipe.treepo.examples.recheck", "treepo_verl_plugin", "verl")
files = {name: sys.modules[name].__file__ for name in ours}
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
    composed = configuration(run(python, *TRAIN, folder=empty, PYTHONPATH=str(ROOT)))
    assert composed["algorithm"]["adv_estimator"] == "treepo"  # registered by the plugin, and checked


# --- an editable installation -----------------------------------------------------------------------------------------


def test_an_editable_installation_shows_our_packages_and_nothing_else(empty):
    build = "import sys, hatchling.build; hatchling.build.build_editable(sys.argv[1])"
    done = run(sys.executable, "-c", build, empty, folder=ROOT)
    assert done.returncode == 0, done.stderr
    (wheel,) = empty.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(empty)
    tops = {path.name.removesuffix(".py") for path in ROOT.iterdir() if path.is_dir() or path.suffix == ".py"}
    others = sorted(name for name in tops - {"__pycache__", "recipe", "treepo_verl_plugin"} if name.isidentifier())
    code = """
import json, site, sys
from importlib.util import find_spec
before = list(sys.path)
site.addsitedir(sys.argv[1])
new = [entry for entry in sys.path if entry not in before]
(recipe,) = find_spec("recipe").submodule_search_locations
ours = ("plugin", "data_prep.check", "examples.recheck")
places = {name: find_spec(name).origin for name in (*map("recipe.treepo.{}".format, ours), "treepo_verl_plugin")}
print(json.dumps([new, recipe, places, [name for name in sys.argv[2:] if find_spec(name)]]))
"""
    done = run(sys.executable, "-I", "-S", "-c", code, empty, *others, folder=empty)
    assert done.returncode == 0, done.stderr
    (_, entry), recipe, places, leaked = json.loads(done.stdout)
    assert {"data_prep", "examples", "tests", "tiny"} <= set(others) and leaked == []
    assert set(os.listdir(entry)) - {"__pycache__"} == {"recipe", "treepo_verl_plugin.py"}
    assert os.listdir(recipe) == ["treepo"]
    assert all(Path(place).resolve().is_relative_to(ROOT) for place in places.values()), places
    assert Path(places["recipe.treepo.data_prep.check"]).samefile(ROOT / "data_prep/check.py")


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
        {"recipe/dapo/__init__.py": ""},  # also a namespace package: both are found
        {"recipe/__init__.py": "__path__ = __import__('pkgutil').extend_path(__path__, __name__)"},
    ],
    ids=["namespace", "extended"],
)
def test_other_recipes_may_stand_beside_ours(empty, files):
    done = check(empty, files)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# --- files beside the package -----------------------------------------------------------------------------------------


def test_the_citation_names_this_version_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # required by the format
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in PROJECT["authors"]]
    (paper,) = citation["references"]
    assert paper["title"].startswith("TreePO: ") and paper["url"].endswith("2508.17445") and len(paper["authors"]) == 17
    assert f"## {PROJECT['version']} " in (ROOT / "CHANGELOG.md").read_text()


def test_the_commands_of_the_commit_hooks_exist():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = {hook["id"]: hook for hook in repository["hooks"]}
    pages = {
        "settings-page": ("recipe/treepo/config/treepo_trainer.yaml", "docs/reference/settings.md"),
        "metrics-page": ("recipe/treepo/verl_adapters/outcome_metrics.py", "docs/reference/metrics.md"),
        "pictures": ("recipe/treepo/viewer/svg.py", "docs/pictures/fallback.svg"),
    }
    assert hooks.keys() == {"ruff-check", "ruff-format", "mypy", *pages} and repository["repo"] == "local"
    for hook in hooks.values():
        command, *arguments = hook["entry"].split()
        assert shutil.which(command, path=Path(sys.executable).parent), hook
        assert hook["language"] == "system" and (arguments[:1] != ["-m"] or find_spec(arguments[1]))
    for page, files in pages.items():
        assert all((ROOT / file).exists() and re.search(hooks[page]["files"], file) for file in files)
