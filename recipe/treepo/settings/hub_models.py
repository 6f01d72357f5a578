# SPDX-License-Identifier: Apache-2.0
"""Check that models named as on the Hugging Face hub are in the cache or can be downloaded, within some seconds."""

import os
import threading
import time
from collections.abc import Iterable

from omegaconf import DictConfig, OmegaConf

from recipe.treepo.settings.data_reading import text_of
from recipe.treepo.settings.model_files import is_missing_model, local_folder, models_of
from recipe.treepo.settings.values import ConfigProblem

TIMEOUT_S = 8.0
_LOCAL = "Name a local folder, or a model of the hub such as Qwen/Qwen2.5-0.5B."


def hub_problems(config: DictConfig) -> list[ConfigProblem]:
    """Return a problem for each model of the hub that cannot be loaded; models outside the cache cost a request.

    Two kinds of runs are not checked: those with ModelScope (VERL_USE_MODELSCOPE), and those on an existing Ray
    cluster, whose nodes may reach another network.
    """
    if os.getenv("VERL_USE_MODELSCOPE", "").lower() == "true":
        return []
    if OmegaConf.select(config, "ray_kwargs.ray_init.address") is not None:
        return []
    names = {}
    for model in models_of(config):
        paths = {"path": model.path, "hf_config_path": model.config_path, "tokenizer_path": model.tokenizer_path}
        for key, path in paths.items():
            if path not in names and "://" not in path and not is_missing_model(path) and local_folder(path) is None:
                names[path] = f"{model.key}.{key}"
    errors = {name: error for name, error in hub_errors(names).items() if error is not None}
    return [problem for name, error in errors.items() if (problem := _problem(names[name], name, error))]


def hub_errors(names: Iterable[str]) -> dict[str, Exception | None]:
    """Request the configuration of each model and return the errors; in threads, because a name server may hang."""
    found: dict[str, Exception | None] = {name: TimeoutError(f"no reply within {TIMEOUT_S:.0f} s") for name in names}

    def ask(name: str) -> None:
        found[name] = _error_of(name)

    threads = [threading.Thread(target=ask, args=(name,), daemon=True) for name in found]
    for thread in threads:
        thread.start()
    end = time.monotonic() + TIMEOUT_S
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return dict(found)


def _error_of(name: str) -> Exception | None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=TIMEOUT_S)
    except Exception as error:  # httpx, huggingface_hub and the name server have many types
        return error
    return None


def _problem(key: str, name: str, error: Exception) -> ConfigProblem | None:
    """Return the problem behind an error; None for those of the moment, after which verl may succeed."""
    from huggingface_hub import constants, errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    is_tokenizer = key.endswith("tokenizer_path")
    if isinstance(error, errors.EntryNotFoundError) and is_tokenizer:
        return None
    if isinstance(error, errors.GatedRepoError) or status == 403:
        rule = "the hub refuses access to this model"
        return ConfigProblem("hub_access", key, name, rule, "Accept its terms on the hub, and run `hf auth login`.")
    if isinstance(error, errors.HFValidationError) or status in (401, 404):
        rule = f"there is no such folder, and the hub ({constants.ENDPOINT}) shows no model of this name"
        return ConfigProblem(
            "hub_unknown", key, name, rule, f"Check the spelling, and log in for a private one. {_LOCAL}"
        )
    if status is not None:
        return None
    if constants.HF_HUB_OFFLINE:
        rule = "there is no such folder, the cache lacks this model of the hub, and HF_HUB_OFFLINE is set"
        return ConfigProblem("hub_offline", key, name, rule, f"Unset it, or download the model first. {_LOCAL}")
    reason = f"{type(error).__name__}: {text_of(error)}"
    rule = f"there is no such folder, and the hub ({constants.ENDPOINT}) cannot be reached ({reason})"
    remedy = f"Download the model where there is a network (`hf download {name}`). {_LOCAL}"
    return ConfigProblem("hub_unreachable", key, name, rule, remedy)
