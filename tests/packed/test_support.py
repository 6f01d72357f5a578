# SPDX-License-Identifier: Apache-2.0
"""Models that packed training supports."""

import pytest
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from recipe.treepo.packed.support import PACKED_ATTENTIONS, check_model


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (MistralConfig(), "supports llama, qwen2, qwen3, not mistral"),
        (Qwen2Config(use_sliding_window=True), "does not support sliding windows"),
        (
            Qwen2Config(attn_implementation="flash_attention_2"),
            "supports attn_implementation eager, flex_attention, sdpa, not flash_attention_2",
        ),
    ],
)
def test_unsupported_models_are_refused(config, says):
    with pytest.raises(ValueError, match=f"treepo.packed_training=true: {says}.*set treepo.packed_training=false"):
        check_model(config)


@pytest.mark.parametrize("attention", PACKED_ATTENTIONS)
@pytest.mark.parametrize("config", [LlamaConfig, Qwen2Config, Qwen3Config])
def test_supported_models_are_accepted(config, attention):
    check_model(config(attn_implementation=attention))
