# SPDX-License-Identifier: Apache-2.0
"""Count the tokens of chat messages without importing torch."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from recipe.treepo.settings.chat_tokens import TEMPLATE, TOKENIZER, TOKENIZER_CONFIG, PromptTokens, TemplateRefusal

from .errors import PrepError
from .outputs import sha256_of
from .reading import exists, local_path

TokenCounter = Callable[[list[dict[str, str]]], int]
FILES = (TOKENIZER, TOKENIZER_CONFIG, TEMPLATE)


def token_counter(name: str) -> TokenCounter:
    """Return a function that counts the tokens of chat messages, generation prompt included.

    `name` is a folder or a hub model. The function reads tokenizer.json and chat template directly, because loading a
    transformers tokenizer imports torch. Raises PrepError if a file is missing or damaged; the returned function raises
    it if the chat template refuses the messages.
    """
    try:
        tokens = PromptTokens(partial(_tokenizer_file, name))
    except KeyError as error:
        raise _unreadable(name, error) from error
    except LookupError as error:
        raise PrepError([f"--tokenizer {name!r}: has no {error}. Use a model that has one."]) from error
    except (ValueError, OSError, TypeError, AttributeError) as error:
        raise _unreadable(name, error) from error

    def count(messages: list[dict[str, str]]) -> int:
        try:
            return tokens.count(tokens.text(list(messages)))
        except TemplateRefusal as error:
            refusal = f"its chat template refuses {[message['role'] for message in messages]} ({error})"
            raise PrepError([f"--tokenizer {name!r}: {refusal}. Use another --template or model."]) from error

    return count


def _unreadable(name: str, error: Exception) -> PrepError:
    reason = f"{type(error).__name__}: {error}"
    return PrepError([f"--tokenizer {name!r}: cannot be read ({reason}). Correct the file, or download it again."])


def tokenizer_hashes(name: str) -> dict[str, str]:
    """Return the SHA-256 of each file that affects the number of tokens. Raises OSError if one is unreadable."""
    paths = {file: _tokenizer_file(name, file) for file in FILES}
    return {file: sha256_of(path) for file, path in paths.items() if path is not None}


def _tokenizer_file(name: str, file: str) -> Path | None:
    folder = local_path(name)
    if exists(folder) and folder.is_dir():
        return folder / file if (folder / file).is_file() else None
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(name, file))
    except Exception:  # absent file, unknown model or no network: the caller names the missing file
        return None
