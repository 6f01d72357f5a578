# SPDX-License-Identifier: Apache-2.0
"""Thoughts in tokens: whether a prompt opens one, and the number of tokens inside them."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import accumulate

from recipe.treepo.answers.thinking import Thinking
from recipe.treepo.search.incremental_text import IncrementalText

# Tokens of white space that a chat template may write behind a tag.
_SPACES = 16
# Tokens decoded at a time: the whole response once, and a piece of this length a few times per thought.
_PIECE = 64


def thinking_after(prompt_ids: Sequence[int], thinking: Thinking, decode: Callable[[list[int]], str]) -> Thinking:
    """Return the tags for the text that follows some tokens.

    Args:
        decode: Function from token ids to text without special tokens.
    """
    most = len(thinking.open.encode()) + _SPACES
    return thinking.after(decode(list(prompt_ids[-most:])))


def thinking_tokens(
    response_ids: Sequence[int], mask: Sequence[int], thinking: Thinking, decode: Callable[[list[int]], str]
) -> int:
    """Return the number of generated tokens that begin inside a thought, tags excluded.

    Args:
        mask: 1 for each generated token, 0 for others.
        thinking: Tags, with ``opened`` for this response.
        decode: Function from token ids to text without special tokens.
    """
    text = IncrementalText(decode)
    starts = range(0, len(response_ids), _PIECE)
    pieces = [text.added(response_ids, start, start + _PIECE) for start in starts]
    ends = list(accumulate(map(len, pieces)))

    def tokens_to(character: int) -> int:
        """Return the number of tokens that hold the text up to a character."""
        if character == 0:
            return 0
        number = bisect_left(ends, character)
        start, needed = starts[number], character - (ends[number] - len(pieces[number]))
        stops = range(start, min(start + _PIECE, len(response_ids)))
        return start + bisect_left(stops, needed, key=lambda stop: len(text.added(response_ids, start, stop)))

    spans = thinking.thoughts("".join(pieces))
    return sum(sum(mask[tokens_to(begin) : tokens_to(end)]) for begin, end in spans)
