# SPDX-License-Identifier: Apache-2.0
"""Load the class that ``treepo.interaction`` names, with verl's own loader."""

import os
from typing import Any

from verl.utils.import_utils import load_module

from recipe.treepo.config_values import Problem
from recipe.treepo.interaction import Interaction
from recipe.treepo.settings import FREE_GROUP, InteractionSettings


def interaction_class(settings: InteractionSettings) -> type[Interaction] | None:
    """Return the class, None where none is named; raises whatever loading it raises."""
    if settings.path is None:
        return None
    return getattr(_module(settings.path), settings.name)


def interaction_problems(settings: InteractionSettings) -> list[Problem]:
    """Load the class and make an instance of it, as each prompt does."""
    if settings.path is None:
        return []
    path, name = "treepo.interaction.path", "treepo.interaction.name"
    try:
        module = _module(settings.path)
    except Exception as error:  # whatever the user's module raises
        # verl's loader wraps what a file raises.
        rule = f"cannot be loaded ({_told(error.__cause__ or error)})"
        return [Problem(path, settings.path, rule, "Name a Python file or pkg://module that can be imported.")]
    if not hasattr(module, settings.name):
        return [Problem(name, settings.name, f"{settings.path} has nothing of that name", "Name a class in it.")]
    found = getattr(module, settings.name)
    if not isinstance(found, type) or not issubclass(found, Interaction):
        rule = "is no subclass of recipe.treepo.interaction.Interaction"
        return [Problem(name, settings.name, rule, "Derive the class from it.")]
    try:
        found(**settings.options)
    except Exception as error:  # whatever the user's constructor raises
        rule = f"{settings.name} does not take them ({_told(error)})"
        return [Problem(FREE_GROUP, dict(settings.options), rule, f"Give the arguments of {settings.name}.")]
    return []


def _module(path: str) -> Any:
    return load_module(os.path.expanduser(path))


def _told(error: BaseException) -> str:
    """Return an error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
