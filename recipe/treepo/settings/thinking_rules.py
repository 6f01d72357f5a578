# SPDX-License-Identifier: Apache-2.0
"""Rule for the tags of thoughts: responses are read without special tokens, so a tag must be an ordinary text."""

import json
from collections.abc import Collection

from omegaconf import DictConfig, OmegaConf

from recipe.treepo.answers.thinking import Thinking, read_thinking, tags_in
from recipe.treepo.settings.chat_tokens import TOKENIZER, read_template
from recipe.treepo.settings.model_files import ACTOR, finder, local_folder, models_of
from recipe.treepo.settings.values import ConfigProblem

_KEY = "treepo.thinking"


def thinking_problems(config: DictConfig) -> list[ConfigProblem]:
    """Check the tokenizer of a local or cached model; damaged files have rules of their own."""
    model = next((model for model in models_of(config) if model.key == ACTOR), None)
    folder = None if model is None else local_folder(model.tokenizer_path)
    if model is None or folder is None:
        return []
    find, setting = finder(folder), OmegaConf.select(config, _KEY)
    try:
        template = model.group.get("custom_chat_template") or read_template(find)
        tags = tags_in(str(template)) if setting is None else read_thinking(setting)
        if tags is None or (file := find(TOKENIZER)) is None:
            return []
        tokens = json.loads(file.read_text(encoding="utf-8")).get("added_tokens") or []
        special = {token["content"] for token in tokens if token.get("special")}
    except (ValueError, OSError, LookupError, TypeError, AttributeError):
        return []
    return special_tag_problems(tags, special, setting)


def special_tag_problems(tags: Thinking, special: Collection[str], setting: object) -> list[ConfigProblem]:
    """Check that no tag is a special token.

    Args:
        special: Special tokens of the tokenizer.
        setting: Value of ``treepo.thinking``, None if the chat template decides.
    """
    lost = [tag for tag in (tags.open, tags.close) if tag in special]
    if not lost:
        return []
    kind = "is a special token" if len(lost) == 1 else "are special tokens"
    rule = f"{' and '.join(lost)} {kind} of the tokenizer, and responses are read without special tokens, so thoughts "
    rule += "would count as answers"
    remedy = f"Make them ordinary tokens, or use {_KEY}=off to accept that."
    return [ConfigProblem("thinking_special", _KEY, setting, rule, remedy)]
