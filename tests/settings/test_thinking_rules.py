# SPDX-License-Identifier: Apache-2.0
"""Tags of thoughts that a tokenizer leaves out of responses."""

import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from helpers.configs import broken_rules, config_of, special_tag
from helpers.paths import ROOT
from recipe.treepo.settings.validate import validate

NAMED = {"open": "<t>", "close": "</think>"}


@pytest.fixture
def model(tmp_path) -> Path:
    return Path(shutil.copytree(ROOT / "tiny/model", tmp_path / "model"))


def config_with(model: Path, thinking: object = None, **changes):
    changes |= {"actor_rollout_ref__model__path": str(model), "actor_rollout_ref__rollout__prompt_length": 99}
    return config_of({"thinking": thinking}, **changes)


def test_a_tag_that_is_a_special_token_is_refused(model):
    special_tag(model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    token_ids = tokenizer.encode("a</think>b", add_special_tokens=False)
    assert tokenizer.decode(token_ids, skip_special_tokens=True) == "ab"
    assert broken_rules(config_with(model)) == ["treepo.thinking=None: thinking_special"]
    assert broken_rules(config_with(model, NAMED)) == [f"treepo.thinking={NAMED}: thinking_special"]
    own = {"actor_rollout_ref__model__custom_chat_template": "{{ messages[0].content }}"}
    assert validate(config_with(model, **own)).thinking is None  # no tags in this template
    validate(config_with(model, {"open": "<t>", "close": "</t>"}))
    validate(config_with(model, "off"))


def test_an_ordinary_tag_is_accepted(model):
    validate(config_with(model, NAMED))
    special_tag(model, special=False)
    validate(config_with(model))
    validate(config_with(model, NAMED))


def test_other_rules_report_a_damaged_tokenizer(model):
    (model / "tokenizer.json").write_text("{")
    assert broken_rules(config_with(model, NAMED)) == [f"actor_rollout_ref.model.path={model}: model_tokenizer_damaged"]
