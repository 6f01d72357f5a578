# SPDX-License-Identifier: Apache-2.0
"""Text behind a model's thoughts. Standard library only.

Everything that looks for answers, boxes, votes or tool calls asks this module. The first closing tag ends a thought,
whatever it contains; a closing tag without an opening one ends a thought that began after the last one, or with the
text.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

FIELD = "treepo_thinking"
"""Key of ``extra_info`` that holds :attr:`Thinking.fields` for a reward function."""


@dataclass(frozen=True, slots=True)
class Thinking:
    """Tags around the thoughts in a text.

    Attributes:
        open: Tag that begins a thought.
        close: Tag that ends it; both tags are empty for a model whose whole text is visible.
        opened: Whether the text begins inside a thought, because the prompt ends with ``open``.
    """

    open: str = "<think>"
    close: str = "</think>"
    opened: bool = False

    @property
    def fields(self) -> dict[str, Any]:
        """The attributes as a dictionary, which :func:`read_thinking` reads."""
        return asdict(self)

    def after(self, prompt: str) -> "Thinking":
        """Return the same tags for the text that follows a prompt."""
        return replace(self, opened=self.opened or (self.open != "" and prompt.rstrip().endswith(self.open)))

    def visible(self, text: str) -> str | None:
        """Return the text behind the last thought; None if a thought is unfinished."""
        if not self.close:
            return text
        _, ended, rest = text.rpartition(self.close)
        return None if self.open in rest or (self.opened and not ended) else rest

    def thoughts(self, text: str) -> list[tuple[int, int]]:
        """Return (start, end) of the content of each thought, without tags; an unfinished one ends with the text."""
        if not self.close:
            return []
        spans, begin, opened = [], 0, self.opened
        while (end := text.find(self.close, begin)) >= 0:
            first = -1 if opened else text.find(self.open, begin, end)
            spans.append((begin if first < 0 else first + len(self.open), end))
            begin, opened = end + len(self.close), False
        if opened:
            spans.append((begin, len(text)))
        elif (first := text.find(self.open, begin)) >= 0:
            spans.append((first + len(self.open), len(text)))
        return spans


NO_THINKING = Thinking("", "")


def tags_in(template: str) -> Thinking | None:
    """Return the tags of Qwen3, DeepSeek-R1 and most other models if a chat template has one of them, else None."""
    tags = Thinking()
    return tags if tags.open in template or tags.close in template else None


def read_thinking(value: Any) -> Thinking:
    """Read tags from a configuration or from :attr:`Thinking.fields`.

    Args:
        value: ``off``, false, or a mapping with ``open``, ``close`` and ``opened``, each with its default.

    Raises:
        ValueError: naming the violated rule.
    """
    if value is False or value == "off":
        return NO_THINKING
    if not isinstance(value, Mapping) or not set(value) <= set(NO_THINKING.fields):
        raise ValueError('must be null, off, or tags such as {open: "<think>", close: "</think>"}')
    thinking = Thinking(**value)
    if thinking == NO_THINKING:
        return thinking
    tags = [thinking.open, thinking.close]
    if not all(isinstance(tag, str) and tag and tag == tag.strip() for tag in tags):
        raise ValueError("open and close must be texts without spaces around them")
    if thinking.open in thinking.close or thinking.close in thinking.open:
        raise ValueError("open and close must not contain each other")
    if not isinstance(thinking.opened, bool):
        raise ValueError("opened must be true or false")
    return thinking
