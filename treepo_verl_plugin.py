# SPDX-License-Identifier: Apache-2.0
"""Load ``recipe.treepo.plugin`` into verl (entry point group ``verl.plugins``), or end the process if it is hidden.

``recipe`` is a namespace package: a regular package or module of that name anywhere on ``sys.path`` takes precedence.
verl logs a failed plugin import at debug level and continues; the run then stops minutes later with ``No module named
'recipe.treepo'``. This module lies outside ``recipe`` and raises ``SystemExit``, which verl does not catch.

``python -m treepo_verl_plugin`` only checks, in milliseconds and without verl. ``scripts/setup.sh`` always runs it.
"""

import importlib
import importlib.util
import os


def require_recipe() -> None:
    """Import the package ``recipe.treepo``.

    Raises:
        SystemExit: if another package or module named ``recipe`` hides it; the message has its path.
    """
    try:
        importlib.import_module("recipe.treepo")
    except Exception:
        spec = importlib.util.find_spec("recipe")
        if spec is None or spec.origin is None:  # a namespace package: recipe.treepo is missing, not hidden
            raise
        hidden_by = spec.origin
    else:
        return
    kind, remedy, folder = "module", "Rename it", os.path.dirname(hidden_by)
    if os.path.basename(hidden_by) == "__init__.py":
        kind, remedy, folder = "regular package", "Rename it, delete its __init__.py", os.path.dirname(folder)
    raise SystemExit(
        f"error: recipe={hidden_by}: this {kind} hides TreePO's package recipe.treepo. {remedy}, or keep {folder} off "
        "Python's path (working directory, PYTHONPATH, site-packages). "
        "VERL_USE_EXTERNAL_PLUGINS=none runs verl without TreePO."
    )


require_recipe()
if __name__ != "__main__":
    importlib.import_module("recipe.treepo.plugin")
