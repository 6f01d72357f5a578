# SPDX-License-Identifier: Apache-2.0
"""Preparation of a training set: sources, outputs, records, reruns and errors."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import preparation
from data_prep.__main__ import main
from data_prep.prompts import build_prompt
from data_prep.tokens import token_counter
from helpers.data_samples import write_lines, write_parquet, write_tokenizer
from helpers.paths import ROOT


def make_row(problem: Any, solution: Any) -> dict[str, Any]:
    """A row in the schema of NuminaMath-TIR."""
    messages = [{"role": "user", "content": problem}, {"role": "assistant", "content": solution}]
    return {"problem": problem, "solution": solution, "messages": messages}


def good_rows(number: int) -> list[dict[str, Any]]:
    return [make_row(f"What is {n} + 1?", f"We add: \\boxed{{{n}}} no, \\boxed{{{n + 1}}}.") for n in range(number)]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def run(source: Path | str, out: Path, *more: str) -> int:
    return main(["numina_math_tir", "--source", str(source), "--out-dir", str(out), *more])


def read(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


def test_parquet_lines_array_and_folder_give_the_same_rows(tmp_path: Path) -> None:
    rows = good_rows(30)
    sources = [
        write_parquet(tmp_path / "raw.parquet", rows),
        write_lines(tmp_path / "raw.jsonl", rows),
        write_parquet(tmp_path / "folder/data/train-00000-of-00002.parquet", rows[:20]).parents[1],
    ]
    write_lines(tmp_path / "folder/data/train-00001-of-00002.jsonl", rows[20:])
    write_lines(tmp_path / "folder/data/test-00000-of-00001.jsonl", good_rows(99))  # another split
    (tmp_path / "array.json").write_text(json.dumps(rows, indent=1))
    sources.append(tmp_path / "array.json")
    outputs = []
    for number, source in enumerate(sources):
        assert run(source, tmp_path / f"out{number}", "--val-size", "5") == 0
        outputs.append([(tmp_path / f"out{number}/{name}.parquet").read_bytes() for name in ("train", "val")])
    assert outputs[0] == outputs[1] == outputs[2] == outputs[3]
    train, val = read(tmp_path / "out0/train.parquet"), read(tmp_path / "out0/val.parquet")
    assert (len(train), len(val)) == (25, 5)
    for row in train + val:  # problem n has answer n + 1
        assert row["reward_model"] == {"style": "rule", "ground_truth": str(row["extra_info"]["index"] + 1)}


def test_counts_are_printed_and_recorded_with_the_checksum(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = tmp_path / "raw.jsonl"
    write_lines(source, [*good_rows(4), make_row("x", "none"), make_row("y", r"\boxed{1"), good_rows(1)[0]])
    with source.open("ab") as file:
        file.write(b"{broken\n\n\xff\xfe\n")  # two malformed lines and an empty one, which does not count
    assert run(source, tmp_path / "out", "--val-size", "1") == 0
    printed = capsys.readouterr().out
    assert "source rows 9, usable 4" in printed and "dropped, malformed row: 2" in printed
    record = json.loads((tmp_path / "out/train.parquet.json").read_text())
    assert record["rows"] == 3 and record["counts"]["written"] == {"train": 3, "val": 1}
    dropped = {reason: count for reason, count in record["counts"]["dropped"].items() if count}
    assert dropped == {"malformed row": 2, "no boxed answer": 1, "unbalanced box": 1, "duplicate problem": 1}
    checksum = subprocess.run(["sha256sum", tmp_path / "out/train.parquet"], capture_output=True, text=True).stdout
    assert record["sha256"] == checksum.split()[0]
    assert (
        record["fingerprint"]["options"]["val_size"] == 1
        and record["fingerprint"]["options"]["source"]["revision"] is None
    )


def test_a_second_run_does_nothing_and_force_or_a_change_redoes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source, out = write_lines(tmp_path / "raw.jsonl", good_rows(20)), tmp_path / "out"
    arguments = ("--val-size", "5")
    assert run(source, out, *arguments) == 0
    first, stamp = snapshot(out), (out / "train.parquet").stat().st_mtime_ns
    capsys.readouterr()
    assert run(source, out, *arguments) == 0
    assert "up to date" in capsys.readouterr().out
    assert (out / "train.parquet").stat().st_mtime_ns == stamp
    assert run(source, out, *arguments, "--force") == 0
    assert (out / "train.parquet").stat().st_mtime_ns != stamp and snapshot(out) == first
    assert run(source, out, *arguments, "--seed", "1") == 0
    assert snapshot(out)["val.parquet"] != first["val.parquet"]
    write_lines(source, good_rows(21))
    capsys.readouterr()
    assert run(source, out, *arguments, "--seed", "1") == 0
    assert "source rows 21" in capsys.readouterr().out
    (out / "train.parquet").write_bytes(b"damaged")
    assert run(source, out, *arguments, "--seed", "1") == 0
    assert len(read(out / "train.parquet")) == 16


def test_a_val_set_of_before_does_not_survive_val_size_0(tmp_path: Path) -> None:
    source, out = write_lines(tmp_path / "raw.jsonl", good_rows(20)), tmp_path / "out"
    assert run(source, out, "--val-size", "5") == 0
    assert run(source, out, "--val-size", "0") == 0
    assert sorted(snapshot(out)) == ["train.parquet", "train.parquet.json"]
    assert len(read(out / "train.parquet")) == 20


def test_all_wrong_options_are_named_at_once_and_outputs_stay(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source, out = write_lines(tmp_path / "raw.jsonl", good_rows(20)), tmp_path / "out"
    assert run(source, out, "--val-size", "5") == 0
    before = snapshot(out)
    wrong = ["--subset-size", "0", "--val-size", "-1", "--template", "chatty", "--max-prompt-tokens", "9"]
    assert run(tmp_path / "absent.parquet", out, *wrong) == 2
    lines = capsys.readouterr().err.splitlines()
    expected = ["--subset-size 0", "--val-size -1", "--template 'chatty'", "--max-prompt-tokens 9", "absent.parquet"]
    assert len(lines) == len(expected)
    assert all(key in line for key, line in zip(expected, lines, strict=True))
    assert snapshot(out) == before


def test_wrong_sources_are_refused_and_outputs_stay(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    assert run(write_lines(tmp_path / "raw.jsonl", good_rows(20)), out, "--val-size", "5") == 0
    before = snapshot(out)
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 and no more")
    text = pa.array([b"\xff\xfe"]).view(pa.string())
    pq.write_table(pa.table({"problem": text, "solution": text}), tmp_path / "bytes.parquet")
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "array.json").write_text(json.dumps(good_rows(3))[:-1])
    write_lines(tmp_path / "empty.jsonl", [])
    cases = {
        write_parquet(tmp_path / "other.parquet", [{"question": "q", "solution": "s"}]): "no column problem (found: ",
        write_lines(tmp_path / "other.jsonl", [{"question": "q"}]): "no column problem, solution (found: question)",
        tmp_path / "array.json": "is a damaged JSON array",
        tmp_path / "empty.jsonl": "0 usable rows",
        tmp_path / "damaged.parquet": "cannot be read as parquet",
        tmp_path / "bytes.parquet": "cannot be read as parquet",
        tmp_path / "notes.txt": "unknown suffix '.txt'",
        tmp_path / "nothing": "the folder holds no file of .parquet",
        out: "the outputs would join or replace the source",
    }
    for source, message in cases.items():
        assert run(source, out, "--val-size", "5") == 2, source
        assert message in capsys.readouterr().err
    assert snapshot(out) == before


def test_an_unreadable_source_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    source = write_lines(tmp_path / "raw.jsonl", good_rows(20))

    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(preparation, "sha256_of", refuse)
    assert run(source, tmp_path / "out") == 2
    assert "cannot be read ([Errno 13] Permission denied" in capsys.readouterr().err


def test_someone_elses_file_is_replaced_only_with_force(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source, out = write_lines(tmp_path / "raw.jsonl", good_rows(20)), tmp_path / "out"
    theirs = write_parquet(out / "train.parquet", [{"precious": 1}])
    assert run(source, out, "--val-size", "5") == 2
    assert "was not written by this program" in capsys.readouterr().err and read(theirs) == [{"precious": 1}]
    assert run(source, out, "--val-size", "5", "--force") == 0 and len(read(theirs)) == 15


def test_a_failed_write_leaves_the_outputs_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = write_lines(tmp_path / "raw.jsonl", good_rows(20)), tmp_path / "out"
    assert run(source, out, "--val-size", "5") == 0
    before = snapshot(out)
    written = []

    def fail_at_the_second(table: pa.Table, path: Path) -> None:
        written.append(path)
        if len(written) == 2:
            raise OSError("disk full")
        path.write_bytes(b"half")

    monkeypatch.setattr(pq, "write_table", fail_at_the_second)
    assert run(source, out, "--val-size", "4") == 2
    assert len(written) == 2 and snapshot(out) == before


def test_a_hub_source_is_loaded_at_its_commit_and_rerun_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    import datasets

    calls = []

    def load(name: str, config: str | None, *, split: str, revision: str | None, data_dir: str | None) -> Any:
        calls.append((name, config, split, revision, data_dir))
        return datasets.Dataset.from_list(good_rows(20))

    commits = ["abc"]
    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(preparation, "hub_commit", lambda source: commits[-1])
    arguments = [
        "numina_math_tir",
        "--out-dir",
        str(tmp_path / "out"),
        "--val-size",
        "5",
        "--split",
        "test",
        "--revision",
        "main",
    ]
    for commit, loads in (("abc", 1), ("abc", 1), ("def", 2), (None, 2)):  # None: offline, no known difference
        commits.append(commit)
        assert main(arguments) == 0
        assert len(calls) == loads
    assert calls == [("AI-MO/NuminaMath-TIR", None, "test", commit, None) for commit in ("abc", "def")]
    record = json.loads((tmp_path / "out/train.parquet.json").read_text())
    assert record["fingerprint"]["commit"] == "def" and record["fingerprint"]["options"]["source"]["revision"] == "main"

    def refuse(*arguments: Any, **options: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    capsys.readouterr()
    assert main([*arguments, "--force"]) == 2
    assert "ConnectionError: no route" in capsys.readouterr().err


def test_tokens_are_counted_with_the_chat_template_applied(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    # <s> user What is 5 + 1? assistant: 1 + 1 + 5 + 1
    assert token_counter(str(tokenizer))(build_prompt("What is 5 + 1?", "plain")) == 8
    source = write_lines(tmp_path / "raw.jsonl", [*good_rows(3), make_row("What is 5 plus 6 ?", r"\boxed{11}")])
    filters = ("--template", "plain", "--val-size", "0", "--tokenizer", str(tokenizer))
    assert run(source, tmp_path / "out", *filters, "--max-prompt-tokens", "8") == 0
    assert "prompt too long: 1" in capsys.readouterr().out
    config = json.loads((tokenizer / "tokenizer_config.json").read_text())
    limit = ("--max-prompt-tokens", "8")
    assert run(source, tmp_path / "out", *filters, *limit) == 0 and "up to date" in capsys.readouterr().out
    (tokenizer / "chat_template.jinja").write_text(
        "one two three " + config["chat_template"]
    )  # takes precedence over the config's
    assert run(source, tmp_path / "out", *filters, *limit) == 2
    assert "0 usable rows" in capsys.readouterr().err
    (tokenizer / "chat_template.jinja").unlink()
    spaced = config["chat_template"].replace("{{ bos_token }}", "{{ bos_token }} ")
    templates = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": config["chat_template"]}]
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": templates}))
    assert token_counter(str(tokenizer))(build_prompt("What is 5 + 1?", "plain")) == 8
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(config | {"bos_token": None, "chat_template": spaced}))
    assert token_counter(str(tokenizer))(build_prompt("What is 5 + 1?", "plain")) == 7  # no <s>
    serialized = json.loads((tokenizer / "tokenizer.json").read_text())
    truncation = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    (tokenizer / "tokenizer.json").write_text(json.dumps(serialized | {"truncation": truncation}))
    assert token_counter(str(tokenizer))(build_prompt("What is 5 + 1?", "plain")) == 7  # without truncation
    (tokenizer / "tokenizer_config.json").unlink()
    assert run(source, tmp_path / "out2", *filters, "--max-prompt-tokens", "8") == 2
    assert "has no chat template" in capsys.readouterr().err


def test_an_unusable_tokenizer_is_one_line_and_outputs_stay(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source, out = write_lines(tmp_path / "raw.jsonl", good_rows(3)), tmp_path / "out"
    assert run(source, out, "--val-size", "0") == 0
    before = snapshot(out)
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    damages = {
        "tokenizer.json": ("{}", "cannot be read (ValueError: tokenizer.json"),
        "tokenizer_config.json": ("[]", "cannot be read (AttributeError"),
        "chat_template.jinja": (template, "its chat template refuses ['system', 'user'] (TemplateError: no system)"),
    }
    for number, (name, (content, message)) in enumerate(damages.items()):
        tokenizer = write_tokenizer(tmp_path / f"tokenizer{number}")
        (tokenizer / name).write_text(content)
        filters = ("--template", "system", "--tokenizer", str(tokenizer), "--max-prompt-tokens", "99")
        assert run(source, out, "--val-size", "0", *filters) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1
    assert snapshot(out) == before


def test_no_torch_is_imported_by_a_whole_run(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "raw.jsonl", good_rows(20))
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    code = """
import sys
from data_prep.__main__ import main
assert main(["numina_math_tir", *sys.argv[1:]]) == 0
import datasets
print(sorted({name.split(".")[0] for name in sys.modules} & {"torch", "ray", "vllm", "verl", "math_verify"}))
"""
    arguments = ["--source", source, "--out-dir", tmp_path / "out", "--val-size", "5"]
    arguments += ["--tokenizer", tokenizer, "--max-prompt-tokens", "100"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
