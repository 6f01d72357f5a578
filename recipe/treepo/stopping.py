# SPDX-License-Identifier: Apache-2.0
"""When a path ends, and why.

Every rule looks at the whole response from the first token, so an answer that is written across a segment
boundary is seen (the released code looks at the last segment only).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from recipe.treepo.answer import has_complete_box


class FinishReason(StrEnum):
    """Why a path became a trajectory. Each leaf records exactly one."""

    EOS = "eos"  # the last token is one of the model's end tokens
    ANSWER = "answer"  # the response holds a complete \boxed{...}
    LENGTH = "length"  # the response has as many tokens as rollout.response_length allows
    DEPTH = "depth"  # the path has as many segments as treepo.depth allows


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppingRules:
    """The rules in the order in which they are asked; the first that applies is the reason recorded.

    Attributes:
        order: Rules to ask, first one first. LENGTH and DEPTH must be among them, or a search need not end.
        eos_token_ids: All end tokens of the model (a model may have several); empty to ignore them.
        response_length: Most tokens of a response.
        depth: Most segments on a path.
        decode: Token ids to text, special tokens left out; only asked for the ANSWER rule.
    """

    order: tuple[FinishReason, ...]
    eos_token_ids: frozenset[int]
    response_length: int
    depth: int
    decode: Callable[[list[int]], str]

    def __post_init__(self) -> None:
        missing = {FinishReason.LENGTH, FinishReason.DEPTH} - set(self.order)
        assert not missing, f"a search without the rules {sorted(missing)} need not end"

    def reason(self, response_ids: Sequence[int], depth: int) -> FinishReason | None:
        """Return why the path with this whole response and this many segments ends, or None to go on."""
        return next((rule for rule in self.order if self._applies(rule, response_ids, depth)), None)

    def _applies(self, rule: FinishReason, response_ids: Sequence[int], depth: int) -> bool:
        match rule:
            case FinishReason.ANSWER:
                return has_complete_box(self.decode(list(response_ids)))
            case FinishReason.EOS:
                return bool(response_ids) and response_ids[-1] in self.eos_token_ids
            case FinishReason.LENGTH:
                return len(response_ids) >= self.response_length
            case FinishReason.DEPTH:
                return depth >= self.depth
