# SPDX-License-Identifier: Apache-2.0
"""Check the files of a run before anything starts: data, models, code, and folders to write to."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recipe.treepo.settings.code_rules import CODE
from recipe.treepo.settings.data_files import data_problems, files_of, paths_of
from recipe.treepo.settings.model_files import model_problems, models_of
from recipe.treepo.settings.schema import OWN_PATHS, Console
from recipe.treepo.settings.values import ConfigProblem, listed

LEAST_FREE_BYTES = 64 * 2**20
"""Minimum free disk space for a dump."""

# Other files that a run reads, with the remedy for a missing one.
_FILES = {
    **{code.path: code.remedy for code in CODE},
    **dict.fromkeys(OWN_PATHS, "Name a Python file or pkg://module, or leave it out."),
    "actor_rollout_ref.rollout.multi_turn.function_tool_path": "Name a Python file with tools.",
    "actor_rollout_ref.rollout.agent.agent_loop_config_path": "Name a YAML file with agent loops.",
    "actor_rollout_ref.model.lora_adapter_path": "Name a folder with a LoRA adapter.",
    "actor_rollout_ref.rollout.multi_turn.tool_config_path": "Name a YAML file with tools.",
}


def file_problems(
    config: DictConfig, data_keys: Sequence[str], notes: list[ConfigProblem] | None = None
) -> list[ConfigProblem]:
    """Return the problems of data files, models, code files and output folders.

    Args:
        data_keys: Keys with data files.
        notes: Receives findings that do not stop a run.
    """
    made = "Make it with `python -m recipe.treepo.data_prep`, or name another file."
    places = {key: (paths_of(config, key), made) for key in data_keys}
    places |= {key: (paths_of(config, key), remedy) for key, remedy in _FILES.items()}
    problems = [
        ConfigProblem("missing_file", key, path, "there is no such file", remedy)
        for key, (paths, remedy) in places.items()
        for path in paths
        if is_missing_file(path)
    ]
    problems += data_problems(config, data_keys, [] if notes is None else notes)
    return problems + _spelling_problems(config, data_keys) + model_problems(config) + _folder_problems(config)


def is_missing_file(path: Any) -> bool:
    """Return whether ``path`` is a local path, or a pattern such as ``data/*.parquet``, without a file."""
    return path is not None and re.match(r"\w+://", str(path)) is None and not files_of(str(path))


def _spelling_problems(config: DictConfig, data_keys: Sequence[str]) -> list[ConfigProblem]:
    """Check for paths that begin with ~, which shells leave in KEY=~/PATH, and models that end in a slash."""
    paths = [(key, path) for key in data_keys for path in paths_of(config, key) if files_of(path)]
    paths += [(f"{model.key}.path", model.path) for model in models_of(config)]
    slashes = [(key, path) for key, path in paths if path.endswith("/") and key.endswith("model.path")]
    return [
        ConfigProblem("final_slash", key, path, "verl refuses a path that ends in /", f"Use {path.rstrip('/')}.")
        for key, path in slashes
    ] + [
        ConfigProblem("home_folder", key, path, "verl does not expand ~", f"Use {os.path.expanduser(path)}.")
        for key, path in paths
        if path.startswith("~") and os.path.exists(os.path.expanduser(path))
    ]


# --- folders to write to ---------------------------------------------------------------------------------------


def _folder_problems(config: DictConfig) -> list[ConfigProblem]:
    problems = _dump_problems(OmegaConf.select(config, "treepo.dump.dir"))
    keys = ["trainer.rollout_data_dir", "trainer.validation_data_dir"]
    saves = OmegaConf.select(config, "trainer.save_freq")
    logs = OmegaConf.select(config, "treepo.console") == Console.TREEPO
    if logs or (isinstance(saves, int | float) and saves > 0):
        keys.append("trainer.default_local_dir")
    for key in keys:
        problems += output_problems(key, OmegaConf.select(config, key))
    if "tensorboard" in listed(OmegaConf.select(config, "trainer.logger")):  # as verl.utils.tracking
        names = (str(OmegaConf.select(config, f"trainer.{part}_name")) for part in ("project", "experiment"))
        folder = os.environ.get("TENSORBOARD_DIR") or os.path.join("tensorboard_log", *names)
        problems += output_problems("TENSORBOARD_DIR", folder)
    return problems


def output_problems(key: str, folder: Any) -> list[ConfigProblem]:
    """Return the problem of a folder that cannot be made or written; None and blank stand for no folder."""
    if not isinstance(folder, str) or not folder or (rule := _unwritable(Path(folder).absolute())) is None:
        return []
    return [ConfigProblem("output_folder", key, folder, rule, "Name another folder.")]


def _dump_problems(folder: Any) -> list[ConfigProblem]:
    """Check that a dump can be written."""
    if not isinstance(folder, str) or not folder:
        return []
    path = Path(folder).expanduser().absolute()
    key, remedy = "treepo.dump.dir", "Name another folder, or null for no dump."
    if rule := _unwritable(path):
        return [ConfigProblem("dump_folder", key, folder, rule, remedy)]
    if (free := shutil.disk_usage(_nearest(path)).free) < LEAST_FREE_BYTES:
        rule = f"its disk has {free >> 20} MiB left, less than {LEAST_FREE_BYTES >> 20}"
        return [ConfigProblem("dump_disk_full", key, folder, rule, remedy)]
    return []


def _unwritable(path: Path) -> str | None:
    """Return the reason why a folder cannot be made or written, None if there is none. Nothing remains."""
    try:
        parent = _nearest(path)
    except (OSError, ValueError) as error:  # a name too long, a null character, or no permission
        return f"cannot be made ({error})"
    if not parent.is_dir():
        return f"a file is in the way ({parent})" if parent != path else "is a file"
    if not os.access(parent, os.W_OK | os.X_OK):
        return f"is not writable ({parent})"
    try:
        with tempfile.TemporaryFile(dir=parent):  # without a name; permissions alone may promise too much
            return None
    except OSError as error:
        return f"is not writable ({parent}: {error.strerror})"


def _nearest(path: Path) -> Path:
    """Return the nearest existing folder or file at or above a path."""
    for above in (path, *path.parents):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            above.lstat()
            return above
    return Path("/")
