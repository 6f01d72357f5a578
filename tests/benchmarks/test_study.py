# SPDX-License-Identifier: Apache-2.0
"""The study: its measures against hand-worked and exact values, its pieces, and its tables."""

import asyncio
import json
import math
from dataclasses import asdict
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.study import diversity, known_world, model_values, page, pieces, tasks, training
from benchmarks.study.credit import (
    ESTIMATORS,
    GROUP_ESTIMATORS,
    GroupCredit,
    agreement,
    boundaries,
    credit_of_tokens,
    segment_means,
)
from benchmarks.study.known_world import RIGHT, SAFE, UNRELIABLE, WRONG, World, WorldEngine, grown, sample
from helpers.example_counts import examples
from recipe.treepo.evaluation.records import ProblemResult, Trajectory
from recipe.treepo.search.statistics import TreeStatistics
from recipe.treepo.search.stopping import FinishReason, StoppingRules

# --- diversity ---------------------------------------------------------------------------------------------------

COSTS = {"tokens": 100.0, "computed": 150.0, "calls": 8.0, "trajectories_per_second": 2.0}


def test_effective_number_of_hand_worked_means():
    # Variances within the prompts are 0.5 and 0; p (1 - p) is estimated as 0.25 + 0.5 / 2 and 0.25.
    assert diversity.effective_number(np.array([[0.0, 1.0], [0.5, 0.5]])) == pytest.approx(0.375 / 0.25)


@pytest.mark.parametrize(("trajectories", "copies", "effective"), [(8, 1, 8), (8, 4, 2)])
def test_effective_number_counts_independent_samples(trajectories: int, copies: int, effective: int):
    rng = np.random.default_rng(0)
    accuracy = rng.uniform(0.1, 0.9, size=(4000, 1, 1))
    samples = rng.uniform(size=(4000, 6, trajectories // copies)) < accuracy
    means = np.repeat(samples, copies, axis=2).mean(axis=2)
    assert diversity.effective_number(means) == pytest.approx(effective, rel=0.05)


def test_the_interval_of_the_effective_number_covers_it_as_often_as_it_says():
    rng, covered = np.random.default_rng(1), 0
    for _ in range(60):
        accuracy = rng.uniform(0.1, 0.9, size=(40, 1, 1))
        means = (rng.uniform(size=(40, 4, 5)) < accuracy).mean(axis=2)  # worth 5 samples
        low, high = diversity.effective_interval(means, resamples=200)
        covered += low <= 5 <= high
    assert 48 <= covered <= 60


def test_measures_of_hand_worked_samples():
    right = np.array([[[1, 0], [1, 1]], [[0, 0], [0, 0]]], dtype=float)  # two prompts, two trees each, two trajectories
    found = diversity.diversity(right, COSTS)
    assert (found.mean, found.passed, found.mixed) == (3 / 8, 2 / 4, 1 / 4)
    # Variances 0.125 and 0; p (1 - p) is 0.75 * 0.25 + 0.125 / 2 = 0.25, and 0.
    assert found.effective == pytest.approx(0.25 / 0.125)
    assert found.tokens == 100.0


def sample_line(row: int, right: list[int], started: float = 0.0) -> dict:
    n = len(right)
    cost = TreeStatistics(trajectories=n, decoded_tokens=10 * n, computed_prompt_tokens=5, engine_calls=2 * n)
    trajectories = [
        Trajectory(tokens=10, finish_reason="eos", score=None, acc=float(one), vote=None, answer=None) for one in right
    ]
    times = {"started": started, "ended": row + 1.0}
    return asdict(ProblemResult(data_source="words", row=row, statistics=cost, trajectories=trajectories, **times))


def write_samples(path, lines: list[dict]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in [{"fingerprint": {}}, *lines]))


def test_samples_of_repeated_rows_belong_to_their_problem(tmp_path):
    # Rows 0 and 2 are problem 0, rows 1 and 3 problem 1; files are in the order of completion.
    path = tmp_path / "root_2_n2.jsonl"
    write_samples(
        path, [sample_line(row, right) for row, right in ((3, [0, 1]), (0, [1, 1]), (2, [1, 0]), (1, [0, 0]))]
    )
    right, costs = diversity.read_samples(path, problems=2)
    assert right.tolist() == [[[1, 1], [1, 0]], [[0, 0], [0, 1]]]
    assert costs == {"tokens": 20, "computed": 25, "calls": 4, "trajectories_per_second": 8 / 4}


@pytest.mark.parametrize("rows", [[], [0, 1, 3], [0, 1, 2]])
def test_missing_samples_are_an_error(tmp_path, rows: list[int]):
    write_samples(tmp_path / "x.jsonl", [sample_line(row, [0, 1]) for row in rows])
    with pytest.raises(ValueError, match="missing"):
        diversity.read_samples(tmp_path / "x.jsonl", problems=2)


def test_groups_of_plain_samples_stand_for_prompts_sampled_again(tmp_path):
    write_samples(tmp_path / "plain_n4.jsonl", [sample_line(0, [1, 1, 1, 0]), sample_line(1, [0, 0, 0, 0])])
    found = diversity.read_shape(tmp_path, "plain", 2, problems=2, largest=4)
    assert (found.mean, found.passed, found.mixed) == (3 / 8, 2 / 4, 1 / 4)
    # Two of the four samples of a prompt, 40 decoded tokens and 5 prompt tokens.
    assert (found.tokens, found.computed, found.calls) == (20, 22.5, 4)


def test_overrides_of_the_shapes_are_in_hydras_grammar():
    parser = OverridesParser.create()
    values = {
        override.key_or_group: override.value()
        for override in parser.parse_overrides(diversity.arms(diversity.SHAPES, 4))
    }
    assert values["evaluation.arms.root_2_to_8"] == {
        **{"init_divergence": [2, 8], "divergence": 2, "segment_length": None, "depth": 4},
    }
    assert values["evaluation.arms.half_depth"]["depth"] == 2
    assert values["evaluation.arms.fallback_dry"]["fallback"] == {"start": "dry"}
    shapes = diversity.SHAPES
    assert [diversity.children(shapes[name]) for name in ("root_1", "root_2_to_8", "entropy")] == [1, 8, 2]


@examples(short=50, long=500)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_the_front_has_exactly_the_gains_that_nothing_cheaper_reaches(points: list[tuple[int, int]]):
    chosen = [points[at] for at in diversity.front(points)]
    best = {
        (cost, gain)
        for cost, gain in points
        if not any((other <= cost and more > gain) or (other < cost and more >= gain) for other, more in points)
    }
    assert set(chosen) == best and len(chosen) == len(best) and chosen == sorted(chosen)


# --- credit ------------------------------------------------------------------------------------------------------


def outcomes(world: World, prefix: tuple[int, ...]) -> dict[tuple[int, ...], float]:
    """Return all responses after a prefix with their probabilities."""
    if len(prefix) == world.length:
        return {prefix: 1.0}
    if len(prefix) % 2 == 0:
        choices = {UNRELIABLE: world.rate, SAFE: 1 - world.rate}
    else:
        choices = {WRONG: 0.9, RIGHT: 0.1} if prefix[-1] == UNRELIABLE else {RIGHT: 1.0}
    return {
        response: share * probability
        for token, share in choices.items()
        for response, probability in outcomes(world, (*prefix, token)).items()
    }


@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_values_of_the_known_world_are_those_of_all_its_responses(rate: float):
    world = World(rate, steps=3, depth=3)
    for length in range(world.length + 1):
        for prefix in {response[:length] for response in outcomes(world, ())}:
            expected = sum(share for response, share in outcomes(world, prefix).items() if WRONG not in response)
            assert world.value(prefix) == pytest.approx(expected)


def test_gradient_and_scores_of_the_known_world_are_derivatives():
    world, step = World(0.2, steps=3, depth=3), 1e-5
    logit = math.log(0.2 / 0.8)
    rates = [1 / (1 + math.exp(-(logit + sign * step))) for sign in (1, -1)]
    up, down = (World(rate, steps=3, depth=3).value([]) for rate in rates)
    assert world.gradient() == pytest.approx((up - down) / (2 * step), rel=1e-6)
    # The gradient of the expectation: rewards times scores, over all responses.
    exact = sum(
        share * (WRONG not in response) * sum(world.scores(response)) for response, share in outcomes(world, ()).items()
    )
    assert exact == pytest.approx(world.gradient())


def test_trees_of_the_known_world_have_their_trajectories_and_its_accuracy():
    world = World(0.1, steps=8, depth=4)
    trees = [grown(world, n=8, root=2, seed=seed) for seed in range(400)]
    responses = [tree.path(leaf).response_ids for tree in trees for leaf in tree.leaves]
    assert len(responses) == 3200 and {len(response) for response in responses} == {16}
    right = np.mean([WRONG not in response for response in responses])
    assert right == pytest.approx(world.value([]), abs=0.06)  # 5 standard errors of 800 independent roots


def test_credit_reaches_the_tokens_of_its_node():
    world = World(0.2, steps=4, depth=4)
    tree = grown(world, n=4, root=2, seed=1)
    rewards = [1.0, 0.0, 0.0, 0.0]
    spread = [*map(list, credit_of_tokens(tree, rewards, GroupCredit()))]
    assert spread == [pytest.approx([value] * 8, abs=1e-5) for value in (1.5, -0.5, -0.5, -0.5)]
    # TreeRPO: the children of the root have the values 1/2 and 0, whose standard deviation is 0.354.
    credits = credit_of_tokens(tree, rewards, ESTIMATORS["treerpo"])
    nodes = [[node for node, _ in tree.path(leaf).spans] for leaf in tree.leaves]
    first = {own[0]: credit[0] for own, credit in zip(nodes, credits, strict=True)}
    assert len(first) == 2 and first[nodes[0][0]] == pytest.approx(0.25 / 0.35355, abs=1e-4)
    # Tokens of one node have one credit, and the leaves of the right node 1 - 1/2 over the deviation of 1 and 0.
    for own, credit in zip(nodes, credits, strict=True):
        assert credit[0] == first[own[0]]
    assert credits[0][-1] == pytest.approx(0.5 / 0.70711, abs=1e-4)


def test_segments_and_agreement_of_hand_worked_credits():
    assert boundaries(5, 2) == [0, 2, 4, 5]
    assert boundaries(4, 2) == [0, 2, 4]
    assert segment_means(np.array([1.0, 3.0, 5.0, 7.0, 9.0]), 2).tolist() == [2, 6, 9]
    given_, true = np.array([1.0, -1.0, 0.0, 2.0]), np.array([0.5, 0.5, 0.5, 0.05])
    found = agreement(given_, true, clear=0.1)
    assert (found.equal_signs, found.credited, found.segments) == (1 / 2, 2 / 3, 4)
    assert agreement(given_, 2 * given_ + 1).correlation == pytest.approx(1)


def test_an_estimator_in_the_known_world_has_the_correlation_of_its_definition():
    """GRPO on two independent samples: the credit is the sign of the difference of rewards, or nothing."""
    world = World(0.15, steps=2, depth=2)
    found = known_world.measure(["grpo"], [[sample(world, n=2, root=2, seed=seed)] for seed in range(3000)])[0]
    exact = outcomes(world, ())
    pairs = []
    for (one, share), (other, rest) in product(exact.items(), exact.items()):
        credit = math.copysign(1, (WRONG in other) - (WRONG in one)) if (WRONG in one) != (WRONG in other) else 0.0
        for begin in (0, 2):
            pairs.append((share * rest, credit, world.value(one[: begin + 2]) - world.value(one[:begin])))
    weight, credits, true = np.array(pairs).T
    covariance = np.cov(np.array([credits, true]), aweights=weight)
    expected = covariance[0, 1] / math.sqrt(covariance[0, 0] * covariance[1, 1])
    assert found["correlation"] == pytest.approx(expected, abs=0.05)
    assert found["tokens"] == 8 and found["signal"] > 0


@pytest.mark.parametrize("size", [1, 4])
def test_true_advantages_have_the_signal_of_their_definition(size: int):
    """Two independent responses of one step: the gradient is the mean of two products of advantage and score."""
    world = World(0.3, steps=1, depth=1)
    samples = [sample(world, n=2, root=2, seed=seed) for seed in range(4000)]
    found = known_world.measure([], [samples[at : at + size] for at in range(0, 4000, size)])[0]
    outcomes_ = outcomes(world, ())
    shares = np.array([*outcomes_.values()])
    products = np.array([(world.value(one) - world.value([])) * sum(world.scores(one)) for one in outcomes_])
    mean = shares @ products
    deviation = math.sqrt(shares @ (products - mean) ** 2 / 2)
    assert mean == pytest.approx(world.gradient())
    assert found["estimator"] == known_world.TRUE and found["correlation"] == pytest.approx(1)
    # 10,000 tokens are 2,500 trees of two responses of two tokens.
    ratio = -mean / deviation
    error = 50 * math.sqrt((1 + size * ratio**2 / 2) / 4000)
    assert found["signal_error"] == pytest.approx(error, rel=0.05)
    assert found["signal"] == pytest.approx(50 * ratio, abs=3 * error)


def test_gradients_are_those_of_batches_with_whitened_credit():
    """Brute force over tokens: batches of two prompts of two worlds, four independent responses each."""
    worlds = [World(0.1, steps=4, depth=2), World(0.3, steps=4, depth=2)]
    batches = [[sample(world, n=4, root=4, seed=2 * at + one) for one, world in enumerate(worlds)] for at in range(5)]
    along, means = [], np.zeros(4)
    for batch in batches:
        responses = [[one.tree.path(leaf).response_ids for leaf in one.tree.leaves] for one in batch]
        rewards = np.array([[WRONG not in response for response in own] for own in responses], dtype=float)
        centered = rewards - rewards.mean(axis=1, keepdims=True)
        whitened = centered / np.repeat(centered, 8).std(ddof=1)
        steps = np.zeros(4)
        for world, own, credits in zip(worlds, responses, whitened, strict=True):
            for response, credit in zip(own, credits, strict=True):
                for step in range(4):
                    steps[step] += credit * ((response[2 * step] == UNRELIABLE) - world.rate) / 4 / 2
        along.append(-steps.sum())
        means += steps / 5
    rows = {row["estimator"]: row for row in known_world.measure(["treepo", "reinforce_plus_plus_baseline"], batches)}
    # A batch has 2 x 4 x 8 tokens.
    signal = np.mean(along) / np.std(along, ddof=1) * math.sqrt(10_000 / 64)
    for row in (rows["treepo"], rows["reinforce_plus_plus_baseline"]):  # without shared prefixes they are the same
        assert row["signal"] == pytest.approx(signal, rel=1e-4)
        assert row["cosine"] == pytest.approx(-means.sum() / math.sqrt(4 * (means**2).sum()), rel=1e-4)


def test_a_world_is_measured_with_plain_samples_and_each_root():
    found = known_world.run(rates=[0.1, 0.2], n=4, trees=70, roots={"1": 1, "n/2": 2})
    assert found["success"] == [World(0.1).value([]), World(0.2).value([])]
    plain, *trees = found["samplers"]
    assert [one["sampler"] for one in found["samplers"]] == ["plain samples", "trees, root 1", "trees, root n/2"]
    assert plain["tokens"] == 4 * 32 > trees[1]["tokens"] > trees[0]["tokens"]
    measured = [(row["sampler"], row["estimator"]) for row in found["rows"]]
    assert measured[:3] == [("plain samples", name) for name in (*GROUP_ESTIMATORS, known_world.TRUE)]
    assert measured[3:] == [(one["sampler"], name) for one in trees for name in (*ESTIMATORS, known_world.TRUE)]


def test_reliability_is_that_of_the_mean_of_both_estimates():
    rng = np.random.default_rng(1)
    truth, first, second = rng.normal(size=(3, 20_000))
    # Half of the variance of each estimate is noise: their correlation is 1/2, and 2/3 of their mean is truth.
    assert model_values.reliability(truth + first, truth + second) == pytest.approx(2 / 3, abs=0.02)


def test_values_by_samples_agree_with_the_known_ones():
    """The measures of an embedded model, on the known world: unlimited noise aside, the same correlations."""
    world = World(0.15, steps=4, depth=4)
    order = (FinishReason.LENGTH, FinishReason.DEPTH)
    stopping = StoppingRules(
        order=order, response_length=world.length, depth=world.depth, eos_token_ids=frozenset(), decode=str
    )
    problems = []
    for seed in range(30):

        class Engine(WorldEngine):
            calls = 0

            async def extend(self, input_ids, *, max_tokens, branch):
                self.calls += 1
                return await super().extend(input_ids, max_tokens=max_tokens, branch=f"{branch}/{self.calls}")

        engine = Engine(world, seed)
        score = lambda response: float(WRONG not in response)  # noqa: E731
        problems.append(model_values.Problem(engine, known_world.PROMPT, score, 200, world.length))
    limits = {"numbers": (4, 8), "root": 2, "segment": world.segment}
    engine = problems[0].engine
    rows = asyncio.run(model_values.measure(engine, problems, stopping, **limits))
    assert {(row["n"], row["sampler"], row["estimator"]) for row in rows} == {
        *((n, "plain samples", "grpo") for n in (4, 8)),
        *((n, "trees", name) for n in (4, 8) for name in ESTIMATORS),
    }
    for row in rows:
        assert row["reliability"] > 0.95
        sampler = {"plain samples": row["n"], "trees": 2}[row["sampler"]]
        batches = [[sample(world, n=row["n"], root=sampler, seed=seed)] for seed in range(300)]
        expected = known_world.measure([row["estimator"]], batches)[0]["correlation"]
        assert row["correlation"] == pytest.approx(expected, abs=0.2)


# --- training and pieces -----------------------------------------------------------------------------------------


def curve(tokens: list[float], accuracies: list[float]) -> training.Curve:
    metrics = {name: [1.0] * 4 for name in training.METRICS}
    return training.Curve([0, 2, 4], accuracies, tokens, [0.0, 10.0, 20.0], metrics)


def test_mean_accuracy_is_the_area_over_the_cost():
    one = curve([0, 100, 300], [0.2, 0.4, 0.8])
    assert one.accuracy_at("tokens", 200) == pytest.approx(0.6)
    assert one.mean_accuracy("tokens", 200) == pytest.approx((0.3 * 100 + 0.5 * 100) / 200)
    assert one.mean_accuracy("seconds", 10) == pytest.approx(0.3)
    assert math.isnan(one.mean_accuracy("tokens", 301))


def test_the_table_pairs_seeds_and_gives_students_interval():
    plain = {0: curve([0, 100, 200], [0.2, 0.4, 0.6]), 1: curve([0, 100, 200], [0.2, 0.2, 0.2])}
    trees = {0: curve([0, 100, 400], [0.2, 0.6, 0.6]), 1: curve([0, 100, 400], [0.2, 0.4, 0.4])}
    curves = {page.BASELINES[1]: plain, "treepo": trees}
    text = page.learning_table(curves, "tokens")
    assert text.startswith("100 % are 200 decoded tokens.")
    row = [cell.strip() for cell in text.splitlines()[-1].split("|")[1:-1]]
    # Means over 200 tokens: 0.5 and 0.35 with trees, 0.4 and 0.2 without. Differences 0.1 and 0.15, t(1) = 12.706.
    assert row == ["treepo", "2", "0.350", "0.500", "0.500", "0.425", "-", "0.125 ± 0.318", "0.600 0.400"]
    *_, paired = page.learning_figure(curves).axes
    dots = next(line for line in paired.lines if line.get_marker() == ".")
    assert [*dots.get_xdata()] == pytest.approx([0.1, 0.15])
    (bar,) = paired.collections
    assert [*bar.get_segments()[0][:, 0]] == pytest.approx([0.125 - 0.3177, 0.125 + 0.3177], abs=1e-4)
    low, high = paired.get_ylim()
    assert [low < tick < high for tick in paired.get_yticks()] == [True, True]


def test_slow_steps_do_not_count_as_training_time():
    # 1, 1, 5 and 2 seconds per step
    assert page.step_time({"steps": [0, 2, 4, 5, 9], "seconds": [0.0, 2.0, 4.0, 9.0, 17.0]}) == 1.5


def test_curves_have_the_order_of_the_study_and_the_step_time_of_the_first_seed():
    metrics = {name: [1.0] for name in training.METRICS}
    values = {"steps": [0, 2], "accuracies": [0.5, 0.5], "tokens": [0.0, 9.0], "metrics": metrics}
    arms = {"treepo": {0: 2.0, 1: 50.0}, page.BASELINES[0]: {0: 3.0, 1: 1.0}}
    results = [
        {**values, "seconds": [0.0, arms[arm][seed]], "settings": {"arm": arm, "seed": seed}}
        for arm in arms
        for seed in (1, 0)
    ]
    found = page.curves_of(results)
    assert [(arm, [*by_seed]) for arm, by_seed in found.items()] == [(page.BASELINES[0], [0, 1]), ("treepo", [0, 1])]
    times = {arm: [curve.seconds for curve in by_seed.values()] for arm, by_seed in found.items()}
    assert times == {"treepo": [[0.0, 2.0]] * 2, page.BASELINES[0]: [[0.0, 3.0]] * 2}


def test_runs_from_one_model_get_a_common_start():
    results = [{"name": "a", "accuracies": [0.2, 0.5]}, {"name": "b", "accuracies": [0.4, 0.6]}]
    expected = [{"name": "a", "accuracies": [0.3, 0.5]}, {"name": "b", "accuracies": [0.3, 0.6]}]
    assert page.with_common_start(results, 0.3) == expected
    assert results[0]["accuracies"] == [0.2, 0.5]


def test_signals_are_drawn_relative_to_plain_samples_of_the_same_world():
    def result(n, plain, trees):
        rows = [
            ("plain samples", "grpo", plain),
            ("trees, root 2", "grpo", trees),
            ("trees, root 2", "treepo", 0.5 * trees),
        ]
        rows = [
            {"sampler": sampler, "estimator": name, "signal": signal, "signal_error": 0.1 * signal}
            for sampler, name, signal in rows
        ]
        return {"settings": {"n": n}, "rows": rows}

    results = [result(8, 10.0, 8.0), result(16, 5.0, 5.0)]
    figure = page.credit_figure(results)
    assert [panel.get_title() for panel in figure.axes] == ["trees, root 2", "plain samples"]
    lines = {line.get_label(): [*line.get_ydata()] for line in figure.axes[0].lines}
    assert lines["grpo"] == pytest.approx([0.8, 1.0]) and lines["treepo"] == pytest.approx([0.4, 0.5])
    row = page.signal_table(results).splitlines()[-1]
    # The errors of both, 10 % each, add up to 14 %.
    assert [cell.strip() for cell in row.split("|")[3:-1]] == ["0.40 ± 0.06", "0.50 ± 0.07"]


def test_long_runs_are_drawn_step_by_step_over_their_tokens():
    one = curve([0, 1e6, 3e6], [0.2, 0.4, 0.8])
    one.metrics["entropy"] = [None, 0.5, 0.25, 0.125]
    accuracy, entropy, *_ = page.stability_figure({"treepo": {0: one}}).axes
    assert [*accuracy.lines[0].get_ydata()] == [0.2, 0.4, 0.8]
    # Validations are after 0, 2 and 4 steps: step 1 is in the middle of the first million.
    assert [*entropy.lines[0].get_xdata()] == [0.5, 1, 2, 3]
    assert np.array_equal(entropy.lines[0].get_ydata(), [np.nan, 0.5, 0.25, 0.125], equal_nan=True)
    row = page.stability_table({"treepo": {0: one}}).splitlines()[-1]
    assert [cell.strip() for cell in row.split("|")[3:7]] == ["3,000,000", "0.800", "0.800", "0.292"]


def test_pieces_have_names_and_files_of_their_own(tmp_path):
    every = [*pieces.pieces()]
    assert len({piece.path(tmp_path) for piece in every}) == len(every)
    assert {piece.part for piece in every} == {"diversity", "credit", "learning", "options", "stability"}
    for part in ("learning", "options"):
        by_seed = {}
        for piece in every:
            if piece.part == part:
                by_seed.setdefault(piece.settings["seed"], []).append(piece.settings["arm"])
        assert len(by_seed) >= 3 and len({tuple(arms) for arms in by_seed.values()}) == 1


def test_a_piece_is_done_once_and_other_settings_are_refused(tmp_path):
    calls = []

    def run(*, folder, size):
        calls.append((folder, size))
        return {"rows": [size]}

    piece = pieces.Piece("credit", "world 0.1 n 8", {"size": [1]}, run)
    assert not piece.is_done(tmp_path)
    piece.do(tmp_path, tmp_path / "logs")
    assert calls == [(tmp_path / "logs/credit/world_0_1_n_8", [1])]
    assert piece.is_done(tmp_path)
    assert json.loads((tmp_path / "credit/world_0_1_n_8.json").read_text())["rows"] == [[1]]
    with pytest.raises(ValueError, match="has other settings"):
        pieces.Piece("credit", "world 0.1 n 8", {"size": [2]}, run).is_done(tmp_path)


def test_repeated_rows_are_in_the_order_of_the_problems(tmp_path):
    pd.DataFrame({"name": ["a", "b", "c"]}).to_parquet(tmp_path / "rows.parquet")
    tasks.repeated(tmp_path / "rows.parquet", tmp_path / "new/more.parquet", problems=2, times=3)
    assert [*pd.read_parquet(tmp_path / "new/more.parquet")["name"]] == ["a", "b"] * 3
    with pytest.raises(ValueError, match="3 of 4 problems"):
        tasks.repeated(tmp_path / "rows.parquet", tmp_path / "more.parquet", problems=4, times=3)


@pytest.mark.parametrize(
    ("name", "source", "held_out"),
    [("tiny", "tiny_problems", 100), ("ledger", "tiny_ledgers", 100), ("small", "small_problems", 200)],
)
def test_the_study_makes_its_data_where_no_script_has_run(name, source, held_out, tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "DATA", tmp_path)
    tasks.make_data(name)
    file = tmp_path / name / "val.parquet"
    rows, made = pd.read_parquet(file), file.stat().st_mtime_ns
    assert len(rows) == held_out and {*rows["data_source"]} == {source}
    assert len(pd.read_parquet(tmp_path / name / "train.parquet")) == 2000
    if name == "ledger":
        # A line for each step, between the first value and the question.
        assert {problem.count("\n") - 1 for problem in rows["extra_info"].str["problem"]} == {*range(14, 21)}
    tasks.make_data(name)
    assert file.stat().st_mtime_ns == made
