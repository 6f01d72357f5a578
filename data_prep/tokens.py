# SPDX-License-Identifier: Apache-2.0
"""Count the tokens of chat messages without importing torch."""

import json
from collections.abc import Callable
from pathlib import Path

from data_prep.errors import PrepError

TokenCounter = Callable[[list[dict[str, str]]], int]


def token_counter(name: str) -> TokenCounter:
    """Return a function that counts the tokens of chat messages, generation prompt included.

    Reads tokenizer.json and the chat template itself, because loading a transformers tokenizer imports torch.
    `name` is a folder or a hub model. Raises PrepError where one of the files is missing.
    """
    from tokenizers import Tokenizer
    from transformers.utils.chat_template_utils import render_jinja_template

    tokenizer_file, config_file, template_file = (
        _tokenizer_file(name, file) for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    )
    config = json.loads(config_file.read_text(encoding="utf-8")) if config_file else {}
    template = template_file.read_text(encoding="utf-8") if template_file else config.get("chat_template")
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    if tokenizer_file is None or not template:
        lacks = "tokenizer.json" if tokenizer_file is None else "chat template"
        raise PrepError([f"--tokenizer {name!r}: has no {lacks}: give a model that has one"])
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_truncation()
    special = {key: value for key, value in config.items() if key.endswith("_token")}
    special = {key: value["content"] if isinstance(value, dict) else value for key, value in special.items()}

    def count(messages: list[dict[str, str]]) -> int:
        texts, _ = render_jinja_template(
            conversations=[messages], chat_template=template, add_generation_prompt=True, **special
        )
        return len(tokenizer.encode(texts[0], add_special_tokens=False).ids)

    return count


def _tokenizer_file(name: str, file: str) -> Path | None:
    if Path(name).expanduser().is_dir():
        path = Path(name).expanduser() / file
        return path if path.is_file() else None
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(name, file))
    except Exception:  # absent file, unknown model or no network: the caller names what is missing
        return None
