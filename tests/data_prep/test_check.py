# SPDX-License-Identifier: Apache-2.0
"""python -m data_prep.check: usable files and rows, and reports on the others."""

import datetime
import inspect
import json
import os
import subprocess
import sys
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep import check
from data_prep.check import RowChecker, main, math_verify_reads
from helpers.data_samples import write_tokenizer
from helpers.paths import ROOT
from recipe.treepo.answers.truth import read_truth
from recipe.treepo.reward import compute_score
from recipe.treepo.settings.data_rows import RESERVED, Finding, Severity, mathematics, row_findings


def make_row(content: Any = "What is 1 + 1?", truth: Any = "2", **changes: Any) -> dict[str, Any]:
    row = {
        "data_source": "mine",
        "prompt": [{"role": "user", "content": content}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": truth},
        "extra_info": {"split": "train", "index": 0},
    }
    return row | changes


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


SYSTEM = {"role": "system", "content": "Be brief."}
ASSISTANT = {"role": "assistant", "content": "Two."}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (make_row(), set()),
        (make_row(truth=2), set()),
        (make_row(truth=2.5), set()),
        (make_row(extra_info=None), set()),
        (make_row(agent_name="single_turn_agent", images=[], videos=None), set()),
        (make_row(prompt=[SYSTEM, {"role": "user", "content": "P"}]), set()),
        (make_row(prompt="What is 1 + 1?"), {Finding.NO_MESSAGES}),
        (make_row(prompt=None), {Finding.NO_MESSAGES}),
        (make_row(prompt=[]), {Finding.NO_MESSAGES}),
        (make_row(prompt=["text"]), {Finding.BAD_MESSAGE}),
        (make_row(prompt=[{"content": "P"}]), {Finding.BAD_MESSAGE}),
        (make_row(None), {Finding.BAD_MESSAGE}),
        (make_row([{"type": "image"}]), {Finding.MULTI_MODAL}),
        (make_row(images=[{"bytes": b"x"}]), {Finding.MULTI_MODAL}),
        (make_row(" \n"), {Finding.BLANK_PROMPT}),
        (make_row(prompt=[{"role": "user", "content": "P"}, ASSISTANT]), {Finding.LAST_ROLE}),
        (make_row(truth=None), {Finding.NO_TRUTH}),
        (make_row(truth=" "), {Finding.NO_TRUTH}),
        (make_row(truth="2 + 3 = 5 ####"), {Finding.NO_TRUTH}),  # as the reward reads it
        (make_row(truth="2 + 3 = 5\n#### 5"), set()),
        (make_row(reward_model=None), {Finding.NO_REWARD_MODEL}),
        (make_row(reward_model="2"), {Finding.NO_REWARD_MODEL}),
        (make_row(reward_model='{"ground_truth": "2"}'), {Finding.NO_REWARD_MODEL}),
        (make_row(reward_model={"style": "rule"}), {Finding.NO_REWARD_MODEL}),
        (make_row(prompt='[{"role": "user", "content": "P"}]'), {Finding.JSON_PROMPT}),
        (make_row(prompt="[x] is the floor of x"), {Finding.NO_MESSAGES}),
        (make_row(prompt=[{"role": "human", "content": "P"}]), {Finding.UNKNOWN_ROLE}),
        (make_row(prompt=[SYSTEM | {"role": "developer"}, {"role": "user", "content": "P"}]), set()),
        (make_row(truth="N/A"), {Finding.NO_ANSWER}),
        (make_row(truth="['70']"), {Finding.NO_ANSWER}),
        (make_row(truth=r"\boxed{\text{Proof}}"), {Finding.NO_ANSWER}),
        (make_row(truth="no solution"), set()),
        (make_row(truth=["2"]), {Finding.ODD_TRUTH}),
        (make_row(truth=True), set()),
        (make_row(truth=Decimal("2.50")), set()),
        (make_row(truth=Decimal("NaN")), {Finding.ODD_TRUTH}),
        (make_row(truth=datetime.date(2024, 1, 1)), {Finding.DATE_TRUTH}),
        (make_row(truth="2024-01-01"), set()),
        (make_row(truth="None"), {Finding.NO_ANSWER}),
        (make_row(truth="NA"), {Finding.NO_ANSWER}),
        (make_row(truth="Omitted"), {Finding.NO_ANSWER}),
        (make_row(priority=3, __rollout_n__=8), set()),
        (make_row(priority="high"), {Finding.PRIORITY}),
        (make_row(priority=None), {Finding.PRIORITY}),
        (make_row(priority=float("nan")), {Finding.PRIORITY}),
        (make_row(priority="3"), set()),  # verl converts it
        (make_row(__rollout_n__=0), {Finding.ROLLOUTS}),
        (make_row(__rollout_n__="many"), {Finding.ROLLOUTS}),
        (make_row([{"type": "text", "text": "P"}]), set()),
        (make_row([{"type": "text", "text": "P"}, {"type": "image"}]), {Finding.MULTI_MODAL}),
        (make_row([]), {Finding.BLANK_PROMPT}),
        (make_row(truth=float("nan")), {Finding.ODD_TRUTH}),
        (make_row(truth=float("-inf")), {Finding.ODD_TRUTH}),
        (make_row(truth=r"\text{ }"), {Finding.EMPTY_TRUTH}),
        (make_row(truth=r"\boxed{\text{ }}"), {Finding.EMPTY_TRUTH}),
        (make_row(truth="1" * 1_001), {Finding.LONG_TRUTH}),
        (make_row(truth="\\boxed{" + "1" * 1_000 + "}"), set()),
        (make_row(extra_info="{}"), {Finding.EXTRA_INFO}),
        (make_row(agent_name="tool_agent"), set()),
        (make_row(agent_name="single_turn_agent"), set()),
        (make_row(agent_name="other_agent"), {Finding.AGENT}),
        (make_row(agent_name=None), {Finding.AGENT}),
        (make_row(data_source=""), {Finding.NO_SOURCE}),
        (make_row(" ", truth=None, extra_info=3), {Finding.BLANK_PROMPT, Finding.NO_TRUTH, Finding.EXTRA_INFO}),
    ],
)
def test_each_problem_of_a_row_is_found(row: dict[str, Any], expected: set[Finding]) -> None:
    assert row_findings(row) == expected


TRUTHS = [
    None,
    "",
    " ",
    r"\text{ }",
    r"\boxed{\text{ }}",
    "2",
    2,
    2.5,
    r"\boxed{2}",
    "1" * 1_001,
    "####",
    "5 = 5 ####",
    "#### 5",
]
TRUTHS += [
    "2+3=5\n#### 5",
    1e-05,
    -2e-07,
    1e300,
    3.0,
    float("nan"),
    float("inf"),
    ["2"],
    ["2", "3"],
    {"answer": "2"},
    b"2",
]
TRUTHS += ["N/A", "?", r"\text{Proof}", "['70']", "see solution", "none", True, "yes", "(1, 2)", "x + 1", 10**30, "$2$"]


@pytest.mark.parametrize("truth", TRUTHS, ids=str)
def test_ground_truths_without_an_error_are_those_that_an_answer_can_match(truth: Any) -> None:
    """The oracle is the reward function with the ground truth as answer."""
    errors = {finding for finding in row_findings(make_row(truth=truth)) if finding.severity is Severity.ERROR}
    try:
        scores = compute_score("mine", f"\\boxed{{{read_truth(truth)}}}", truth, max_answer_chars=2_000)
        matched = scores["acc"] == 1
    except ValueError:
        matched = False
    assert matched == (not errors)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_json_files_are_checked_like_parquet(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = [make_row(), make_row("Q", 1e-05), make_row(prompt=None), make_row("R", extra_info="x")]
    text = json.dumps(rows) if name.endswith(".json") else "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / name).write_text(text)
    assert main([str(tmp_path / name), "--json"]) == 1
    findings = json.loads(capsys.readouterr().out)["files"][0]["findings"]
    assert [finding["row_numbers"] for finding in findings] == [[2], [3]]
    (tmp_path / name).write_text(text[:-9])
    assert main([str(tmp_path / name)]) == 2
    assert "is not JSON, or damaged" in capsys.readouterr().out


def test_math_verify_runs_once_and_only_where_it_decides() -> None:
    for truth in ("2", "-2.50", "1,000", "\\frac{1}{2}", "A", "yes", "No", "parallel"):
        assert mathematics(truth) is None, truth
    for truth in ("ab", "\\frac{x}{2}", "x+1", "(1,2)", "2^10"):
        assert mathematics(truth) == truth, truth
    # What math-verify gets: numbers without units need no parser, and signs are commands.
    for truth in ("50\\%", "50%", "\\$5", "$5", "\\$18.90", "5 cm", "90\N{DEGREE SIGN}", "\N{POUND SIGN}5"):
        assert mathematics(truth) is None or "frac" in mathematics(truth), truth
    for truth, latex in (
        ("\N{INFINITY}", "\\infty"),
        ("\N{SQUARE ROOT}2", "\\sqrt{2}"),
        ("x = \N{INFINITY}", "\\infty"),
    ):
        assert mathematics(truth) == latex and math_verify_reads(latex)
    asked: list[str] = []

    def reads(truth: str) -> bool:
        asked.append(truth)
        return truth != "x?1"

    checker = RowChecker(reads)
    truths = ["2", "x+1", "x?1", "\\boxed{x?1}", "x+1"]
    rows = [make_row(f"Problem {number}", truth) for number, truth in enumerate(truths)]
    assert checker.check(rows) == [set(), set(), {Finding.UNREADABLE_TRUTH}, {Finding.UNREADABLE_TRUTH}, set()]
    assert sorted(asked) == ["x+1", "x?1"]
    assert checker.check([make_row("Another", "x+1")]) == [set()] and len(asked) == 2


def test_two_ground_truths_are_read_at_a_time() -> None:
    both_there = threading.Barrier(2)

    def reads(truth: str) -> bool:
        both_there.wait(timeout=20)  # raises if only one thread arrives
        return True

    assert RowChecker(reads).check([make_row("P", "x+1"), make_row("Q", "x+2")]) == [set(), set()]


def test_progress_is_shown_on_request(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = write(tmp_path / "train.parquet", [make_row(), make_row("Q")])
    assert check.check_file(path, RowChecker(lambda truth: True), progress=True).rows == 2
    bar = capsys.readouterr().err
    assert "train.parquet" in bar and "2/2" in bar
    assert check.check_file(path, RowChecker(lambda truth: True)).rows == 2
    assert capsys.readouterr().err == ""


def test_math_verify_reads_formulas_and_rejects_other_texts() -> None:
    for truth in ("\\frac{1}{2}", "x^2 + 1", "(1, 2)", "\\{1, 2\\}", "$-1$, $1$", "12 \\text{ cm}", "x = 1"):
        assert math_verify_reads(truth), truth
    for truth in ("???", "n \\equiv 1 \\pmod 3", "\\frac{1}{"):
        assert not math_verify_reads(truth), truth


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.just("\ud800")
damage = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "ground_truth"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["prompt", "data_source", "reward_model", "extra_info", "images"]), damage))
def test_damaged_rows_are_reported_and_never_raise(changes: dict[str, Any]) -> None:
    checker = RowChecker(lambda truth: True, lambda messages: len(messages[0]["content"]), 1)
    assert checker.check([make_row() | changes])[0] <= set(Finding)


def test_reports_count_rows_by_reason_and_name_the_first(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = [make_row(f"Problem {number}") for number in range(20)]
    for number in (3, 5, 7, 8, 9, 11, 12):
        rows[number] = make_row(f"Problem {number}", " ")
    rows[12] = rows[12] | {"data_source": ""}
    rows[19] = rows[18]
    path = write(tmp_path / "train.parquet", rows)
    assert main([str(path)]) == 1
    text = capsys.readouterr().out
    assert f"{path}: some rows will not work: 20 rows, 7 of them will not work" in text
    assert "error: 7 rows: reward_model.ground_truth" in text and "(rows 3, 5, 7, 8, 9, ...)" in text
    assert "warning: 1 rows: data_source" in text and "(rows 12)" in text
    assert "warning: 1 rows: same prompt" in text and "(rows 19)" in text
    good = write(tmp_path / "good.parquet", rows[:3])
    assert main([str(good)]) == 0
    capsys.readouterr()
    assert main([str(good), str(path), "--json"]) == 1
    first, second = json.loads(capsys.readouterr().out)["files"]
    assert first == {
        "file": str(good), "status": 0, "rows": 3, "rows_that_will_not_work": 0, "problems": [], "conflicts": [],
        "findings": [],
    }  # fmt: skip
    assert (second["status"], second["rows_that_will_not_work"]) == (1, 7)
    assert [finding["rows"] for finding in second["findings"]] == [7, 1, 1]
    assert second["findings"][0]["row_numbers"] == [3, 5, 7, 8, 9, 11, 12]


def test_unusable_files_are_reported_with_the_reason_and_stay(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    good = write(tmp_path / "good.parquet", [make_row(f"Problem {number} " + "x" * 500) for number in range(5_000)])
    content = good.read_bytes()
    (tmp_path / "cut.parquet").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.parquet").write_text("no parquet")
    (tmp_path / "none.parquet").write_bytes(b"")
    table = pa.Table.from_pylist([make_row()])
    source = table.column_names.index("data_source")
    table = table.set_column(source, "data_source", pa.array([b"\xff\xfe"]).view(pa.string()))
    pq.write_table(table, tmp_path / "bytes.parquet")
    (tmp_path / "rows.csv").write_text("prompt")
    (tmp_path / "utf16.jsonl").write_text(json.dumps(make_row()), encoding="utf-16-le")
    (tmp_path / "cut.json").write_text(json.dumps([make_row()])[:-9])
    (tmp_path / "folder.parquet").mkdir()
    pq.write_table(pq.read_table(good).slice(0, 0), tmp_path / "empty.parquet")
    raw = write(tmp_path / "raw.parquet", [{"problem": "P", "solution": "S"}])
    taken = write(tmp_path / "taken.parquet", [make_row(responses="x", trace=True)])
    twice = tmp_path / "twice.parquet"
    columns = [table[name] for name in ("data_source", "prompt", "reward_model", "prompt")]
    pq.write_table(pa.table(columns, names=["data_source", "prompt", "reward_model", "prompt"]), twice)
    late = pa.array([4_000_000], pa.int32()).cast(pa.date32())  # the year 12921
    pq.write_table(table.set_column(source, "data_source", late), tmp_path / "late.parquet")
    cases = {
        tmp_path / "absent.parquet": ["no such file"],
        tmp_path / "cut.parquet": ["not a parquet file, or damaged"],
        tmp_path / "text.parquet": ["not a parquet file, or damaged"],
        tmp_path / "none.parquet": ["not a parquet file, or damaged"],
        tmp_path / "bytes.parquet": ["not a parquet file, or damaged"],
        tmp_path / "rows.csv": ["suffix '.csv': verl reads .parquet, .json, .jsonl"],
        tmp_path / "empty.parquet": ["the file has no rows"],
        tmp_path / "utf16.jsonl": ["is UTF-16-LE, but verl reads JSON in UTF-8. Convert it: `iconv -f utf-16-le"],
        tmp_path / "cut.json": ["the file is not JSON, or damaged ("],
        tmp_path / "folder.parquet": ["is a folder. Name the files in it."],
        raw: ["has no column prompt, data_source, reward_model. Prepare it again."],
        tmp_path / ("x" * 5_000 + ".parquet"): ["no such file"],
        twice: ["has column prompt more than once. Keep one of them."],
        tmp_path / "late.parquet": ["column data_source: holds date32[day], which cannot be read (date value out of"],
        taken: ["verl's agent loops use the name of column trace, responses themselves. Rename or drop it."],
    }
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    for path, expected in cases.items():
        assert main([str(path)]) == 2, path
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith(f"{path}: cannot be used") and len(lines) == 1 + len(expected)
        assert all(text in line for text, line in zip(expected, lines[1:], strict=True)), lines
    assert main([str(raw), str(good)]) == 2
    assert "good.parquet: fine: 5000 rows" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_files_that_do_not_go_together_are_reported_as_by_datasets(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    import datasets

    extra_infos: dict[str, Any] = {
        "first": {"index": 1, "problem": "P"},
        "more": {"index": 2, "level": "5"},
        "less": {"problem": None},
        "uuid": {"index": "9a9b6eb4", "problem": "P"},
    }
    paths = {
        name: write(tmp_path / f"{name}.parquet", [make_row(extra_info=extra_info)])
        for name, extra_info in extra_infos.items()
    }
    for name in ("more", "less", "uuid"):
        together = [datasets.Dataset(pq.read_table(path)) for path in (paths["first"], paths[name])]
        try:
            datasets.concatenate_datasets(together)
            fits = True
        except ValueError:
            fits = False
        assert main([str(paths["first"]), str(paths[name])]) == 0
        reported = (
            f"warning: with {paths['first']}: extra_info.index is string here and int64 there"
            in capsys.readouterr().out
        )
        assert reported == (not fits) == (name == "uuid")
    assert main([str(paths["first"]), str(paths["more"]), str(tmp_path / "absent.parquet"), str(paths["uuid"])]) == 2
    assert capsys.readouterr().out.count("extra_info.index is string here and int64 there") == 2


def test_the_values_of_extra_info_are_not_looked_at_but_its_type_is(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    table = pa.Table.from_pylist([make_row("P"), make_row("Q")]).drop_columns("extra_info")
    late = pa.array([4_000_000, 1], pa.int32()).cast(pa.date32())  # the year 12921
    nowhere = pa.array([1, None], pa.timestamp("us", tz="No/Where"))
    objects = [
        pa.StructArray.from_arrays([late, nowhere], ["date", "when"]),
        pa.nulls(2),
        pa.nulls(2, pa.string()),
    ]
    path = tmp_path / "train.parquet"
    for column in objects:
        pq.write_table(table.append_column("extra_info", column), path)
        assert main([str(path)]) == 0, column.type
        capsys.readouterr()
    for column in (late, nowhere, pa.array([[], None], pa.map_(pa.string(), pa.string()))):
        pq.write_table(table.append_column("extra_info", column), path)
        assert main([str(path), "--json"]) == 1, column.type
        (finding,) = json.loads(capsys.readouterr().out)["files"][0]["findings"]
        assert finding["reason"] == "extra_info is not an object"
        assert finding["row_numbers"] == ([0, 1] if column is late else [0])


def test_damage_in_the_middle_is_reported_with_earlier_rows(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "train.parquet"
    table = pa.Table.from_pylist([make_row(f"Problem {number}") for number in range(4_000)])
    pq.write_table(table, path, row_group_size=1_000, compression="gzip")
    group = pq.ParquetFile(path).metadata.row_group(2)
    start = group.column(1).data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + 400] = bytes(400)
    path.write_bytes(bytes(content))
    assert main([str(path)]) == 2
    report = capsys.readouterr().out
    assert "cannot be used: " in report and "damaged after row " in report
    assert 1_000 <= int(report.split("damaged after row ")[1].split()[0]) <= 2_000


def test_prompts_are_measured_with_the_chat_template(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    # <s> user What is 1 + 1? assistant: 1 + 1 + 5 + 1 = 8
    path = write(tmp_path / "val.parquet", [make_row(), make_row("What is 1 + 1 + 1?")])
    measure = [str(path), "--tokenizer", str(tokenizer), "--max-prompt-length"]
    assert main([*measure, "10"]) == 0
    assert "longer" not in capsys.readouterr().out
    assert main([*measure, "8"]) == 0
    assert "warning: 1 rows: prompt longer than --max-prompt-length" in capsys.readouterr().out
    assert main([*measure, "7"]) == 0
    assert "warning: 2 rows: prompt longer than --max-prompt-length" in capsys.readouterr().out
    config = json.loads((tokenizer / "tokenizer_config.json").read_text())
    config["chat_template"] = "{{ raise_exception('no') }}"
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(config))
    assert main([*measure, "8"]) == 1
    assert "error: 2 rows: the chat template refuses the messages" in capsys.readouterr().out


def test_wrong_options_are_reported_before_any_file_is_read(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["absent.parquet", "--max-prompt-length", "0"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 2
    assert "--tokenizer None with --max-prompt-length 0: one needs the other" in err and "must be at least 1" in err
    assert main(["absent.parquet", "--tokenizer", str(tmp_path), "--max-prompt-length", "5"]) == 2
    assert "has no tokenizer.json" in capsys.readouterr().err


def test_a_missing_math_verify_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def refuse(truth: str) -> bool:
        raise RuntimeError("the reward worker did not start: install math-verify")

    monkeypatch.setattr(check, "math_verify_reads", refuse)
    path = write(tmp_path / "train.parquet", [make_row(truth="x+1")])
    assert main([str(path)]) == 2
    assert "error: the reward worker did not start" in capsys.readouterr().err


def test_the_check_imports_neither_torch_nor_verl(tmp_path: Path) -> None:
    path = write(tmp_path / "train.parquet", [make_row(truth="x+1")])
    code = """
import sys
from data_prep.check import main
assert main(sys.argv[1:]) == 0
print(sorted({name.split(".")[0] for name in sys.modules} & {"torch", "ray", "vllm", "verl", "datasets"}))
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_reserved_columns_are_those_of_the_installed_verl() -> None:
    from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput
    from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ

    output = AgentLoopOutput(
        prompt_ids=[1], response_ids=[2], response_mask=[1], response_logprobs=[0.0], reward_score=1.0, num_turns=2,
        routed_experts=[[[0]], [[0]]], metrics=AgentLoopMetrics(),
        extra_fields={"teacher_ids": [2], "teacher_logprobs": [0.0]},
    )  # fmt: skip
    # nothing reads the stored metrics; num_turns has a rule of its own
    assert set(output.as_dict()) - {"metrics", "num_turns"} <= set(RESERVED)
    worker = AgentLoopWorkerTQ.__ray_metadata__.modified_class
    for name in ("_run_agent_loop", "_agent_loop_postprocess"):
        taken = {key for key in inspect.signature(getattr(worker, name)).parameters if key[0] != "_"}
        assert taken - {"agent_name", "kwargs"} <= set(RESERVED)


def test_verls_own_data_set_reads_files_that_pass_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    import datasets
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [make_row(), make_row("What is 2 + 1?", "3", extra_info={"split": "train", "index": 1})]
    path = write(tmp_path / "train.parquet", rows)
    assert main([str(path)]) == 0
    config = OmegaConf.create({"cache_dir": str(tmp_path / "verl"), "filter_overlong_prompts": False})
    data = RLHFDataset(str(path), tokenizer=None, config=config)
    assert [data[number]["raw_prompt"] for number in range(2)] == [row["prompt"] for row in rows]
    assert data[1]["reward_model"]["ground_truth"] == "3" and data[1]["index"] == 1
