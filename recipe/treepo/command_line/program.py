# SPDX-License-Identifier: Apache-2.0
"""Names of the programs: console scripts of an installation, and ``python -m`` everywhere."""

import sys
from pathlib import Path

# Console script (pyproject.toml) -> the same program as a module.
MODULES = {
    "treepo-train": "python -m recipe.treepo.main_treepo",
    "treepo-eval": "python -m recipe.treepo.main_eval",
    "treepo-export": "python -m recipe.treepo.main_export",
    "treepo-data": "python -m recipe.treepo.data_prep",
    "treepo-view": "python -m recipe.treepo.viewer",
    "treepo-demo": "python -m recipe.treepo.demo",
}


def as_called(text: str) -> str:
    """Return a help text; if a console script runs, with the names of the scripts instead of modules."""
    if Path(sys.argv[0]).name in MODULES:
        for script, module in MODULES.items():
            text = text.replace(module, script)
    return text
