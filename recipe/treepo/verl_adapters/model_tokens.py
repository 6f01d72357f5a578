# SPDX-License-Identifier: Apache-2.0
"""Tokens of a model and of its chat template that begin or end turns."""

from collections.abc import Mapping
from typing import Any

from verl.workers.config import HFModelConfig


def eos_token_ids(model: HFModelConfig) -> frozenset[int]:
    """Return all end tokens of a model: from its tokenizer, configuration and generation configuration."""
    ids: set[int] = set()
    for holder in (model.tokenizer, model.hf_config, model.generation_config):
        value = getattr(holder, "eos_token_id", None)
        ids.update([value] if isinstance(value, int) else value or [])
    return frozenset(ids)


def turn_end(tokenizer: Any) -> int | None:
    """Return the special token that ends an assistant's message in the chat template, None if there is none.

    It may differ from the tokenizer's end token, as in base models with a chat template.
    """
    message = "said"
    chat = [{"role": "user", "content": "asked"}, {"role": "assistant", "content": message}]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    after = tokenizer.encode(text[text.rindex(message) + len(message) :], add_special_tokens=False)
    return after[0] if after and after[0] in tokenizer.all_special_ids else None


def opens_thought(tokenizer: Any, options: Mapping[str, Any]) -> bool:
    """Return whether the chat template ends a prompt with ``<think>``, so that the model begins inside a thought.

    Args:
        options: verl's ``data.apply_chat_template_kwargs``.
    """
    chat = [{"role": "user", "content": "x"}]
    try:
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False, **options)
    except Exception:  # templates may refuse a lone user message
        return False
    return bool(prompt.rstrip().endswith("<think>"))
