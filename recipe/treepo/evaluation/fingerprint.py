# SPDX-License-Identifier: Apache-2.0
"""Fingerprint all inputs that affect the samples of an evaluation, so that different samples are never mixed."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recipe.treepo.evaluation.problems import EvaluationProblem
from recipe.treepo.evaluation.settings import EvaluationSettings, Run

_ROLLOUT = ("name", "dtype", "quantization", "max_model_len", "ignore_eos")
_MODEL = ("lora_adapter_path",)

# Folders of the modules behind the recipe's reward function.
REWARD_FOLDERS = ("answers", "sandbox")


def fingerprints(
    config: DictConfig, settings: EvaluationSettings, problems: Sequence[EvaluationProblem]
) -> dict[Run, dict[str, Any]]:
    """Return all inputs that affect the samples of each run, by configuration key."""
    rollout, model = config.actor_rollout_ref.rollout, config.actor_rollout_ref.model
    common = {
        "actor_rollout_ref.model.path": {"name": str(model.path), "files": _files_of(str(model.path))},
        **{f"actor_rollout_ref.model.{key}": _plain(model.get(key)) for key in _MODEL},
        **{f"actor_rollout_ref.rollout.{key}": _plain(rollout.get(key)) for key in _ROLLOUT},
        "actor_rollout_ref.rollout.val_kwargs": {
            key: rollout.val_kwargs[key] for key in ("temperature", "top_p", "top_k")
        },
        # The prompts in order, after filtering, chat template and tokenizer.
        "data.val_files": _digest([[p.data_source, p.row, p.prompt_ids, p.fields] for p in problems]),
        "data.max_response_length": config.data.max_response_length,
        "reward.custom_reward_function": {
            "options": _plain(config.reward.custom_reward_function),
            "code": code_of(config.reward.custom_reward_function.get("path")),
        },
        "evaluation.seed": settings.seed,
        "evaluation.keep_responses": settings.keep_responses,
    }
    return {
        run: {
            **common,
            "evaluation.arms": {} if run.is_plain else _search(run),
            "evaluation.n": run.n,
            "treepo.thinking": run.settings.thinking and run.settings.thinking.fields,
        }
        for run in settings.runs
    }


def _search(run: Run) -> dict[str, Any]:
    search = asdict(run.settings)
    # These do not affect the samples.
    for key in ("dump", "advantage", "shared_token_weight", "validate_with_tree", "console", "thinking"):
        del search[key]
    return search


def _files_of(model: str) -> dict[str, list[int]] | None:
    """Return size and modification time of a local model's files, which may change; None for a hub name."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return None
    files = [file for file in sorted(folder.iterdir()) if file.is_file()]
    return {file.name: [file.stat().st_size, int(file.stat().st_mtime)] for file in files}


def code_of(reward: str | None) -> str | None:
    """Hash the file of a reward function; the recipe's own together with its modules. None if there is no file."""
    if reward is None:
        return None
    if reward.startswith("pkg://"):
        spec = find_spec(reward.removeprefix("pkg://"))
        path = Path(spec.origin) if spec is not None and spec.origin is not None else None
    else:
        path = Path(reward).expanduser()
    if path is None or not path.is_file():
        return None
    parts = [path]
    if path.resolve() == Path(__file__).resolve().parents[1] / "reward.py":
        parts += [part for folder in REWARD_FOLDERS for part in sorted((path.parent / folder).glob("*.py"))]
    return hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
