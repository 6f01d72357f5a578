# SPDX-License-Identifier: Apache-2.0
"""Make Qwen2 models with random weights."""

import tempfile
from pathlib import Path
from typing import Any


def config(*, hidden: int, layers: int, vocabulary: int, **others: Any) -> Any:
    """Return a ``Qwen2Config`` with the proportions of the larger Qwen2.5 models."""
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2816 * hidden // 1024,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=max(1, hidden // 256),
        tie_word_embeddings=True,
        **others,
    )


def make_model(folder: Path, *, hidden: int, layers: int, tokenizer: Path) -> int:
    """Write a model with an existing tokenizer atomically; return its number of parameters."""
    import torch
    from transformers import AutoTokenizer, Qwen2ForCausalLM

    words = AutoTokenizer.from_pretrained(tokenizer)
    torch.manual_seed(0)
    ends = {"eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    model = Qwen2ForCausalLM(config(hidden=hidden, layers=layers, vocabulary=len(words), **ends))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        model.save_pretrained(f"{name}/model")
        words.save_pretrained(f"{name}/model")
        Path(f"{name}/model").rename(folder)
    return int(model.num_parameters())
