# SPDX-License-Identifier: Apache-2.0
"""Loading and checks of the user's interaction, policies and tools, with verl's own loaders."""

import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from verl.experimental.agent_loop.tool_parser import ToolParser
from verl.tools.function_tool import load_function_tools_from_path
from verl.tools.schemas import OpenAIFunctionToolSchema
from verl.tools.tool_registry import ToolType, get_tool_class
from verl.utils.import_utils import load_module, resolve_config_path

from recipe.treepo.advantages.credit import Credit
from recipe.treepo.interaction import Interaction
from recipe.treepo.policies import Policies
from recipe.treepo.search.policy_calls import PolicyError
from recipe.treepo.search.user_errors import on_one_line
from recipe.treepo.settings.files import is_missing_file
from recipe.treepo.settings.schema import (
    POLICY_METHODS,
    AdvantageSettings,
    InteractionSettings,
    OwnClass,
    TreePOSettings,
)
from recipe.treepo.settings.values import ConfigProblem
from recipe.treepo.verl_adapters import policy_trial


def interaction_class(settings: InteractionSettings) -> type[Interaction] | None:
    """Return the configured class, None without one; errors of loading pass through."""
    if settings.path is None:
        return None
    assert settings.name is not None, "a rule of the settings: path and name go together"
    loaded: type[Interaction] = getattr(_module(settings.path), settings.name)
    return loaded


def own_policies(settings: TreePOSettings) -> Policies:
    """Return instances of the configured policies; errors of loading pass through."""
    return Policies(
        branching=_instance(settings.own_branching),
        fallback=_instance(settings.own_fallback),
        stopping_rule=_instance(settings.own_stopping_rule),
        scorer=_instance(settings.score.custom),
    )


def own_credit(settings: AdvantageSettings) -> Credit | None:
    """Return an instance of the configured credit, None without one; errors of loading pass through."""
    credit: Credit | None = _instance(settings.custom)
    return credit


def _instance(own: OwnClass) -> Any:
    if own.path is None:
        return None
    assert own.name is not None, "a rule of the settings: path and name go together"
    return getattr(_module(own.path), own.name)(**own.options)


def interaction_problems(settings: InteractionSettings) -> list[ConfigProblem]:
    """Return problems of loading the class and making an instance, as each prompt does."""
    group, name = "treepo.interaction", "treepo.interaction.name"
    loaded, problems = _loaded(group, settings)
    if loaded is None:
        return problems
    if not isinstance(loaded, type) or not issubclass(loaded, Interaction):
        rule = "is not a subclass of recipe.treepo.interaction.Interaction"
        return [ConfigProblem("not_an_interaction", name, settings.name, rule, "Derive the class from it.")]
    for method in ("setup", "tool_schemas", "stop_token_ids"):
        if inspect.iscoroutinefunction(getattr(loaded, method)):
            rule = f"its method {method} is a coroutine"
            return [ConfigProblem("coroutine", name, settings.name, rule, "Make it a plain function.")]
    return _option_problems(group, loaded, settings)


def policy_problems(settings: TreePOSettings, row: Callable[[], Mapping[str, Any]]) -> list[ConfigProblem]:
    """Return problems of loading the policies, making instances, and trying them on scripted trees.

    Args:
        settings: Settings with the policies.
        row: Returns the fields of the trial's prompts; called if there is a trial. Empty for those of every row.
    """
    problems, groups = [], settings.policy_classes
    for group, own in groups.items():
        loaded, found = _loaded(f"treepo.{group}.custom", own)
        if loaded is not None:
            found = _method_problems(group, loaded, own) or _option_problems(f"treepo.{group}.custom", loaded, own)
        problems += found
    used = [group for group, own in groups.items() if own.path is not None]
    if problems or not used or not settings.policy_trial:
        return problems
    skip = "skip the trial with treepo.policy_trial=false"
    try:
        policy_trial.Trial(settings, own_policies(settings), own_credit(settings.advantage), row()).run()
    except PolicyError as error:
        group = next((group for group in used if POLICY_METHODS[group] == error.method), used[0])
        rule, key = f"fails on a scripted tree: {error}", f"treepo.{group}.custom.name"
        remedy = f"Correct the class (recipe/treepo/policies.py has its protocol), or {skip}."
        return [ConfigProblem("policy_trial", key, groups[group].name, rule, remedy)]
    except TimeoutError:
        rule, key = f"the policies take longer than {policy_trial.SECONDS:g} s on scripted trees", "treepo.policy_trial"
        return [ConfigProblem("policy_trial_time", key, True, rule, f"Make them faster, or {skip}.")]
    return []


def _method_problems(group: str, loaded: Any, own: OwnClass) -> list[ConfigProblem]:
    """Check that a class has the method of its protocol, and that only a score is a coroutine."""
    method, name = POLICY_METHODS[group], f"treepo.{group}.custom.name"
    found = getattr(loaded, method, None)
    if not isinstance(loaded, type) or not callable(found):
        rule, remedy = f"must be a class with the method {method}", "recipe/treepo/policies.py has the protocols."
        return [ConfigProblem("not_a_policy", name, own.name, rule, remedy)]
    if inspect.iscoroutinefunction(found) != (group == "score"):
        kind = "a coroutine (async def)" if group == "score" else "a plain function"
        return [ConfigProblem("coroutine", name, own.name, f"its method {method} must be {kind}", "Change it.")]
    return []


def _loaded(group: str, own: OwnClass) -> tuple[Any, list[ConfigProblem]]:
    """Return what a path and a name refer to, None without a path or with problems."""
    if own.path is None:
        return None, []
    assert own.name is not None, "a rule of the settings: path and name go together"
    try:
        module = _module(own.path)
    except (Exception, SystemExit) as error:  # the user's module may raise anything
        # verl's loader wraps the errors of a file.
        rule = f"cannot be loaded ({on_one_line(error.__cause__ or error)})"
        remedy = "Name a Python file or pkg://module that can be imported."
        return None, [ConfigProblem("class_not_loaded", f"{group}.path", own.path, rule, remedy)]
    if not hasattr(module, own.name):
        rule = f"{own.path} does not define this name"
        return None, [ConfigProblem("class_not_found", f"{group}.name", own.name, rule, "Name a class in it.")]
    return getattr(module, own.name), []


def _option_problems(group: str, loaded: Any, own: OwnClass) -> list[ConfigProblem]:
    """Check that the class accepts its options."""
    try:
        loaded(**own.options)
    except (Exception, SystemExit) as error:  # the user's constructor may raise anything
        rule = f"{own.name} does not accept these options ({on_one_line(error)})"
        remedy = f"Set the arguments of {own.name}."
        return [ConfigProblem("options_refused", f"{group}.options", dict(own.options), rule, remedy)]
    return []


def tool_problems(config: DictConfig) -> list[ConfigProblem]:
    """Return problems of loading verl's tools and the parser of their calls, as each worker does.

    For ``tool_config_path``, only classes and schemas are loaded: some of verl's tools start Ray when instantiated.
    ``validate.py`` reports missing files.
    """
    problems, group = [], "actor_rollout_ref.rollout.multi_turn"
    for name, load, remedy in (
        ("function_tool_path", _load_functions, "Name a Python file with tools."),
        ("tool_config_path", _load_classes, "Name a YAML file with verl's tools."),
    ):
        path = OmegaConf.select(config, f"{group}.{name}")
        if path is None or (isinstance(path, str) and is_missing_file(path)):
            continue
        try:
            rule = load(resolve_config_path(path))
        except (Exception, SystemExit) as error:  # the user's file may raise anything
            rule = f"cannot be loaded ({on_one_line(error)})"
        if rule is not None:
            problems.append(ConfigProblem("tools_not_loaded", f"{group}.{name}", path, rule, remedy))
    format_ = OmegaConf.select(config, f"{group}.format")
    if format_ is not None and format_ not in ToolParser._registry:
        formats = ", ".join(sorted(ToolParser._registry))
        rule, remedy = "verl has no parser of this name", f"Use one of {formats}."
        problems.append(ConfigProblem("unknown_parser", f"{group}.format", format_, rule, remedy))
    return problems


def _load_functions(path: str) -> str | None:
    """Load function tools; return the violated rule, None if there is none."""
    return None if load_function_tools_from_path(path) else "has no function with verl's @function_tool"


def _load_classes(path: str) -> str | None:
    """Load the classes and schemas of ``verl.tools.tool_registry.initialize_tools_from_config``; return likewise."""
    tools = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    if not isinstance(tools, dict) or not tools.get("tools"):
        is_empty = isinstance(tools, dict) and tools.get("tools") == []
        return "has an empty list of tools" if is_empty else "has no list of tools under the key tools"
    for tool in tools["tools"]:
        ToolType(tool["config"]["type"])
        get_tool_class(tool["class_name"])
        if tool.get("tool_schema") is not None:
            OpenAIFunctionToolSchema.model_validate(tool["tool_schema"])
    return None


def _module(path: str) -> Any:
    return load_module(os.path.expanduser(path))
