# SPDX-License-Identifier: Apache-2.0
"""Chat template and tokens of prompts, from a model's files: importing neither torch nor a transformers tokenizer."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

TOKENIZER, TOKENIZER_CONFIG, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
FindFile = Callable[[str], Path | None]
"""Returns a model's file by name, None if the model lacks it."""
Message = Mapping[str, Any]
_UNSET_TOKEN = re.compile(r"'\w+_tokens?' is undefined")
# Tags that transformers adds to jinja's: {% generation %} and {% endgeneration %}.
_GENERATION = "generation"


class TemplateRefusal(ValueError):
    """The chat template raised for some messages.

    Attributes:
        is_certain: Whether it also raises in verl, where transformers may know further special tokens.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.is_certain = _UNSET_TOKEN.search(str(error)) is None


def read_template(find: FindFile) -> str | None:
    """Return a tokenizer's chat template, None if it has none.

    Raises:
        ValueError: if tokenizer_config.json is not JSON, or a file is not UTF-8.
        AttributeError: if tokenizer_config.json is not an object.
        OSError: if a file is unreadable.
    """
    if (file := find(TEMPLATE)) is not None:
        return file.read_text(encoding="utf-8")
    template = _read_json(find(TOKENIZER_CONFIG)).get("chat_template")
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}
    if isinstance(template, dict):
        template = template.get("default")
    return template or None


def syntax_error(template: str) -> str | None:
    """Compile a chat template, without running it, as transformers does; return the error with its line, or None."""
    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        tags = {_GENERATION}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements((f"name:end{_GENERATION}",), drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    try:
        environment.from_string(template)
    except jinja2.TemplateSyntaxError as error:
        return f"line {error.lineno}: {error.message}"
    return None


class PromptTokens:
    """Tokens of chat messages, with the generation prompt.

    Args:
        find: Finds the tokenizer's files.
        template: Chat template, None for the tokenizer's own.
        options: Further variables of the template, as in ``data.apply_chat_template_kwargs``.

    Raises:
        LookupError: if the model has no tokenizer.json or no chat template.
        ValueError: if a file is damaged.
        OSError: if a file is unreadable.
    """

    def __init__(self, find: FindFile, template: str | None = None, options: Mapping[str, Any] | None = None) -> None:
        from tokenizers import Tokenizer

        file, template = find(TOKENIZER), read_template(find) if template is None else template
        if file is None or template is None:
            raise LookupError("tokenizer.json" if file is None else "chat template")
        if (error := syntax_error(template)) is not None:
            raise ValueError(f"chat template, {error}")
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as damage:  # the library raises plain Exceptions
            raise ValueError(f"tokenizer.json: {damage}") from damage
        self._tokenizer.no_truncation()
        self._template = template
        self._variables = _special_tokens(find) | dict(options or {})

    def text(self, messages: Sequence[Message]) -> str:
        """Apply the chat template.

        Raises:
            TemplateRefusal: if the template raises.
        """
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            texts, _ = render_jinja_template(
                conversations=[list(messages)],
                chat_template=self._template,
                add_generation_prompt=True,
                **self._variables,
            )
        except Exception as error:  # a chat template is a program and may raise any type
            raise TemplateRefusal(error) from error
        return str(texts[0])

    def ignores(self, messages: Sequence[Message]) -> bool:
        """Return whether the template gives the same text for messages with other contents."""
        others = [{**message, "content": f"{message['content']}?"} for message in messages]
        return self.text(messages) == self.text(others)

    def count(self, text: str) -> int:
        """Return the number of tokens of a text from :meth:`text`."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)


def _special_tokens(find: FindFile) -> dict[str, str]:
    """Return a tokenizer's special tokens by their names in chat templates."""
    values = _read_json(find("special_tokens_map.json")) | _read_json(find(TOKENIZER_CONFIG))
    tokens = {key: value for key, value in values.items() if key.endswith("_token") and value}
    return {key: value["content"] if isinstance(value, dict) else value for key, value in tokens.items()}


def _read_json(file: Path | None) -> dict[str, Any]:
    content: dict[str, Any] = {} if file is None else json.loads(file.read_text(encoding="utf-8"))
    return content
