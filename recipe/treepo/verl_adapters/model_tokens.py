# SPDX-License-Identifier: Apache-2.0
"""Tokens and tags of a model and of its chat template that begin or end turns and thoughts."""

from typing import Any

from verl.workers.config import HFModelConfig

from recipe.treepo.answers.thinking import Thinking, tags_in
from recipe.treepo.settings.schema import TreePOSettings
from recipe.treepo.settings.thinking_rules import special_tag_problems
from recipe.treepo.settings.values import ConfigError


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


def tags_of(tokenizer: Any) -> Thinking | None:
    """Return the tags of thoughts in the tokenizer's chat template, None if it has none."""
    template = tokenizer.chat_template or ""
    return tags_in("".join(template.values()) if isinstance(template, dict) else template)


def with_tags(settings: TreePOSettings, tokenizer: Any) -> TreePOSettings:
    """Return a copy of the settings with the tags in the tokenizer's chat template, unless they name others.

    Raises:
        ConfigError: if a tag is a special token.
    """
    known = settings.with_tags(tags_of(tokenizer))
    if known.thinking is not None:
        special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        if problems := special_tag_problems(known.thinking, special, settings.thinking and known.thinking.fields):
            raise ConfigError(problems)
    return known
