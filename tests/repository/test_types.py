# SPDX-License-Identifier: Apache-2.0
"""Type checker: all rules apply to our modules, and each exception has a code and a reason."""

import re
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.paths import ROOT

MYPY = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
OURS = ("recipe", "data_prep", "small", "tiny", "treepo_verl_plugin")
SETTINGS = {"files", "exclude", "python_version", "strict", "untyped_calls_exclude", "explicit_package_bases"}
# verl has no types: its classes and decorators are Any.
BORDER_RULES = {"disallow_subclassing_any", "disallow_untyped_decorators"}
BORDER = {"recipe.treepo.verl_adapters.*"}
# Code in brackets, then the reason as a separate comment.
EXCEPTION = re.compile(r"# type: ignore\[[a-z-]+(, ?[a-z-]+)*\]  # \S.*")


def sources() -> list[Path]:
    """Return the files to check."""
    found: list[Path] = []
    for name in MYPY["files"]:
        found += [ROOT / name] if name.endswith(".py") else (ROOT / name).rglob("*.py")
    return sorted(found)


def comments(path: Path) -> Iterator[str]:
    """Yield the comments of a file, without text in strings."""
    with tokenize.open(path) as file:
        yield from (token.string for token in tokenize.generate_tokens(file.readline) if token.type == tokenize.COMMENT)


def is_allowed(comment: str) -> bool:
    """Return whether a comment leaves the checker as configured and ignores errors only with code and reason."""
    if re.match(r"#\s*mypy\s*:", comment):
        return False
    return not re.search(r"type:\s*ignore", comment) or EXCEPTION.fullmatch(comment) is not None


def is_ours(module: str) -> bool:
    return module.partition(".")[0] in OURS or module.startswith("*")


def test_all_rules_are_on_for_our_modules():
    assert MYPY["strict"] is True
    assert MYPY.keys() - {"overrides"} <= SETTINGS
    for section in MYPY["overrides"]:
        modules, rules = set(section["module"]), section.keys() - {"module"}
        if any(map(is_ours, modules)):
            assert rules <= BORDER_RULES and modules <= BORDER
        else:
            assert rules <= {"follow_imports", "ignore_missing_imports"}


def test_the_checked_folders_exist():
    files = sources()
    assert {ROOT / "recipe/treepo/reward.py", ROOT / "data_prep/check.py", ROOT / "tiny/problems.py"} <= set(files)
    assert all(path.is_file() for path in files)


def test_each_exception_has_a_code_and_a_reason():
    found = [(path.relative_to(ROOT), comment) for path in sources() for comment in comments(path)]
    assert len(found) > 100
    assert [line for line in found if not is_allowed(line[1])] == []


@pytest.mark.parametrize(
    ("comment", "allowed"),
    [
        ("# type: ignore[attr-defined]  # verl's registry has no types", True),
        ("# type: ignore[misc, override]  # verl's method has no types", True),
        ("# a type to ignore", True),
        ("# type: ignore", False),
        ("# type:ignore", False),
        ("# type: ignore[misc]", False),
        ("# type: ignore[misc]  #", False),
        ("# type: ignore  # because", False),
        ("# mypy: ignore-errors", False),
        ("# mypy: disable-error-code=misc", False),
    ],
)
def test_an_exception_without_code_or_reason_is_found(comment, allowed):
    assert is_allowed(comment) is allowed
