# SPDX-License-Identifier: Apache-2.0
"""The sample file: round trip, torn lines, and refusal of other fingerprints."""

import json
from dataclasses import replace

import pytest

from recipe.treepo.evaluation.records import ProblemResult, Records, RecordsError, Trajectory
from recipe.treepo.search.statistics import TreeStatistics

FINGERPRINT = {"model": "m", "n": 2, "stopping": ("eos", "length")}


def result(row, data_source="a", *, kept=True):
    """A result as in the file, or as in memory: without responses and paths."""
    more = {"path": [(1, 0), (2, 3)], "response": "is 7"} if kept else {}
    good = Trajectory(tokens=5, finish_reason="eos", score=1.0, acc=1.0, vote=0, answer="7", **more)
    bad = Trajectory(tokens=3, finish_reason="length", score=-1.0, acc=0.0, vote=None, answer=None)
    return ProblemResult(
        data_source=data_source,
        row=row,
        started=1.5,
        ended=2.5,
        statistics=TreeStatistics(engine_calls=3),
        trajectories=[good, bad],
    )


def held(row, data_source="a"):
    return result(row, data_source, kept=False)


def test_results_are_read_back_unchanged_with_finished_problems(tmp_path):
    path = tmp_path / "new" / "run.jsonl"
    records = Records(path, FINGERPRINT)
    assert records.results == [] and not path.parent.exists()
    for written in (result(0), result(1), result(0, "b")):
        records.append(written)
    again = Records(path, FINGERPRINT)
    assert again.results == records.results == [held(0), held(1), held(0, "b")]
    written = json.loads(path.read_text().splitlines()[1])["trajectories"][0]
    assert (written["path"], written["response"]) == ([[1, 0], [2, 3]], "is 7")
    assert again.done() == {("a", 0), ("a", 1), ("b", 0)}


@pytest.mark.parametrize("torn", [b'{"data_source": "a", "row"', b"{", b'{"data_source": "a"}'])
def test_a_torn_line_is_dropped_and_the_next_result_takes_its_place(tmp_path, torn):
    path = tmp_path / "run.jsonl"
    records = Records(path, FINGERPRINT)
    records.append(result(0))
    path.write_bytes(path.read_bytes() + torn)
    again = Records(path, FINGERPRINT)
    assert again.results == [held(0)]
    again.append(result(1))
    assert Records(path, FINGERPRINT).results == [held(0), held(1)]


def test_an_interruption_within_the_first_line_loses_nothing(tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_bytes(b'{"fingerpr')
    records = Records(path, FINGERPRINT)
    records.append(result(0))
    assert Records(path, FINGERPRINT).results == [held(0)]


def test_samples_of_another_evaluation_are_refused_and_stay(tmp_path):
    path = tmp_path / "run.jsonl"
    Records(path, FINGERPRINT).append(result(0))
    before = path.read_bytes()
    with pytest.raises(RecordsError) as caught:
        Records(path, {**FINGERPRINT, "model": "other", "seed": 3})
    assert "model was m, now other; seed was None, now 3" in str(caught.value)
    assert "n was" not in str(caught.value)
    assert path.read_bytes() == before


def test_a_restart_keeps_the_old_samples_under_another_name(tmp_path):
    path = tmp_path / "run.jsonl"
    for row in range(3):
        Records(path, FINGERPRINT).append(result(row))
    before = path.read_bytes()
    records = Records(path, {"model": "other"}, restart=True)
    assert records.results == [] and path.read_bytes() == before
    records.set_aside()
    records.append(result(7))
    assert (tmp_path / "run.jsonl.old").read_bytes() == before
    assert Records(path, {"model": "other"}).results == [held(7)]


def test_without_a_restart_nothing_is_set_aside(tmp_path):
    records = Records(tmp_path / "run.jsonl", FINGERPRINT)
    records.append(result(0))
    records.set_aside()
    assert Records(tmp_path / "run.jsonl", FINGERPRINT).results == [held(0)]


def test_a_file_that_someone_else_has_cut_is_not_filled_up_with_zeros(tmp_path):
    path = tmp_path / "run.jsonl"
    records = Records(path, FINGERPRINT)
    records.append(result(0))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(AssertionError, match="was cut"):
        records.append(result(1))
    assert b"\0" not in path.read_bytes()


@pytest.mark.parametrize(
    "content", ["no JSON\n", "[1, 2]\n", '{"x": 1}\n', json.dumps({"fingerprint": FINGERPRINT}) + "\n{}\n"]
)
def test_a_foreign_file_is_refused_and_stays(tmp_path, content):
    path = tmp_path / "run.jsonl"
    path.write_text(content)
    with pytest.raises(RecordsError, match="is not a file of samples"):
        Records(path, FINGERPRINT)
    assert path.read_text() == content


def test_correct_means_an_accuracy_above_one_half():
    good, bad = result(0).trajectories
    assert good.correct and not bad.correct


@pytest.mark.parametrize(
    ("score", "acc", "expected"),
    [
        (float("nan"), float("nan"), (None, 0.0, "score=nan, acc=nan")),
        (float("inf"), 1.0, (None, 0.0, "score=inf")),
        (0.5, float("-inf"), (0.5, 0.0, "acc=-inf")),
        (0.5, 1.0, (0.5, 1.0, None)),
    ],
)
def test_numbers_that_are_not_finite_count_as_wrong_and_reach_no_file(score, acc, expected, tmp_path):
    trajectory = Trajectory(tokens=5, finish_reason="eos", score=score, acc=acc, vote=0, answer="7")
    assert (trajectory.score, trajectory.acc, trajectory.reward_error) == expected
    records = Records(tmp_path / "run.jsonl", {})
    records.append(replace(result(0), trajectories=[trajectory]))
    lines = [json.loads(line, parse_constant=pytest.fail) for line in records.path.read_text().splitlines()]
    assert lines[1]["trajectories"][0]["reward_error"] == expected[2]
    assert Records(tmp_path / "run.jsonl", {}).results[0].trajectories == [trajectory]


def test_a_file_with_such_numbers_from_before_is_read_as_wrong(tmp_path):
    records = Records(tmp_path / "run.jsonl", {})
    records.append(result(0))
    text = records.path.read_text().replace('"score": 1.0', '"score": NaN').replace(', "reward_error": null', "")
    records.path.write_text(text)
    [read] = Records(tmp_path / "run.jsonl", {}).results
    assert [(one.score, one.acc, one.reward_error) for one in read.trajectories] == [
        (None, 0.0, "score=nan"),
        (-1.0, 0.0, None),
    ]
