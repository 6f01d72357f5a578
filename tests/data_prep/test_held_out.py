# SPDX-License-Identifier: Apache-2.0
"""Problem texts of held-out files, by column and without known instructions, and their removal from training sets."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.__main__ import main
from data_prep.errors import PrepError
from data_prep.held_out import held_out_files, held_out_problems, without_instruction
from data_prep.prompts import INSTRUCTION
from data_prep.sets.dapo import AFTER, BEFORE


def write(path: Path, rows: list[dict[str, Any]] | pa.Table) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows), path)
    return path


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}]


@pytest.mark.parametrize(
    "content",
    [
        "What is 7?",
        f"What is 7?\n\n{INSTRUCTION}",
        f"{BEFORE}\n\nWhat is 7?\n\n{AFTER}",
        'What is 7? Let\'s think step by step and output the final answer after "####".',
        "What is 7? Let's think step by step and output the final answer after `####`.",
        "What is 7? Let's think step by step and output the final answer within \\boxed{}. ",
    ],
)
def test_known_instructions_are_not_part_of_the_problem(content: str) -> None:
    assert without_instruction(content) == "What is 7?"


def test_other_text_around_a_problem_stays() -> None:
    for content in (
        "Solve: What is 7?",
        f"{INSTRUCTION}\n\nWhat is 7?",
        f"{BEFORE} What is 7?",
        f"What is 7? {AFTER}",
    ):
        assert without_instruction(content) == content


def test_the_text_is_the_problem_else_the_question_else_the_message(tmp_path: Path) -> None:
    rows = [
        {"prompt": user("message"), "extra_info": {"problem": "problem", "question": "question"}},
        {"prompt": user("message"), "extra_info": {"problem": None, "question": "question"}},
        {"prompt": user(f"message {INSTRUCTION}"), "extra_info": {"problem": None, "question": None}},
        {"prompt": user("message"), "extra_info": None},
        {"prompt": user(None), "extra_info": None},
        {"prompt": None, "extra_info": None},
    ]
    path = write(tmp_path / "a.parquet", rows)
    assert list(held_out_problems(path)) == ["problem", "question", "message", "message"]
    path = write(tmp_path / "b.parquet", [{"extra_info": {"problem": 3, "question": "question"}}])
    assert list(held_out_problems(path)) == ["question"]
    path = write(tmp_path / "c.parquet", [{"prompt": user("message"), "extra_info": "problem"}])
    assert list(held_out_problems(path)) == ["message"]


def test_fields_that_python_cannot_hold_are_not_read(tmp_path: Path) -> None:
    late = pa.array([4_000_000], pa.int32()).cast(pa.date32())  # the year 12921
    extra_info = pa.StructArray.from_arrays([late, pa.array(["What is 7?"])], ["date", "problem"])
    path = write(tmp_path / "a.parquet", pa.table({"extra_info": extra_info, "date": late}))
    assert list(held_out_problems(path)) == ["What is 7?"]
    path = write(tmp_path / "b.parquet", pa.table({"prompt": late}))
    with pytest.raises(PrepError, match=r"b.parquet: cannot be read as parquet with problems .date value"):
        list(held_out_problems(path))


def test_files_without_problems_or_with_damage_are_reported(tmp_path: Path) -> None:
    for rows in ([{"x": 1}], [{"prompt": "text", "extra_info": {"index": 1}}], [{"prompt": []}]):
        path = write(tmp_path / "a.parquet", rows)
        with pytest.raises(PrepError, match="holds no problem"):
            list(held_out_problems(path))
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(PrepError, match="cannot be read as parquet"):
        list(held_out_problems(path))


def test_folders_give_their_evaluation_files_only(tmp_path: Path) -> None:
    names = ("a.parquet/part.parquet", "b.parquet", "train.parquet", "deep/val.parquet", "deep/c.parquet")
    for name in names:
        write(tmp_path / name, [{"x": 1}])
    (tmp_path / "notes.txt").write_text("x")
    found = [str(file.relative_to(tmp_path)) for file in held_out_files([str(tmp_path)])]
    assert found == ["a.parquet/part.parquet", "b.parquet", "deep/c.parquet"]
    assert held_out_files([str(tmp_path / "train.parquet")]) == [tmp_path / "train.parquet"]  # named explicitly
    assert held_out_files([str(tmp_path / "notes.txt"), "~no-such-user/x"]) == []


def test_overlap_with_evaluation_sets_is_removed_counted_and_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    contest = {"problem": "Let $ABC$ be a triangle with sides of lengths 3, 4 and 5. Find the square of its area."}
    tests = tmp_path / "tests"
    lines = write_lines(tmp_path / "aime.jsonl", [contest | {"answer": "36"}])
    assert main(["aime_2025", "--source", str(lines), "--out-dir", str(tests)]) == 0
    pq.write_table(
        pa.Table.from_pylist([{"prompt": [{"role": "user", "content": "What is 7?"}]}]), tests / "mine.parquet"
    )
    rows = [
        {
            "problem": "First, let ABC be a triangle with sides of lengths 3, 4, and 5; find its area.",
            "solution": "\\boxed{6}",
        },
        {"problem": "what is $7$", "solution": "\\boxed{7}"},
        *({"problem": f"What is {n}?", "solution": f"\\boxed{{{n}}}"} for n in range(8, 14)),
    ]
    source = write_lines(tmp_path / "raw.jsonl", rows)
    out = tmp_path / "out"
    arguments = ["numina_math_tir", "--source", str(source), "--out-dir", str(out), "--val-size", "2"]
    arguments += ["--held-out", str(tests)]
    capsys.readouterr()
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert f"overlap with {tests / 'aime_2025.parquet'}: 1" in printed and f"{tests / 'mine.parquet'}: 1" in printed
    assert "dropped, overlaps a held-out problem: 2" in printed
    kept = {row["extra_info"]["problem"] for name in ("train", "val") for row in read(out / f"{name}.parquet")}
    assert kept == {f"What is {n}?" for n in range(8, 14)}
    record = json.loads((out / "val.parquet.json").read_text())
    assert record["counts"]["held_out"] == {str(tests / "aime_2025.parquet"): 1, str(tests / "mine.parquet"): 1}
    assert main(arguments) == 0 and "up to date" in capsys.readouterr().out
    (tests / "mine.parquet").unlink()  # the fingerprint includes held-out files
    assert main(arguments) == 0 and "up to date" not in capsys.readouterr().out
    assert main([*arguments, "--ngram", "15"]) == 0
    assert "overlaps a held-out problem" not in capsys.readouterr().out


def test_the_own_outputs_in_a_folder_are_not_held_out(tmp_path: Path) -> None:
    rows = [{"problem": f"What is {n}?", "solution": f"\\boxed{{{n}}}"} for n in range(8)]
    source = write_lines(tmp_path / "raw.jsonl", rows)
    lines = write_lines(tmp_path / "aime.jsonl", [{"problem": "What is 3?", "answer": "3"}])
    out = tmp_path / "out"
    assert main(["aime_2025", "--source", str(lines), "--out-dir", str(out)]) == 0
    for _ in range(2):
        arguments = [
            "--source",
            str(source),
            "--out-dir",
            str(out),
            "--val-size",
            "2",
            "--held-out",
            str(out),
            "--force",
        ]
        assert main(["numina_math_tir", *arguments]) == 0
        assert len(read(out / "train.parquet")) == 5


def test_held_out_files_that_cannot_serve_are_refused_and_outputs_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = [{"problem": f"What is {n}?", "solution": f"\\boxed{{{n}}}"} for n in range(8)]
    source, out = write_lines(tmp_path / "raw.jsonl", rows), tmp_path / "out"
    arguments = ["numina_math_tir", "--source", str(source), "--out-dir", str(out), "--val-size", "2"]
    assert main(arguments) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 and no more")
    pq.write_table(pa.Table.from_pylist([{"x": 1}]), tmp_path / "foreign.parquet")
    cases = {
        tmp_path / "damaged.parquet": "cannot be read as parquet",
        tmp_path / "foreign.parquet": "holds no problem",
        out / "train.parquet": "is an output of this run",
    }
    for file, message in cases.items():
        assert main([*arguments, "--held-out", str(file)]) == 2
        assert message in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
