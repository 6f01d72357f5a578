# SPDX-License-Identifier: Apache-2.0
"""The names of the programs: the console scripts of an installation, and ``python -m`` everywhere."""

import sys
from pathlib import Path

# Console script (pyproject.toml) -> the same program by its module.
MODULES = {
    "treepo-train": "python -m recipe.treepo.main_treepo",
    "treepo-eval": "python -m recipe.treepo.main_eval",
    "treepo-data": "python -m recipe.treepo.data_prep",
    "treepo-view": "python -m recipe.treepo.viewer",
}


def as_called(text: str) -> str:
    """Return a help text with the names of the console scripts, where one of them runs."""
    if Path(sys.argv[0]).name in MODULES:
        for script, module in MODULES.items():
            text = text.replace(module, script)
    return text
