# SPDX-License-Identifier: Apache-2.0
"""Load the class that ``treepo.interaction`` names, with verl's own loader."""

from verl.utils.import_utils import load_extern_object

from recipe.treepo.config_values import Problem
from recipe.treepo.interaction import Interaction
from recipe.treepo.settings import FREE_GROUP, InteractionSettings


def interaction_class(settings: InteractionSettings) -> type[Interaction] | None:
    """Return the class, None where none is named; raises whatever loading it raises."""
    if settings.path is None:
        return None
    return load_extern_object(settings.path, settings.name)


def interaction_problems(settings: InteractionSettings) -> list[Problem]:
    """Load the class and make an instance of it, as each prompt does."""
    path, name = "treepo.interaction.path", "treepo.interaction.name"
    try:
        found = interaction_class(settings)
    except AttributeError:
        return [Problem(name, settings.name, f"{settings.path} has nothing of that name", "Name a class in it.")]
    except Exception as error:  # whatever the user's module raises
        rule = f"cannot be loaded ({type(error).__name__}: {error})"
        return [Problem(path, settings.path, rule, "Name a Python file or pkg://module that can be imported.")]
    if found is None:
        return []
    if not isinstance(found, type) or not issubclass(found, Interaction):
        rule = "is no subclass of recipe.treepo.interaction.Interaction"
        return [Problem(name, settings.name, rule, "Derive the class from it.")]
    try:
        found(**settings.options)
    except Exception as error:  # whatever the user's constructor raises
        rule = f"{settings.name} does not take them ({type(error).__name__}: {error})"
        return [Problem(FREE_GROUP, dict(settings.options), rule, f"Give the arguments of {settings.name}.")]
    return []
