# SPDX-License-Identifier: Apache-2.0
"""NuminaMath preparation: rows, drops, sources, outputs and errors, on small files in the original schema."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import numina_math, numina_sources
from data_prep.numina_math import INSTRUCTION, Drop, build_prompt, convert_row, convert_rows, main, split_rows
from data_prep.numina_sources import Options, PrepError

ROOT = Path(__file__).resolve().parents[1]


def make_row(problem: Any, solution: Any) -> dict[str, Any]:
    """A row in the schema of NuminaMath-TIR."""
    messages = [{"role": "user", "content": problem}, {"role": "assistant", "content": solution}]
    return {"problem": problem, "solution": solution, "messages": messages}


def good_rows(number: int) -> list[dict[str, Any]]:
    return [make_row(f"What is {n} + 1?", f"We add: \\boxed{{{n}}} no, \\boxed{{{n + 1}}}.") for n in range(number)]


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def run(source: Path | str, out: Path, *more: str) -> int:
    return main(["--source", str(source), "--out-dir", str(out), *more])


def read(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (None, Drop.MALFORMED_ROW),
        ([1, 2], Drop.MALFORMED_ROW),
        ({}, Drop.MALFORMED_ROW),
        ({"problem": "2+2?"}, Drop.MALFORMED_ROW),
        (make_row("2+2?", None), Drop.MALFORMED_ROW),
        (make_row(4, r"\boxed{4}"), Drop.MALFORMED_ROW),
        (make_row("bad \ud800", r"\boxed{4}"), Drop.MALFORMED_ROW),
        (make_row(" \n", r"\boxed{4}"), Drop.NO_PROBLEM),
        (make_row("2+2?", "The answer is 4."), Drop.NO_BOX),
        (make_row("2+2?", ""), Drop.NO_BOX),
        (make_row("2+2?", r"\boxed{4} or \boxed{}"), Drop.EMPTY_BOX),
        (make_row("2+2?", r"\boxed{\text{ }}"), Drop.EMPTY_BOX),
        (make_row("2+2?", r"\boxed{\frac{4}{1}"), Drop.UNBALANCED_BOX),
        (make_row("2+2?", r"\boxed{3}, better \boxed{4"), Drop.UNBALANCED_BOX),
        (make_row("2+2?", r"\boxed{" + "4" * 1_001 + "}"), Drop.ANSWER_TOO_LONG),
    ],
)
def test_a_row_without_usable_answer_is_dropped_with_its_reason(row: Any, reason: Drop) -> None:
    assert convert_row(row, 0, Options()) is reason


def test_a_row_becomes_what_verl_reads() -> None:
    row = make_row(" What is half? ", r"It is \boxed{2}, no, \boxed{ \frac{1}{2} }.")
    assert convert_row(row, 7, Options(data_source="numina")) == {
        "data_source": "numina",
        "prompt": [{"role": "user", "content": f"What is half?\n\n{INSTRUCTION}"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": r"\frac{1}{2}"},
        "extra_info": {"split": "", "index": 7, "problem": "What is half?"},
    }


def test_templates_differ_only_in_where_the_instruction_goes() -> None:
    assert build_prompt("P", "plain") == [{"role": "user", "content": "P"}]
    assert build_prompt("P", "boxed") == [{"role": "user", "content": "P\n\n" + INSTRUCTION}]
    system = [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": "P"}]
    assert build_prompt("P", "system") == system
    assert "\\boxed{}" in INSTRUCTION


def test_length_limits_keep_a_prompt_of_exactly_that_length() -> None:
    row = make_row("12345", r"\boxed{4}")
    assert isinstance(convert_row(row, 0, Options(template="plain", max_prompt_chars=5)), dict)
    assert convert_row(row, 0, Options(template="plain", max_prompt_chars=4)) is Drop.PROMPT_TOO_LONG
    assert isinstance(convert_row(row, 0, Options(max_prompt_tokens=9), lambda messages: 9), dict)
    assert convert_row(row, 0, Options(max_prompt_tokens=8), lambda messages: 9) is Drop.PROMPT_TOO_LONG


def test_duplicates_differ_in_white_space_only_and_the_first_stays() -> None:
    rows = [make_row("a  b", r"\boxed{1}"), make_row("a\nb ", r"\boxed{2}"), make_row("ab", r"\boxed{3}")]
    kept, dropped = convert_rows(rows, Options())
    assert [row["reward_model"]["ground_truth"] for row in kept] == ["1", "3"]
    assert dropped == {Drop.DUPLICATE_PROBLEM: 1}


damage = st.one_of(
    st.none(), st.integers(), st.text(max_size=30), st.lists(st.none(), max_size=2), st.floats(),
    st.lists(st.sampled_from(["\\boxed{", "{", "}", "\\", "5", " ", "\ud800"]), max_size=8).map("".join),
)  # fmt: skip
damaged_rows = st.one_of(
    damage, st.dictionaries(st.sampled_from(["problem", "solution", "messages", "x"]), damage, max_size=4)
)


@settings(max_examples=300)
@given(st.lists(damaged_rows, max_size=12))
def test_damaged_rows_never_crash_and_the_counts_add_up(rows: list[Any]) -> None:
    kept, dropped = convert_rows(rows, Options(max_prompt_chars=120))
    assert len(kept) + dropped.total() == len(rows)
    for row in kept:
        assert row["reward_model"]["ground_truth"].strip() and row["extra_info"]["problem"].strip()
        pa.Table.from_pylist([row], schema=numina_math._schema())


def indices(rows: list[dict[str, Any]]) -> list[int]:
    return [row["extra_info"]["index"] for row in rows]


def test_the_split_is_disjoint_seeded_and_val_does_not_depend_on_the_subset() -> None:
    kept, _ = convert_rows(good_rows(50), Options())
    whole = split_rows(kept, Options(val_size=10, seed=3))
    part = split_rows(kept, Options(val_size=10, seed=3, subset_size=15))
    other = split_rows(kept, Options(val_size=10, seed=4))
    assert sorted(indices(whole["train"]) + indices(whole["val"])) == list(range(50))
    assert indices(part["val"]) == indices(whole["val"]) == sorted(indices(whole["val"]))
    assert len(part["train"]) == 15 and set(indices(part["train"])) < set(indices(whole["train"]))
    assert indices(other["val"]) != indices(whole["val"])
    assert {row["extra_info"]["split"] for row in whole["val"]} == {"val"}
    assert list(split_rows(kept, Options(val_size=0))) == ["train"]


def test_too_few_usable_rows_is_an_error_with_both_numbers() -> None:
    kept, _ = convert_rows(good_rows(5), Options())
    with pytest.raises(PrepError, match=r"5 usable rows, 6 are needed: lower --val-size or --subset-size"):
        split_rows(kept, Options(val_size=2, subset_size=4))


def test_parquet_lines_and_folder_give_the_same_rows(tmp_path: Path) -> None:
    rows = good_rows(30)
    sources = [
        write_parquet(tmp_path / "raw.parquet", rows),
        write_lines(tmp_path / "raw.jsonl", rows),
        write_parquet(tmp_path / "folder/data/train-00000-of-00002.parquet", rows[:20]).parents[1],
    ]
    write_lines(tmp_path / "folder/data/train-00001-of-00002.jsonl", rows[20:])
    write_lines(tmp_path / "folder/data/test-00000-of-00001.jsonl", good_rows(99))  # another split
    outputs = []
    for number, source in enumerate(sources):
        assert run(source, tmp_path / f"out{number}", "--val-size", "5") == 0
        outputs.append([(tmp_path / f"out{number}/{name}.parquet").read_bytes() for name in ("train", "val")])
    assert outputs[0] == outputs[1] == outputs[2]
    train, val = read(tmp_path / "out0/train.parquet"), read(tmp_path / "out0/val.parquet")
    assert (len(train), len(val)) == (25, 5)
    for row in train + val:  # problem n has answer n + 1
        assert row["reward_model"] == {"style": "rule", "ground_truth": str(row["extra_info"]["index"] + 1)}


def test_counts_are_printed_and_recorded_with_the_checksum(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = tmp_path / "raw.jsonl"
    write_lines(source, [*good_rows(4), make_row("x", "none"), make_row("y", r"\boxed{1"), good_rows(1)[0]])
    with source.open("ab") as file:
        file.write(b"{broken\n\n\xff\xfe\n")  # two malformed lines and an empty one, which is no row
    assert run(source, tmp_path / "out", "--val-size", "1") == 0
    printed = capsys.readouterr().out
    assert "source rows 9, usable 4" in printed and "dropped, malformed row: 2" in printed
    record = json.loads((tmp_path / "out/train.parquet.json").read_text())
    assert record["rows"] == 3 and record["counts"]["written"] == {"train": 3, "val": 1}
    dropped = {reason: count for reason, count in record["counts"]["dropped"].items() if count}
    assert dropped == {"malformed row": 2, "no boxed answer": 1, "unbalanced box": 1, "duplicate problem": 1}
    checksum = subprocess.run(["sha256sum", tmp_path / "out/train.parquet"], capture_output=True, text=True).stdout
    assert record["sha256"] == checksum.split()[0]
    assert record["fingerprint"]["options"]["val_size"] == 1 and record["fingerprint"]["options"]["revision"] is None


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
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "nothing").mkdir()
    write_lines(tmp_path / "array.json", [good_rows(3)])
    write_lines(tmp_path / "empty.jsonl", [])
    cases = {
        write_parquet(tmp_path / "other.parquet", [{"question": "q", "solution": "s"}]): "no column problem (found: ",
        write_lines(tmp_path / "other.jsonl", [{"question": "q"}]): "no column problem, solution (found: question)",
        tmp_path / "array.json": "one JSON object on each line",
        tmp_path / "empty.jsonl": "0 usable rows",
        tmp_path / "damaged.parquet": "cannot be read as parquet",
        tmp_path / "notes.txt": "unknown suffix '.txt'",
        tmp_path / "nothing": "the folder holds no file of .parquet",
        out: "the outputs would join or replace the source",
    }
    for source, message in cases.items():
        assert run(source, out, "--val-size", "5") == 2, source
        assert message in capsys.readouterr().err
    assert snapshot(out) == before


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

    def load(name: str, *, split: str, revision: str | None) -> datasets.Dataset:
        calls.append((name, split, revision))
        return datasets.Dataset.from_list(good_rows(20))

    commits = ["abc"]
    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(numina_math, "hub_commit", lambda options: commits[-1])
    arguments = ["--out-dir", str(tmp_path / "out"), "--val-size", "5", "--split", "test", "--revision", "main"]
    for commit, loads in (("abc", 1), ("abc", 1), ("def", 2), (None, 2)):  # None: offline, nothing known to differ
        commits.append(commit)
        assert main(arguments) == 0
        assert len(calls) == loads
    assert calls == [("AI-MO/NuminaMath-TIR", "test", "abc"), ("AI-MO/NuminaMath-TIR", "test", "def")]
    record = json.loads((tmp_path / "out/train.parquet.json").read_text())
    assert record["fingerprint"]["commit"] == "def" and record["fingerprint"]["options"]["revision"] == "main"

    def refuse(name: str, *, split: str, revision: str | None) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    capsys.readouterr()
    assert main([*arguments, "--force"]) == 2
    assert "ConnectionError: no route" in capsys.readouterr().err


TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message.role }} {{ message.content }} {% endfor %}"
    "{% if add_generation_prompt %}assistant{% endif %}"
)


def write_tokenizer(folder: Path) -> Path:
    """One token per word; "<s>" is a word too."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"chat_template": TEMPLATE, "bos_token": {"content": "<s> "}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_tokens_are_counted_with_the_chat_template_applied(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    # <s> user What is 5 + 1? assistant: 1 + 1 + 5 + 1
    assert numina_sources.token_counter(str(tokenizer))(build_prompt("What is 5 + 1?", "plain")) == 8
    source = write_lines(tmp_path / "raw.jsonl", [*good_rows(3), make_row("What is 5 plus 6 ?", r"\boxed{11}")])
    filters = ("--template", "plain", "--val-size", "0", "--tokenizer", str(tokenizer))
    assert run(source, tmp_path / "out", *filters, "--max-prompt-tokens", "8") == 0
    assert "prompt too long: 1" in capsys.readouterr().out
    (tokenizer / "tokenizer_config.json").unlink()
    assert run(source, tmp_path / "out2", *filters, "--max-prompt-tokens", "8") == 2
    assert "has no chat template" in capsys.readouterr().err


def test_no_torch_is_imported_by_a_whole_run(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "raw.jsonl", good_rows(20))
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    code = """
import sys
from data_prep.numina_math import main
assert main(sys.argv[1:]) == 0
import datasets
print(sorted({name.split(".")[0] for name in sys.modules} & {"torch", "ray", "vllm", "verl", "math_verify"}))
"""
    arguments = ["--source", source, "--out-dir", tmp_path / "out", "--val-size", "5"]
    arguments += ["--tokenizer", tokenizer, "--max-prompt-tokens", "100"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
