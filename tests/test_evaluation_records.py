# SPDX-License-Identifier: Apache-2.0
"""The file of samples: what is written comes back, torn lines are dropped, and other evaluations are refused."""

import json

import pytest

from recipe.treepo.evaluation.records import ProblemResult, Records, RecordsError, Trajectory

FINGERPRINT = {"model": "m", "n": 2, "stopping": ("eos", "length")}


def result(row, data_source="a"):
    good = Trajectory(
        tokens=5, finish_reason="eos", score=1.0, acc=1.0, vote=0, answer="7", path=[(1, 0), (2, 3)], response="is 7"
    )
    bad = Trajectory(tokens=3, finish_reason="length", score=-1.0, acc=0.0, vote=None, answer=None)
    return ProblemResult(
        data_source=data_source,
        row=row,
        started=1.5,
        ended=2.5,
        statistics={"engine_calls": 3},
        trajectories=[good, bad],
    )


def test_results_come_back_as_they_were_and_what_is_done_is_known(tmp_path):
    path = tmp_path / "new" / "run.jsonl"
    records = Records(path, FINGERPRINT)
    assert records.results == [] and not path.parent.exists()
    for written in (result(0), result(1), result(0, "b")):
        records.append(written)
    again = Records(path, FINGERPRINT)
    assert again.results == [result(0), result(1), result(0, "b")]
    assert again.done() == {("a", 0), ("a", 1), ("b", 0)}


@pytest.mark.parametrize("torn", [b'{"data_source": "a", "row"', b"{", b'{"data_source": "a"}'])
def test_a_torn_line_is_dropped_and_the_next_result_takes_its_place(tmp_path, torn):
    path = tmp_path / "run.jsonl"
    records = Records(path, FINGERPRINT)
    records.append(result(0))
    path.write_bytes(path.read_bytes() + torn)
    again = Records(path, FINGERPRINT)
    assert again.results == [result(0)]
    again.append(result(1))
    assert Records(path, FINGERPRINT).results == [result(0), result(1)]


def test_an_interruption_within_the_first_line_loses_nothing(tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_bytes(b'{"fingerpr')
    records = Records(path, FINGERPRINT)
    records.append(result(0))
    assert Records(path, FINGERPRINT).results == [result(0)]


def test_samples_of_another_evaluation_are_refused_with_what_changed_and_stay(tmp_path):
    path = tmp_path / "run.jsonl"
    Records(path, FINGERPRINT).append(result(0))
    before = path.read_bytes()
    with pytest.raises(RecordsError) as caught:
        Records(path, {**FINGERPRINT, "model": "other", "seed": 3})
    assert "model was m, now other; seed was None, now 3" in str(caught.value)
    assert "n was" not in str(caught.value)
    assert path.read_bytes() == before


def test_a_restart_keeps_the_old_samples_until_the_first_new_one(tmp_path):
    path = tmp_path / "run.jsonl"
    for row in range(3):
        Records(path, FINGERPRINT).append(result(row))
    before = path.read_bytes()
    records = Records(path, {"model": "other"}, restart=True)
    assert records.results == [] and path.read_bytes() == before
    records.append(result(7))
    assert Records(path, {"model": "other"}).results == [result(7)]


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
