# SPDX-License-Identifier: Apache-2.0
"""Files of a run's console: the log folder, verl's metrics, and the logs of Ray's processes."""

import contextlib
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from omegaconf import DictConfig, OmegaConf, open_dict

CONSOLE_LOG, METRICS, RAY_LOGS = "console.log", "metrics.jsonl", "ray"
# Seconds for Ray to deliver the last lines of its workers; Ray waits half a second when a process ends.
LAST_LINES = 1.0
_ENVIRONMENT = "ray_kwargs.ray_init.runtime_env.env_vars"


def run_folder(config: DictConfig) -> Path:
    """Return the folder of a run.

    This is the folder of its checkpoints (``trainer.default_local_dir``), or its parent if that folder is named
    ``checkpoints``, as in the run scripts.
    """
    checkpoints = Path(str(config.trainer.default_local_dir)).expanduser().absolute()
    return checkpoints.parent if checkpoints.name == "checkpoints" else checkpoints


def open_logs(folder: Path) -> Path:
    """Make the ``logs`` folder of a run. Files of earlier starts move to ``logs/start_1`` and so on.

    Raises:
        OSError: if the folder is not writable.
    """
    logs = folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    earlier = [logs / name for name in (CONSOLE_LOG, METRICS, RAY_LOGS) if os.path.lexists(logs / name)]
    if earlier:
        number = next(number for number in range(1, 10_000_000) if not (logs / f"start_{number}").exists())
        target = logs / f"start_{number}"
        target.mkdir()
        for path in earlier:
            path.rename(target / path.name)
    return logs


def use_file_logger(config: DictConfig, logs: Path, environment: Mapping[str, str] = os.environ) -> Path:
    """Make verl write its metrics to a file instead of printing them; return the file.

    If ``trainer.logger`` contains ``file``, the file is the one that verl chooses. Other loggers stay unchanged.
    """
    chosen = config.trainer.get("logger") or []
    names = [chosen] if isinstance(chosen, str) else list(chosen)
    if "file" in names:
        path = _own_file(config, environment)
    else:
        variable, value, path = _place(config, logs, environment)
        names.append("file")
        OmegaConf.update(config, f"{_ENVIRONMENT}.{variable}", str(value), force_add=True)
    with open_dict(config):
        config.trainer.logger = [name for name in names if name != "console"]
    return path


def _place(config: DictConfig, logs: Path, environment: Mapping[str, str]) -> tuple[str, Path, Path]:
    """Return the environment variable of verl's file logger, its value and the file."""
    address = OmegaConf.select(config, "ray_kwargs.ray_init.address") or environment.get("RAY_ADDRESS")
    if address in (None, "", "local"):
        return "VERL_FILE_LOGGER_PATH", logs / METRICS, logs / METRICS
    # The folder may not exist on another machine. verl creates a root folder, but not the folder of a path.
    return "VERL_FILE_LOGGER_ROOT", logs, logs / _named_by_verl(config)


def _own_file(config: DictConfig, environment: Mapping[str, str]) -> Path:
    """Return the file of verl's file logger with the user's settings (``verl.utils.tracking.FileLogger``)."""
    variables = {**environment, **(OmegaConf.select(config, _ENVIRONMENT) or {})}
    if path := variables.get("VERL_FILE_LOGGER_PATH"):
        return Path(path).absolute()
    return (Path(variables.get("VERL_FILE_LOGGER_ROOT") or ".").expanduser() / _named_by_verl(config)).absolute()


def _named_by_verl(config: DictConfig) -> Path:
    return Path(str(config.trainer.project_name), f"{config.trainer.experiment_name}.jsonl")


class RayLogs:
    """Logs of all Ray processes on this machine: a link during the run, a copy after it.

    If the run joined an existing cluster, which continues and may run other jobs, the link stays.
    """

    def __init__(self, logs: Path) -> None:
        self._place = logs / RAY_LOGS
        self._source: Path | None = None
        self._is_ours = False
        self._was_running = ray.is_initialized()

    def link(self) -> None:
        """Link the logs as soon as Ray has processes on this machine."""
        node: Any = ray._private.worker._global_node  # Ray has no public API for this folder
        if self._source is not None or node is None:  # None also for a client of a remote cluster
            return
        self._source, self._is_ours = Path(node.get_logs_dir_path()), node.is_head() and not self._was_running
        self._place.symlink_to(self._source)

    def close(self) -> None:
        """Stop Ray if the run started it, so that its logs are complete, and copy them.

        Raises:
            OSError: if a file could not be copied; the link, or the copied part, stays.
        """
        with contextlib.suppress(OSError):
            self.link()  # Ray may have failed before the first poll, or before it was ready
        if not self._is_ours or self._source is None:
            return
        time.sleep(LAST_LINES)
        ray.shutdown()
        copy = self._place.with_name(f"{RAY_LOGS}.partial")
        shutil.copytree(self._source, copy, symlinks=True, dirs_exist_ok=True)
        self._place.unlink(missing_ok=True)
        copy.rename(self._place)
