# SPDX-License-Identifier: Apache-2.0
"""Incremental decoding of a growing response.

Decoding the whole response at every boundary costs time in the square of its length. Instead, the texts of consecutive
pieces add up to the text of the whole, except for U+FFFD, which stands for bytes that are not a character. A character
that spans two pieces belongs to the second one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os.path import commonprefix

REPLACEMENT = "\ufffd"  # decoder output for bytes that are not a character, or not yet
# A character has at most four bytes, so at most three final tokens may be the beginning of one.
_MOST_OPEN_TOKENS = 3
# Enough for a whole character. Decoders also treat the first token specially, so it must not be a new one.
_CONTEXT_TOKENS = 6


@dataclass(frozen=True, slots=True)
class IncrementalText:
    """Decodes new tokens with a few before them, never the whole response.

    Attributes:
        decode: Function from token ids to text without special tokens.
    """

    decode: Callable[[list[int]], str]

    def added(self, token_ids: Sequence[int], start: int, end: int | None = None) -> str:
        """Return the text that ``token_ids[start:end]`` adds to the text of ``token_ids[:start]``.

        An unfinished character at the end is left out; the tokens that complete it add it later.
        """
        return self.added_by(token_ids[start:end], lambda count: token_ids[max(0, start - count) : start])

    def added_by(self, new_ids: Sequence[int], before: Callable[[int], Sequence[int]]) -> str:
        """Return the text that ``new_ids`` add to the text before them; see :meth:`added`.

        Args:
            before: Returns the last tokens before the new ones, by their number; fewer if there are no more.
        """
        count = _CONTEXT_TOKENS
        # A context without text is not enough. It may be all special tokens, or begin inside a run of bytes; some
        # decoders drop the whole run if its first byte is missing.
        while not (text_before := self._settled(context := [*before(count)])) and len(context) == count:
            count *= 2
        text = self._settled([*context, *new_ids])
        if text.startswith(text_before):
            return text[len(text_before) :]
        # New tokens may change the decoding of earlier ones, but text that was returned before stays.
        return text[len(commonprefix([text_before, text])) :]

    def _settled(self, token_ids: list[int]) -> str:
        """Return the text without an unfinished character at the end, which later tokens may complete."""
        text = self.decode(token_ids)
        if not text.endswith(REPLACEMENT):
            return text
        # Some decoders drop the whole run of bytes before an unfinished character: also decode without its tokens.
        ends = range(max(0, len(token_ids) - _MOST_OPEN_TOKENS), len(token_ids) + 1)
        return max((self.decode(token_ids[:end]).rstrip(REPLACEMENT) for end in ends), key=len)
