# SPDX-License-Identifier: Apache-2.0
"""The benchmark of samplers, with an engine without a model."""

import asyncio
import json
import os
import random
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from benchmarks import sampling_speed
from benchmarks.sampling import session, step_cost
from benchmarks.sampling.cases import PLANS, Arm, Case, Engine
from benchmarks.sampling.report import cpu_shares, draw, tables
from benchmarks.sampling.results import Result, partner, read_results, write_results
from benchmarks.sampling_compare import main, worse
from helpers.composition import composed
from recipe.treepo.search.engine import Segment

COUNTS = {
    "engine_calls": 15, "decoded_tokens": 200, "computed_prompt_tokens": 50, "cached_prompt_tokens": 10,
    "prompt_tokens": 20, "unique_tokens": 180, "total_tokens": 400, "trajectories": 8, "seconds": 4.0,
    "idle_seconds": 1.0, "request_seconds": 12.0, "busy_seconds": 0.1, "searches_gb": 0.5, "engine_gb": 1.0,
}  # fmt: skip


def measured(case: Case, **counts: float) -> Result:
    return Result(case, [{**COUNTS, **counts}])


class RandomEngine:
    """Engine of random tokens, always ``max_tokens`` of them; a request takes one turn of the loop per 64 tokens."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    async def extend(self, input_ids: Sequence[int], *, max_tokens: int, branch: str) -> Segment:
        for _ in range(0, max_tokens, 64):
            await asyncio.sleep(0)
        return Segment([self._rng.randrange(1000) for _ in range(max_tokens)], [-1.0] * max_tokens)


def run(case: Case, prompts: int = 2) -> dict[str, float]:
    return asyncio.run(
        session.sample(
            case, [[7] * 65] * prompts, lambda *_: RandomEngine(0), ends=frozenset(), decode=lambda _: "", seed=1
        )
    )


@pytest.mark.parametrize(
    ("depth", "width", "roots", "segments", "calls"),
    [(7, 8, 1, 39, 15), (14, 16, 2, 190, 30), (7, 64, 2, 190, 126)],
)
def test_without_ends_samplers_cost_what_their_shapes_predict(depth, width, roots, segments, calls):
    costs = {arm: run(Case(part="samplers", arm=arm, depth=depth, width=width, roots=roots)) for arm in Arm}
    found = {arm: (cost["engine_calls"], cost["decoded_tokens"]) for arm, cost in costs.items()}
    # Prompts of 65 tokens: whole blocks and one token, so that blocks do not shift boundaries.
    assert found == {
        Arm.PLAIN: (2 * width, 2 * width * depth * 64),
        Arm.LOOPS: (2 * width * depth, 2 * width * depth * 64),
        Arm.LOCK_STEP: (2 * segments, 2 * segments * 64),
        Arm.TREES: (2 * calls, 2 * segments * 64),
        Arm.ALIGNED: (2 * calls, 2 * segments * 64),
    }
    assert all(cost["unique_tokens"] == cost["decoded_tokens"] for cost in costs.values())
    assert all(cost["total_tokens"] == 2 * width * depth * 64 for cost in costs.values())
    assert all(cost["prompt_tokens"] == 130 for cost in costs.values())


def test_aligned_trees_know_the_engines_blocks():
    case = Case(part="samplers", arm=Arm.ALIGNED, engine=Engine(block_size=64))
    assert case.settings().cache_block == 64
    assert replace(case, arm=Arm.TREES).settings().cache_block is None


def test_prompts_that_begin_later_cannot_be_in_lock_step():
    with pytest.raises(ValueError, match="5 prompts in lock step must be in flight together"):
        run(Case(part="samplers", arm=Arm.LOCK_STEP, prompts=5, in_flight=4))


def test_no_more_prompts_are_in_flight_than_may_be():
    active = most = 0

    class Counting(RandomEngine):
        async def extend(self, input_ids: Sequence[int], **request) -> Segment:
            nonlocal active, most
            active += 1
            most = max(most, active)
            try:
                return await super().extend(input_ids, **request)
            finally:
                active -= 1

    case = Case(part="prompts", arm=Arm.TREES, width=2, in_flight=3)
    prompts = [[7] * 65] * 9
    asyncio.run(session.sample(case, prompts, lambda *_: Counting(0), ends=frozenset(), decode=lambda _: "", seed=1))
    assert most == 3 * 2


def test_the_meter_adds_up_the_time_without_requests_and_the_time_of_each(monkeypatch):
    now = 10.0
    monkeypatch.setattr(session.time, "perf_counter", lambda: now)
    meter = session.Meter()
    for now, change in ((12.0, 1), (15.0, 1), (16.0, -1), (20.0, -1), (21.0, 0)):  # noqa: B007
        meter.change(change)
    # none from 10 to 12 and from 20 to 21; one from 12 to 15 and from 16 to 20, two from 15 to 16
    assert (meter.idle_seconds, meter.request_seconds) == (3.0, 9.0)


def test_a_plan_compares_samplers_with_all_else_equal():
    for plan in PLANS.values():
        cases = plan()
        assert len(set(cases)) == len(cases)
        for case in cases:
            case.settings()
            assert case.segment >= case.engine.block_size or case.arm is not Arm.ALIGNED
        results = [measured(case) for case in cases]
        # Every case has plain samples for comparison.
        for result in results:
            plain = partner(result, results, Arm.PLAIN)
            assert plain is not None
            assert plain.case.engine == result.case.engine


def test_values_derived_from_the_counts():
    result = Result(Case(part="samplers"), [{**COUNTS, "seconds": s} for s in (9.0, 4.0, 1.0)])
    assert result.counts["seconds"] == 4.0
    assert result.spread == 8.0
    assert result.waste == (50 + 200) / (20 + 180)
    assert result.trajectories_per_second == 8 / 4
    assert result.tokens_per_second == 400 / 4
    assert (result.idle, result.in_flight, result.overhead) == (0.25, 3.0, 0.025)


def test_a_table_shows_the_gain_over_plain_samples_and_its_bound():
    tree = measured(Case(part="samplers"))
    plain = measured(Case(part="samplers", arm=Arm.PLAIN), decoded_tokens=400, seconds=6.0)
    loops = measured(Case(part="samplers", arm=Arm.LOOPS), engine_calls=60)
    row = tables([plain, loops, tree]).splitlines()[-1]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:3] == ["7 x 64, n 8, root 1, divergence 2", "trees", "15"]
    # a quarter of the loops' calls; 8/4 over 8/6 trajectories per second, 400/200 tokens
    assert cells[3] == "0.25"
    assert "1.50 of 2.00" in cells


def test_a_result_file_holds_all_that_was_measured(tmp_path):
    results = [measured(Case(part="engine", engine=Engine(model="tiny", chunked_prefill=False)))]
    write_results(tmp_path / "r.json", results, {"command": "x"})
    assert read_results(tmp_path / "r.json") == (results, {"command": "x"})


def test_a_comparison_names_everything_that_got_worse_and_nothing_else(tmp_path, capsys):
    tree, plain = Case(part="samplers"), Case(part="samplers", arm=Arm.PLAIN)
    gone = Case(part="width", width=4)
    old = [measured(tree), measured(plain, seconds=8.0), measured(gone)]
    # A slower machine: both take twice as long, and trees another 10 %. 16 calls of 15 and 2 % more tokens.
    same = [
        measured(tree, seconds=8.8, engine_calls=15.5, decoded_tokens=204),
        measured(plain, seconds=16.0),
        measured(gone),
    ]
    assert worse(old, same, counts=0.05, speeds=0.15) == []
    name = "samplers, trees, 7 x 64, n 8, root 1, divergence 2"
    new = [measured(tree, seconds=10.0, engine_calls=16, decoded_tokens=220), measured(plain, seconds=16.0)]
    expected = [
        f"{name}: engine calls 15 -> 16",
        f"{name}: decoded tokens 200 -> 220",
        f"{name}: waste 1.25 -> 1.35",
        f"{name}: speed over plain samples 2.00 -> 1.60",
        "width, trees, 7 x 64, n 4, root 1, divergence 2: missing in the new results",
    ]
    assert worse(old, new, counts=0.05, speeds=0.15) == expected
    files = [tmp_path / "old.json", tmp_path / "new.json"]
    for path, results in zip(files, (old, new), strict=True):
        write_results(path, results, {})
    assert main([str(path) for path in files]) == 1
    assert capsys.readouterr().out.splitlines() == expected
    assert main([str(files[0]), str(files[0])]) == 0


def test_a_comparison_names_machines_speeds_and_the_searches_share(tmp_path, capsys):
    case = Case(part="samplers", arm=Arm.PLAIN)
    files = [tmp_path / "old.json", tmp_path / "new.json"]
    slower = {"seconds": 5.0, "busy_seconds": 0.2, "computed_prompt_tokens": 60, "unique_tokens": 200}
    for path, counts, cpus, torch in zip(files, ({}, slower), (2, 4), ("1", "2"), strict=True):
        about = {"machine": {"cpus": cpus, "versions": {"torch": torch, "verl": "3"}}}
        write_results(path, [measured(case, **counts)], about)
    name = "samplers, plain, 7 x 64, n 8, root 1, divergence 2"
    assert main([*map(str, files), "--absolute"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "different machine: cpus 2 -> 4",
        "different machine: torch 1 -> 2",
        f"{name}: computed prompt tokens 50 -> 60",
        f"{name}: trajectories per second 2 -> 1.6",
        f"{name}: share of the searches 2.50% -> 4.00%",
    ]


def test_an_incomplete_session_fails_and_names_its_log(tmp_path, monkeypatch):
    cases = [Case(part="ends", arm=arm, engine=Engine(model="tiny")) for arm in (Arm.PLAIN, Arm.TREES)]
    written: list[dict] = []

    def run_session(command, *, log, time_limit, **_):
        job = json.loads(Path(command[-1]).read_text())
        assert time_limit == 7.0
        assert [case["arm"] for case in job["cases"]] == ["plain", "trees"]
        Path(job["out"]).write_text("".join(json.dumps(line) + "\n" for line in written))
        return "time limit"

    monkeypatch.setattr(sampling_speed, "run_session", run_session)
    options = Namespace(
        out=tmp_path, tiny_model="model", data="data", platform="cpu", repetitions=2, time_limit=7.0
    )  # fmt: skip
    for count in (0, 1, 4):
        written[:] = [{"machine": {"cpus": 2}}, *({"case": n % 2, **COUNTS} for n in range(4))][:count]
        with pytest.raises(
            RuntimeError, match=rf"{max(0, count - 1)} of 4 measurements \(time limit\); see .*log3.txt"
        ):
            sampling_speed.measure(cases, options, 3)
    written[:] = [{"machine": {"cpus": 2}}, *({"case": n % 2, **COUNTS, "seconds": n} for n in range(4))]
    results, about = sampling_speed.measure(cases, options, 3)
    assert [[one["seconds"] for one in result.repetitions] for result in results] == [[0, 2], [1, 3]]
    assert about == {"machine": {"cpus": 2}}


@pytest.mark.parametrize(
    ("plan", "present", "absent"),
    [
        (["quick"], [], "tokenizer"),
        (["quick"], ["tokenizer"], None),  # random weights and random prompts need no files
        (["full", "--parts", "ends"], ["tokenizer"], None),
        (["full", "--parts", "ends", "tiny"], ["tokenizer"], "val.parquet"),
    ],
)
def test_only_files_that_the_chosen_parts_need_have_to_be_there(plan, present, absent, tmp_path, monkeypatch, capsys):
    for name in present:
        (tmp_path / name).mkdir()
    stopped = RuntimeError("stopped before a server starts")
    monkeypatch.setattr(sampling_speed, "measure", Mock(side_effect=stopped))
    monkeypatch.setattr(sampling_speed, "exit_on_signals", lambda: None)
    files = ["--tiny-model", f"{tmp_path}/tokenizer", "--data", f"{tmp_path}/val.parquet", "--out", f"{tmp_path}/out"]
    with pytest.raises(SystemExit) as ended:
        sampling_speed.main([*plan, *files])
    if absent is None:
        assert str(ended.value) == f"error: {stopped}"
    else:
        said = f"{tmp_path}/{absent}: there is no such file. Use bash scripts/bench/sampling.sh {plan[0]}, which makes"
        assert said in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_cpu_time_is_shared_out_over_the_processes():
    seconds = {"cpu_client": 1.0, "cpu_balancer": 0.0, "cpu_server": 2.0, "cpu_scheduler": 3.0, "cpu_model": 4.0}
    assert cpu_shares(measured(Case(part="samplers"), **seconds)) == "10, 0, 20, 30, 40"
    assert cpu_shares(measured(Case(part="samplers"))) == ""


def test_swept_cases_are_drawn(tmp_path):
    swept = [measured(case) for case in PLANS["full"]() if case.part in ("width", "samplers")]
    assert draw(swept, tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    assert not draw([measured(Case(part="samplers"))], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_memory_is_the_peak_and_is_released():
    memory = session.own_memory()
    block = bytearray(200_000_000)
    del block
    assert 0.19 <= memory.gb() - memory.before < 0.3
    memory = session.own_memory()
    assert memory.gb() - memory.before < 0.1
    other = session.PeakMemory(os.getppid())
    assert 0 < other.before <= other.gb()


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_every_setting_of_the_engine_is_one_that_verls_configuration_takes(platform):
    engine = Engine(block_size=64, max_num_seqs=7, chunked_prefill=False, replicas=2, scheduling="priority")
    settings = session.overrides(engine, {"platform": platform, "model": "/m", "data": "/d"}, 9000)
    config = composed(*settings)
    rollout = config.actor_rollout_ref.rollout
    assert (rollout.engine_kwargs.vllm.block_size, rollout.max_num_seqs, rollout.scheduling_policy) == (
        64,
        7,
        "priority",
    )
    assert (rollout.enable_chunked_prefill, rollout.max_num_batched_tokens) == (False, 9000)
    assert config.trainer.n_gpus_per_node == config.ray_kwargs.ray_init.num_gpus == 2


def test_requests_that_go_anywhere_are_not_ordered():
    case = Case(part="replicas", spread=True, engine=Engine(replicas=2, scheduling="priority"))
    with pytest.raises(ValueError, match="cannot be ordered by depth"):
        case.settings()


def test_the_replica_table_shows_shares_and_omits_absent_values():
    two = Case(part="replicas", engine=Engine(replicas=2))
    page = tables([measured(case) for case in (replace(two, arm=Arm.PLAIN), two, replace(two, spread=True))])
    head, _, *rows = page.splitlines()[4:]
    assert [row.split("|")[1].strip() for row in rows] == [
        "each sample on one", "each tree on one", "each request anywhere",
    ]  # fmt: skip
    assert "over plain" in head and "lock step" not in head and "of loops" not in head


def test_the_cost_of_a_step_bounds_the_gain_of_few_sequences():
    def took(arm: Arm, width: int, seconds: float, decoded: int, computed: int) -> Result:
        case = Case(part="width", arm=arm, width=width, depth=10, segment=10)
        return measured(case, seconds=seconds, decoded_tokens=decoded, computed_prompt_tokens=computed)

    # 100 steps of 10 ms, and 1 ms for each token
    plain = [took(Arm.PLAIN, n, 1 + (100 * n + 20) / 1000, 100 * n, 20) for n in (4, 8, 16)]
    tree = took(Arm.TREES, 8, 2 * (1 + 0.5), 450, 50)  # twice the calculated time
    cost = step_cost.fit([*plain, tree])
    assert (cost.step, cost.token) == (pytest.approx(0.01), pytest.approx(0.001))
    rows = [line.strip("| ").split() for line in step_cost.page([*plain, tree]).splitlines()[6:]]
    assert " ".join(rows[1]) == "8 | plain | 1.00 | 1.00 | 1.00 | 1.00"
    # (1 + 0.82) / (1 + 0.5), half of it, and 800 / 450
    assert " ".join(rows[3]) == "8 | trees | 2.00 | 1.21 | 0.61 | 1.78"
    assert step_cost.page([plain[0], tree]) == ""
