# SPDX-License-Identifier: Apache-2.0
"""Sample and score the problems of one run concurrently; independent of verl, servers and torch."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from recipe.treepo.evaluation.problems import EvaluationProblem
from recipe.treepo.evaluation.records import ProblemResult, Records
from recipe.treepo.evaluation.scoring import Scorer, ScoringError
from recipe.treepo.evaluation.settings import Run
from recipe.treepo.evaluation.tree_dump import EvaluationDump
from recipe.treepo.policies import Policies, PolicyContext
from recipe.treepo.search import SearchError, grow_tree
from recipe.treepo.search.branching import BranchingRules
from recipe.treepo.search.engine import SegmentEngine
from recipe.treepo.search.policy_calls import PolicyError
from recipe.treepo.search.seeds import derive_seed
from recipe.treepo.search.statistics import TreeStatistics
from recipe.treepo.search.stopping import FinishReason
from recipe.treepo.settings.schema import TreePOSettings

# Consecutive failures that end a run: the engine is gone, or every reward fails.
GIVE_UP_AFTER = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemSampler:
    """Dependencies and limits of sampling, the same for all runs.

    Attributes:
        engine_of: Factory of the engine for one problem of a run.
        scorer: Scorer of the trajectories.
        eos_token_ids: All end tokens of the model.
        response_length: Maximum number of response tokens.
        seed: Seed of the search's random draws; None counts as 0.
        prompts_in_flight: Number of problems sampled concurrently.
        dump: Writer of the trees; None writes none.
        policies_of: Returns the user's policies for the trees of a run.
    """

    engine_of: Callable[[Run, EvaluationProblem], SegmentEngine]
    scorer: Scorer
    eos_token_ids: frozenset[int]
    response_length: int
    seed: int | None
    prompts_in_flight: int
    dump: EvaluationDump | None = None
    policies_of: Callable[[Run], Policies] = lambda run: Policies()

    async def sample(
        self,
        run: Run,
        problems: Sequence[EvaluationProblem],
        records: Records,
        *,
        on_result: Callable[[ProblemResult], None],
    ) -> list[str]:
        """Sample the problems that are missing from ``records``, and append each after scoring.

        Cancellation abandons unfinished problems; records stay.

        Returns:
            One message per failed problem. A problem fails if a trajectory or score is missing; it is not recorded.
            After :data:`GIVE_UP_AFTER` consecutive failures, or one of a policy, which all problems have, one message
            covers the remaining problems.
        """
        done, room = records.done(), asyncio.Semaphore(self.prompts_in_flight)
        failures: list[str] = []
        in_a_row, given_up = 0, ""

        async def one(problem: EvaluationProblem) -> None:
            nonlocal in_a_row, given_up
            async with room:
                if given_up:
                    return
                try:
                    result = await self._result(run, problem)
                except (SearchError, ScoringError, PolicyError) as error:
                    in_a_row += 1
                    failures.append(f"{problem.data_source}, row {problem.row}: {error}")
                    if isinstance(error, PolicyError):
                        given_up = "a failure of a policy"
                    elif in_a_row >= GIVE_UP_AFTER:
                        given_up = f"{in_a_row} failures in a row"
                    return
            in_a_row = 0
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
        if given_up:
            missing = len(problems) - len(records.done())
            failures.append(f"given up after {given_up}; {missing} problems are missing")
        return failures

    async def _result(self, run: Run, problem: EvaluationProblem) -> ProblemResult:
        started = time.time()
        settings = plain_samples(run.n, run.settings.retries) if run.is_plain else run.settings
        tree = await grow_tree(
            problem.prompt_ids,
            engine=self.engine_of(run, problem),
            shape=settings.shape(width=run.n, response_length=self.response_length, progress=1.0),
            stopping=settings.stopping_rules(
                eos_token_ids=self.eos_token_ids, response_length=self.response_length, decode=self.scorer.decode
            ),
            seed=derive_seed(self.seed or 0, run.name, problem.data_source, problem.row),
            policies=Policies() if run.is_plain else self.policies_of(run),
            context=PolicyContext(prompt=f"{problem.data_source}, row {problem.row}", row=problem.fields, progress=1.0),
        )
        ended = time.time()
        if missing := tree.counters.missing_trajectories:
            raise SearchError(f"{missing} of {run.n} trajectories are missing, because requests failed")
        thinking = run.settings.known_thinking(problem.prompt_ids, self.scorer.decode)
        trajectories = await self.scorer.trajectories(problem, tree, with_tree=not run.is_plain, thinking=thinking)
        if self.dump is not None:
            await asyncio.to_thread(self.dump.write, run, problem, tree, trajectories)
        return ProblemResult(
            data_source=problem.data_source,
            row=problem.row,
            started=started,
            ended=ended,
            statistics=TreeStatistics.of(tree),
            trajectories=trajectories,
        )


def plain_samples(n: int, retries: int) -> TreePOSettings:
    """Return settings for a search that draws n samples with one request each, as verl's sampler does."""
    return TreePOSettings(
        depth=1,
        branching=BranchingRules(init_divergence=(n, n)),
        stopping=(FinishReason.EOS, FinishReason.LENGTH, FinishReason.DEPTH),
        retries=retries,
    )
