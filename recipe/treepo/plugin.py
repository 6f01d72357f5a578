# SPDX-License-Identifier: Apache-2.0
"""The plugin that verl loads in every process, through ``treepo_verl_plugin`` (see the end of ``verl/__init__.py``).

verl loads plugins at the end of ``import verl``, in each of its many processes, so this module must stay cheap. It
selects the CPU platform if there is no accelerator. Our trainer and estimators are registered by an import hook *after*
verl's own registries have been imported, only in the processes that use them.
"""

import importlib.abc
import importlib.machinery
import logging
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TextIO

# verl module with a registry -> our modules that register there on import
REGISTRATIONS = {
    "verl.trainer.ppo.core_algos": ("recipe.treepo.verl_adapters.estimators",),
    "verl.trainer.ppo.v1": ("recipe.treepo.verl_adapters.trainer",),
    "verl.experimental.reward_loop.reward_manager": ("recipe.treepo.verl_adapters.reward_manager",),
    "verl.checkpoint_engine": ("recipe.treepo.verl_adapters.gloo_weights",),
    "verl.workers.rollout.vllm_rollout.bucketed_weight_transfer": ("recipe.treepo.verl_adapters.transfer_names",),
    "verl.workers.engine.fsdp.transformer_impl": (
        "recipe.treepo.verl_adapters.critic",
        "recipe.treepo.verl_adapters.packed_engine",
    ),
}


class _RegisterAfterImport(importlib.abc.MetaPathFinder):
    """Import our modules right after the verl module that holds their registry."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        own_modules = REGISTRATIONS.get(fullname)
        if own_modules is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            for name in own_modules:
                importlib.import_module(name)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]  # a hook after this one import
        return spec


class _LastResort(logging.StreamHandler[TextIO]):
    """Print records that no root handler takes: importing vLLM's server raises the levels of all root handlers."""

    def emit(self, record: logging.LogRecord) -> None:
        if all(record.levelno < handler.level for handler in logging.root.handlers):
            super().emit(record)


def _show_warnings() -> None:
    """Make our warnings independent of the root logger's level."""
    logger = logging.getLogger("recipe.treepo")
    if not logger.handlers:
        handler = _LastResort()
        handler.setFormatter(logging.Formatter("%(levelname)s:%(asctime)s:%(message)s"))  # verl's format
        logger.addHandler(handler)
        logger.setLevel(logging.WARNING)


def _install() -> None:
    from recipe.treepo.verl_adapters.cpu import platform

    platform.activate()
    _show_warnings()
    if not any(isinstance(finder, _RegisterAfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _RegisterAfterImport())
    for verl_module, own_modules in REGISTRATIONS.items():
        if verl_module in sys.modules:
            for name in own_modules:
                importlib.import_module(name)


try:
    _install()
except Exception:
    # verl reports a failing plugin at debug level only, and its consequences are hard to trace back.
    logging.getLogger(__name__).exception("the plugin of the recipe treepo failed to load")
    raise
