# SPDX-License-Identifier: Apache-2.0
"""Score the trajectories of one problem with the reward function, and group equal answers."""

import asyncio
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from recipe.treepo.answers.compare import compare_text
from recipe.treepo.answers.thinking import FIELD, Thinking
from recipe.treepo.evaluation.problems import EvaluationProblem
from recipe.treepo.evaluation.records import Trajectory, reward_error
from recipe.treepo.evaluation.votes import count_votes
from recipe.treepo.reward import answers_agree, find_answer, thinking_of
from recipe.treepo.search.tree import Tree
from recipe.treepo.search.user_errors import UserCodeError, awaited, contained, is_from_user_code, named

# Seconds of math-verify for the votes of one problem; after that, text alone decides. Comparing every pair could take
# hours if dozens of answers are hostile.
MATHEMATICS_SECONDS = 10.0
# Options of the reward function, and their names in `answers_agree`.
_LIMITS = {key: key for key in ("timeout_s", "workers", "memory_mb")} | {"max_answer_chars": "max_chars"}


class ScoringError(RuntimeError):
    """The reward function failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """Reward function with its inputs.

    Attributes:
        function: verl's reward function. A coroutine function is awaited; any other is called from several threads.
        options: Options of the recipe's reward function; they also apply to the comparison of votes.
        decode: Function from tokens to text without special tokens.
        fields_of: Function from a tree to its fields for reward functions, one mapping per trajectory.
        keep_responses: Whether trajectories keep their texts.
    """

    function: Callable[..., Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    decode: Callable[[list[int]], str]
    fields_of: Callable[[Tree], Sequence[Mapping[str, Any]]]
    keep_responses: bool

    async def trajectories(
        self, problem: EvaluationProblem, tree: Tree, *, with_tree: bool, thinking: Thinking | None = None
    ) -> list[Trajectory]:
        """Return the scored trajectories of a finished tree.

        Args:
            thinking: Tags of thoughts for the reward function and the votes, None if there are none.
            with_tree: Whether the reward function receives the tree's fields; verl's own sampler has no tree.

        Raises:
            ScoringError: if the reward function raises, or returns no number.
        """
        paths = [tree.path(leaf) for leaf in tree.leaves]
        texts = [self.decode(path.response_ids) for path in paths]
        seen = self.fields_of(tree) if with_tree else [{}] * len(paths)
        if thinking is not None:
            seen = [{**own, FIELD: thinking.fields} for own in seen]
        scored = await asyncio.gather(*(self._score(problem, text, own) for text, own in zip(texts, seen, strict=True)))
        right = [acc > 0.5 and not reward_error(score, acc) for score, acc, _ in scored]
        answers = [answer for _, _, answer in scored]
        votes = await asyncio.to_thread(count_votes, answers, right, self._same())
        return [
            Trajectory(
                tokens=path.last.end,
                finish_reason=str(path.last.finish_reason),
                score=score,
                acc=acc,
                vote=vote,
                answer=answer,
                path=path.spans,
                response=text if self.keep_responses else None,
            )
            for path, (score, acc, answer), vote, text in zip(paths, scored, votes, texts, strict=True)
        ]

    async def _score(
        self, problem: EvaluationProblem, text: str, seen: Mapping[str, Any]
    ) -> tuple[float, float, str | None]:
        """Call the reward function as verl's reward manager ``naive`` does; return score, accuracy and answer."""
        arguments = {
            "data_source": problem.data_source,
            "solution_str": text,
            "ground_truth": problem.fields["reward_model"]["ground_truth"],
            "extra_info": {
                **(problem.fields.get("extra_info") or {}),
                **seen,
                "num_turns": 2,
                "rollout_reward_scores": {},
            },
        }
        try:
            if inspect.iscoroutinefunction(self.function):
                result = await awaited(self.function(**arguments))
            else:
                result = await asyncio.to_thread(contained, self.function, **arguments)
            result = result if isinstance(result, Mapping) else {"score": result}
            score = float(result["score"])
            return score, float(result.get("acc", score)), self._answer(result, text, seen)
        except UserCodeError as carried:
            raise ScoringError(f"the reward function failed ({carried})") from carried
        except BaseException as error:
            if not is_from_user_code(error, asyncio.current_task()):
                raise
            raise ScoringError(f"the reward function failed ({named(error)})") from error

    def _answer(self, result: Mapping[str, Any], text: str, seen: Mapping[str, Any]) -> str | None:
        """Return the vote of a trajectory: the reward function's ``pred``, as in verl, else its final answer."""
        if "pred" not in result:
            thinking = thinking_of(seen, self.options.get("thinking"))
            return find_answer(text, bool(self.options.get("require_box", False)), thinking)[0]
        return None if result["pred"] is None else str(result["pred"])

    def _same(self) -> Callable[[str, str], bool]:
        """Return a comparison function for the answers of one problem."""
        limits = {name: self.options[key] for key, name in _LIMITS.items() if key in self.options}
        spent = 0.0

        def same(first: str, second: str) -> bool:
            nonlocal spent
            if spent > MATHEMATICS_SECONDS:
                return compare_text(second, first) is True
            started = time.monotonic()
            agree, verdict = answers_agree(second, first, **limits)
            if verdict is not None:  # math-verify was called
                spent += time.monotonic() - started
            return agree

        return same
