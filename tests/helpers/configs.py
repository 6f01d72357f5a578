# SPDX-License-Identifier: Apache-2.0
"""Configurations for tests of the rules."""

import json
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from helpers.paths import ROOT
from recipe.treepo.settings.training_rules import TREE_MANAGER
from recipe.treepo.settings.validate import validate
from recipe.treepo.settings.values import ConfigError, ConfigProblem

CONFIG = ROOT / "recipe/treepo/config"


DATA = ROOT / "tests/helpers/data.jsonl"


def config_of(treepo: dict | None = None, **changes) -> DictConfig:
    """Return the part of a verl configuration for the rules, with 8 trajectories of 100 tokens in 4 segments."""
    config = OmegaConf.create(
        {
            "treepo": {"depth": 4, **(treepo or {})},
            "actor_rollout_ref": {
                "rollout": {
                    "n": 8,
                    "prompt_length": 20,
                    "response_length": 100,
                    "max_model_len": None,
                    "ignore_eos": False,
                    "val_kwargs": {"n": 4, "temperature": 0},
                    "temperature": 1.0,
                    "agent": {"agent_loop_manager_class": TREE_MANAGER},
                },
                "model": {"path": "Qwen/Qwen2.5-0.5B"},
            },
            "algorithm": {"adv_estimator": "treepo"},
            "trainer": {"use_v1": True, "v1": {"trainer_mode": "treepo_sync"}},
            "data": {"train_files": str(DATA), "val_files": [str(DATA)]},
        }
    )
    for key, value in changes.items():
        OmegaConf.update(config, key.replace("__", "."), value)
    return config


def problems_of(config: DictConfig) -> list[ConfigProblem]:
    with pytest.raises(ConfigError) as caught:
        validate(config)
    return caught.value.problems


def briefly(problems: list[ConfigProblem]) -> list[str]:
    """Return key, value and rule id of each problem; ``tests/settings/messages.txt`` has the sentences."""
    return [f"{problem.key}={problem.value}: {problem.rule_id}" for problem in problems]


def broken_rules(config: DictConfig) -> list[str]:
    return briefly(problems_of(config))


def special_tag(folder: Path, *, special: bool = True) -> None:
    """Change a model's folder: its chat template has thinking tags, and ``</think>`` is a token, special or not."""
    (folder / "chat_template.jinja").write_text("{{ messages[0].content.split('</think>')[-1] }}<think>")
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    number = 1 + max(token["id"] for token in tokenizer["added_tokens"])
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    tokenizer["added_tokens"].append({"id": number, "content": "</think>", "special": special, **flags})
    file.write_text(json.dumps(tokenizer))
