# SPDX-License-Identifier: Apache-2.0
"""Replacement, removal and refusal of output files, and interruption between any two renames."""

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import outputs, preparation
from data_prep.__main__ import main

MINE = [{"mine": "precious"}]


def write_source(path: Path, number: int) -> Path:
    rows = [{"problem": f"What is {n}?", "solution": f"\\boxed{{{n}}}"} for n in range(number)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(source: Path, out: Path, *more: str) -> int:
    return main(["numina_math_tir", "--source", str(source), "--out-dir", str(out), *more])


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def problems_in(path: Path) -> set[str]:
    return {row["extra_info"]["problem"] for row in pq.read_table(path).to_pylist()}


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("val_size", ["3", "2", "0"])
def test_a_changed_output_is_replaced_only_with_force(
    tmp_path: Path, capsys: pytest.CaptureFixture, val_size: str
) -> None:
    source, out = write_source(tmp_path / "raw.jsonl", 9), tmp_path / "out"
    assert run(source, out, "--val-size", "2") == 0
    theirs = write(out / "train.parquet", MINE)
    assert run(source, out, "--val-size", val_size) == 2
    assert f"{theirs} was changed since it was written. Use another folder, or --force." in capsys.readouterr().err
    assert pq.read_table(theirs).to_pylist() == MINE
    assert run(source, out, "--val-size", val_size, "--force") == 0
    assert len(problems_in(theirs)) == 9 - int(val_size)


def test_an_output_that_is_missing_or_damaged_is_made_again(tmp_path: Path) -> None:
    source, out = write_source(tmp_path / "raw.jsonl", 9), tmp_path / "out"
    assert run(source, out, "--val-size", "2") == 0
    before = snapshot(out)
    for name in before:
        (out / name).unlink()
        if not name.endswith(".json"):  # only the record marks a table as ours
            assert run(source, out, "--val-size", "2") == 0 and snapshot(out) == before
            (out / name).write_bytes(before[name][:-1])
        assert run(source, out, "--val-size", "2", *(["--force"] if name.endswith(".json") else [])) == 0
        assert snapshot(out) == before


def test_a_val_file_of_someone_else_is_not_removed(tmp_path: Path) -> None:
    source, out = write_source(tmp_path / "raw.jsonl", 9), tmp_path / "out"
    assert run(source, out, "--val-size", "2") == 0
    theirs = write(out / "val.parquet", MINE)
    assert run(source, out, "--val-size", "0") == 0
    assert pq.read_table(theirs).to_pylist() == MINE and (out / "val.parquet.json").exists()
    (out / "val.parquet.json").write_text('{"note": 1}')
    assert run(source, out, "--val-size", "0") == 0
    assert pq.read_table(theirs).to_pylist() == MINE


def test_foreign_json_in_place_of_a_record_is_not_a_record(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = write_source(tmp_path / "raw.jsonl", 9)
    deep = "[" * 100_000
    for number, note in enumerate(('{"note": "mine"}', "{broken", "[]", deep, '{"fingerprint": 3}')):
        out = tmp_path / f"out{number}"
        theirs = write(out / "train.parquet", MINE)
        (out / "train.parquet.json").write_text(note)
        assert run(source, out, "--val-size", "0") == 2
        assert f"{theirs} was not written by this program" in capsys.readouterr().err
        assert (out / "train.parquet.json").read_text() == note and pq.read_table(theirs).to_pylist() == MINE
        theirs.unlink()
        assert run(source, out, "--val-size", "0") == 2
        assert (out / "train.parquet.json").read_text() == note


def test_a_folder_in_place_of_an_output_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source, out = write_source(tmp_path / "raw.jsonl", 9), tmp_path / "out"
    assert run(source, out, "--val-size", "0") == 0
    (out / "train.parquet").unlink()
    (out / "train.parquet").mkdir()
    assert run(source, out, "--val-size", "0") == 2
    assert "train.parquet was changed since it was written" in capsys.readouterr().err


def test_the_outputs_of_another_set_are_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source, out = write_source(tmp_path / "raw.jsonl", 9), tmp_path / "out"
    assert run(source, out, "--val-size", "2") == 0
    before = snapshot(out)
    gsm8k = write(tmp_path / "gsm8k.parquet", [{"question": f"Q{n}?", "answer": "#### 1"} for n in range(5)])
    arguments = ["gsm8k", "--source", str(gsm8k), "--out-dir", str(out), "--val-size", "0"]
    assert main(arguments) == 2
    assert "train.parquet was made from numina_math_tir. Use another folder, or --force." in capsys.readouterr().err
    assert snapshot(out) == before
    assert main([*arguments, "--force"]) == 0 and problems_in(out / "train.parquet") == {f"Q{n}?" for n in range(5)}
    assert problems_in(out / "val.parquet")  # still the other set's


def test_outputs_of_earlier_formats_are_made_again_without_force(tmp_path: Path) -> None:
    source, out = write_source(tmp_path / "raw.jsonl", 9), tmp_path / "out"
    assert run(source, out, "--val-size", "2") == 0
    new = snapshot(out)
    for name in ("train", "val"):
        path = out / f"{name}.parquet.json"
        record = json.loads(path.read_text())
        record["fingerprint"]["format"] = 1
        del record["fingerprint"]["data_set"]  # absent in format 1
        path.write_text(json.dumps(record))
    assert run(source, out, "--val-size", "2") == 0
    assert snapshot(out) == new


def interrupt_rename(monkeypatch: pytest.MonkeyPatch, after: int) -> list[int]:
    """Make os.replace raise after `after` renames; return the counter."""
    done = [0]
    replace = os.replace

    def interrupted(source: Path, target: Path) -> None:
        if done[0] == after:
            raise KeyboardInterrupt
        done[0] += 1
        replace(source, target)

    monkeypatch.setattr(outputs.os, "replace", interrupted)
    return done


@pytest.mark.parametrize("first", ["none", "same", "other", "more"])
@pytest.mark.parametrize("after", range(6))
def test_a_rerun_completes_a_run_interrupted_after_any_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, after: int
) -> None:
    """6 renames: interim record, table and final record of two outputs."""
    source, other = write_source(tmp_path / "raw.jsonl", 9), write_source(tmp_path / "other.jsonl", 12)
    out = tmp_path / "out"
    assert run(source, tmp_path / "expected", "--val-size", "2") == 0
    expected = snapshot(tmp_path / "expected")
    if first != "none":
        assert run(source if first == "same" else other, out, "--val-size", "5" if first == "more" else "2") == 0
    with monkeypatch.context() as patch:
        done = interrupt_rename(patch, after)
        with pytest.raises(KeyboardInterrupt):
            run(source, out, "--val-size", "2", *(["--force"] if first == "same" else []))
    assert done == [after]
    assert not [name for name in snapshot(out) if "tmp" in name]
    assert run(source, out, "--val-size", "2") == 0
    assert snapshot(out) == expected
    assert problems_in(out / "train.parquet").isdisjoint(problems_in(out / "val.parquet"))


def test_no_more_than_six_renames_are_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = interrupt_rename(monkeypatch, 6)
    assert run(write_source(tmp_path / "raw.jsonl", 9), tmp_path / "out", "--val-size", "2") == 0 and done == [6]


@pytest.mark.parametrize("half", [False, True])
def test_a_val_file_left_over_by_an_interrupted_run_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: bool
) -> None:
    source, out = write_source(tmp_path / "raw.jsonl", 9), tmp_path / "out"
    assert run(source, out, "--val-size", "2") == 0

    def interrupted(path: Path) -> None:
        if half:
            path.unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(preparation, "remove_output", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(source, out, "--val-size", "0")
    assert (out / "val.parquet.json").exists()
    assert run(source, out, "--val-size", "0") == 0
    assert sorted(snapshot(out)) == ["train.parquet", "train.parquet.json"]
