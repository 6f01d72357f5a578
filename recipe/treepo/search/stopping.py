# SPDX-License-Identifier: Apache-2.0
"""When a path ends, and why.

Every rule looks at the whole response from the first token, so it sees an answer, a stop string or a repetition that
crosses a segment boundary (the released code looks at the last segment only). In a conversation these rules look at
the current turn; a rule by which the model ended its response ends the turn.
"""

import struct
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from recipe.treepo.answers.boxes import has_complete_box
from recipe.treepo.search.incremental_text import REPLACEMENT, IncrementalText


class FinishReason(StrEnum):
    """Why a path became a trajectory. Each leaf records exactly one."""

    ANSWER = "answer"  # the response holds a complete \boxed{...}
    EOS = "eos"  # the last token is one of the model's end tokens
    STOP = "stop"  # the response holds a stop string
    INTERACTION = "interaction"  # the interaction's check_finished gave a reason
    LENGTH = "length"  # the response, or its last turn, has as many tokens as it may have
    DEPTH = "depth"  # the path has as many segments as treepo.depth allows
    TURNS = "turns"  # the conversation has as many turns as rollout.multi_turn allows
    REPETITION = "repetition"  # the response repeats itself
    ERROR = "error"  # the interaction failed


# The model ended the response, or its turn of a conversation.
MODEL_ENDED = frozenset({FinishReason.ANSWER, FinishReason.EOS, FinishReason.STOP})
# The path came to its own end; for the other reasons it was cut off.
SELF_ENDED = MODEL_ENDED | {FinishReason.INTERACTION}
# Reasons that can be read from a response; the others come from the conversation.
RULES = (
    FinishReason.ANSWER,
    FinishReason.EOS,
    FinishReason.STOP,
    FinishReason.LENGTH,
    FinishReason.DEPTH,
    FinishReason.REPETITION,
)


class RepetitionUnit(StrEnum):
    """Unit of a repetition."""

    TOKENS = "tokens"
    CHARACTERS = "characters"


@dataclass(frozen=True, slots=True)
class Repetition:
    """A response repeats itself if some ``window`` consecutive units occur ``count`` times in it.

    Attributes:
        unit: Tokens, or characters as in the released code.
        window: Length of the repeated sequence, in units.
        count: Occurrences, anywhere in the response; they may overlap, as in one letter written again and again.
    """

    unit: RepetitionUnit = RepetitionUnit.TOKENS
    window: int = 32
    count: int = field(default=8, metadata={"least": 2})

    def __post_init__(self) -> None:
        assert self.window >= 1, f"a window of {self.window} {self.unit} holds nothing that could be repeated"
        assert self.count >= 2, f"what occurs {self.count} times is not repeated"

    def found_in(self, response_ids: Sequence[int], text: str) -> bool:
        """Tell whether the response repeats itself; ``text`` is read only where characters are counted.

        Measured on one core with the default window: 0.9 ms for 8,192 tokens, 2.6 ms for 30,000 characters of ASCII
        and 4 ms for others. The time grows with the length, and it is the same whether there is a repetition or not.
        """
        length = len(response_ids) if self.unit is RepetitionUnit.TOKENS else len(text)
        if length < self.window + self.count - 1:
            return False
        data, width = _units(response_ids) if self.unit is RepetitionUnit.TOKENS else _characters(text)
        seen: Counter[bytes] = Counter()
        # One call makes all windows that lie end to end from an offset on; slicing them one by one takes twice as long.
        for offset in range(self.window):
            blocks = (length - offset) // self.window
            seen.update(struct.unpack_from(f"{self.window * width}s" * blocks, data, offset * width))
        return max(seen.values()) >= self.count


def _units(token_ids: Sequence[int]) -> tuple[bytes, int]:
    """Return tokens as bytes, and how many bytes each has."""
    packed = array("i", token_ids)
    return packed.tobytes(), packed.itemsize


def _characters(text: str) -> tuple[bytes, int]:
    """Return characters as bytes, and how many bytes each has."""
    return (text.encode("ascii"), 1) if text.isascii() else (text.encode("utf-32-le", "surrogatepass"), 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppingRules:
    """The rules in the order in which they are asked; the first that applies is the reason recorded.

    Attributes:
        order: Rules to ask, first one first. LENGTH and DEPTH must be among them, or a search need not end.
        eos_token_ids: All end tokens of the model (a model may have several); empty to ignore them.
        response_length: Most tokens of a response.
        depth: Most segments on a path.
        decode: Token ids to text, special tokens left out; only asked for the text that rules read.
        answer_needs_eos: Whether an answer ends a path only where the last token is an end token.
        stop_strings: Texts that end a path for the STOP rule. Special tokens leave no text: they go into
            ``eos_token_ids``.
        repetition: Definition of a repetition for the REPETITION rule.
        min_length: Fewest tokens of a response; the search drops a path that ends with fewer.
    """

    order: tuple[FinishReason, ...]
    eos_token_ids: frozenset[int]
    response_length: int
    depth: int
    decode: Callable[[list[int]], str]
    answer_needs_eos: bool = False
    stop_strings: tuple[str, ...] = ()
    repetition: Repetition = Repetition()
    min_length: int = 0

    def __post_init__(self) -> None:
        missing = {FinishReason.LENGTH, FinishReason.DEPTH} - set(self.order)
        assert not missing, f"a search without the rules {sorted(missing)} need not end"
        assert all(self.stop_strings), "an empty stop string would end every path at once"

    @property
    def needs_text(self) -> bool:
        """Whether any rule reads the text of the response; else nothing has to be decoded."""
        if FinishReason.ANSWER in self.order or FinishReason.STOP in self.order:
            return True
        return FinishReason.REPETITION in self.order and self.repetition.unit is RepetitionUnit.CHARACTERS

    @property
    def text(self) -> IncrementalText:
        """The decoder of growing responses."""
        return IncrementalText(self.decode)

    def reason(self, turn_ids: Sequence[int], text: str, *, length: int, depth: int) -> FinishReason | None:
        """Return why a path, or its turn, ends, or None to go on.

        Args:
            turn_ids: The whole response; in a conversation the turn that is being written.
            text: Its text, from the first token on; not read unless ``needs_text``.
            length: Response tokens on the path.
            depth: Complete segments on the path.
        """

        def applies(rule: FinishReason) -> bool:
            match rule:
                case FinishReason.ANSWER:
                    return (self.at_end_token(turn_ids) or not self.answer_needs_eos) and has_complete_box(text)
                case FinishReason.EOS:
                    return self.at_end_token(turn_ids)
                case FinishReason.STOP:
                    return self._has_stop_string(text)
                case FinishReason.LENGTH:
                    return length >= self.response_length
                case FinishReason.DEPTH:
                    return depth >= self.depth
                case FinishReason.REPETITION:
                    return self.repetition.found_in(turn_ids, text)
                case _:
                    raise AssertionError(f"{rule} is not a rule")

        return next(filter(applies, self.order), None)

    def at_end_token(self, token_ids: Sequence[int]) -> bool:
        """Tell whether the last token is an end token."""
        return bool(token_ids) and token_ids[-1] in self.eos_token_ids

    def _has_stop_string(self, text: str) -> bool:
        return any(string in text for string in self.stop_strings)

    def tokens_to_stop(self, response_ids: Sequence[int], start: int, text_before: str) -> int | None:
        """Return how many tokens from ``start`` on it takes to complete a stop string.

        The last of these tokens may carry further characters. Takes one decoding of the new tokens, and about ten
        of a part of them where there is a stop string.

        Args:
            response_ids: The whole response.
            start: Number of tokens to leave alone.
            text_before: Text of these; a stop string that begins in it counts.

        Returns:
            The smallest number of tokens, 0 if ``text_before`` holds a stop string; None if there is none in the
            whole response, or the STOP rule is not asked.
        """
        if not self.stop_strings or FinishReason.STOP not in self.order:
            return None
        if self._has_stop_string(text_before):
            return 0
        # More of the text before cannot matter: it holds no whole stop string.
        text_before = text_before.rstrip(REPLACEMENT)[-max(map(len, self.stop_strings)) :]

        text = self.text

        def stopped(count: int) -> bool:
            return self._has_stop_string(text_before + text.added(response_ids, start, start + count))

        new_tokens = len(response_ids) - start
        return bisect_left(range(new_tokens), True, key=stopped) if stopped(new_tokens) else None
