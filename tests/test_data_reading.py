# SPDX-License-Identifier: Apache-2.0
"""Local sources: downloaded repositories give the rows that the hub would give; JSON and parquet files of all sorts."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.__main__ import main
from data_prep.reading import Source, source_files


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def prepared(name: str, source: Path, out: Path, *more: str) -> set[str]:
    """Prepare a set and return its problems."""
    assert main([name, "--source", str(source), "--out-dir", str(out), *more]) == 0
    table = pq.read_table(next(out.glob("*.parquet")))
    return {row["extra_info"]["problem"] for row in table.to_pylist()}


NO_VAL = ("--val-size", "0")


def test_a_copy_of_gsm8k_gives_its_own_configuration_and_split(tmp_path: Path) -> None:
    hub, converted = tmp_path / "hub", tmp_path / "converted"
    for config in ("main", "socratic"):
        for split in ("train", "test"):
            rows = [{"question": f"{config} {split}?", "answer": "#### 1"}]
            write(hub / config / f"{split}-00000-of-00001.parquet", rows)
            write(converted / config / split / "0000.parquet", rows)  # refs/convert/parquet
    for number, folder in enumerate((hub, converted)):
        assert prepared("gsm8k_test", folder, tmp_path / f"test{number}") == {"main test?"}
        assert prepared("gsm8k", folder, tmp_path / f"train{number}", *NO_VAL) == {"main train?"}
        part = folder / "socratic"
        assert prepared("gsm8k", part, tmp_path / f"part{number}", *NO_VAL) == {"socratic train?"}


def test_the_split_of_a_file_is_told_by_its_folder_where_its_name_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for split in ("train", "test"):
        for number in range(2):
            row = {"problem": f"{split} {number}", "answer": "1", "level": 5, "solution": "\\boxed{1}"}
            write(tmp_path / "math/default" / split / f"000{number}.parquet", [row])
    found = prepared("math_level3to5", tmp_path / "math", tmp_path / "out", *NO_VAL)
    assert found == {"train 0", "train 1"}
    # The name of the file goes before that of a folder.
    write(tmp_path / "math/train/test-0.parquet", [{"problem": "named test", "answer": "1", "level": 5}])
    assert "named test" not in prepared("math_level3to5", tmp_path / "math", tmp_path / "out2", *NO_VAL)
    arguments = ["math_level3to5", "--source", str(tmp_path / "math/default/test"), "--out-dir", str(tmp_path / "out3")]
    assert main([*arguments, *NO_VAL]) == 0  # nothing below that folder names a split
    arguments[2] = str(write(tmp_path / "only/test/0.parquet", [row]).parents[1])
    assert main([*arguments, *NO_VAL]) == 2
    assert "--split 'train': nothing in" in capsys.readouterr().err


def test_only_names_that_start_with_the_split_are_of_it(tmp_path: Path) -> None:
    for name in ("train-0.jsonl", "my-train.jsonl", "notes.json", "test.jsonl"):
        (tmp_path / name).write_text("{}\n")
    assert [file.name for file in source_files(Source(str(tmp_path), "train"))] == ["train-0.jsonl"]
    (tmp_path / "train-0.jsonl").unlink()
    (tmp_path / "test.jsonl").unlink()
    names = [file.name for file in source_files(Source(str(tmp_path), "train"))]
    assert names == ["my-train.jsonl", "notes.json"]  # none is named after a split: all


def test_a_copy_of_olympiad_bench_gives_english_mathematics_without_images(tmp_path: Path) -> None:
    def row(question: str, subject: str | None) -> dict[str, Any]:
        return {"question": question, "final_answer": ["2"], "subject": subject, "language": "English"}

    for config, subject in (("OE_TO_maths_en_COMP", "Math"), ("OE_TO_physics_en_COMP", "Physics")):
        write(tmp_path / "bench" / config / f"{config}.parquet", [row(f"{subject}?", subject)])
    assert prepared("olympiad_bench", tmp_path / "bench", tmp_path / "out") == {"Math?"}
    flat = [row("Math?", "Math"), row("Physics?", "Physics"), row("Unsaid?", None)]
    write(tmp_path / "flat/all.parquet", flat)
    assert prepared("olympiad_bench", tmp_path / "flat", tmp_path / "out2") == {"Math?", "Unsaid?"}


def test_a_copy_of_simplerl_gives_its_own_folder(tmp_path: Path) -> None:
    for folder in ("simplelr_abel_level3to5", "simplelr_qwen_level3to5"):
        for split in ("train", "test"):
            rows = [{"question": f"{folder} {split}", "gt_answer": "1"}]
            write(tmp_path / "zoo" / folder / f"{split}.parquet", rows)
    found = prepared("simplerl_math", tmp_path / "zoo", tmp_path / "out", *NO_VAL)
    assert found == {"simplelr_qwen_level3to5 train"}
    inside = tmp_path / "zoo/simplelr_abel_level3to5"
    found = prepared("simplerl_math", inside, tmp_path / "out2", *NO_VAL)
    assert found == {"simplelr_abel_level3to5 train"}
