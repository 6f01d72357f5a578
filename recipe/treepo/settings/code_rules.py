# SPDX-License-Identifier: Apache-2.0
"""Rules for code of the user that verl loads, and for optional packages that verl imports; nothing is run."""

import ast
import os
from collections.abc import Iterator
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from recipe.treepo.settings.values import ConfigProblem
from recipe.treepo.settings.verl_values import value


def code_problems(config: DictConfig) -> list[ConfigProblem]:
    """Check that files of the user define the configured names."""
    return [*_name_problems(config), *_class_problems(config)]


# Path, name and what is there. verl loads them in its processes (import_utils.load_extern_object).
CODE = (
    ("reward.custom_reward_function.path", "reward.custom_reward_function.name", "function"),
    ("data.custom_cls.path", "data.custom_cls.name", "class"),
    ("trainer.v1.sampler.custom_sampler.path", "trainer.v1.sampler.custom_sampler.name", "class"),
    ("reward.reward_manager.module.path", "reward.reward_manager.name", "class"),
)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# What verl's reward managers pass to the function.
REWARD_ARGUMENTS = ("data_source", "solution_str", "ground_truth", "extra_info")
# Full names of classes (import_utils.load_class_from_fqn).
CLASSES = ("actor_rollout_ref.rollout.agent.agent_loop_manager_class", "trainer.checkpoint_callback_class")


def _name_problems(config: DictConfig) -> Iterator[ConfigProblem]:
    """Check that a file of the user defines the configured name, without running it."""
    for path_key, name_key, what in CODE:
        path, name = value(config, path_key), value(config, name_key)
        if path is None or "manager" in path_key and value(config, "reward.reward_manager.source") != "importlib":
            continue
        if name is None:
            rule = f"{path_key}={path} needs the name of a {what}"
            yield ConfigProblem("code_name_missing", name_key, "null", rule, f"Use {name_key}=NAME of the {what}.")
            continue
        try:
            names = _defined_names(str(path))
        except ModuleNotFoundError as error:
            rule = f"there is no such module ({error})"
            yield ConfigProblem("code_module_missing", path_key, path, rule, "Correct the name of the module.")
        except SyntaxError as error:
            rule = f"is not valid Python (line {error.lineno}: {error.msg})"
            yield ConfigProblem("code_syntax", path_key, path, rule, "Correct the file.")
        else:
            if names is not None and name not in names:
                rule = f"{path} does not define this name"
                near = get_close_matches(str(name), names, n=1)
                remedy = f"Use {name_key}={near[0]}." if near else f"Define the {what} there, or name another."
                yield ConfigProblem("code_name", name_key, name, rule, remedy)
            elif names is not None and what == "function":
                yield from _parameter_problems(config, names[name], name)


def _parameter_problems(config: DictConfig, node: ast.AST | None, name: str) -> Iterator[ConfigProblem]:
    """Check the parameters of a reward function, which verl's reward managers pass by name."""
    if not isinstance(node, FUNCTIONS) or node.decorator_list or node.args.kwarg is not None:
        return
    if value(config, "reward.reward_manager.name") not in ("treepo", "naive", "dapo"):
        return  # other managers may pass other arguments
    options, key = "reward.custom_reward_function.reward_kwargs", "reward.custom_reward_function.name"
    own = [str(option) for option in value(config, options) or {}]
    taken = [argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)]
    if missing := [argument for argument in REWARD_ARGUMENTS if argument not in taken]:
        rule = f"does not take {', '.join(missing)}, which verl passes by name"
        remedy = "Add these parameters, or **kwargs."
        yield ConfigProblem("reward_parameters", key, name, rule, remedy)
    for option in own:
        if option not in taken:
            rule, full = f"the function {name} has no such parameter", f"{options}.{option}"
            yield ConfigProblem("reward_kwarg", full, value(config, full), rule, "Leave it out.")


def _class_problems(config: DictConfig) -> Iterator[ConfigProblem]:
    """Check that classes named in full exist, without importing their modules."""
    for key in CLASSES:
        if not (found := value(config, key)):
            continue
        module, _, name = str(found).rpartition(".")
        try:
            names = _defined_names(f"pkg://{module}") if module else {}
        except (ModuleNotFoundError, SyntaxError) as error:
            rule = f"cannot be imported ({' '.join(str(error).split())})"
            yield ConfigProblem("class_module", key, found, rule, "Use the full name of a class, package.module.Class.")
        else:
            if names is not None and name not in names:
                rule = "there is no such class"
                yield ConfigProblem("class_name_unknown", key, found, rule, "Use the full name package.module.Class.")


def _defined_names(path: str) -> dict[str, ast.AST | None] | None:
    """Return the names at the top of a file (functions and classes with their code), None if they cannot be known.

    Raises:
        ModuleNotFoundError: if ``pkg://module`` does not exist.
        SyntaxError: if the file is not valid Python.
    """
    if path.startswith("pkg://"):
        name = path.removeprefix("pkg://")
        try:
            spec = find_spec(name)
        except ImportError as error:
            raise ModuleNotFoundError(str(error)) from error
        except Exception:  # a package above the module may raise anything
            return None
        if spec is None:
            raise ModuleNotFoundError(f"No module named '{name}'")
        path = spec.origin or ""
    else:
        path = os.path.expanduser(path.removeprefix("file://"))
    if not path.endswith(".py") or not os.path.isfile(path):
        return None
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    names: dict[str, ast.AST | None] = {}
    body: list[ast.AST] = list(ast.parse(text).body)
    while body:
        node = body.pop()
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            names[node.name] = None if node.name in names else node  # of two definitions, either may apply
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= dict.fromkeys(alias.asname or alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names[node.id] = None
        else:
            body += ast.iter_child_nodes(node)
    dynamic = "*" in names or "__getattr__" in names or "globals()" in text or "exec(" in text
    return None if dynamic else names


# Loggers of verl (utils/tracking.py) and the packages that they import.
LOGGER_PACKAGES = {
    **{name: name for name in ("wandb", "mlflow", "swanlab", "tensorboard", "clearml", "trackio")},
    "tracking": "wandb",
    "vemlp_wandb": "volcengine_ml_platform",
}
# Keys of Ray's runtime environment that install packages, or choose another Python.
OTHER_PACKAGES = ("pip", "conda", "uv", "py_executable")


def package_problems(config: DictConfig) -> list[ConfigProblem]:
    """Check that the packages of loggers and of Liger kernels are installed; verl imports them late."""
    if any(value(config, f"ray_kwargs.ray_init.runtime_env.{name}") for name in OTHER_PACKAGES):
        return []
    loggers, liger = value(config, "trainer.logger"), "actor_rollout_ref.model.use_liger"
    names = loggers if OmegaConf.is_list(loggers) else [loggers]
    needed = [("trainer.logger", LOGGER_PACKAGES[name], "leave it out") for name in names if name in LOGGER_PACKAGES]
    needed += [(liger, "liger_kernel", f"use {liger}=False")] if value(config, liger) else []
    problems = []
    for key, package, instead in needed:
        if find_spec(package) is None:
            rule, remedy = f"needs the package {package}, which is not installed", f"Install it, or {instead}."
            problems.append(ConfigProblem("missing_package", key, value(config, key), rule, remedy))
    return problems
