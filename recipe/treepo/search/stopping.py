# SPDX-License-Identifier: Apache-2.0
"""Rules that end paths, and the reasons they record.

Each rule reads the whole response from the first token, so it finds an answer, a stop string or a repetition that
crosses a segment boundary. The released code reads the last segment only. In a conversation, these rules read the
current turn. A rule by which the model ended its response then ends the turn.
"""

import struct
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from recipe.treepo.answers.boxes import has_complete_box
from recipe.treepo.answers.thinking import Thinking
from recipe.treepo.policies import PathView, PolicyContext, StoppingRule
from recipe.treepo.search.engine import tokens
from recipe.treepo.search.incremental_text import REPLACEMENT, IncrementalText
from recipe.treepo.search.policy_calls import PolicyCall, plain
from recipe.treepo.search.thought_tokens import thinking_after


class FinishReason(StrEnum):
    """Reason why a path became a trajectory. Each leaf records exactly one."""

    ANSWER = "answer"  # the response holds a complete \boxed{...} behind its thoughts
    EOS = "eos"  # the last token is one of the model's end tokens
    STOP = "stop"  # the response holds a stop string
    INTERACTION = "interaction"  # the interaction's check_finished returned a reason
    LENGTH = "length"  # the response, or its last turn, reached its token limit
    DEPTH = "depth"  # the path has treepo.depth segments
    TURNS = "turns"  # the conversation reached the turn limit of rollout.multi_turn
    REPETITION = "repetition"  # the response repeats itself
    ERROR = "error"  # the interaction failed
    CUSTOM = "custom"  # the user's stopping rule
    PRUNED = "pruned"  # a policy gave the path up; never a trajectory


# The model ended its response, or its turn in a conversation.
MODEL_ENDED = frozenset({FinishReason.ANSWER, FinishReason.EOS, FinishReason.STOP})
# The path ended by itself; with the other reasons it was cut off.
SELF_ENDED = MODEL_ENDED | {FinishReason.INTERACTION, FinishReason.CUSTOM}
# Reasons that depend on the response only; the others come from the conversation.
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
    """Definition of a repetition: some ``window`` consecutive units occur ``count`` times in the response.

    Attributes:
        unit: Tokens, or characters as in the released code.
        window: Length of the repeated sequence, in units.
        count: Minimum occurrences, anywhere in the response. They may overlap, as in a single letter repeated many
            times.
    """

    unit: RepetitionUnit = RepetitionUnit.TOKENS
    window: int = 32
    count: int = field(default=8, metadata={"least": 2})

    def __post_init__(self) -> None:
        assert self.window >= 1, f"window={self.window}: must be at least 1 (unit {self.unit})"
        assert self.count >= 2, f"count={self.count}: must be at least 2"

    def found_in(self, turn: PathView) -> bool:
        """Return whether a response repeats itself; its text is read only for characters.

        Measured on one core with the default window: 0.9 ms for 8,192 tokens, 2.6 ms for 30,000 characters of ASCII and
        4 ms for others. The time grows with the length and does not depend on the result.
        """
        units = turn.turn_ids if self.unit is RepetitionUnit.TOKENS else turn.turn_text
        length = len(units)
        if length < self.window + self.count - 1:
            return False
        data, width = _characters(units) if isinstance(units, str) else _tokens(units)
        seen: Counter[bytes] = Counter()
        # One call unpacks all adjacent windows from an offset on; slicing them one by one takes twice as long.
        for offset in range(self.window):
            blocks = (length - offset) // self.window
            seen.update(struct.unpack_from(f"{self.window * width}s" * blocks, data, offset * width))
        return max(seen.values()) >= self.count


def _tokens(token_ids: Sequence[int]) -> tuple[bytes, int]:
    """Return tokens as bytes, and the number of bytes per token."""
    packed = tokens(token_ids)
    return packed.tobytes(), packed.itemsize


def _characters(text: str) -> tuple[bytes, int]:
    """Return characters as bytes, and the number of bytes per character."""
    return (text.encode("ascii"), 1) if text.isascii() else (text.encode("utf-32-le", "surrogatepass"), 4)


@dataclass(frozen=True, kw_only=True)
class StoppingRules:
    """Stopping rules in their order of precedence: the first rule that applies is the recorded reason.

    Attributes:
        order: Active rules in order of precedence. Must include LENGTH and DEPTH, so that every search ends.
        eos_token_ids: All end tokens of the model (a model may have several); empty to ignore them.
        response_length: Maximum tokens of a response.
        depth: Maximum segments on a path.
        decode: Function from token ids to text without special tokens.
        answer_needs_eos: Whether an answer ends a path only if the last token is an end token.
        stop_strings: Texts that end a path by the STOP rule. Special tokens leave no text: list them in
            ``eos_token_ids``.
        repetition: Definition of a repetition for the REPETITION rule.
        min_length: Minimum tokens of a response; the search drops a path that ends with fewer.
        thinking: Tags around thoughts; an answer inside one does not end a path.
        custom: Rule of the user, checked after the others.
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
    thinking: Thinking = Thinking()
    custom: StoppingRule | None = None

    def __post_init__(self) -> None:
        missing = {FinishReason.LENGTH, FinishReason.DEPTH} - set(self.order)
        assert not missing, f"order: must include {sorted(missing)}, or a search may never end"
        assert all(self.stop_strings), "an empty stop string would end every path at once"

    @property
    def needs_text(self) -> bool:
        """Whether an active rule reads the text of the response; otherwise the rules decode nothing."""
        if FinishReason.ANSWER in self.order or FinishReason.STOP in self.order:
            return True
        return FinishReason.REPETITION in self.order and self.repetition.unit is RepetitionUnit.CHARACTERS

    @property
    def reads_all_text(self) -> bool:
        """Whether a rule reads the whole text at every boundary; the rule ANSWER reads it once there is a box."""
        return self.needs_text and (FinishReason.STOP in self.order or FinishReason.REPETITION in self.order)

    @property
    def text(self) -> IncrementalText:
        """Decoder of growing responses."""
        return IncrementalText(self.decode)

    def reason(self, path: PathView, context: PolicyContext) -> FinishReason | None:
        """Return the reason to end a path, or its turn; None to continue. No text is read unless ``needs_text``."""
        for reason, rule in self._rules:
            if rule.ends(path, context):
                return reason
        return None

    @cached_property
    def _rules(self) -> list[tuple[FinishReason, StoppingRule]]:
        own = [] if self.custom is None else [(FinishReason.CUSTOM, CheckedRule(self.custom))]
        return [*((reason, BUILT_IN[reason](self)) for reason in self.order), *own]

    def at_end_token(self, token_ids: Sequence[int]) -> bool:
        """Return whether the last token is an end token."""
        return bool(token_ids) and token_ids[-1] in self.eos_token_ids

    def thinking_after(self, token_ids: Sequence[int]) -> Thinking:
        """Return the tags for a turn that follows some tokens."""
        return thinking_after(token_ids, self.thinking, self.decode)

    def has_stop_string(self, text: str) -> bool:
        """Return whether a text holds a stop string."""
        return any(string in text for string in self.stop_strings)

    def tokens_to_stop(self, response_ids: Sequence[int], start: int, text_before: str) -> int | None:
        """Return the number of tokens from ``start`` on that complete a stop string.

        The last of these tokens may carry further characters. Decodes the new tokens once, and parts of them about ten
        times if there is a stop string.

        Args:
            response_ids: Tokens of the whole response.
            start: Number of tokens to skip.
            text_before: Text of the skipped tokens; a stop string may begin in it.

        Returns:
            The smallest number of tokens, 0 if ``text_before`` holds a stop string. None if the whole response holds
            none, or if the STOP rule is not active.
        """
        if not self.stop_strings or FinishReason.STOP not in self.order:
            return None
        if self.has_stop_string(text_before):
            return 0
        # Earlier text cannot matter: it holds no whole stop string.
        text_before = text_before.rstrip(REPLACEMENT)[-max(map(len, self.stop_strings)) :]

        text = self.text

        def stopped(count: int) -> bool:
            return self.has_stop_string(text_before + text.added(response_ids, start, start + count))

        new_tokens = len(response_ids) - start
        return bisect_left(range(new_tokens), True, key=stopped) if stopped(new_tokens) else None


class CheckedRule:
    """The user's rule with a check of its result."""

    def __init__(self, rule: StoppingRule) -> None:
        self._rule = rule

    def ends(self, path: PathView, context: PolicyContext) -> bool:
        """See :class:`recipe.treepo.policies.StoppingRule`.

        Raises:
            PolicyError: if the user's class fails or returns a wrong result.
        """
        call = PolicyCall(self._rule, "ends", context.prompt, lambda: [path.name])
        found = plain(call.result(lambda: self._rule.ends(path, context)))
        if not isinstance(found, bool):
            raise call.wrong(found, "must be True or False")
        return found


class BuiltInRule:
    """A rule of this recipe; satisfies :class:`recipe.treepo.policies.StoppingRule`."""

    def __init__(self, rules: StoppingRules) -> None:
        self._rules = rules

    def ends(self, path: PathView, context: PolicyContext) -> bool:
        """Return whether the path ends here."""
        raise NotImplementedError


class AnswerRule(BuiltInRule):
    """The turn has a complete box behind its thoughts."""

    def ends(self, path: PathView, context: PolicyContext) -> bool:
        """See :class:`BuiltInRule`."""
        rules = self._rules
        if (rules.answer_needs_eos and path.last_token not in rules.eos_token_ids) or not path.opens_box:
            return False
        # A model may write boxes in its thoughts for long, so what comes before the turn is read last.
        text = path.turn_text
        visible = rules.thinking.visible(text)
        if visible is None or not has_complete_box(visible):
            return False
        return rules.thinking_after(path.ids_before_turn).visible(text) is not None


class EosRule(BuiltInRule):
    """The last token is an end token."""

    def ends(self, path: PathView, context: PolicyContext) -> bool:
        """See :class:`BuiltInRule`."""
        return path.last_token in self._rules.eos_token_ids


class StopRule(BuiltInRule):
    """The turn has a stop string."""

    def ends(self, path: PathView, context: PolicyContext) -> bool:
        """See :class:`BuiltInRule`."""
        return self._rules.has_stop_string(path.turn_text)


class LengthRule(BuiltInRule):
    """The response has its maximum length."""

    def ends(self, path: PathView, context: PolicyContext) -> bool:
        """See :class:`BuiltInRule`."""
        return path.length >= self._rules.response_length


class DepthRule(BuiltInRule):
    """The path has its maximum number of segments."""

    def ends(self, path: PathView, context: PolicyContext) -> bool:
        """See :class:`BuiltInRule`."""
        return path.complete_segments >= self._rules.depth


class RepetitionRule(BuiltInRule):
    """The turn repeats itself."""

    def ends(self, path: PathView, context: PolicyContext) -> bool:
        """See :class:`BuiltInRule`."""
        return self._rules.repetition.found_in(path)


BUILT_IN: Mapping[FinishReason, type[BuiltInRule]] = {
    FinishReason.ANSWER: AnswerRule,
    FinishReason.EOS: EosRule,
    FinishReason.STOP: StopRule,
    FinishReason.LENGTH: LengthRule,
    FinishReason.DEPTH: DepthRule,
    FinishReason.REPETITION: RepetitionRule,
}
