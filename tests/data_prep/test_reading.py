# SPDX-License-Identifier: Apache-2.0
"""Local sources: downloaded repositories with the rows of the hub, and all sorts of JSON and parquet files."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import preparation, tokens
from data_prep.__main__ import main
from data_prep.reading import Source, hub_commit, source_files
from helpers.data_samples import write_parquet, write_tokenizer


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
            write_parquet(hub / config / f"{split}-00000-of-00001.parquet", rows)
            write_parquet(converted / config / split / "0000.parquet", rows)  # refs/convert/parquet
    for number, folder in enumerate((hub, converted)):
        assert prepared("gsm8k_test", folder, tmp_path / f"test{number}") == {"main test?"}
        assert prepared("gsm8k", folder, tmp_path / f"train{number}", *NO_VAL) == {"main train?"}
        part = folder / "socratic"
        assert prepared("gsm8k", part, tmp_path / f"part{number}", *NO_VAL) == {"socratic train?"}


def test_the_folder_names_the_split_where_the_file_name_does_not(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for split in ("train", "test"):
        for number in range(2):
            row = {"problem": f"{split} {number}", "answer": "1", "level": 5, "solution": "\\boxed{1}"}
            write_parquet(tmp_path / "math/default" / split / f"000{number}.parquet", [row])
    found = prepared("math_level3to5", tmp_path / "math", tmp_path / "out", *NO_VAL)
    assert found == {"train 0", "train 1"}
    # A file name takes precedence over a folder name.
    write_parquet(tmp_path / "math/train/test-0.parquet", [{"problem": "named test", "answer": "1", "level": 5}])
    assert "named test" not in prepared("math_level3to5", tmp_path / "math", tmp_path / "out2", *NO_VAL)
    arguments = ["math_level3to5", "--source", str(tmp_path / "math/default/test"), "--out-dir", str(tmp_path / "out3")]
    assert main([*arguments, *NO_VAL]) == 0  # no path below that folder names a split
    arguments[2] = str(write_parquet(tmp_path / "only/test/0.parquet", [row]).parents[1])
    assert main([*arguments, *NO_VAL]) == 2
    assert "--split 'train': nothing in" in capsys.readouterr().err


def test_only_names_that_start_with_the_split_are_of_it(tmp_path: Path) -> None:
    for name in ("train-0.jsonl", "my-train.jsonl", "notes.json", "test.jsonl"):
        (tmp_path / name).write_text("{}\n")
    assert [file.name for file in source_files(Source(str(tmp_path), "train"))] == ["train-0.jsonl"]
    (tmp_path / "train-for-test.jsonl").write_text("{}\n")
    assert [file.name for file in source_files(Source(str(tmp_path), "test"))] == ["test.jsonl"]
    (tmp_path / "train-for-test.jsonl").unlink()
    (tmp_path / "train-0.jsonl").unlink()
    (tmp_path / "test.jsonl").unlink()
    names = [file.name for file in source_files(Source(str(tmp_path), "train"))]
    assert names == ["my-train.jsonl", "notes.json"]  # no file is named after a split: all are read


def test_a_split_may_have_any_name(tmp_path: Path) -> None:
    for name in ("train.jsonl", "dev-0.jsonl", "gold/0.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}\n")
    for split, name in (("dev", "dev-0.jsonl"), ("gold", "0.jsonl"), ("train", "train.jsonl")):
        assert [file.name for file in source_files(Source(str(tmp_path), split))] == [name]


def test_a_copy_of_olympiad_bench_gives_english_text_only_mathematics(tmp_path: Path) -> None:
    def row(question: str, subject: str | None) -> dict[str, Any]:
        return {"question": question, "final_answer": ["2"], "subject": subject, "language": "English"}

    for config, subject in (("OE_TO_maths_en_COMP", "Math"), ("OE_TO_physics_en_COMP", "Physics")):
        write_parquet(tmp_path / "bench" / config / f"{config}.parquet", [row(f"{subject}?", subject)])
    assert prepared("olympiad_bench", tmp_path / "bench", tmp_path / "out") == {"Math?"}
    flat = [row("Math?", "Math"), row("Physics?", "Physics"), row("Unsaid?", None)]
    write_parquet(tmp_path / "flat/all.parquet", flat)
    assert prepared("olympiad_bench", tmp_path / "flat", tmp_path / "out2") == {"Math?", "Unsaid?"}


def test_a_copy_of_simplerl_gives_its_own_folder(tmp_path: Path) -> None:
    for folder in ("simplelr_abel_level3to5", "simplelr_qwen_level3to5"):
        for split in ("train", "test"):
            rows = [{"question": f"{folder} {split}", "gt_answer": "1"}]
            write_parquet(tmp_path / "zoo" / folder / f"{split}.parquet", rows)
    found = prepared("simplerl_math", tmp_path / "zoo", tmp_path / "out", *NO_VAL)
    assert found == {"simplelr_qwen_level3to5 train"}
    inside = tmp_path / "zoo/simplelr_abel_level3to5"
    found = prepared("simplerl_math", inside, tmp_path / "out2", *NO_VAL)
    assert found == {"simplelr_abel_level3to5 train"}


def test_a_file_that_was_cut_off_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    lines = "".join(json.dumps({"problem": f"What is {n}?", "solution": f"\\boxed{{{n}}}"}) + "\n" for n in range(5))
    source = tmp_path / "raw.jsonl"
    arguments = ["numina_math_tir", "--source", str(source), "--out-dir", str(tmp_path / "out"), *NO_VAL]
    for text in (lines[:-20], "[1]\n" + lines[:-20]):
        source.write_text(text)
        assert main(arguments) == 2
        assert f"--source {source}: ends in the middle of a row" in capsys.readouterr().err
    for text in (lines[:-1], lines + "null", lines + "  ", lines + "}"):  # an unterminated but complete last line
        source.write_text(text)
        assert main([*arguments, "--force"]) == 0
        assert "usable 5" in capsys.readouterr().out


def test_a_byte_order_mark_is_not_part_of_the_text(tmp_path: Path) -> None:
    rows = [{"problem": f"What is {n}?", "solution": f"\\boxed{{{n}}}"} for n in range(2)]
    for name, text in (("a.json", json.dumps(rows)), ("b.jsonl", "\n".join(map(json.dumps, rows)))):
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        found = prepared("numina_math_tir", tmp_path / name, tmp_path / name[0], *NO_VAL)
        assert found == {"What is 0?", "What is 1?"}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("is_array", [True, False])
def test_unicode_encodings_are_recognized(tmp_path: Path, encoding: str, is_array: bool) -> None:
    rows = [{"problem": f"Cut {n} \u0a0a pie\u0301s \u2028?", "solution": f"\\boxed{{{n}}}"} for n in range(3)]
    text = json.dumps(rows, ensure_ascii=False)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "raw.json").write_bytes((text if is_array else lines).encode(encoding))
    assert prepared("numina_math_tir", tmp_path / "raw.json", tmp_path / "out", *NO_VAL) == {
        row["problem"] for row in rows
    }


@pytest.mark.parametrize("is_array", [True, False])
def test_other_encodings_are_refused(tmp_path: Path, is_array: bool, capsys: pytest.CaptureFixture) -> None:
    source = tmp_path / "raw.json"
    row = json.dumps({"problem": "Gauß?", "solution": "\\boxed{1}"}, ensure_ascii=False)
    arguments = ["numina_math_tir", "--source", str(source), "--out-dir", str(tmp_path / "out"), *NO_VAL]
    source.write_bytes((f"[{row}]" if is_array else row + "\n").encode("latin-1"))
    assert main(arguments) == 2
    assert f"--source {source}: is JSON, but not in UTF-8 (byte 0xdf" in capsys.readouterr().err
    source.write_bytes(row.encode("utf-16")[:-1])
    assert main(arguments) == 2
    assert "is not valid UTF-16 (" in capsys.readouterr().err


def test_an_object_over_several_lines_is_not_a_file_of_lines(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = tmp_path / "raw.json"
    source.write_text(json.dumps({"train": [{"problem": "P", "solution": "\\boxed{1}"}]}, indent=1))
    assert main(["numina_math_tir", "--source", str(source), "--out-dir", str(tmp_path / "out"), *NO_VAL]) == 2
    assert "no column problem, solution" in capsys.readouterr().err


def test_lines_after_an_array_are_read(tmp_path: Path) -> None:
    source = tmp_path / "raw.json"
    rows = [json.dumps({"problem": f"What is {n}?", "solution": f"\\boxed{{{n}}}"}) for n in range(2)]
    source.write_text("[1, 2]\n" + "\n".join(rows) + "\n")
    assert prepared("numina_math_tir", source, tmp_path / "out", *NO_VAL) == {"What is 0?", "What is 1?"}


def test_json_nested_too_deep_is_damage_or_a_malformed_row(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = tmp_path / "raw.json"
    source.write_text("[" * 100_000)
    arguments = ["numina_math_tir", "--source", str(source), "--out-dir", str(tmp_path / "out"), *NO_VAL]
    assert main(arguments) == 2
    assert "is a damaged JSON array" in capsys.readouterr().err
    good = json.dumps({"problem": "What is 0?", "solution": "\\boxed{0}"})
    source.write_text('{"x":' + "[" * 100_000 + "\n" + good + "\n")
    assert main(arguments) == 0
    assert "malformed row: 1" in capsys.readouterr().out


def test_values_that_python_cannot_hold_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    late = pa.array([4_000_000], pa.int32()).cast(pa.date32())  # the year 12921
    nowhere = pa.array([1], pa.timestamp("us", tz="No/Where"))
    good = pa.array(["\\boxed{1}"])
    for column in (late, nowhere):
        source = tmp_path / "raw.parquet"
        pq.write_table(pa.table({"problem": column, "solution": good}), source)
        assert main(["numina_math_tir", "--source", str(source), "--out-dir", str(tmp_path / "out"), *NO_VAL]) == 2
        assert f"--source {source}: cannot be read as parquet (" in capsys.readouterr().err
    table = pa.table({"problem": ["P"], "solution": good, "date": late, "when": nowhere})  # unread columns
    pq.write_table(table, source)
    assert prepared("numina_math_tir", source, tmp_path / "out", *NO_VAL) == {"P"}


def test_a_folder_named_like_a_repository_needs_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    write_parquet(tmp_path / "openai/gsm8k/main/train.parquet", [{"question": "Q?", "answer": "#### 1"}])
    assert main(["gsm8k", "--out-dir", "out", *NO_VAL]) == 2
    assert "--source 'openai/gsm8k': a local path of this name" in capsys.readouterr().err
    assert not Source("openai/gsm8k", "train", on_hub=True).is_local and Source("openai/gsm8k", "train").is_local
    assert prepared("gsm8k", Path("openai/gsm8k"), tmp_path / "out", *NO_VAL) == {"Q?"}


def test_unreadable_files_are_reported_with_their_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    source = write_parquet(tmp_path / "raw.parquet", [{"problem": "What is 1?", "solution": "\\boxed{1}"}])
    held_out = write_parquet(tmp_path / "test.parquet", [{"extra_info": {"problem": "What is 2?"}}])
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    arguments = ["numina_math_tir", "--source", str(source), "--held-out", str(held_out), "--out-dir", "out", *NO_VAL]
    arguments += ["--tokenizer", str(tokenizer), "--max-prompt-tokens", "99"]
    monkeypatch.chdir(tmp_path)
    for option, path in (("source", source), ("held-out", held_out), ("tokenizer", tokenizer / "tokenizer.json")):

        def refuse(file: Path, path: Path = path) -> str:
            if file == path:
                raise PermissionError(13, "Permission denied", str(file))
            return ""

        for module in (preparation, tokens):
            monkeypatch.setattr(module, "sha256_of", refuse)
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: --{option} ") and "Permission denied" in error and len(error.splitlines()) == 1


def test_an_out_dir_inside_the_source_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = write_parquet(tmp_path / "raw/train.parquet", [{"problem": "P", "solution": "\\boxed{1}"}])
    for out in (source.parent, source.parent / "deep/out"):
        assert main(["numina_math_tir", "--source", str(source.parent), "--out-dir", str(out), *NO_VAL]) == 2
        assert "the outputs would join or replace the source" in capsys.readouterr().err
    assert [path.name for path in source.parent.iterdir()] == ["train.parquet"]
    assert main(["numina_math_tir", "--source", str(source), "--out-dir", str(source.parent), *NO_VAL]) == 2
    assert "the outputs would join or replace the source" in capsys.readouterr().err


# The hub ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("revision", [None, "v1"])
def test_the_commit_of_a_hub_source_is_that_of_its_revision(monkeypatch: pytest.MonkeyPatch, revision: str) -> None:
    class Api:
        def dataset_info(self, name: str, *, revision: str | None) -> Any:
            return SimpleNamespace(sha=f"{name}@{revision}")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert hub_commit(Source("someone/set", "train", revision=revision)) == f"someone/set@{revision}"


@pytest.mark.parametrize("error", [ConnectionError("no route"), ValueError("no such set"), OSError("offline")])
def test_an_unknown_commit_is_none(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    class Api:
        def dataset_info(self, name: str, *, revision: str | None) -> Any:
            raise error

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert hub_commit(Source("someone/set", "train")) is None


def test_a_hub_source_without_the_columns_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    rows = datasets.Dataset.from_list([{"question": "Q?", "text": "x"}])
    monkeypatch.setattr(datasets, "load_dataset", lambda *arguments, **options: rows)
    monkeypatch.setattr(preparation, "hub_commit", lambda source: None)
    assert main(["gsm8k", "--out-dir", str(tmp_path / "out")]) == 2
    assert "--source openai/gsm8k: no column answer (found: question, text)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
