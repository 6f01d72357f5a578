# SPDX-License-Identifier: Apache-2.0
"""Inputs of an evaluation from verl, with the tiny model."""

import pytest

from helpers.composition import composed
from helpers.paths import ROOT
from recipe.treepo.reward import compute_score
from recipe.treepo.settings.values import ConfigError
from recipe.treepo.verl_adapters.evaluation_inputs import load_model, prompt_builder, reward_function
from recipe.treepo.verl_adapters.model_tokens import eos_token_ids, turn_end

TINY = f"actor_rollout_ref.model.path={ROOT}/tiny/model"
MESSAGES = [{"role": "user", "content": "What is 2 + 3?"}]


def test_a_model_comes_with_its_tokenizer_and_end_tokens():
    model = load_model(composed("platform=cpu", "preset=tiny", TINY))
    ends = model.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert eos_token_ids(model) == set(ends)
    assert turn_end(model.tokenizer) == ends[0]


def test_a_model_that_cannot_be_loaded_is_named(tmp_path):
    config = composed("platform=cpu", "preset=tiny", f"actor_rollout_ref.model.path={tmp_path}")
    with pytest.raises(ConfigError, match=rf"actor_rollout_ref\.model\.path={tmp_path}: cannot be loaded \("):
        load_model(config)


def test_prompts_are_those_of_the_chat_template():
    config = composed("platform=cpu", "preset=tiny", TINY)
    model = load_model(config)
    expected = model.tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)
    assert prompt_builder(config, model)(MESSAGES) == model.tokenizer.encode(expected, add_special_tokens=False)


def test_the_reward_is_the_configured_function_or_verls_own(tmp_path):
    arguments = {"data_source": "a", "solution_str": r"\boxed{5}", "ground_truth": "5"}
    ours = reward_function(composed("platform=cpu", "preset=tiny"))
    assert ours(**arguments) == compute_score(**arguments)
    (tmp_path / "mine.py").write_text("def three(**arguments):\n    return 3.0\n")
    own = [f"reward.custom_reward_function.{key}" for key in ("path", "name")]
    assert reward_function(composed(f"{own[0]}={tmp_path}/mine.py", f"{own[1]}=three"))(**arguments) == 3.0
    verls = reward_function(composed(f"{own[0]}=null"))
    assert verls("openai/gsm8k", "#### 5", "5") == 1.0
