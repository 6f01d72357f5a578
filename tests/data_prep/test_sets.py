# SPDX-License-Identifier: Apache-2.0
"""All data sets: row functions on original and damaged rows; files, hub and command."""

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep import preparation
from data_prep.__main__ import main
from data_prep.options import Options
from data_prep.outputs import verl_schema
from data_prep.problems import Drop, Problem, Purpose, number_as_text
from data_prep.reading import Source, read_hub
from data_prep.rows import read_problem, verl_row
from data_prep.sets import DATA_SETS
from data_prep.sets.competitions import aime_row, amc_row
from data_prep.sets.dapo import AFTER, BEFORE, dapo_row
from data_prep.sets.hendrycks_math import hard_math_row
from helpers.data_samples import AOPS, SAMPLES
from helpers.example_counts import examples
from recipe.treepo.answers.compare import compare_text
from recipe.treepo.reward import compute_score

NAMES = sorted(DATA_SETS)


def rows_of(name: str) -> list[dict[str, Any]]:
    return [sample.row for sample in SAMPLES[name]]


def expected_problems(name: str) -> list[Problem]:
    return [sample.expected for sample in SAMPLES[name] if isinstance(sample.expected, Problem)]


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


def test_every_set_has_samples_and_one_name() -> None:
    assert set(SAMPLES) == set(DATA_SETS)
    assert all(name == data_set.name for name, data_set in DATA_SETS.items())


@pytest.mark.parametrize("name", NAMES)
def test_rows_in_the_original_schema_are_converted(name: str) -> None:
    for sample in SAMPLES[name]:
        assert read_problem(sample.row, DATA_SETS[name].row) == sample.expected, sample.row


def test_other_publishers_schemas_are_read() -> None:
    aime_2024, aime_2025 = DATA_SETS["aime_2024"].row, DATA_SETS["aime_2025"].row
    assert aime_2024({"ID": "2024-II-4", "Problem": "Sum?", "Solution": "...", "Answer": 33}) == Problem("Sum?", "33")
    assert aime_2024({"id": 0, "problem": "Sum?", "solution": "\\boxed{204}"}) == Problem("Sum?", "204")
    assert aime_2024({"Problem": "Sum?", "Solution": "\\boxed{204}"}) == Problem("Sum?", "204")
    assert DATA_SETS["aime_2024"].missing({"Problem", "Solution"}) == []
    for year, kept in (("2024", True), (2024, True), (2024.0, True), ("2023", False), (2025, False), ("I", True)):
        found = aime_2024({"problem": "Sum?", "answer": "5", "year": year})
        assert found == (Problem("Sum?", "5") if kept else Drop.NOT_SELECTED)
    assert aime_2024({"problem": "Sum?", "answer": "\\boxed{5}", "year": None}) == Problem("Sum?", "5")
    assert aime_2025({"problem_idx": 1, "problem": "Sum?", "answer": 70, "problem_type": ["Algebra"]}).answer == "70"
    assert aime_2025({"question": "Sum?", "answer": "$070$"}) == Problem("Sum?", "70")
    amc = {"problem": "When?", "answer": 142.0, "url": f"{AOPS}2023_AMC_12B_Problems/Problem_3"}
    assert amc_row(amc, year=2023) == Problem("When?", "142")
    assert amc_row(amc, year=2022) is Drop.NOT_SELECTED
    lighteval = {"problem": "How many?", "level": "Level 4", "type": "Geometry", "solution": "\\boxed{8}"}
    assert hard_math_row(lighteval) == Problem("How many?", "8", {"level": "4", "subject": "Geometry"})
    assert hard_math_row(lighteval | {"level": "Level 2"}) is Drop.NOT_SELECTED
    assert hard_math_row(lighteval | {"level": "Level ?"}) is Drop.NOT_SELECTED
    assert dapo_row({"prompt": "Find $k$.", "solution": "34", "source_prompt": []}) == Problem("Find $k$.", "34")


def test_a_wrapped_text_of_dapo_is_unwrapped_or_dropped_as_a_message_is() -> None:
    def read(prompt: str) -> Problem | Drop:
        return dapo_row({"prompt": prompt, "solution": 34})

    assert read(f" {BEFORE}\n\nFind $k$.\n\n{AFTER}\n") == Problem("Find $k$.", "34")
    for half in (f"{BEFORE}\n\nFind $k$.", f"Find $k$.\n\n{AFTER}\n"):
        assert read(half) is Drop.UNKNOWN_WRAPPING
    assert read(f"{BEFORE}{AFTER}") is Drop.NO_PROBLEM
    assert read("Solve the following math problem: 1 + 1") == Problem("Solve the following math problem: 1 + 1", "34")


def test_numbers_become_text_only_where_nothing_is_lost() -> None:
    values = [7, -3, 27.0, True, "x", None, 10**400]
    assert [number_as_text(value) for value in values] == ["7", "-3", "27", True, "x", None, 10**400]
    fractions = {0.5: "0.5", -2.25: "-2.25", 1e-7: "0.0000001", 1.5e-9: "0.0000000015", 0.1: "0.1"}
    assert {value: number_as_text(value) for value in fractions} == fractions
    assert number_as_text(float("inf")) == float("inf")
    assert amc_row({"question": "When?", "answer": 2.5}, year=2023) == Problem("When?", "2.5")
    assert amc_row({"question": "When?", "answer": float("nan")}, year=2023) is Drop.MALFORMED_ROW
    assert DATA_SETS["deepscaler"].row({"problem": "Sum?", "answer": 0.5}) == Problem("Sum?", "0.5")
    assert aime_row({"problem": "When?", "answer": 70.5}, year=2025) is Drop.ODD_ANSWER
    assert DATA_SETS["math500"].row({"problem": "How many?", "answer": 7}) == Problem("How many?", "7")
    assert DATA_SETS["math500"].row({"problem": "How many?", "answer": -0.5}) == Problem("How many?", "-0.5")
    minerva = DATA_SETS["minerva"].row
    assert minerva({"question": "Mass?", "answer": 2.5}) == Problem("Mass?", "2.5")
    assert minerva({"question": "Mass?", "answer": 1e-7}) == Problem("Mass?", "1 \\times 10^{-7}")
    assert minerva({"question": "Mass?", "answer": float("nan")}) is Drop.MALFORMED_ROW


def test_rewritten_and_joined_answers_score_as_they_must() -> None:
    """Stored answers of minerva and olympiad_bench against models' spellings."""
    for answer in ("4.5\\times 10^{33}", "4.5 \\cdot 10^{33}", "4.5\\times10^{33}"):
        assert compute_score("minerva", f"\\boxed{{{answer}}}", "4.5 \\times 10^{33}")["acc"] == 1
    assert compute_score("minerva", "\\boxed{4.5 \\times 10^{32}}", "4.5 \\times 10^{33}")["acc"] == 0
    for answer, right in (("1, -1", 1), ("-1,1", 1), ("\\pm 1", 1), ("1", 0), ("1, -1, 2", 0)):
        assert compute_score("olympiad_bench", f"\\boxed{{{answer}}}", "$-1$, $1$")["acc"] == right


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.just(10**400), st.floats(), st.text(max_size=20), st.just("\ud800"),
    st.lists(st.sampled_from(["\\boxed{", "{", "}", "####", " ", "5", "$", "1e5", "Level 5", "e99999999"]), max_size=6)
    .map("".join),
)  # fmt: skip
damage = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["content", "role", "ground_truth", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@pytest.mark.parametrize("name", NAMES)
@examples(short=25, long=60)
@given(data=st.data())
def test_damaged_rows_never_raise_and_kept_rows_can_be_scored(name: str, data: st.DataObject) -> None:
    data_set = DATA_SETS[name]
    row = data.draw(st.sampled_from(rows_of(name)) | damage)
    if isinstance(row, dict):
        row = row | data.draw(st.dictionaries(st.sampled_from([*data_set.wanted(), "other"]), damage, max_size=3))
    problem = read_problem(row, data_set.row)
    assert isinstance(problem, Problem | Drop)
    if isinstance(problem, Problem):
        assert problem.text.strip() and set(problem.extras) <= set(data_set.extras)
        assert compare_text(problem.answer, problem.answer) is True
        options = Options(source=Source("somewhere", "train"), data_source=name)
        pa.Table.from_pylist([verl_row(problem, 0, "train", options)], schema=verl_schema(data_set.extras))


def check_outputs(name: str, folder: Path) -> None:
    """Assert that the outputs are the expected problems of the samples, without duplicates."""
    if DATA_SETS[name].purpose is Purpose.TRAINING:
        rows = sorted(read(folder / "train.parquet"), key=lambda row: row["extra_info"]["index"])
        expected = list({problem.text: problem for problem in reversed(expected_problems(name))}.values())[::-1]
    else:
        rows, expected = read(folder / f"{name}.parquet"), expected_problems(name)
    assert [row["extra_info"]["problem"] for row in rows] == [problem.text for problem in expected]
    assert [row["reward_model"]["ground_truth"] for row in rows] == [problem.answer for problem in expected]
    for row, problem in zip(rows, expected, strict=True):
        assert row["data_source"] == name and problem.text in row["prompt"][0]["content"]
        for extra in DATA_SETS[name].extras:
            assert row["extra_info"][extra] == problem.extras.get(extra)


@pytest.mark.parametrize("name", NAMES)
def test_every_set_is_prepared_from_local_files_and_from_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_set, rows = DATA_SETS[name], rows_of(name)
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, tmp_path / "raw.parquet")
    val = ["--val-size", "0"] if data_set.purpose is Purpose.TRAINING else []
    assert main([name, "--source", str(tmp_path / "raw.parquet"), "--out-dir", str(tmp_path / "local"), *val]) == 0
    check_outputs(name, tmp_path / "local")

    def load(repository: str, config: str | None, **options: Any) -> datasets.Dataset:
        assert (repository, config) == (data_set.repository, data_set.config)
        assert options == {"split": data_set.split, "revision": "c0ffee", "data_dir": data_set.folder}
        return datasets.Dataset(table)

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(preparation, "hub_commit", lambda source: "c0ffee")
    assert main([name, "--out-dir", str(tmp_path / "hub"), *val]) == 0
    check_outputs(name, tmp_path / "hub")
    output = "train" if data_set.purpose is Purpose.TRAINING else name
    record = json.loads((tmp_path / f"hub/{output}.parquet.json").read_text())
    dropped = [sample.expected.value for sample in SAMPLES[name] if isinstance(sample.expected, Drop)]
    duplicates = {"duplicate problem"} if data_set.purpose is Purpose.TRAINING else set()
    found = {
        reason: count for reason, count in record["counts"]["dropped"].items() if count and reason not in duplicates
    }
    assert found == {reason: dropped.count(reason) for reason in dropped}
    assert record["fingerprint"]["commit"] == "c0ffee" and record["fingerprint"]["data_set"] == name


def test_datasets_finds_configurations_and_folders_by_these_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both layouts of hub sets, loaded by the real library from a folder in place of the hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    gsm8k, simplerl = tmp_path / "gsm8k", tmp_path / "simplerl"
    for part in (gsm8k / "main", gsm8k / "socratic", simplerl / "other_folder", simplerl / "simplelr_qwen_level3to5"):
        part.mkdir(parents=True)
    configs = "".join(
        f"- config_name: {config}\n  data_files:\n  - {{split: train, path: {config}/train-*}}\n"
        f"  - {{split: test, path: {config}/test-*}}\n"
        for config in ("main", "socratic")
    )
    (gsm8k / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    for config, split in (("main", "train"), ("main", "test"), ("socratic", "train"), ("socratic", "test")):
        row = {"question": f"{config} {split}?", "answer": "#### 1"}
        pq.write_table(pa.Table.from_pylist([row]), gsm8k / config / f"{split}-00000-of-00001.parquet")
    for folder in ("other_folder", "simplelr_qwen_level3to5"):
        rows = [row | {"question": folder} for row in rows_of("simplerl_math")]
        pq.write_table(pa.Table.from_pylist(rows), simplerl / folder / "train.parquet")
    loaded = read_hub(Source(str(gsm8k), "test", config="main"), None)
    assert loaded["question"][:] == ["main test?"]
    loaded = read_hub(Source(str(simplerl), "train", folder="simplelr_qwen_level3to5"), None)
    assert set(loaded["question"][:]) == {"simplelr_qwen_level3to5"}


def test_another_repository_does_not_get_the_sets_own_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def load(repository: str, config: str | None, **options: Any) -> datasets.Dataset:
        calls.append((repository, config, options["split"], options["data_dir"]))
        return datasets.Dataset.from_list([{"question": "Q?", "answer": "#### 1"}])

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(preparation, "hub_commit", lambda source: None)
    common = ["gsm8k_test", "--source", "someone/gsm8k", "--out-dir", str(tmp_path)]
    assert main(common) == 0
    assert main([*common, "--config", "de", "--split", "dev"]) == 0
    assert calls == [("someone/gsm8k", None, "test", None), ("someone/gsm8k", "de", "dev", None)]


def test_without_a_name_everything_is_listed(capsys: pytest.CaptureFixture) -> None:
    assert main([]) == 0
    printed = capsys.readouterr().out
    for data_set in DATA_SETS.values():
        assert f"{data_set.name}  ({data_set.purpose.value})" in printed and data_set.repository in printed
    assert "columns: problem or Problem or question; answer or Answer or solution" in printed


def test_evaluation_prepares_every_set_in_spite_of_one_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    by_place = {(data_set.repository, data_set.split): data_set.name for data_set in DATA_SETS.values()}

    def load(repository: str, config: str | None, *, split: str, **options: Any) -> datasets.Dataset:
        name = by_place[repository, split]
        if name == "aime_2025":
            raise ConnectionError("no route")
        return datasets.Dataset(pa.Table.from_pylist(rows_of(name)))

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(preparation, "hub_commit", lambda source: None)
    assert main(["evaluation", "--out-dir", str(tmp_path)]) == 2
    evaluation = {name for name, data_set in DATA_SETS.items() if data_set.purpose is Purpose.EVALUATION}
    assert {path.stem for path in tmp_path.glob("*.parquet")} == evaluation - {"aime_2025"}
    assert "ConnectionError: no route" in capsys.readouterr().err
    both = datasets.concatenate_datasets(
        [datasets.Dataset(pq.read_table(path)) for path in sorted(tmp_path.glob("*.parquet"))]
    )
    assert len(both) == sum(len(expected_problems(name)) for name in evaluation - {"aime_2025"})


def test_wrong_combinations_are_reported_at_once_one_line_each(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.parquet").write_text("x")
    out = ["--out-dir", str(tmp_path / "out")]
    cases: list[tuple[list[str], list[str]]] = [
        (["aime_2026", "gsm", *out], ["NAME 'aime_2026': no such data set. Use one of numina_math_tir", "NAME 'gsm'"]),
        (["gsm8k", "aime_2024", *out], ["NAME 'gsm8k': a training set writes train.parquet, so it must"]),
        (["gsm8k", "numina_math_tir", *out], ["NAME 'gsm8k': a training set"]),
        (["gsm8k"], ["--out-dir: missing"]),
        (["--held-out", str(tmp_path), "gsm8k"], ["--held-out: no data set"]),
        (
            ["aime_2024", "aime_2025", "--source", "x.jsonl", "--revision", "v1", "--split", "test", *out],
            ["--source 'x.jsonl': applies to one", "--split 'test'", "--revision 'v1'", "'x.jsonl': no such file"],
        ),
        (["aime_2024", "--val-size", "5", *out], ["--val-size 5: aime_2024 is an evaluation set"]),
        (
            ["aime_2024", "--held-out", str(tmp_path / "text.parquet"), *out],
            [f"--held-out {tmp_path / 'text.parquet'}: aime_2024 is an evaluation set"],
        ),
        (
            ["gsm8k", "--template", "system", "--system-prompt", "x", "--deduplicate", "fuzzy", "--ngram", "0", *out],
            ["--ngram 0: has no", "--ngram 0: must be", "--deduplicate 'fuzzy': unknown", "--system-prompt 'x'"],
        ),
        (
            ["gsm8k", "--system-prompt", " ", "--data-source", " ", "--max-prompt-tokens", "0", *out],
            ["--max-prompt-tokens 0", "--tokenizer None", "--system-prompt ' '", "--data-source ' '"],
        ),
        (
            ["gsm8k", "--example", "1 + 1?", " ", "--example", "c\udcff", "2", *out],
            ["--example '1 + 1?' ' ': a text is blank", r"--example 'c\udcff': is not valid Unicode"],
        ),
        (
            ["gsm8k", "--held-out", str(tmp_path / "absent"), str(tmp_path / "empty"), *out],
            ["absent: no such file or folder", "empty: no .parquet file"],
        ),
        (["gsm8k", "--held-out", str(tmp_path / "out/train.parquet"), *out], ["train.parquet: no such file"]),
        (["gsm8k", "--ngram", "13", *out], ["--ngram 13: has no effect without --held-out"]),
        (
            ["gsm8k", "--source", str(tmp_path / "text.parquet"), "--split", "test", *out],
            ["--split 'test': --source is one file, which is read as a whole"],
        ),
        (["gsm8k", "--source", "~no-such-user/x.parquet", *out], ["'~no-such-user/x.parquet': no such file"]),
        (["gsm8k", "--source", f"/{'x' * 5_000}", *out], ["xxx': no such file or folder"]),
        (["gsm8k", "--held-out", "~no-such-user/x", "x" * 5_000, *out], ["user/x: no such file", "xxx: no such file"]),
        (
            ["gsm8k", "--data-source", "a\udcff", "--system-prompt", "b\udcff", *out],
            [r"--system-prompt 'b\udcff': is not valid Unicode", r"--data-source 'a\udcff': is not valid Unicode"],
        ),
    ]  # fmt: skip
    for arguments, expected in cases:
        assert main(arguments) == 2, arguments
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == len(expected), lines
        assert all(text in line for text, line in zip(expected, lines, strict=True)), (expected, lines)
    assert not (tmp_path / "out").exists()
