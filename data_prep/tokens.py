# SPDX-License-Identifier: Apache-2.0
"""Count the tokens of chat messages without importing torch."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import PrepError
from .outputs import sha256_of
from .reading import exists, local_path

TokenCounter = Callable[[list[dict[str, str]]], int]
FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def token_counter(name: str) -> TokenCounter:
    """Return a function that counts the tokens of chat messages, generation prompt included.

    `name` is a folder or a hub model. The function reads tokenizer.json and chat template directly, because loading a
    transformers tokenizer imports torch. Raises PrepError if a file is missing or damaged; the returned function raises
    it if the chat template refuses the messages.
    """
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        tokenizer, template, special = _load(name)
    except (ValueError, OSError, TypeError, KeyError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise PrepError([f"--tokenizer {name!r}: cannot be read ({reason}). Download the model again."]) from error

    def count(messages: list[dict[str, str]]) -> int:
        try:
            texts, _ = render_jinja_template(
                conversations=[messages], chat_template=template, add_generation_prompt=True, **special
            )
        except Exception as error:  # a chat template is a program and may raise any type
            refusal = f"its chat template refuses {[message['role'] for message in messages]} ({error})"
            raise PrepError([f"--tokenizer {name!r}: {refusal}. Use another --template or model."]) from error
        return len(tokenizer.encode(texts[0], add_special_tokens=False).ids)

    return count


def tokenizer_hashes(name: str) -> dict[str, str]:
    """Return the SHA-256 of each file that affects the number of tokens. Raises OSError if one is unreadable."""
    paths = {file: _tokenizer_file(name, file) for file in FILES}
    return {file: sha256_of(path) for file, path in paths.items() if path is not None}


def _load(name: str) -> tuple[Any, str, dict[str, str]]:
    """Return a model's tokenizer, chat template, and special tokens by their names in the template."""
    from tokenizers import Tokenizer

    tokenizer_file, config_file, template_file = (_tokenizer_file(name, file) for file in FILES)
    config = json.loads(config_file.read_text(encoding="utf-8")) if config_file else {}
    template = template_file.read_text(encoding="utf-8") if template_file else config.get("chat_template")
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    if tokenizer_file is None or not template:
        lacks = "tokenizer.json" if tokenizer_file is None else "chat template"
        raise PrepError([f"--tokenizer {name!r}: has no {lacks}. Use a model that has one."])
    try:
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
    except Exception as error:  # the library raises plain Exceptions
        raise ValueError(f"tokenizer.json: {error}") from error
    tokenizer.no_truncation()
    special = {key: value for key, value in config.items() if key.endswith("_token") and value}
    return (
        tokenizer,
        template,
        {key: value["content"] if isinstance(value, dict) else value for key, value in special.items()},
    )


def _tokenizer_file(name: str, file: str) -> Path | None:
    folder = local_path(name)
    if exists(folder) and folder.is_dir():
        return folder / file if (folder / file).is_file() else None
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(name, file))
    except Exception:  # absent file, unknown model or no network: the caller names the missing file
        return None
