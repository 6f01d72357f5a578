# SPDX-License-Identifier: Apache-2.0
"""docs/reference/memory.md: the account of the gpu presets, against sums by hand and a model of transformers."""

import pytest
import torch
from omegaconf import OmegaConf
from transformers import Qwen2Config, Qwen2ForCausalLM

from helpers.composition import composed
from helpers.load_file import load_file

page = load_file("scripts/memory_page.py")


def test_the_page_is_written_from_the_account():
    assert page.PAGE.read_text(encoding="utf-8") == page.memory_page(), "run python scripts/memory_page.py"


def test_the_model_has_as_many_parameters_as_that_of_transformers():
    sizes = page.MODEL
    config = Qwen2Config(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.hidden,
        intermediate_size=sizes.intermediate,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.hidden // sizes.head,
        num_key_value_heads=sizes.key_value_heads,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        model = Qwen2ForCausalLM(config)
    assert sizes.parameters == sum(weight.numel() for weight in model.parameters())
    assert sizes.embedding == model.model.embed_tokens.weight.numel()
    assert sizes.layer == sum(weight.numel() for weight in model.model.layers[0].parameters())


def test_the_update_of_the_gpu_preset_by_hand():
    # 2 sequences of 512 + 1,280 tokens
    positions, parameters, embedding, layer = 3_584, 494_032_768, 136_134_656, 14_912_384
    states = 16 * parameters  # weights, two moments, gradients: 4 bytes each
    units = 12 * (embedding + 2 * layer)
    activations = 2 * positions * (24 * 896 + 4 * 4_864 + 16 * 896)
    logits = 10 * positions * 151_936
    assert page.sums(page.PRESETS["gpu"])["update"] == states + units + activations + logits == 15_737_785_344
    # 24 layers x keys and values x 2 heads x 64 numbers of 2 bytes
    assert page.MODEL.cache_per_token == 24 * 2 * 2 * 64 * 2


@pytest.mark.parametrize("name", page.PRESETS)
def test_each_preset_leaves_a_fifth_of_the_card_and_uses_what_the_account_counts(name):
    account = page.PRESETS[name]
    assert max(page.sums(account).values()) <= 0.8 * page.CARD
    rows = account.actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu
    config = composed(f"preset={name}").actor_rollout_ref
    for group, key in (("actor", "ppo_micro_batch_size_per_gpu"), ("rollout", "log_prob_micro_batch_size_per_gpu")):
        assert config[group][key] == rows
    assert (config.actor.use_dynamic_bsz, config.rollout.log_prob_use_dynamic_bsz) == (False, False)
    assert config.actor.fsdp_config.model_dtype in (None, "fp32")
    assert config.model.enable_gradient_checkpointing and config.rollout.free_cache_engine
    assert config.rollout.temperature == 1.0  # another one copies the logits
    assert config.rollout.checkpoint_engine.update_weights_bucket_megabytes * 2**20 == page.BUCKET
    larger = OmegaConf.merge(account, {"actor_rollout_ref": {"actor": {"ppo_micro_batch_size_per_gpu": 2 * rows + 2}}})
    assert max(page.sums(larger).values()) > 0.8 * page.CARD
