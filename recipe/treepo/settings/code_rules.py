# SPDX-License-Identifier: Apache-2.0
"""Rules for code of the user that verl loads, and for optional packages that verl imports; nothing is run."""

import ast
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

from omegaconf import DictConfig

from recipe.treepo.settings.nearest import closest_name
from recipe.treepo.settings.values import ConfigProblem, listed
from recipe.treepo.settings.verl_values import ACTOR, ROLLOUT, value


def code_problems(config: DictConfig) -> list[ConfigProblem]:
    """Check that files of the user define the configured names."""
    return [*_name_problems(config), *_class_problems(config)]


@dataclass(frozen=True, slots=True)
class Code:
    """Code of the user that verl loads in its processes (``import_utils.load_extern_object``).

    Attributes:
        path: Key of the file.
        name: Key of the name in it.
        what: Kind of object that has the name.
        remedy: Remedy for a missing file.
    """

    path: str
    name: str
    what: str
    remedy: str


CODE = (
    Code(
        "reward.custom_reward_function.path",
        "reward.custom_reward_function.name",
        "function",
        "Name a Python file, or leave it out for the recipe's reward.",
    ),
    Code(
        "reward.reward_manager.module.path",
        "reward.reward_manager.name",
        "class",
        "Name a Python file with a reward manager.",
    ),
    Code(
        "data.custom_cls.path",
        "data.custom_cls.name",
        "class",
        "Name a Python file with a data set class, or pkg://module.",
    ),
    Code(
        "trainer.v1.sampler.custom_sampler.path",
        "trainer.v1.sampler.custom_sampler.name",
        "class",
        "Name a Python file with a sampler, or pkg://module.",
    ),
)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# What verl's reward managers pass to the function.
REWARD_ARGUMENTS = ("data_source", "solution_str", "ground_truth", "extra_info")
# Full names of classes (import_utils.load_class_from_fqn).
CLASSES = ("actor_rollout_ref.rollout.agent.agent_loop_manager_class", "trainer.checkpoint_callback_class")


def _name_problems(config: DictConfig) -> Iterator[ConfigProblem]:
    """Check that a file of the user defines the configured name, without running it."""
    for code in CODE:
        path_key, name_key, what = code.path, code.name, code.what
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
                near = closest_name(name, names)
                remedy = f"Use {name_key}={near}." if near else f"Define the {what} there, or name another."
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
    dynamic = any(mark in text for mark in ("globals()", "exec(", "setattr(", "sys.modules["))
    return None if dynamic or "*" in names or "__getattr__" in names else names


# --- packages --------------------------------------------------------------------------------------------------

# Packages that verl imports late, by key and value. Backends of verl/utils/tracking.py and rollout_trace.py, engines of
# verl/workers and of verl/checkpoint_engine.
PACKAGES: Mapping[str, Mapping[object, str]] = {
    "trainer.logger": {
        **{name: name for name in ("wandb", "mlflow", "swanlab", "tensorboard", "clearml", "trackio", "rl_insight")},
        "tracking": "wandb",
        "vemlp_wandb": "volcengine_ml_platform",
    },
    f"{ROLLOUT}.trace.backend": {name: name for name in ("weave", "mlflow", "trackio")},
    f"{ROLLOUT}.name": {"vllm": "vllm", "sglang": "sglang", "trtllm": "tensorrt_llm"},
    f"{ROLLOUT}.checkpoint_engine.backend": {
        **{"nixl": "nixl", "kimi_ckpt_engine": "checkpoint_engine", "mooncake": "mooncake"}
    },
    f"{ROLLOUT}.quantization": {"torchao": "torchao"},
    f"{ACTOR}.strategy": {"megatron": "megatron", "veomni": "veomni", "torchtitan": "torchtitan"},
    "actor_rollout_ref.model.use_liger": {True: "liger_kernel"},
}
INSTEAD = {
    f"{ROLLOUT}.name": f"use {ROLLOUT}.name=vllm",
    f"{ROLLOUT}.checkpoint_engine.backend": "name another",
    f"{ACTOR}.strategy": "use model_engine=dp",
}
# Keys of Ray's runtime environment that install packages, choose another Python, or bring modules.
OTHER_PACKAGES = ("pip", "conda", "uv", "py_executable", "working_dir", "py_modules", "container", "image_uri")


def package_problems(config: DictConfig) -> list[ConfigProblem]:
    """Check that packages and modules of configured names are installed; verl imports them late."""
    if any(value(config, f"ray_kwargs.ray_init.runtime_env.{name}") for name in OTHER_PACKAGES):
        return []
    if value(config, "ray_kwargs.ray_init.runtime_env.env_vars.PYTHONPATH"):
        return []
    problems = []
    for key, packages in PACKAGES.items():
        found = value(config, key)
        for name in listed(found):
            if name in packages and find_spec(packages[name]) is None:
                problems.append(_missing_package(key, found, packages[name]))
    return [*problems, *_attention_problems(config), *_library_problems(config), *_import_problems(config)]


def _missing_package(key: str, found: object, package: str) -> ConfigProblem:
    rule = f"needs the package {package}, which is not installed"
    instead = INSTEAD.get(key, f"use {key}=False" if isinstance(found, bool) else "leave it out")
    return ConfigProblem("missing_package", key, found, rule, f"Install it, or {instead}.")


def _attention_problems(config: DictConfig) -> Iterator[ConfigProblem]:
    """Check that FlashAttention is installed if FSDP's actor uses it (``_check_and_adjust_attn_implementation``).

    Without it, transformers loads it with the package kernels.
    """
    key = "actor_rollout_ref.model.override_config.attn_implementation"
    found = value(config, key) or "flash_attention_2"  # verl's default (HFModelConfig)
    packages = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}
    fsdp = value(config, f"{ACTOR}.strategy") in ("fsdp", "fsdp2")
    if not fsdp or found not in packages or value(config, "trainer.device") in ("npu", "xpu", "musa"):
        return
    if find_spec(packages[found]) is None and find_spec("kernels") is None:
        shown = value(config, key) or "null"
        rule = f"{found} needs the package flash-attn, which is not installed"
        plus = "" if value(config, key) else "+"
        yield ConfigProblem("missing_attention", key, shown, rule, f"Install it, or use {plus}{key}=sdpa.")


def _library_problems(config: DictConfig) -> Iterator[ConfigProblem]:
    """Check that modules which verl's workers import exist (``import_external_libs``)."""
    for key in ("actor_rollout_ref.model.external_lib", f"{ROLLOUT}.checkpoint_engine.custom_backend_module"):
        found = value(config, key)
        for name in listed(found):
            if name is not None and not module_exists(str(name)):
                remedy = "Correct the name, or add its folder to PYTHONPATH."
                yield ConfigProblem("external_lib", key, found, f"there is no module {name}", remedy)


def module_exists(name: str) -> bool:
    """Return whether a module can be found. Nothing is imported, and no package above it is."""
    top, *inner = name.split(".")
    try:
        spec = find_spec(top)
        for depth in range(1, len(inner) + 1):
            full = ".".join((top, *inner[:depth]))
            if full in sys.modules:
                spec = sys.modules[full].__spec__
            elif spec is None or spec.submodule_search_locations is None:
                return False
            else:
                spec = PathFinder.find_spec(full, list(spec.submodule_search_locations))
    except (ImportError, ValueError, AttributeError):  # a module without a spec
        return top in sys.modules
    return spec is not None


def _import_problems(config: DictConfig) -> Iterator[ConfigProblem]:
    """Check the packages that the user's files import unconditionally."""
    for code in CODE:
        path = value(config, code.path)
        if path is None or str(path).startswith("pkg://"):
            continue
        file = Path(os.path.expanduser(str(path).removeprefix("file://")))
        try:
            text = file.read_text(encoding="utf-8")
            body = ast.parse(text).body
        except (OSError, UnicodeDecodeError, SyntaxError, ValueError):  # other rules report it
            continue
        if "sys.path" in text or "addsitedir(" in text:
            continue
        for node in body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.append(node.module)
            for name in names:
                top = name.partition(".")[0]
                if module_exists(top):
                    continue
                rule = f"line {node.lineno} imports {top}, which is not installed"
                remedy = f"Install it, or correct line {node.lineno}."
                if (file.parent / f"{top}.py").is_file() or (file.parent / top).is_dir():
                    rule = f"line {node.lineno} imports {top} from its own folder, which verl does not search"
                    remedy = f"Add the folder to PYTHONPATH: export PYTHONPATH={file.parent.absolute()}."
                yield ConfigProblem("code_import", code.path, path, rule, remedy)
