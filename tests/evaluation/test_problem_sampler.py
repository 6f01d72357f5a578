# SPDX-License-Identifier: Apache-2.0
"""Sampling and scoring of an evaluation with a scripted engine: requests, records, resumption and counts."""

import asyncio
import json
import time
from dataclasses import replace
from typing import Any

import pytest

from helpers.scripted_engine import EOS, ScriptedEngine, decode
from recipe.treepo.answers.thinking import NO_THINKING, Thinking
from recipe.treepo.evaluation import scoring
from recipe.treepo.evaluation.problem_sampler import GIVE_UP_AFTER, ProblemSampler
from recipe.treepo.evaluation.problems import EvaluationProblem
from recipe.treepo.evaluation.records import ProblemResult, Records, Trajectory
from recipe.treepo.evaluation.scoring import Scorer
from recipe.treepo.evaluation.settings import Run
from recipe.treepo.policies import Policies
from recipe.treepo.search.branching import BranchingRules
from recipe.treepo.search.statistics import TreeStatistics
from recipe.treepo.settings.schema import Sampler, TreePOSettings
from recipe.treepo.verl_adapters.trajectory import trajectory_fields

PLAIN = Run("plain", TreePOSettings(sampler=Sampler.PLAIN), 4)
TREE = Run(
    "tree", TreePOSettings(depth=4, segment_length=8, branching=BranchingRules(init_divergence=(1, 1)), retries=0), 4
)
LENGTH = 32


def problems(number: int) -> list[EvaluationProblem]:
    return [
        EvaluationProblem(
            data_source="ab"[row % 2],
            row=row // 2,
            prompt_ids=[1000, row],
            fields={"reward_model": {"ground_truth": f"gold {row}"}, "extra_info": {"index": row}},
        )
        for row in range(number)
    ]


class Bench:
    """Engines and a reward function that record their calls."""

    def __init__(self, **engine: Any) -> None:
        self.engine = {"end_rate": 0.05, **engine}
        self.engines: dict[tuple[str, int], ScriptedEngine] = {}
        self.scored: list[dict[str, Any]] = []
        self.running = self.most_running = 0

    def engine_of(self, run: Run, problem: EvaluationProblem) -> ScriptedEngine:
        own = ScriptedEngine(seed=problem.row, **self.engine)
        own.prompt_length = len(problem.prompt_ids)
        self.engines[problem.data_source, problem.row] = own
        return own

    def score(self, **arguments: Any) -> dict[str, Any]:
        self.scored.append(arguments)
        return {"score": -1.0, "acc": float("a" in arguments["solution_str"]), "pred": arguments["solution_str"][:1]}

    def sampler(self, **changes: Any) -> ProblemSampler:
        sampler = ProblemSampler(
            engine_of=self.engine_of,
            scorer=Scorer(function=self.score, decode=decode, fields_of=trajectory_fields, keep_responses=True),
            eos_token_ids=frozenset(EOS),
            response_length=LENGTH,
            seed=0,
            prompts_in_flight=3,
        )
        return replace(sampler, **changes)

    def scored_by(self, function: Any, **options: Any) -> ProblemSampler:
        scorer = Scorer(
            function=function, decode=decode, fields_of=trajectory_fields, keep_responses=False, options=options
        )
        return self.sampler(scorer=scorer)


def sample(
    sampler: ProblemSampler, run: Run, number: int, records: Records, on_result=lambda result: None
) -> list[str]:
    return asyncio.run(sampler.sample(run, problems(number), records, on_result=on_result))


def written(records: Records) -> list[ProblemResult]:
    """Read the file, which has more fields than the results in memory."""
    results = []
    for line in records.path.read_text().splitlines()[1:]:
        row = json.loads(line)
        for trajectory in row["trajectories"]:
            trajectory["path"] = [tuple(step) for step in trajectory["path"]]
        row["trajectories"] = [Trajectory(**trajectory) for trajectory in row["trajectories"]]
        results.append(ProblemResult(**{**row, "statistics": TreeStatistics(**row["statistics"])}))
    return results


def untimed(records: Records) -> list[Any]:
    results = []
    for result in written(records):
        statistics = replace(result.statistics, search_seconds=0, busy_seconds=0, interaction_seconds=0)
        results.append(replace(result, started=0, ended=0, statistics=statistics))
    return sorted(results, key=lambda result: (result.data_source, result.row))


@pytest.mark.parametrize("run", [PLAIN, TREE], ids=["plain", "tree"])
def test_each_problem_gets_n_scored_trajectories_that_the_engine_wrote(run, tmp_path):
    bench, records = Bench(), Records(tmp_path / "run.jsonl", {})
    assert sample(bench.sampler(), run, 5, records) == []
    assert records.done() == {("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2)}
    for result in written(records):
        calls = bench.engines[result.data_source, result.row].calls
        assert len(result.trajectories) == 4
        assert result.statistics.engine_calls == len(calls)
        assert result.statistics.decoded_tokens == sum(len(tokens) for _, _, tokens in calls.values())
        for trajectory in result.trajectories:
            assert trajectory.score == -1.0
            assert trajectory.acc == float("a" in trajectory.response)
            assert trajectory.answer == (trajectory.response[:1])
        texts = {decode(tokens) for _, _, tokens in calls.values()}
        if run is PLAIN:
            assert len(calls) == 4 and {trajectory.response for trajectory in result.trajectories} == texts
            assert all(most == LENGTH for _, most, _ in calls.values())


def test_plain_samples_end_only_where_verls_do_and_not_at_an_answer(tmp_path):
    text = list(b"\\boxed{7} and on")
    records = Records(tmp_path / "run.jsonl", {})
    sample(Bench(script=[text]).sampler(), PLAIN, 1, records)
    assert [t.response for t in written(records)[0].trajectories] == ["\\boxed{7} and on"] * 4
    assert {t.finish_reason for t in written(records)[0].trajectories} == {"eos"}


def test_the_reward_function_sees_the_row_and_of_a_tree_the_path(tmp_path):
    for run in (PLAIN, TREE):
        bench, records = Bench(), Records(tmp_path / f"{run.arm}.jsonl", {})
        sample(bench.sampler(), run, 2, records)
        for call in bench.scored:
            row = call["extra_info"]["index"]
            assert call["data_source"] == "ab"[row] and call["ground_truth"] == f"gold {row}"
            assert call["extra_info"]["num_turns"] == 2
            assert ("tree_path" in call["extra_info"]) == (run is TREE)
        if run is TREE:
            seen = {str(call["extra_info"]["tree_path"]) for call in bench.scored if call["extra_info"]["index"] == 0}
            (result,) = [result for result in written(records) if result.data_source == "a"]
            assert seen == {str(trajectory.path) for trajectory in result.trajectories}


@pytest.mark.parametrize("run", [PLAIN, TREE], ids=["plain", "tree"])
def test_a_thought_has_no_vote_and_the_reward_function_gets_the_tags(run, tmp_path):
    def votes_of(thinking: Thinking | None, prompt: str, responses: list[str]) -> list[str | None]:
        bench = Bench(script=[[*text.encode(), EOS[0]] for text in responses])
        own = replace(run, settings=replace(run.settings, thinking=thinking, segment_length=40, depth=1))
        problem = replace(problems(1)[0], prompt_ids=list(prompt.encode()))

        def score(**arguments: Any) -> float:
            seen.append(arguments["extra_info"].get("treepo_thinking"))
            return 0.0

        sampler = replace(bench.scored_by(score), response_length=40)
        records = Records(tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl", {})
        assert asyncio.run(sampler.sample(own, [problem], records, on_result=lambda result: None)) == []
        return [trajectory.answer for trajectory in written(records)[0].trajectories]

    seen: list[Any] = []
    texts = ["\\boxed{5}</think>\\boxed{6}", "\\boxed{5}", "\\boxed{5}</think>It is 7."]
    assert sorted(map(str, votes_of(Thinking(), "6?<think>\n", texts))) == ["6", "6", "7", "None"]
    assert seen == [{"open": "<think>", "close": "</think>", "opened": True}] * 4
    assert sorted(map(str, votes_of(Thinking(), "6?", texts))) == ["5", "6", "6", "7"]
    assert sorted(map(str, votes_of(NO_THINKING, "6?<think>\n", texts))) == ["5", "5", "6", "6"]
    assert sorted(map(str, votes_of(None, "6?<think>\n", texts))) == ["6", "6", "7", "None"]
    assert seen[-1] == {"open": "<think>", "close": "</think>", "opened": True}
    assert sorted(map(str, votes_of(None, "6?", texts))) == ["5", "6", "6", "7"]
    assert seen[-4:] == [None] * 4


def test_an_interrupted_run_goes_on_and_ends_like_one_that_was_not(tmp_path):
    whole = Records(tmp_path / "whole.jsonl", {})
    sample(Bench().sampler(), TREE, 6, whole)

    class Interruption(BaseException):
        pass

    count = []

    def interrupt(result):
        count.append(result)
        if len(count) == 2:
            raise Interruption

    cut = Records(tmp_path / "cut.jsonl", {})
    with pytest.raises(Interruption):
        sample(Bench().sampler(), TREE, 6, cut, interrupt)
    before = Records(tmp_path / "cut.jsonl", {}).done()
    assert 2 <= len(before) < 6
    again, bench = Records(tmp_path / "cut.jsonl", {}), Bench()
    sample(bench.sampler(), TREE, 6, again)
    assert set(bench.engines) == whole.done() - before  # recorded problems are not sampled again
    assert untimed(Records(tmp_path / "cut.jsonl", {})) == untimed(whole)


def test_a_reward_function_that_fails_costs_its_problem_only(tmp_path):
    bench = Bench()

    def fail_once(**arguments):
        if arguments["extra_info"]["index"] == 3:
            raise KeyError("no such field")
        return bench.score(**arguments)

    records = Records(tmp_path / "run.jsonl", {})
    (failure,) = sample(bench.scored_by(fail_once), TREE, 6, records)
    assert failure == "b, row 1: the reward function failed (KeyError: 'no such field')"
    assert records.done() == {("a", 0), ("b", 0), ("a", 1), ("a", 2), ("b", 2)}


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt("mine"), StopIteration()])
@pytest.mark.parametrize("plain", [True, False])
def test_an_exit_of_a_reward_function_costs_its_problem_only(tmp_path, plain, error):
    bench = Bench()

    def exits(**arguments):
        if arguments["extra_info"]["index"] == 3:
            raise error
        return bench.score(**arguments)

    async def exits_in_the_loop(**arguments):
        return exits(**arguments)

    records = Records(tmp_path / "run.jsonl", {})
    (failure,) = sample(bench.scored_by(exits if plain else exits_in_the_loop), TREE, 6, records)
    assert failure.startswith("b, row 1: the reward function failed (") and type(error).__name__ in failure
    assert len(records.done()) == 5


@pytest.mark.parametrize("lost", [float("nan"), float("inf"), {"score": float("nan"), "acc": 1.0}])
def test_scores_that_are_not_finite_count_as_wrong_and_as_no_right_vote(tmp_path, lost):
    bench = Bench()

    def sometimes(**arguments):
        return lost if arguments["extra_info"]["index"] == 3 else bench.score(**arguments)

    records = Records(tmp_path / "run.jsonl", {})
    assert sample(bench.scored_by(sometimes), TREE, 6, records) == []
    for result in written(records):
        failed = (result.data_source, result.row) == ("b", 1)
        for trajectory in result.trajectories:
            assert (trajectory.reward_error is not None, trajectory.score is None) == (failed, failed)
            assert not failed or (trajectory.acc == 0.0 and not trajectory.correct)


def test_a_run_is_given_up_when_everything_fails(tmp_path):
    bench, records = Bench(broken=True), Records(tmp_path / "run.jsonl", {})
    failures = sample(bench.sampler(), TREE, 100, records)
    # those in flight may fail too
    assert GIVE_UP_AFTER + 1 <= len(failures) <= GIVE_UP_AFTER + 3
    assert failures[-1].endswith("failures in a row; 100 problems are missing")
    assert records.done() == set()


def test_failures_with_successes_between_them_do_not_end_a_run(tmp_path):
    bench = Bench()

    def fail_every_other(**arguments):
        if arguments["extra_info"]["index"] % 2:
            raise ValueError("odd")
        return bench.score(**arguments)

    records, number = Records(tmp_path / "run.jsonl", {}), 3 * GIVE_UP_AFTER
    sampler = replace(bench.scored_by(fail_every_other), prompts_in_flight=1)
    assert len(sample(sampler, PLAIN, number, records)) == number // 2 > GIVE_UP_AFTER
    assert len(records.done()) == number // 2


def test_a_problem_that_lost_trajectories_is_sampled_again(tmp_path):
    class Dying(ScriptedEngine):
        received = 0

        async def extend(self, input_ids, **arguments):
            self.received += 1
            if self.received > 2:
                raise ConnectionError("the server has gone")
            return await super().extend(input_ids, **arguments)

    def dying(run, problem):
        engine = Dying(seed=problem.row)
        engine.prompt_length = len(problem.prompt_ids)
        return engine

    records = Records(tmp_path / "run.jsonl", {})
    run = replace(PLAIN, settings=replace(PLAIN.settings, retries=0))
    failures = sample(Bench().sampler(engine_of=dying), run, 2, records)
    assert sorted(failures) == [
        f"{name}, row 0: 2 of 4 trajectories are missing, because requests failed" for name in "ab"
    ]
    again = Records(tmp_path / "run.jsonl", {})
    assert sample(Bench().sampler(), run, 2, again) == [] and len(again.done()) == 2


def test_a_problem_that_fails_is_reported_and_not_recorded(tmp_path):
    bench = Bench()
    engine_of = bench.engine_of

    def broken_for_one(run, problem):
        own = engine_of(run, problem)
        own.broken = problem.row == 1 and problem.data_source == "a"
        return own

    records = Records(tmp_path / "run.jsonl", {})
    (failure,) = sample(bench.sampler(engine_of=broken_for_one), TREE, 4, records)
    assert failure.startswith("a, row 1: the prompt got no trajectory") and "the engine went away" in failure
    assert records.done() == {("a", 0), ("b", 0), ("b", 1)}


@pytest.mark.parametrize("most", [1, 3])
def test_no_more_problems_than_allowed_are_sampled_at_once(tmp_path, most):
    bench, records = Bench(), Records(tmp_path / "run.jsonl", {})
    running, highest = set(), []
    engine_of = bench.engine_of

    def watched(run, problem):
        running.add((problem.data_source, problem.row))
        highest.append(len(running))
        return engine_of(run, problem)

    sample(
        bench.sampler(engine_of=watched, prompts_in_flight=most),
        TREE,
        8,
        records,
        lambda result: running.discard((result.data_source, result.row)),
    )
    assert max(highest) == most


def test_a_reward_that_is_a_number_leaves_the_answer_to_the_response(tmp_path):
    for require_box, script, answer, vote in (
        (False, "\\boxed{7} or 8", "7", 0),
        (False, "so it is 8.", "8", 0),
        (True, "so it is 8.", None, None),
    ):
        records = Records(tmp_path / f"{require_box}{len(script)}.jsonl", {})
        bench = Bench(script=[list(script.encode())])
        sample(bench.scored_by(lambda **_: 1.0, require_box=require_box), PLAIN, 1, records)
        for trajectory in written(records)[0].trajectories:
            assert (trajectory.acc, trajectory.answer, trajectory.vote) == (1.0, answer, vote)
            assert trajectory.response is None


def test_a_coroutine_function_is_awaited_in_one_loop(tmp_path):
    loops, lock = set(), asyncio.Lock()

    async def score(**arguments):
        async with lock:  # bound to the first event loop that waits for it
            loops.add(asyncio.get_running_loop())
            await asyncio.sleep(0)
        return {"score": 1.0, "pred": None}

    records = Records(tmp_path / "run.jsonl", {})
    assert sample(Bench().scored_by(score), PLAIN, 3, records) == []
    assert len(loops) == 1
    assert {trajectory.vote for result in records.results for trajectory in result.trajectories} == {None}


def test_votes_are_compared_by_meaning_and_within_bounds(tmp_path):
    answers = ["\\boxed{x+1}", "\\boxed{1+x}", "\\boxed{x-1}", "\\boxed{9^{9^{9^{9}}}+x}"]
    bench = Bench(script=[list(answer.encode()) for answer in answers])
    records = Records(tmp_path / "run.jsonl", {})
    started = time.monotonic()
    sample(bench.scored_by(lambda **_: 0.0, timeout_s=3.0), PLAIN, 1, records)
    votes = {trajectory.answer: trajectory.vote for trajectory in records.results[0].trajectories}
    assert votes == {"x+1": 0, "1+x": 0, "x-1": 1, "9^{9^{9^{9}}}+x": 2}
    assert time.monotonic() - started < 60


def test_when_mathematics_has_taken_too_long_text_decides(tmp_path, monkeypatch):
    answers = ["\\boxed{x+1}", "\\boxed{1+x}", "\\boxed{2}", "\\boxed{2.0}"]
    for seconds, expected in ((600.0, [0, 0, 1, 1]), (-1.0, [0, 1, 2, 2])):
        monkeypatch.setattr(scoring, "MATHEMATICS_SECONDS", seconds)
        records = Records(tmp_path / f"{seconds}.jsonl", {})
        bench = Bench(script=[list(answer.encode()) for answer in answers])
        sample(bench.scored_by(lambda **_: 0.0), PLAIN, 1, records)
        assert [trajectory.vote for trajectory in records.results[0].trajectories] == expected


class Children:
    """Branching policy that records what it sees, and returns one child each or too many."""

    def __init__(self, too_many: bool = False) -> None:
        self._too_many, self.seen = too_many, []

    def children(self, paths, room, context):
        self.seen.append((context.prompt, context.row, context.step))
        return [room + 1 if self._too_many else 1] * len(paths)


def test_trees_of_a_run_have_its_policies_and_plain_samples_have_none(tmp_path):
    policy = Children()
    sampler = Bench(end_rate=0.0).sampler(policies_of=lambda run: Policies(branching=policy))
    assert sample(sampler, TREE, 2, Records(tmp_path / "tree.jsonl", {})) == []
    (problem, *_) = problems(1)
    assert (f"{problem.data_source}, row {problem.row}", problem.fields, 0) in policy.seen
    policy.seen.clear()
    assert sample(sampler, PLAIN, 2, Records(tmp_path / "plain.jsonl", {})) == []
    assert policy.seen == []


def test_a_wrong_policy_ends_the_run_with_one_message(tmp_path):
    sampler = Bench(end_rate=0.0).sampler(
        policies_of=lambda run: Policies(branching=Children(too_many=True)), prompts_in_flight=1
    )
    first, rest = sample(sampler, TREE, 6, Records(tmp_path / "tree.jsonl", {}))
    assert "Children.children returned" in first and "room for" in first
    assert rest == "given up after a failure of a policy; 6 problems are missing"


def test_a_success_in_flight_does_not_hide_that_a_run_was_given_up(tmp_path):
    class Once:
        """Policy that fails for the second problem."""

        def children(self, paths, room, context):
            if context.row["extra_info"]["index"] == 1:
                raise ValueError("no")
            return [1] * len(paths)

    records = Records(tmp_path / "tree.jsonl", {})
    sampler = Bench(end_rate=0.0).sampler(policies_of=lambda run: Policies(branching=Once()), prompts_in_flight=4)
    first, rest = sample(sampler, TREE, 24, records)
    assert "Once.children raised ValueError: no" in first
    assert rest == f"given up after a failure of a policy; {24 - len(records.done())} problems are missing"
    assert 1 <= len(records.done()) <= 6
