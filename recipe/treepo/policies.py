# SPDX-License-Identifier: Apache-2.0
"""Policies of a search that you can replace by your own classes.

Each key group names a Python file (or ``pkg://module``) and a class in it. The class needs the one method of its
protocol, and no base class; ``options`` are the arguments of its constructor. ``docs/extending.md`` has an example.

| key group | protocol | decides |
|---|---|---|
| ``treepo.branching.custom`` | ``Branching`` | children of each open path |
| ``treepo.fallback.custom`` | ``Fallback`` | paths and points at which leftover width resumes |
| ``treepo.stopping_rules.custom`` | ``StoppingRule`` | end of a path |
| ``treepo.score.custom`` | ``Scorer`` | score of a path, for branching, fallback and pruning |

A tree must be the same if it is grown again: take random numbers from ``context.rng`` only, and keep no state between
calls. One instance serves all prompts of a worker. The classes of this recipe satisfy the same protocols
(``recipe/treepo/search/branching.py``, ``fallback.py`` and ``stopping.py``). Numbers may be those of numpy or torch.

This module imports no verl, torch or ray.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Protocol


class PathView(Protocol):
    """A path of a tree, from its root to its last token; read-only, and valid only during the call.

    The response of a conversation includes the replies. Their tokens have the log-probability 0.0.
    """

    @property
    def name(self) -> str:
        """Name of the last node, unique in the tree and the same if the tree is grown again."""

    @property
    def text(self) -> str:
        """Text of the response without special tokens."""

    @property
    def token_ids(self) -> Sequence[int]:
        """Tokens of the response, (length,)."""

    @property
    def logprobs(self) -> Sequence[float]:
        """Log-probability of each token of the response at sampling time, (length,)."""

    @property
    def response_mask(self) -> Sequence[int]:
        """For each token of the response 1 if the model generated it, 0 if a reply added it, (length,)."""

    @property
    def segment_logprobs(self) -> Sequence[float]:
        """Log-probabilities of the last segment that the model generated."""

    @property
    def length(self) -> int:
        """Tokens of the response."""

    @property
    def depth(self) -> int:
        """Segments of the path; the last may be incomplete."""

    @property
    def boundaries(self) -> Sequence[int]:
        """Response tokens at which the segments begin, (depth,); the first is 0 unless a reply precedes it."""

    @property
    def complete_segments(self) -> int:
        """Complete segments of the path."""

    @property
    def turn_text(self) -> str:
        """Text of the current turn; without a conversation, of the response."""

    @property
    def turn_ids(self) -> Sequence[int]:
        """Tokens of the current turn."""

    @property
    def ids_before_turn(self) -> Sequence[int]:
        """Tokens before the current turn, with those of the prompt."""

    @property
    def last_token(self) -> int | None:
        """Last token of the current turn, None if it has none."""

    @property
    def opens_box(self) -> bool:
        """Whether the text of the current turn opens a ``\\boxed``; takes less time than to search the text."""

    @property
    def siblings(self) -> Sequence["PathView"]:
        """Paths to the other children of the parent, by name.

        They are complete only if nothing else is being sampled: in ``children`` with ``treepo.search=by_level``, and in
        ``resume`` with ``by_level`` or ``treepo.fallback.start=dry``. Elsewhere there are none, because they would
        depend on the order in which requests finish.
        """

    @property
    def finish_reason(self) -> str | None:
        """Reason why the path ended, None for an open path."""

    @property
    def score(self) -> float | None:
        """Score by ``treepo.score``, None without one, and in stopping rules: a path is scored after its request."""


@dataclass(frozen=True)
class PolicyContext:
    """The prompt and the state of the run, for a policy.

    Attributes:
        prompt: Name of the prompt, for messages.
        prompt_ids: Tokens of the prompt.
        row: Fields of the data set's row (``data_source``, ``reward_model``, ``extra_info`` and so on). Read-only.
        step: Training step, from 1; 0 outside training.
        progress: Training progress from 0 to 1.
        make_rng: Makes ``rng``.
    """

    prompt: str = "prompt"
    prompt_ids: Sequence[int] = ()
    row: Mapping[str, Any] = field(default_factory=dict)
    step: int = 0
    progress: float = 0.0
    make_rng: Callable[[], random.Random] = random.Random

    @cached_property
    def rng(self) -> random.Random:
        """Random generator of this decision, the same if the tree is grown again."""
        return self.make_rng()


class Branching(Protocol):
    """Decides how many children each open path gets."""

    def children(self, paths: Sequence[PathView], room: int, context: PolicyContext) -> Sequence[int]:
        """Return the number of children of each path, in the order of ``paths``.

        With ``treepo.search=by_level``, ``paths`` are the open paths of a level at their boundaries. With ``by_path``,
        it is a single one. A path without children is pruned: it becomes no trajectory, and its width goes back. A tree
        prunes as many paths as it has trajectories (``by_path``: two in a row); after that, 0 counts as 1.

        With a branching of your own, ``treepo.fallback.start=early`` resumes paths once none is open, as ``dry`` does:
        only then is it known how much width is left.

        Args:
            paths: Open paths, at least one.
            room: Maximum sum of the numbers.
            context: Prompt and state of the run.
        """
        ...


class Resume(NamedTuple):
    """A point at which sampling resumes.

    Attributes:
        path: A finished path; None for the end of the prompt.
        token: Response token of the path from which on it is sampled again: at least 0, below its length, and one that
            the model generated.
    """

    path: PathView | None
    token: int


class Fallback(Protocol):
    """Decides where leftover width resumes."""

    def resume(self, paths: Sequence[PathView], count: int, context: PolicyContext) -> Sequence[Resume]:
        """Return ``count`` points.

        Args:
            paths: Finished paths, none if all were dropped. With ``treepo.search=by_path`` and early fallback, only the
                path that just ended; none if it was pruned.
            count: Number of missing trajectories, at least 1.
            context: Prompt and state of the run.
        """
        ...


class StoppingRule(Protocol):
    """Decides whether a path ends."""

    def ends(self, path: PathView, context: PolicyContext) -> bool:
        """Return whether the path ends here; called at each boundary and at the end of each request."""
        ...


class Scorer(Protocol):
    """Scores a path, for example with a verifier or a reward model."""

    async def score(self, path: PathView, context: PolicyContext) -> float:
        """Return the score of a path at the end of a request, which is a boundary or the end of the path.

        Must be finite, and come within ``treepo.score.timeout_seconds``.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """Policies of the user; None for those of the settings, and for no scores."""

    branching: Branching | None = None
    fallback: Fallback | None = None
    stopping_rule: StoppingRule | None = None
    scorer: Scorer | None = None
