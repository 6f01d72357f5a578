# SPDX-License-Identifier: Apache-2.0
"""Sampling and scoring of an evaluation with a scripted engine: what is asked, kept, resumed and counted."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from recipe.treepo.branching import BranchingRules
from recipe.treepo.evaluation.problems import EvaluationProblem
from recipe.treepo.evaluation.records import Records
from recipe.treepo.evaluation.sampling import ProblemSampler
from recipe.treepo.evaluation.settings import Run
from recipe.treepo.settings import Sampler, TreePOSettings
from scripted_engine import EOS, ScriptedEngine, decode

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
    """Engines and a reward function that keep what they were asked."""

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
            score=self.score,
            decode=decode,
            eos_token_ids=frozenset(EOS),
            response_length=LENGTH,
            seed=0,
            prompts_in_flight=3,
            keep_responses=True,
        )
        return replace(sampler, **changes)


def sample(
    sampler: ProblemSampler, run: Run, number: int, records: Records, on_result=lambda result: None
) -> list[str]:
    return asyncio.run(sampler.sample(run, problems(number), records, on_result=on_result))


def untimed(records: Records) -> list[Any]:
    results = []
    for result in records.results:
        statistics = {key: value for key, value in result.statistics.items() if "seconds" not in key}
        results.append(replace(result, started=0, ended=0, statistics=statistics))
    return sorted(results, key=lambda result: (result.data_source, result.row))


@pytest.mark.parametrize("run", [PLAIN, TREE], ids=["plain", "tree"])
def test_each_problem_gets_n_scored_trajectories_that_the_engine_wrote(run, tmp_path):
    bench, records = Bench(), Records(tmp_path / "run.jsonl", {})
    assert sample(bench.sampler(), run, 5, records) == []
    assert records.done() == {("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2)}
    for result in records.results:
        calls = bench.engines[result.data_source, result.row].calls
        assert len(result.trajectories) == 4
        assert result.statistics["engine_calls"] == len(calls)
        assert result.statistics["decoded_tokens"] == sum(len(tokens) for _, _, tokens in calls.values())
        for trajectory in result.trajectories:
            assert trajectory.score == -1.0
            assert trajectory.acc == float("a" in trajectory.response)
            assert trajectory.answer == (trajectory.response[:1])
        written = {decode(tokens) for _, _, tokens in calls.values()}
        if run is PLAIN:
            assert len(calls) == 4 and {trajectory.response for trajectory in result.trajectories} == written
            assert all(most == LENGTH for _, most, _ in calls.values())


def test_plain_samples_end_only_where_verls_do_and_not_at_an_answer(tmp_path):
    text = list(b"\\boxed{7} and on")
    records = Records(tmp_path / "run.jsonl", {})
    sample(Bench(script=[text]).sampler(), PLAIN, 1, records)
    assert [t.response for t in records.results[0].trajectories] == ["\\boxed{7} and on"] * 4
    assert {t.finish_reason for t in records.results[0].trajectories} == {"eos"}


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
            (result,) = [result for result in records.results if result.data_source == "a"]
            assert seen == {str(trajectory.path) for trajectory in result.trajectories}


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
    assert set(bench.engines) == whole.done() - before  # what was done is not sampled again
    assert untimed(Records(tmp_path / "cut.jsonl", {})) == untimed(whole)


def test_a_reward_function_that_fails_ends_the_run_and_what_was_done_stays(tmp_path):
    bench = Bench()

    def fail_late(**arguments):
        if arguments["extra_info"]["index"] == 5:
            raise KeyError("no such field")
        return bench.score(**arguments)

    records = Records(tmp_path / "run.jsonl", {})
    with pytest.raises(KeyError, match="no such field"):
        sample(bench.sampler(score=fail_late), TREE, 6, records)
    assert ("b", 2) not in records.done() and len(records.done()) >= 2
    assert all(engine.running == 0 for engine in bench.engines.values())


def test_a_problem_that_cannot_be_sampled_is_told_and_in_no_record(tmp_path):
    bench = Bench()
    engine_of = bench.engine_of

    def broken_for_one(run, problem):
        own = engine_of(run, problem)
        own.broken = problem.row == 1 and problem.data_source == "a"
        return own

    records = Records(tmp_path / "run.jsonl", {})
    (failure,) = sample(bench.sampler(engine_of=broken_for_one), TREE, 4, records)
    assert failure.startswith("a, row 1: no trajectory could be had") and "the engine went away" in failure
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


def test_a_reward_function_may_return_a_number_and_the_answer_is_then_read_from_the_response(tmp_path):
    text = list(b"\\boxed{7} or 8")
    sampler = replace(Bench(script=[text]).sampler(), score=lambda **arguments: 1.0, keep_responses=False)
    records = Records(tmp_path / "run.jsonl", {})
    sample(sampler, PLAIN, 1, records)
    for trajectory in records.results[0].trajectories:
        assert (trajectory.acc, trajectory.answer, trajectory.vote) == (1.0, "7", 0)
        assert trajectory.response is None
