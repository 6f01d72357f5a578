# SPDX-License-Identifier: Apache-2.0
"""Allowed imports of each folder, including those inside functions and under ``if TYPE_CHECKING``."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.paths import ROOT

PACKAGE = "recipe.treepo"
# Folder or file: allowed imports besides the standard library and itself. A file's row precedes its folder's.
ALLOWED: dict[str, set[str]] = {
    "answers": set(),
    "sandbox/verifier_task": {"latex2sympy2_extended", "math_verify", "sympy"},
    "sandbox": set(),
    "console": {"psutil"},
    "interaction": set(),
    "advantages": {"numpy"},
    "packed/attention": {"numpy", "torch", "transformers"},
    "packed": {"numpy"},
    "policies": set(),
    "search": {"answers", "interaction", "policies"},
    "reward": {"answers", "sandbox"},
    "dumps": {"search"},
    "viewer/__main__": {"rich", "command_line", "dumps"},
    "viewer": {"jinja2", "markupsafe", "rich", "PIL", "dumps"},
    "settings/chat_tokens": {"jinja2", "tokenizers", "transformers"},
    "settings/data_files": {"jinja2", "omegaconf"},
    "settings/data_reading": {"pyarrow"},
    "settings/data_rows": {"answers"},
    "settings/hub_models": {"huggingface_hub", "omegaconf"},
    "settings/model_files": {"huggingface_hub", "omegaconf", "transformers"},
    "settings": {"omegaconf", "answers", "search", "advantages", "packed", "interaction", "reward"},
    "command_line/program": set(),
    "command_line": {"hydra", "omegaconf", "evaluation", "settings"},
    "verl_adapters": {
        *("answers", "sandbox", "interaction", "advantages", "packed", "search", "reward", "settings", "console"),
        *("dumps", "policies", "viewer"),
        *("hydra", "numpy", "omegaconf", "peft", "ray", "tensordict", "torch", "transfer_queue", "transformers"),
        *("verl", "vllm"),
    },
    "evaluation/servers": {"omegaconf", "search", "settings", "verl_adapters"},
    "evaluation": {"matplotlib", "numpy", "omegaconf", "answers", "dumps", "policies", "reward", "search", "settings"},
    "examples": {"numpy", "advantages", "interaction", "policies", "reward", "sandbox", "verl"},
    "main_treepo": {"omegaconf", "command_line", "console", "settings", "verl_adapters"},
    "main_eval": {
        "omegaconf",
        "tqdm",
        "command_line",
        "console",
        "evaluation",
        "main_treepo",
        "settings",
        "verl_adapters",
    },
    "main_export": {"command_line", "main_treepo", "verl_adapters"},
    "demo": {
        *("numpy", "rich", "transformers"),
        *("advantages", "command_line", "dumps", "reward", "search", "settings", "engines", "viewer"),
    },
    "engines": {"torch", "transformers", "search"},
    "plugin": {"verl_adapters"},
    "rollout": {"verl_adapters"},
    "tools": {"verl_adapters"},
}
# Allowed imports of data_prep; transformers and tokenizers count prompt tokens.
DATA_PREP = {
    *("answers", "command_line", "reward", "sandbox", "settings"),
    *("datasets", "huggingface_hub", "numpy", "pandas", "pyarrow", "tokenizers", "tqdm", "transformers", "yaml"),
}


def modules() -> dict[str, Path]:
    """Return the modules of the package by path, such as ``search/grow``; ``__init__`` stands for its package."""
    folder = ROOT / PACKAGE.replace(".", "/")
    return {str(path.relative_to(folder).with_suffix("")): path for path in sorted(folder.rglob("*.py"))}


def imported(path: Path, *, relative: bool = False) -> Iterator[str]:
    """Yield the full name of each import of a file; ``relative`` allows imports from its own folder."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level and relative:
                continue
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(name: str) -> str:
    """Return the part of our package (folder or root file), or the foreign package, of an import."""
    if name == PACKAGE or not name.startswith(f"{PACKAGE}."):
        return name.partition(".")[0]
    return name.removeprefix(f"{PACKAGE}.").partition(".")[0]


def row_of(module: str) -> str | None:
    return next((row for row in ALLOWED if module == row or module.startswith(f"{row}/")), None)


@pytest.mark.parametrize("module", [module for module in modules() if module != "__init__" and "config/" not in module])
def test_a_module_imports_only_what_its_row_allows(module: str) -> None:
    row = row_of(module)
    assert row is not None, f"{module} belongs to no row"
    own = module.partition("/")[0]
    parts = {part_of(name) for name in imported(modules()[module])} - set(sys.stdlib_module_names) - {own}
    assert parts <= ALLOWED[row]


def test_files_that_run_by_path_import_nothing_of_ours() -> None:
    for module in ("sandbox/worker", "sandbox/verifier_task"):
        assert not [name for name in imported(modules()[module]) if name.startswith(PACKAGE)]


def test_no_module_imports_itself_through_others() -> None:
    files = modules()

    def target(name: str) -> str | None:
        path = name.removeprefix(f"{PACKAGE}.").replace(".", "/")
        return next((found for found in (path, path.rpartition("/")[0]) if found in files), None)

    graph = {
        module: {found for name in imported(path) if name.startswith(f"{PACKAGE}.") if (found := target(name))}
        for module, path in files.items()
    }
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, f"a cycle: {' -> '.join([*above, module])}"
        if module not in done:
            for other in graph[module]:
                visit(other, (*above, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_the_root_holds_at_most_eleven_files() -> None:
    assert len(list((ROOT / "recipe/treepo").glob("*.py"))) <= 11


def test_only_the_entry_point_imports_the_servers_of_an_evaluation() -> None:
    users = [module for module, path in modules().items() if f"{PACKAGE}.evaluation.servers.Servers" in imported(path)]
    assert users == ["main_eval"]


@pytest.mark.parametrize("path", sorted((ROOT / "data_prep").rglob("*.py")), ids=lambda path: path.stem)
def test_data_prep_imports_only_what_its_row_allows(path: Path) -> None:
    """Own modules need relative imports: the package is both ``data_prep`` and ``recipe.treepo.data_prep``."""
    parts = {part_of(name) for name in imported(path, relative=True)} - set(sys.stdlib_module_names)
    assert parts <= DATA_PREP


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_an_example_imports_only_what_its_row_allows(path: Path) -> None:
    assert {part_of(name) for name in imported(path)} - set(sys.stdlib_module_names) <= ALLOWED["examples"]
