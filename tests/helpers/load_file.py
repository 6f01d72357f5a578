# SPDX-License-Identifier: Apache-2.0
"""Load a Python file outside packages: an example, or a script (verl installs a package called ``scripts``)."""

import importlib.util
from pathlib import Path
from types import ModuleType

from helpers.paths import ROOT


def load_file(path: str) -> ModuleType:
    """Return the module of the repository's file ``path``."""
    spec = importlib.util.spec_from_file_location(f"{Path(path).stem}_under_test", ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
