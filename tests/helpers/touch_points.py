# SPDX-License-Identifier: Apache-2.0
"""Names of other packages that our sources use, and checks that they still exist."""

import ast
import hashlib
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from omegaconf import DictConfig, OmegaConf

from helpers.paths import ROOT
from recipe.treepo.settings.verl_keys import FORMER, REMOVED, REPLACED, UNDECLARED

FOLDERS = ("recipe/treepo", "benchmarks", "data_prep", "examples", "scripts", "small", "tiny", "tests/helpers")
# This module names other packages without using them.
SELF = "tests/helpers/touch_points.py"
# Maximum number of files in a message.
MOST_FILES = 4
# Packages whose every imported name is a touch point.
PACKAGES = ("transfer_queue", "transformers", "verl", "vllm")


class Kind(StrEnum):
    """Requirement on a name."""

    NAME = "name"  # it exists
    CALL = "call"  # it takes our arguments
    OVERRIDE = "override"  # it has exactly the parameters of our method
    ATTRIBUTE = "attribute"  # instances of the class have it
    TEXT = "text"  # its source contains a text
    SOURCE = "source"  # its source has not changed since we read it
    KEY = "key"  # verl's configuration has it


@dataclass(frozen=True)
class TouchPoint:
    """Dependency of our code on a name of another package.

    Attributes:
        kind: Requirement on the name.
        path: Dotted path of a module, class, function or constant, or full name of a configuration key.
        detail: Positional parameters in order, then ``*`` and those passed by name (CALL); all parameters
            (OVERRIDE); name of the attribute; text; digest of the source.
        ours: Word in our sources that uses it, if different from its name.
    """

    kind: Kind
    path: str
    detail: str = ""
    ours: str = ""

    @property
    def name(self) -> str:
        """Dotted path, attribute included."""
        return f"{self.path}.{self.detail}" if self.kind is Kind.ATTRIBUTE else self.path

    @property
    def words(self) -> tuple[str, str]:
        """Search word for our sources, and a second word that occurs beside it in direct uses."""
        if self.kind is Kind.TEXT:
            word = max(re.findall(r"\w+", self.detail), key=len)
            return word, self.path.rpartition(".")[2]
        owner, _, word = self.name.rpartition(".")
        return word, owner.rpartition(".")[2]

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}{'' if self.kind in (Kind.ATTRIBUTE, Kind.SOURCE) else f' {self.detail}'}"


class NotInstalled(Exception):
    """A package of the name is not installed."""


# --- our sources -----------------------------------------------------------------------------------------------


@cache
def our_sources() -> dict[str, str]:
    """Return the text of each of our files, without tests, by path in the repository."""
    files = [ROOT / "treepo_verl_plugin.py"]
    for folder in FOLDERS:
        files += [path for path in sorted((ROOT / folder).rglob("*")) if path.suffix in (".py", ".sh", ".yaml")]
    texts = {str(path.relative_to(ROOT)): path.read_text() for path in files}
    del texts[SELF]
    return texts


@cache
def our_trees() -> dict[str, ast.Module]:
    """Return the syntax tree of each of our Python files."""
    return {file: ast.parse(text) for file, text in our_sources().items() if file.endswith(".py")}


@cache
def our_words() -> dict[str, frozenset[str]]:
    """Return the words of each of our files."""
    return {file: frozenset(re.findall(r"\w+", text)) for file, text in our_sources().items()}


def files_with(word: str) -> list[str]:
    """Return our files with a word, or with a longer text."""
    if re.fullmatch(r"\w+", word):
        return [file for file, words in our_words().items() if word in words]
    return [file for file, text in our_sources().items() if word in text]


def used_by(point: TouchPoint) -> list[str]:
    """Return our files that use a touch point; if possible, only those that also name its class or module."""
    if point.kind is Kind.KEY and point.path in keys_of_ours():
        return keys_of_ours()[point.path]
    if point.ours:
        return files_with(point.ours)
    word, beside = point.words
    found = files_with(word)
    return [file for file in found if beside in our_words()[file]] or found


# --- uses ------------------------------------------------------------------------------------------------------


def _is_foreign(name: str) -> bool:
    return name.partition(".")[0] in PACKAGES


def _imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield the full name of each import, and its name in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, alias.asname or alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((f"{node.module}.{alias.name}", alias.asname or alias.name) for alias in node.names)


def dotted(node: ast.AST) -> str | None:
    """Return ``a.b.c`` for an attribute of a name, None for other nodes."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (owner := dotted(node.value)):
        return f"{owner}.{node.attr}"
    return None


def imported_names() -> dict[str, list[str]]:
    """Return the names that our files import from :data:`PACKAGES` or read from imported modules, by full name."""
    found: dict[str, list[str]] = {}
    for file, tree in our_trees().items():
        modules = {}
        for name, alias in _imports(tree):
            if not _is_foreign(name):
                continue
            if isinstance(resolve_or_none(name), ModuleType):
                modules[alias] = name
            else:
                found.setdefault(name, []).append(file)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and (path := dotted(node)):
                module = next((alias for alias in modules if path.startswith(f"{alias}.")), None)
                if module is not None:
                    member = path.removeprefix(f"{module}.").partition(".")[0]
                    found.setdefault(f"{modules[module]}.{member}", []).append(file)
    return found


def quoted_names() -> dict[str, list[str]]:
    """Return the dotted names of :data:`PACKAGES` in strings of our files, or in YAML values."""
    pattern = re.compile(rf"(?:{'|'.join(PACKAGES)})(?:\.[A-Za-z_]\w*)+")
    found: dict[str, list[str]] = {}
    for file, tree in our_trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and pattern.fullmatch(node.value):
                found.setdefault(node.value, []).append(file)
    for file, text in our_sources().items():
        if file.endswith(".yaml"):
            for value in re.findall(r":\s*(\S+)\s*$", text, re.MULTILINE):
                if pattern.fullmatch(value):
                    found.setdefault(value, []).append(file)
    return found


def private_names() -> dict[str, list[str]]:
    """Return private attributes that our files read but do not define: those of other packages."""
    defined: set[str] = set()
    read: dict[str, list[str]] = {}
    for file, tree in our_trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                defined.add(node.name)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                defined.add(node.target.id)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                defined.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and dotted(node.value) == "self":
                defined.add(node.attr)
            elif isinstance(node, ast.Attribute) and re.fullmatch(r"_[a-z]\w*|__ray\w*", node.attr):
                read.setdefault(node.attr, []).append(file)
    return {name: files for name, files in read.items() if name not in defined}


# --- subclasses ------------------------------------------------------------------------------------------------


def plain_class(found: Any) -> Any:
    """Return the class behind a Ray actor class; other objects unchanged."""
    metadata = getattr(found, "__ray_metadata__", None)
    return found if metadata is None else metadata.modified_class


def _is_ours(cls: type) -> bool:
    return cls.__module__.startswith("recipe.treepo")


def subclasses(classes: Iterable[Any]) -> dict[type, list[type]]:
    """Return our classes among these and their bases, each with its foreign bases in resolution order."""
    found = {}
    for cls in map(plain_class, classes):
        foreign = [base for base in cls.__mro__ if _is_foreign(base.__module__)] if isinstance(cls, type) else []
        if foreign:
            found |= {ours: foreign for ours in cls.__mro__ if _is_ours(ours)}
    return found


def overrides(classes: Iterable[Any]) -> set[str]:
    """Return the overridden methods of foreign bases, as ``module.Class.method`` of the defining base."""
    found = set()
    for ours, foreign in subclasses(classes).items():
        for name in vars(ours):
            base = next((base for base in foreign if name in vars(base) and "<locals>" not in base.__qualname__), None)
            if base is not None and not name.startswith(("__", "_abc")):
                found.add(f"{base.__module__}.{base.__qualname__}.{name}")
    return found


def inherited_names(classes: Iterable[Any]) -> set[str]:
    """Return the foreign names that methods of our subclasses read from ``self`` or ``super()``."""
    read: set[str] = set()
    own: set[str] = set()
    for ours in subclasses(classes):
        own |= {name for name in vars(ours) if not name.startswith("__")}
        for node in ast.walk(syntax_of(ours)):
            if not isinstance(node, ast.Attribute):
                continue
            is_super = isinstance(node.value, ast.Call) and dotted(node.value.func) == "super"
            if dotted(node.value) == "self" and isinstance(node.ctx, ast.Store):
                own.add(node.attr)
            elif dotted(node.value) == "self" or is_super:
                read.add(node.attr)
    return {name for name in read - own if not name.startswith("__")}


# --- the other packages ----------------------------------------------------------------------------------------


class Gone(Exception):
    """A name that another package no longer has, described in one line without the files that use it."""


def _import(path: str) -> ModuleType | None:
    """Import a module; return None if it does not exist.

    Raises:
        NotInstalled: if the package, or one that the module imports, is not installed.
    """
    package = path.partition(".")[0]
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if path != missing and not path.startswith(f"{missing}."):
            raise NotInstalled(f"{path} needs {missing}, which is not installed") from error
        if find_spec(package) is None:
            raise NotInstalled(f"{package} is not installed") from error
        return None


@cache
def resolve(path: str) -> Any:
    """Return the object at a dotted path; for Ray actor classes, the class behind them.

    Raises:
        Gone: with the first missing part of the path.
        NotInstalled: if the package is not installed.
    """
    parts = path.split(".")
    found: Any = _import(parts[0])
    for end, part in enumerate(parts[1:], start=2):
        name = ".".join(parts[:end])
        module = _import(name) if isinstance(found, ModuleType) else None
        if module is None and not hasattr(found, part):
            raise Gone(f"{name} is gone")
        found = plain_class(getattr(found, part) if module is None else module)
    return found


def resolve_or_none(path: str) -> Any:
    """Return the object at a dotted path, None if it does not exist."""
    try:
        return resolve(path)
    except (Gone, NotInstalled):
        return None


@cache
def syntax_of(found: Any) -> ast.Module:
    """Return the syntax tree of a class or function, or an empty one without its source."""
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(found)))
    except (OSError, TypeError, SyntaxError):
        return ast.Module([], [])


@cache
def attributes(cls: type) -> frozenset[str]:
    """Return the names of a class: methods, fields, and attributes that its methods assign to ``self``."""
    found = set(dir(cls))
    for base in cls.__mro__:
        found |= set(vars(base).get("__annotations__", ()))
        for node in ast.walk(syntax_of(base)):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and dotted(node.value) == "self":
                found.add(node.attr)
    return frozenset(found)


def parameters(function: Any) -> list[inspect.Parameter]:
    """Return the parameters of a function or constructor, without ``self``."""
    found = list(inspect.signature(function).parameters.values())
    # Ray adds a parameter to the methods of actors.
    return [parameter for parameter in found if parameter.name not in ("self", "cls", "_ray_trace_ctx")]


def digest(function: Any) -> str:
    """Return a short hash of a source without indentation, blank lines and comment lines."""
    lines = [line.strip() for line in inspect.getsource(function).splitlines()]
    text = "\n".join(line for line in lines if line and not line.startswith("#"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


# --- checks ----------------------------------------------------------------------------------------------------


def _check_call(point: TouchPoint, found: Any) -> None:
    present = parameters(found)
    names = {parameter.name for parameter in present}
    by_position, _, by_name = (part.replace(",", " ").split() for part in point.detail.partition("*"))
    for wanted in (*by_position, *by_name):
        if wanted not in names:
            raise Gone(f"{point.path}: parameter '{wanted}' is gone")
    order = [parameter.name for parameter in present if parameter.kind is not parameter.KEYWORD_ONLY]
    if order[: len(by_position)] != by_position:
        raise Gone(f"{point.path}: parameters begin with ({', '.join(order)}), no longer ({', '.join(by_position)})")


def _check_override(point: TouchPoint, found: Any) -> None:
    if isinstance(found, property) and not point.detail:
        return
    marks = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    present = [f"{marks.get(parameter.kind, '')}{parameter.name}" for parameter in parameters(found)]
    wanted = point.detail.replace(",", " ").split()
    gone, new = [name for name in wanted if name not in present], [name for name in present if name not in wanted]
    if gone:
        raise Gone(f"{point.path}: parameter '{gone[0]}' is gone")
    if new:
        raise Gone(f"{point.path}: parameter '{new[0]}' is new, and our method does not take it")
    if present != wanted:
        raise Gone(f"{point.path}: parameters are ({', '.join(present)}), no longer ({', '.join(wanted)})")


def _check_attribute(point: TouchPoint, found: Any) -> None:
    if point.detail not in (attributes(found) if isinstance(found, type) else dir(found)):
        raise Gone(f"{point.name} is gone")


def _check_text(point: TouchPoint, found: Any) -> None:
    if point.detail not in inspect.getsource(found):
        raise Gone(f"{point.path}: {point.detail} is gone from its source")


def _check_source(point: TouchPoint, found: Any) -> None:
    if digest(found) != point.detail:
        raise Gone(f"{point.path}: the source that we rely on has changed (digest {digest(found)})")


_CHECKS: dict[Kind, Callable[[TouchPoint, Any], None]] = {
    Kind.CALL: _check_call,
    Kind.OVERRIDE: _check_override,
    Kind.ATTRIBUTE: _check_attribute,
    Kind.TEXT: _check_text,
    Kind.SOURCE: _check_source,
}


def problem(point: TouchPoint) -> str | None:
    """Return one line with the missing name and our files that use it; None if nothing is missing.

    Raises:
        NotInstalled: if the package is not installed.
    """
    try:
        if point.kind is Kind.KEY:
            check_key(point.path)
        else:
            found = resolve(point.path)
            if point.kind is not Kind.NAME:
                _CHECKS[point.kind](point, found)
    except Gone as gone:
        files = used_by(point)
        more = f" and {len(files) - MOST_FILES} more" if len(files) > MOST_FILES else ""
        return f"{gone}; used by {', '.join(files[:MOST_FILES]) or 'no file'}{more}"
    return None


# --- configuration ---------------------------------------------------------------------------------------------

# Top-level groups of verl's configuration.
GROUPS = (
    *("actor_rollout_ref", "algorithm", "critic", "data", "distillation", "ray_kwargs", "reward", "trainer"),
    "transfer_queue",
)
# Groups with keys that verl does not declare.
FREE = (
    "actor_rollout_ref.model.override_config",
    "actor_rollout_ref.rollout.engine_kwargs.vllm",
    "critic.model.override_config",
    "ray_kwargs.ray_init",
    "reward.custom_reward_function.reward_kwargs",
    "reward.reward_kwargs",
)
# Fields of verl's dataclasses that its YAML files omit.
ONLY_IN_DATACLASSES = (
    "actor_rollout_ref.actor.fsdp_config.mixed_precision",
    "actor_rollout_ref.ref.fsdp_config.mixed_precision",
    "actor_rollout_ref.ref.optim",
    "actor_rollout_ref.rollout.agent.agent_loop_manager_class",
    "actor_rollout_ref.rollout.enable_sleep_mode",
    "critic.fsdp.mixed_precision",
    "critic.ppo_infer_max_token_len_per_gpu",
)
_KEY = re.compile(rf"(?:{'|'.join(GROUPS)})(?:\.(?!py\b)[a-z_][a-z0-9_]*)+")


@cache
def verl_config() -> dict[str, Any]:
    """Return verl's ``ppo_trainer``, composed by Hydra."""
    from hydra import compose, initialize_config_module

    with initialize_config_module("verl.trainer.config", version_base=None):
        config: DictConfig = compose("ppo_trainer")
    return OmegaConf.to_container(config)


def check_key(key: str) -> None:
    """Check that verl's configuration has a key.

    Raises:
        Gone: with the first missing part.
    """
    group: Any = verl_config()
    parts = key.split(".")
    for end, part in enumerate(parts, start=1):
        name = ".".join(parts[:end])
        if name in FREE:
            return
        if not isinstance(group, dict) or part not in group:
            target = group.get("_target_") if isinstance(group, dict) and name in ONLY_IN_DATACLASSES else None
            if target is None or part not in attributes(resolve(target)):
                raise Gone(f"verl's configuration: key {name} is gone")
            return
        group = group[part]


def _yaml_keys(group: Any, above: str = "") -> Iterator[str]:
    for name, value in group.items():
        key = f"{above}{name}"
        if isinstance(value, dict) and value:
            yield from _yaml_keys(value, f"{key}.")
        else:
            yield key


def _python_keys(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            # Full names, and overrides: key=value, also with plus signs before it.
            if match := re.match(rf"[+~]*({_KEY.pattern})(?:=|$)", node.value):
                yield match[1]
        elif isinstance(node, ast.Attribute) and (path := dotted(node)):
            if match := re.match(rf"(?:self\.)?_?config\.({_KEY.pattern})$", path):
                yield match[1].removesuffix(".get")


@cache
def keys_of_ours() -> dict[str, list[str]]:
    """Return the keys of verl's configuration that our files use by full name, with those files."""
    found: dict[str, list[str]] = {}
    for file, text in our_sources().items():
        keys: set[str] = set()
        if file.endswith(".py"):
            keys = set(_python_keys(our_trees()[file]))
        elif file.endswith(".sh"):
            keys = set(re.findall(rf"(?<![\w.])({_KEY.pattern})=", text))
        elif "/config/" in file:
            written = OmegaConf.to_container(OmegaConf.create(text))
            keys = {key for key in _yaml_keys(written or {}) if key.partition(".")[0] in GROUPS}
        for key in keys - {*FORMER, *REMOVED, *REPLACED, *UNDECLARED}:
            found.setdefault(key, []).append(file)
    return found


def our_classes() -> list[Any]:
    """Import our modules that extend verl; return all their classes, also those created on demand."""
    import verl.workers.engine  # noqa: F401 - its end loads our engines, which import each other through it
    from verl.plugin.platform import PlatformRegistry

    found = []
    for file, tree in our_trees().items():
        if not file.startswith("recipe/treepo/"):
            continue
        if "/verl_adapters/" in file or any(_is_foreign(name) for name, _ in _imports(tree)):
            name = str(Path(file).with_suffix("")).replace("/", ".").removesuffix(".__init__")
            module = importlib.import_module(name)
            found += [value for value in vars(module).values() if isinstance(plain_class(value), type)]
    platform = OmegaConf.load(ROOT / "recipe/treepo/config/platform/cpu.yaml")
    extension = platform.actor_rollout_ref.rollout.engine_kwargs.vllm.worker_extension_cls
    return [*found, PlatformRegistry.get("cpu"), resolve(extension)]
