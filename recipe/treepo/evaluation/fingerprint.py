# SPDX-License-Identifier: Apache-2.0
"""What the samples of an evaluation were made with, so that those of different ones are never mixed. Pure."""

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recipe.treepo.evaluation.settings import EvaluationSettings, Run


def fingerprint(config: DictConfig, settings: EvaluationSettings, run: Run) -> dict[str, Any]:
    """Return what decides about the samples of a run, by the key to change it with."""
    rollout, data = config.actor_rollout_ref.rollout, config.data
    files = data.val_files if OmegaConf.is_list(data.val_files) else [data.val_files]
    model = str(config.actor_rollout_ref.model.path)
    search = asdict(run.settings)
    # These say nothing about what is sampled.
    for key in ("dump_dir", "advantage", "shared_token_weight", "validate_with_tree"):
        del search[key]
    return {
        "actor_rollout_ref.model.path": {"name": model, "files": _files_of(Path(model))},
        "actor_rollout_ref.rollout.dtype": rollout.dtype,
        "actor_rollout_ref.rollout.val_kwargs": {
            key: rollout.val_kwargs[key] for key in ("temperature", "top_p", "top_k")
        },
        "actor_rollout_ref.rollout.ignore_eos": rollout.ignore_eos,
        "data.val_files": [_sha256(Path(file).expanduser()) for file in files],
        "data.max_prompt_length": data.max_prompt_length,
        "data.max_response_length": data.max_response_length,
        "data.val_max_samples": data.get("val_max_samples", -1),
        "data.filter_overlong_prompts": data.filter_overlong_prompts,
        "data.apply_chat_template_kwargs": _plain(data.get("apply_chat_template_kwargs", {})),
        "reward.custom_reward_function": _plain(config.reward.custom_reward_function),
        "evaluation.arms": {} if run.is_plain else search,
        "evaluation.n": run.n,
        "evaluation.seed": settings.seed,
        "evaluation.keep_responses": settings.keep_responses,
    }


def _files_of(model: Path) -> dict[str, list[int]] | None:
    """Return size and time of the files of a local model, because a folder may hold another checkpoint later."""
    if not model.is_dir():
        return None
    return {
        file.name: [file.stat().st_size, int(file.stat().st_mtime)]
        for file in sorted(model.iterdir())
        if file.is_file()
    }


def _sha256(path: Path) -> str:
    if not path.is_file():
        return str(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
