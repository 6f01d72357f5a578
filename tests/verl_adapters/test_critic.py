# SPDX-License-Identifier: Apache-2.0
"""Critic engine: its selection by verl, and the model that it loads."""

import importlib.util

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp import transformer_impl
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead, FSDPEngineWithValueHead

from helpers.process_group import lone_process
from recipe.treepo.verl_adapters.critic import CriticEngine


@pytest.fixture
def language_model(tmp_path) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM(config).float().eval()
    model.save_pretrained(tmp_path)
    return model


@pytest.fixture(autouse=True)
def one_process(tmp_path_factory):
    with lone_process(tmp_path_factory.mktemp("group")):
        yield


def build(engine_class: type, path: str, attention: str = "sdpa") -> tuple[torch.nn.Module, HFModelConfig]:
    """Load the model of an engine without sharding."""
    model_config = HFModelConfig(
        path=path,
        model_type="value_model",
        load_tokenizer=False,
        use_remove_padding=False,
        enable_gradient_checkpointing=False,
        override_config={"attn_implementation": attention},
    )
    engine = engine_class(
        model_config=model_config,
        engine_config=FSDPEngineConfig(strategy="fsdp2", model_dtype="fp32", forward_only=False),
        optimizer_config=FSDPOptimizerConfig(lr=1e-3, total_training_steps=10),
        checkpoint_config=None,
    )
    return engine._build_module(), model_config


@pytest.mark.parametrize("strategy", ["fsdp", "fsdp2"])
@pytest.mark.parametrize("vendor", ["cpu", "nvidia"])
def test_verl_takes_our_critic_and_its_own_actor(strategy, vendor, monkeypatch):
    monkeypatch.setenv("VERL_ENGINE_DEVICE", "cuda")
    monkeypatch.setenv("VERL_ENGINE_VENDOR", vendor)
    assert EngineRegistry.get_engine_cls("value_model", strategy) is CriticEngine
    assert EngineRegistry.get_engine_cls("language_model", strategy) is FSDPEngineWithLMHead
    assert transformer_impl.FSDPEngineWithValueHead is FSDPEngineWithValueHead


def test_the_critic_is_the_language_model_with_values_and_the_configured_attention(language_model, tmp_path):
    critic, config = build(CriticEngine, str(tmp_path))
    critic.eval()
    tokens = torch.tensor([[5, 9, 2, 33]])
    with torch.no_grad():
        states = language_model.model(tokens).last_hidden_state
        expected = states @ critic.score.weight.T + critic.score.bias
        assert torch.allclose(critic(tokens).logits, expected, atol=1e-6)
    assert expected.shape == (1, 4, 1)
    assert critic.config._attn_implementation == "sdpa"
    # a checkpoint in Hugging Face's format names the architecture
    assert critic.config.architectures == ["Qwen2ForTokenClassification"]
    assert config.model_type == "value_model"


@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is not None, reason="there, both work")
@pytest.mark.parametrize(
    ("engine_class", "attention"), [(FSDPEngineWithValueHead, "sdpa"), (CriticEngine, "flash_attention_2")]
)
def test_flash_attention_is_needed_by_verls_critic_and_by_ours_if_configured(
    engine_class, attention, language_model, tmp_path
):
    with pytest.raises(RuntimeError, match="not a value head model") as caught:
        build(engine_class, str(tmp_path), attention)
    assert isinstance(caught.value.__cause__, ImportError)
    assert "FlashAttention2" in str(caught.value.__cause__)
