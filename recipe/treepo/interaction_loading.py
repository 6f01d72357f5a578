# SPDX-License-Identifier: Apache-2.0
"""Load the class that ``treepo.interaction`` names, and function tools, with verl's own loaders."""

import inspect
import os
from typing import Any

from omegaconf import DictConfig, OmegaConf
from verl.experimental.agent_loop.tool_parser import ToolParser
from verl.tools.function_tool import load_function_tools_from_path
from verl.utils.import_utils import load_module, resolve_config_path

from recipe.treepo.config_values import Problem
from recipe.treepo.interaction import Interaction
from recipe.treepo.settings import FREE_GROUP, InteractionSettings
from recipe.treepo.validation import is_missing_file


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
    for method in ("setup", "tool_schemas", "stop_token_ids"):
        if inspect.iscoroutinefunction(getattr(found, method)):
            return [Problem(name, settings.name, f"its {method} is a coroutine", "Make it a plain function.")]
    try:
        found(**settings.options)
    except Exception as error:  # whatever the user's constructor raises
        rule = f"{settings.name} does not take them ({_told(error)})"
        return [Problem(FREE_GROUP, dict(settings.options), rule, f"Give the arguments of {settings.name}.")]
    return []


def tool_problems(config: DictConfig) -> list[Problem]:
    """Load verl's function tools and look for the parser of their calls, as each worker does.

    Not the tools of ``tool_config_path``: some of verl's start Ray as soon as they are made. A file that is missing is
    told by ``validation.py``.
    """
    problems, group = [], "actor_rollout_ref.rollout.multi_turn"
    path, format_ = (OmegaConf.select(config, f"{group}.{key}") for key in ("function_tool_path", "format"))
    if path is not None and not (isinstance(path, str) and is_missing_file(path)):
        rule = None
        try:
            if not load_function_tools_from_path(resolve_config_path(path)):
                rule = "has no function with verl's @function_tool"
        except Exception as error:  # whatever the user's file raises
            rule = f"cannot be loaded ({_told(error)})"
        if rule is not None:
            problems.append(Problem(f"{group}.function_tool_path", path, rule, "Name a Python file with tools."))
    if format_ is not None and format_ not in ToolParser._registry:
        formats = ", ".join(sorted(ToolParser._registry))
        problems.append(
            Problem(f"{group}.format", format_, "verl has no parser of that name", f"Use one of {formats}.")
        )
    return problems


def _module(path: str) -> Any:
    return load_module(os.path.expanduser(path))


def _told(error: BaseException) -> str:
    """Return an error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
