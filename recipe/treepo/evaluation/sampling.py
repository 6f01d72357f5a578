# SPDX-License-Identifier: Apache-2.0
"""Sample and score the problems of one run, several at a time; knows no verl, no server and no torch."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recipe.treepo.branching import BranchingRules
from recipe.treepo.engine import SegmentEngine
from recipe.treepo.evaluation.problems import EvaluationProblem
from recipe.treepo.evaluation.records import ProblemResult, Records, Trajectory
from recipe.treepo.evaluation.settings import Run
from recipe.treepo.evaluation.votes import count_votes
from recipe.treepo.reward import answers_agree, find_answer
from recipe.treepo.search import SearchError, grow_tree
from recipe.treepo.seeds import derive_seed
from recipe.treepo.settings import TreePOSettings
from recipe.treepo.stopping import FinishReason
from recipe.treepo.tree import Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemSampler:
    """What sampling and scoring need, the same for all runs.

    Attributes:
        engine_of: Makes the engine for a problem.
        score: The reward function; it is called from several threads.
        decode: Tokens to text, special ones left out.
        eos_token_ids: All end tokens of the model.
        response_length: Most tokens of a response.
        seed: Of the search's draws; None like 0.
        prompts_in_flight: Problems that are sampled at the same time.
        keep_responses: Whether results hold the texts.
    """

    engine_of: Callable[[Run, EvaluationProblem], SegmentEngine]
    score: Callable[..., Any]
    decode: Callable[[list[int]], str]
    eos_token_ids: frozenset[int]
    response_length: int
    seed: int | None
    prompts_in_flight: int
    keep_responses: bool

    async def sample(
        self,
        run: Run,
        problems: Sequence[EvaluationProblem],
        records: Records,
        *,
        on_result: Callable[[ProblemResult], None],
    ) -> list[str]:
        """Sample the problems that ``records`` does not hold, and append each when it is scored.

        Returns:
            A message for each problem of which not one trajectory could be had. Such a problem is in no record.

        Raises:
            Exception: what the reward function raises. Everything that was under way is given up then, or when this is
                cancelled; what was appended stays.
        """
        done, room, failures = records.done(), asyncio.Semaphore(self.prompts_in_flight), []

        async def one(problem: EvaluationProblem) -> None:
            async with room:
                try:
                    result = await self._result(run, problem)
                except SearchError as error:
                    failures.append(f"{problem.data_source}, row {problem.row}: {error}")
                    return
            records.append(result)
            on_result(result)

        left = [problem for problem in problems if (problem.data_source, problem.row) not in done]
        tasks = [asyncio.create_task(one(problem)) for problem in left]
        try:
            for task in asyncio.as_completed(tasks):
                await task
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return failures

    async def _result(self, run: Run, problem: EvaluationProblem) -> ProblemResult:
        started = time.time()
        settings = independent(run.n, run.settings.retries) if run.is_plain else run.settings
        tree = await grow_tree(
            problem.prompt_ids,
            engine=self.engine_of(run, problem),
            shape=settings.shape(width=run.n, response_length=self.response_length, progress=1.0),
            stopping=settings.stopping_rules(
                eos_token_ids=self.eos_token_ids, response_length=self.response_length, decode=self.decode
            ),
            seed=derive_seed(self.seed or 0, run.name, problem.data_source, problem.row),
        )
        ended = time.time()
        return ProblemResult(
            data_source=problem.data_source,
            row=problem.row,
            started=started,
            ended=ended,
            statistics=tree.statistics(),
            trajectories=await self._scored(run, problem, tree),
        )

    async def _scored(self, run: Run, problem: EvaluationProblem, tree: Tree) -> list[Trajectory]:
        texts = [self.decode(tree.response_ids(leaf)) for leaf in tree.leaves]
        statistics = tree.statistics()
        # verl's own sampler has no tree to tell the reward function of
        fields = [{} if run.is_plain else tree.trajectory_fields(leaf, statistics) for leaf in tree.leaves]
        scored = await asyncio.gather(
            *(asyncio.to_thread(self._score, problem, text, own) for text, own in zip(texts, fields, strict=True))
        )
        answers = [_answer(result, text) for result, text in zip(scored, texts, strict=True)]
        accuracies = [float(result.get("acc", result["score"])) for result in scored]
        votes = await asyncio.to_thread(count_votes, answers, [acc > 0.5 for acc in accuracies], _same)
        return [
            Trajectory(
                tokens=tree.nodes[leaf].end,
                finish_reason=str(tree.nodes[leaf].finish_reason),
                score=float(scored[place]["score"]),
                acc=accuracies[place],
                vote=votes[place],
                answer=answers[place],
                path=tree.tree_path(leaf),
                response=texts[place] if self.keep_responses else None,
            )
            for place, leaf in enumerate(tree.leaves)
        ]

    def _score(self, problem: EvaluationProblem, text: str, tree_fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Call the reward function as verl's reward manager ``naive`` does."""
        extra = {"num_turns": 2, "rollout_reward_scores": {}}
        result = self.score(
            data_source=problem.data_source,
            solution_str=text,
            ground_truth=problem.fields["reward_model"]["ground_truth"],
            extra_info={**problem.fields.get("extra_info", {}), **tree_fields, **extra},
        )
        return result if isinstance(result, Mapping) else {"score": result}


def independent(n: int, retries: int) -> TreePOSettings:
    """Return the settings with which a search draws n independent samples, each with one request, as verl does."""
    return TreePOSettings(
        depth=1,
        branching=BranchingRules(init_divergence=(n, n)),
        stopping=(FinishReason.EOS, FinishReason.LENGTH, FinishReason.DEPTH),
        retries=retries,
    )


def _same(first: str, second: str) -> bool:
    return answers_agree(second, first)[0]


def _answer(result: Mapping[str, Any], text: str) -> str | None:
    """Return what a trajectory votes for: the reward function's ``pred``, as in verl, or its final answer."""
    if "pred" not in result:
        return find_answer(text, require_box=False)[0]
    return None if result["pred"] is None else str(result["pred"])
