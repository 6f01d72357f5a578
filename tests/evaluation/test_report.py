# SPDX-License-Identifier: Apache-2.0
"""From samples to tables, JSON and plot; all expected numbers from manual calculation."""

import json

import pytest

from recipe.treepo.evaluation.plot import figure_of
from recipe.treepo.evaluation.records import ProblemResult, Trajectory
from recipe.treepo.evaluation.report import curves, tables, write_report
from recipe.treepo.evaluation.scores import Interval
from recipe.treepo.evaluation.settings import Run
from recipe.treepo.evaluation.summary import Point, costs_of, covered, scaling_points, summarize
from recipe.treepo.main_eval import reward_errors
from recipe.treepo.search.statistics import TreeStatistics
from recipe.treepo.settings.schema import Sampler, TreePOSettings

PLAIN = TreePOSettings(sampler=Sampler.PLAIN)


def result(data_source, row, votes, right, *, span=(0.0, 2.0), **statistics):
    trajectories = [
        Trajectory(tokens=5, finish_reason="eos", score=0.0, acc=float(acc), vote=vote, answer=None)
        for vote, acc in zip(votes, right, strict=True)
    ]
    counts = TreeStatistics(**{"trajectories": len(votes), **statistics})
    return ProblemResult(
        data_source=data_source,
        row=row,
        started=span[0],
        ended=span[1],
        statistics=counts,
        trajectories=trajectories,
    )


# a: one problem with 2 of 4 right (AABC), one with none right (two without an answer); b: one problem, all right
RESULTS = [
    result("a", 0, [0, 0, 1, 2], [1, 1, 0, 0], decoded_tokens=100, engine_calls=4),
    result("a", 1, [None, None, 0, 0], [0, 0, 0, 0], span=(1.0, 4.0), decoded_tokens=60, engine_calls=5),
    result("b", 0, [0, 0, 0, 0], [1, 1, 1, 1], span=(10.0, 11.0), decoded_tokens=40, engine_calls=6),
]


def summaries(n=4, results=RESULTS, ks=(1, 2, 4)):
    return summarize(results, n=n, ks=ks, sources=["a", "b"], resamples=200, confidence=0.9)


def test_accuracies_of_each_data_set_and_the_mean_over_them():
    found = summaries()
    assert list(found) == ["a", "b", "overall"]
    assert (found["a"].problems, found["b"].problems, found["overall"].problems) == (2, 1, 3)
    # a: (1/2 + 0) / 2; b: 1
    assert [found[name].mean.value for name in found] == [0.25, 1.0, 0.625]
    # pass@2 of 2 right in 4: 5/6
    assert found["a"].passed[2].value == pytest.approx(5 / 12)
    assert found["overall"].passed[2].value == pytest.approx((5 / 12 + 1) / 2)
    # maj@2 of AABC: AA 1, AB AB AC AC 1/2 each, BC 0: 3 of 6
    assert found["a"].majority[2].value == pytest.approx(0.25)
    assert found["a"].majority[4].value == pytest.approx(0.5)
    assert found["b"].majority[1].low == found["b"].majority[1].high == 1.0
    assert (found["a"].mean.low, found["a"].mean.high) == (0.0, 0.5)


def test_the_order_of_the_results_does_not_matter():
    more = [*RESULTS, result("a", 2, [0, 0, 1, 1], [1, 1, 0, 0]), result("a", 3, [0] * 4, [1] * 4)]
    assert summaries(results=more[::-1]) == summaries(results=more)


def test_costs_are_sums_and_speed_leaves_out_the_pauses():
    found = summaries()
    assert found["a"].costs["decoded_tokens"] == 160 and found["overall"].costs["decoded_tokens"] == 200
    assert found["overall"].costs["engine_calls"] == 15
    # a: 0 to 2 and 1 to 4; b: 10 to 11
    assert (found["a"].costs["seconds"], found["overall"].costs["seconds"]) == (4.0, 5.0)
    assert found["overall"].costs["trajectories_per_second"] == 12 / 5


@pytest.mark.parametrize(
    ("spans", "seconds"),
    [([], 0.0), ([(3, 5), (0, 1)], 3.0), ([(0, 10), (2, 3), (4, 12)], 12.0), ([(1, 2), (1, 2)], 1.0)],
)
def test_covered_is_the_length_of_the_union(spans, seconds):
    assert covered(spans) == seconds


def test_no_time_gives_no_speed():
    assert costs_of([result("a", 0, [0], [1], span=(1.0, 1.0))])["trajectories_per_second"] == 0.0


def test_a_run_that_lacks_a_data_set_has_no_overall_and_dashes_in_the_table():
    runs = {Run("plain", PLAIN, 4): summaries(results=RESULTS[:2]), Run("tree", TreePOSettings(), 4): summaries()}
    assert list(runs[Run("plain", PLAIN, 4)]) == ["a"]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in tables(runs).splitlines()[2:]]
    assert [row[:4] for row in cells] == [
        ["a", "plain", "4", "2"],
        ["a", "tree", "4", "2"],
        ["b", "plain", "4", "-"],
        ["b", "tree", "4", "1"],
        ["overall", "plain", "4", "-"],
        ["overall", "tree", "4", "3"],
    ]
    assert {name: list(arms) for name, arms in curves(runs).items()} == {
        "a": ["plain", "tree"],
        "b": ["tree"],
        "overall": ["tree"],
    }


def test_the_plot_takes_intervals_that_miss_their_value_by_rounding_and_any_name():
    low = Interval(0.09999999999999999, 0.1, 0.1)
    point = Point(k=1, decoded_tokens=3.0, mean=low, passed=low, majority=low)
    figure = figure_of({"a$\\frac$b | c": {"x$y": [point]}})
    figure.canvas.draw()
    assert figure.axes[0].get_title() == "a\\$\\frac\\$b | c"


def test_names_of_data_sets_do_not_break_the_table():
    odd = summarize([result("x | y\nz", 0, [0], [1])], n=1, ks=[1], sources=["x | y\nz"], resamples=100, confidence=0.9)
    assert "| x \\| y z " in tables({Run("plain", PLAIN, 1): odd})


def test_plain_samples_give_a_point_for_each_k_and_trees_one_for_each_width():
    plain = scaling_points({4: summaries()["a"]}, plain=True)
    assert [(point.k, point.decoded_tokens) for point in plain] == [(1, 20.0), (2, 40.0), (4, 80.0)]
    assert plain[1].passed.value == pytest.approx(5 / 12)
    narrow = summaries(n=2, results=[result("a", 0, [0, 0], [1, 0], decoded_tokens=30)])["a"]
    trees = scaling_points({4: summaries()["a"], 2: narrow}, plain=False)
    assert [(point.k, point.decoded_tokens) for point in trees] == [(2, 30.0), (4, 80.0)]
    assert [point.majority.value for point in trees] == [0.5, 0.5]


RUNS = {Run("plain", PLAIN, 4): summaries(), Run("tree", TreePOSettings(), 4): summaries()}


def test_the_table_has_a_row_for_each_run_and_data_set():
    lines = tables(RUNS).splitlines()
    assert len(lines) == 2 + 3 * 2 and len(set(map(len, lines))) == 1
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0][:7] == ["data set", "sampler", "n", "problems", "mean@n", "pass@n", "maj@n"]
    assert cells[2] == [
        *("a", "plain", "4", "2", "0.250 [0.000, 0.500]", "0.500 [0.000, 1.000]", "0.500 [0.000, 1.000]"),
        *("160", "0", "0", "9", "2.0"),
    ]
    assert [row[0] + row[1] for row in cells[2:]] == [
        *("aplain", "atree", "bplain", "btree", "overallplain", "overalltree")
    ]


def test_costs_that_the_engine_did_not_count_are_absent(tmp_path):
    unknown = {"computed_prompt_tokens": None, "cached_prompt_tokens": None}
    counted = {"computed_prompt_tokens": 30, "cached_prompt_tokens": 7}

    def runs(*counts):
        own = [[result("a", 0, [0], [1], decoded_tokens=5, engine_calls=1, **count)] for count in counts]
        return {Run(f"arm{number}", PLAIN, 1): summaries(1, one, ks=(1,)) for number, one in enumerate(own)}

    def columns(found):
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in tables(found).splitlines()]
        return [row[7:-1] for row in cells if not row[0].startswith("-")]

    assert columns(runs(unknown, unknown)) == [["decoded", "calls"], ["5", "1"], ["5", "1"]]
    both = runs(unknown, counted)
    assert columns(both) == [
        ["decoded", "prompt computed", "prompt cached", "calls"],
        ["5", "-", "-", "1"],
        ["5", "30", "7", "1"],
    ]
    write_report(tmp_path, both, facts={}, notes=[])
    costs = [run["data_sets"]["a"]["costs"] for run in json.loads((tmp_path / "report.json").read_text())["runs"]]
    assert costs[1]["cached_prompt_tokens"] == 7 and not costs[0].keys() & unknown.keys()


def test_with_several_widths_the_scaling_curves_follow():
    narrow = [
        result("a", 0, [0, 0], [1, 1], decoded_tokens=10),
        result("b", 0, [0, 0], [1, 1], decoded_tokens=30),
    ]
    runs = {Run("plain", PLAIN, 4): summaries(), Run("tree", TreePOSettings(), 2): summaries(2, narrow)}
    second = tables(runs).split("\n\n")[1].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in second]
    assert cells[0] == ["data set", "sampler", "trajectories", "decoded per problem", "mean", "pass", "majority"]
    assert [row[:4] for row in cells[2:6]] == [
        ["a", "plain", "1", "20"],
        ["a", "plain", "2", "40"],
        ["a", "plain", "4", "80"],
        ["a", "tree", "2", "10"],
    ]


def test_the_plot_shows_the_points_of_every_arm_and_data_set():
    figure = figure_of(curves(RUNS))
    assert [axis.get_title() for axis in figure.axes] == ["a"] * 3 + ["b"] * 3 + ["overall"] * 3
    passed = figure.axes[2]
    plain, tree = (container.lines[0].get_xydata().tolist() for container in passed.containers)
    assert plain == [[20.0, pytest.approx(0.25)], [40.0, pytest.approx(5 / 12)], [80.0, 0.5]]
    assert tree == [[80.0, 0.5]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["plain", "tree"]


def test_the_report_holds_all_numbers_as_json_and_replaces_an_older_one(tmp_path):
    for _ in range(2):
        text = write_report(tmp_path, RUNS, facts={"seed": 1}, notes=["A note."])
    assert text.endswith("\n\nA note.\n")
    assert {path.name for path in tmp_path.iterdir()} == {"report.md", "report.json", "report.png"}
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["facts"]["seed"] == 1 and document["notes"] == ["A note."]
    run = document["runs"][0]
    assert (run["arm"], run["n"], run["independent"]) == ("plain", 4, True)
    assert run["data_sets"]["a"]["passed"]["2"]["value"] == pytest.approx(5 / 12)
    assert run["data_sets"]["overall"]["costs"]["decoded_tokens"] == 200
    assert document["curves"]["b"]["plain"][0]["k"] == 1


def test_reward_errors_have_a_column_and_finite_intervals(tmp_path):
    nan = float("nan")
    results = [result("a", 0, [0, 1, 2, 2], [1, nan, 0, 0]), result("a", 1, [0, 0, 0, 0], [1, 1, 1, 1]), RESULTS[2]]
    plain, tree = Run("plain", PLAIN, 4), Run("tree", TreePOSettings(), 4)
    runs = {plain: summaries(results=results), tree: summaries()}
    assert [runs[plain][name].reward_errors for name in ("a", "b", "overall")] == [1, 0, 1]
    assert runs[plain]["a"].mean.value == (1 / 4 + 1) / 2
    text = write_report(tmp_path, runs, facts={}, notes=[])
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line]
    assert [row[-1] for row in cells] == ["reward errors", cells[1][-1], "1", "0", "0", "0", "1", "0"]
    json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert "reward errors" not in tables({tree: summaries()})


def test_the_note_on_reward_errors_names_function_and_first_problem():
    nan = float("nan")
    results = [result("b", 0, [0, 1], [nan, nan]), result("a", 7, [0, 1], [1, float("inf")]), RESULTS[0]]
    assert reward_errors({"plain": [RESULTS[0]], "tree": results}, "reward function f of my.py") == (
        "Trajectories for which reward function f of my.py gave no finite number, counted as wrong: 3 of tree (first: "
        "a, row 7, acc=inf). Correct it and sample again with evaluation.restart=true."
    )
    assert reward_errors({"plain": RESULTS}, "f") is None
