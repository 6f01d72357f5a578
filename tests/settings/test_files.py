# SPDX-License-Identifier: Apache-2.0
"""Files of a run: each kind of broken data, model or folder is a problem with its rule; near misses are none."""

import datetime
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import DictConfig

from helpers.configs import config_of
from helpers.paths import ROOT
from recipe.treepo.settings import data_reading, hub_models
from recipe.treepo.settings.files import file_problems
from recipe.treepo.settings.hub_models import hub_problems
from recipe.treepo.settings.model_files import is_missing_model
from recipe.treepo.settings.values import ConfigProblem

KEYS = ("data.train_files", "data.val_files")
CHECK = "`python -m recipe.treepo.data_prep.check"
OUR_REWARD = {"path": "pkg://recipe.treepo.reward", "name": "compute_score"}
TINY = ROOT / "tiny/model"
LIMIT = "actor_rollout_ref__rollout__prompt_length"


def make_row(content: Any = "What is 1 + 1?", truth: Any = "2", **changes: Any) -> dict[str, Any]:
    row = {
        "data_source": "mine",
        "prompt": [{"role": "user", "content": content}],
        "reward_model": {"style": "rule", "ground_truth": truth},
        "extra_info": {"split": "train", "index": 0},
    }
    return row | changes


GOOD = [make_row(f"What is {number} + 1?") for number in range(5)]


def write(path: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, **options)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def of(data: Path | str | list[Any] | None = None, model: Path | str | None = None, **changes: Any) -> DictConfig:
    changes = {"reward__custom_reward_function": OUR_REWARD, LIMIT: 512} | changes
    if data is not None:
        changes |= {"data__train_files": data if isinstance(data, list) else str(data), "data__val_files": None}
    if model is not None:
        changes["actor_rollout_ref__model__path"] = str(model)
    return config_of(**changes)


def rule_ids(config: DictConfig) -> list[str]:
    return [problem.rule_id for problem in file_problems(config, KEYS)]


def the_problem(config: DictConfig) -> ConfigProblem:
    (problem,) = file_problems(config, KEYS)
    return problem


# --- rows ------------------------------------------------------------------------------------------------------

BAD_ROWS = [
    (make_row(prompt=None), "prompt is not a list of messages"),
    (make_row(prompt=[]), "prompt is not a list of messages"),
    (make_row(None), "a message has no role or content"),
    (make_row(reward_model=None), "reward_model is not an object with ground_truth"),
    (make_row(truth=None), "reward_model.ground_truth is missing or blank"),
    (make_row(truth=" "), "reward_model.ground_truth is missing or blank"),
    (make_row(truth="so ####"), "reward_model.ground_truth is missing or blank"),
    (make_row(truth=r"\text{ }"), "ground truth has only markup"),
]
BAD_COLUMNS = [
    ({"prompt": "What is 1 + 1?"}, "prompt is not a list of messages"),
    ({"prompt": '[{"role": "user", "content": "P"}]'}, "prompt is JSON text"),
    ({"reward_model": '{"ground_truth": "2"}'}, "reward_model is not an object with ground_truth"),
    ({"reward_model": {"style": "rule"}}, "reward_model is not an object with ground_truth"),
    ({"reward_model": {"ground_truth": ["2"]}}, "reward_model.ground_truth is neither text nor a finite number"),
    ({"extra_info": "none"}, "extra_info is not an object"),
    ({"agent_name": "my_agent"}, "agent_name is not"),
    ({"priority": "high"}, "priority is not a whole number"),
    ({"__rollout_n__": "all"}, "__rollout_n__ is not a positive whole number"),
    ({"num_turns": "two"}, "num_turns is not a number"),
    ({"images": [{"bytes": b"x"}]}, "has images, video or audio"),
    ({"reward_model": {"ground_truth": datetime.date(2024, 1, 1)}}, "reward_model.ground_truth is a date or time"),
]


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
@pytest.mark.parametrize(("row", "reason"), BAD_ROWS)
def test_the_row_and_the_file_are_named(row: dict[str, Any], reason: str, suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"train.{suffix}", [*GOOD, row, *GOOD])
    problem = the_problem(of(path))
    assert (problem.rule_id, problem.key, problem.value) == ("unusable_row", KEYS[0], str(path))
    assert problem.rule.startswith(f"row 5: {reason}") and problem.rule.endswith(" (1 of 11 rows read)")
    assert problem.remedy.endswith(f"For details run {CHECK} {path}`.")


@pytest.mark.parametrize(("change", "reason"), BAD_COLUMNS)
def test_a_column_of_the_wrong_kind_is_named(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    path = write(tmp_path / "train.parquet", [row | change for row in GOOD])
    problem = the_problem(of(path))
    assert problem.rule.startswith(f"row 0: {reason}") and problem.rule.endswith(" (5 of 5 rows read)")


@pytest.mark.parametrize(
    ("rows", "changes"),
    [
        (GOOD, {}),
        ([make_row(truth=1e-05), make_row(truth=2.0)], {}),
        ([make_row("x", "N/A"), make_row("y", r"\text{Proof}")], {}),  # noted
        ([make_row(prompt=[{"role": "human", "content": "P"}])], {}),  # noted
        ([make_row(prompt=None)], {"data__custom_cls": {"path": __file__}}),
        ([make_row(truth=None)], {"reward__custom_reward_function": {"path": __file__}}),  # proofs
        ([make_row(reward_model=None)], {"reward__reward_model": {"enable": True}}),
        ([make_row(prompt="P")], {"actor_rollout_ref__rollout__agent__default_agent_loop": "my_agent"}),
        ([*GOOD, make_row(prompt=None)], {"data__filter_overlong_prompts": True}),  # verl drops the row
        ([make_row(question=[{"role": "user", "content": "P"}], prompt="P")], {"data__prompt_key": "question"}),
        ([make_row(agent_name="mine")], {"treepo__sampler": "plain"}),
        ([make_row(agent_name="mine", prompt="P")], {"treepo__sampler": "plain"}),
        ([make_row(images=[{"bytes": "x"}])], {"treepo__sampler": "plain"}),
        ([make_row(images=[], videos=None)], {}),
        ([make_row(images=[{"bytes": "x"}])], {"data__image_key": "pictures"}),
        ([make_row(priority=3, __rollout_n__=8, num_turns=2, metrics="m", values="v", index="i", uid="u")], {}),
        ([make_row(priority="high")], {"actor_rollout_ref__rollout__agent__default_agent_loop": "mine"}),
        ([make_row(truth="2024-01-01"), make_row(truth="1 May")], {}),
        ([make_row([{"type": "text", "text": "P"}])], {}),
        ([make_row(extra_info=None), make_row(ability=None, difficulty=3)], {}),
        ([{"prompt": GOOD[0]["prompt"]}], {"reward__reward_manager": {"source": "importlib"}}),
    ],
)
@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_what_verl_can_train_on_is_accepted(
    rows: list[dict[str, Any]], changes: dict[str, Any], suffix: str, tmp_path: Path
) -> None:
    assert rule_ids(of(write(tmp_path / f"train.{suffix}", rows), **changes)) == []


def test_a_message_without_content_is_accepted_beside_tool_calls(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "add"}]}
    user = {"role": "user", "content": "P", "tool_calls": None}
    assert rule_ids(of(write(tmp_path / "train.parquet", [make_row(prompt=[user, call, user])]))) == []


def test_notes_are_for_rows_that_can_hardly_be_meant(tmp_path: Path) -> None:
    human = [{"role": "human", "content": "P"}]
    path = write(tmp_path / "train.parquet", [*GOOD, make_row(truth="N/A"), make_row(prompt=human), make_row(" ")])
    notes: list[ConfigProblem] = []
    assert file_problems(of(path), KEYS, notes) == []
    assert sorted(note.rule.partition(" (")[0] for note in notes) == [
        "row 5: ground truth is not an answer",
        "row 6: a message has an unknown role, which chat templates ignore, misread or refuse",
        "row 7: all messages of prompt are blank",
    ]


def test_validation_rows_need_an_agent_of_trees_only_with_trees(tmp_path: Path) -> None:
    path = write(tmp_path / "val.parquet", [make_row(agent_name="mine")])
    files = {"data__val_files": str(path), "data__train_files": None}
    assert rule_ids(of(**files)) == []
    config = of(**files)
    config.treepo.validate_with_tree = True
    assert rule_ids(config) == ["unusable_row"]


# --- data files ------------------------------------------------------------------------------------------------


def test_broken_data_files_are_named(tmp_path: Path) -> None:
    good = write(tmp_path / "good.parquet", GOOD)
    pq.write_table(pq.read_table(good).slice(0, 0), tmp_path / "empty.parquet")
    (tmp_path / "cut.parquet").write_bytes(good.read_bytes()[:-9])
    (tmp_path / "folder.parquet").mkdir()
    write(tmp_path / "foreign.parquet", [{"problem": "P"}])
    write(tmp_path / "taken.parquet", [make_row(trace="x")])
    pairs = [(name, pa.array([value])) for name, value in (*GOOD[0].items(), ("x", 1), ("x", 2))]
    pq.write_table(pa.table([array for _, array in pairs], [name for name, _ in pairs]), tmp_path / "twice.parquet")
    (tmp_path / "twice.jsonl").write_text(json.dumps(GOOD[0])[:-1] + ', "data_source": "mine"}')
    (tmp_path / "nothing.jsonl").write_text("\n")
    text = write(tmp_path / "good.jsonl", GOOD).read_text()
    (tmp_path / "utf16.jsonl").write_text(text, encoding="utf-16")
    (tmp_path / "latin.jsonl").write_bytes(text.replace("What", "Wäs").encode("latin-1"))
    (tmp_path / "cut.jsonl").write_text(text[:-9])
    (tmp_path / "rows.json").write_text(json.dumps([1, 2]))
    (tmp_path / "split.json").write_text(json.dumps({"train": GOOD}))
    expected = {
        "empty.parquet": "empty_file",
        "cut.parquet": "damaged_file",
        "folder.parquet": "data_folder",
        "foreign.parquet": "missing_column",
        "taken.parquet": "reserved_column",
        "twice.parquet": "duplicate_column",
        "twice.jsonl": "duplicate_key",
        "nothing.jsonl": "empty_file",
        "utf16.jsonl": "file_encoding",
        "latin.jsonl": "file_encoding",
        "cut.jsonl": "damaged_file",
        "rows.json": "damaged_file",
        "split.json": "missing_column",
        "none.parquet": "missing_file",
        "none/*.parquet": "missing_file",
    }
    problems = file_problems(of([str(tmp_path / name) for name in expected]), KEYS)
    assert {Path(problem.value).relative_to(tmp_path).as_posix(): problem.rule_id for problem in problems} == expected


def test_files_that_verl_reads_are_accepted(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", GOOD)
    write(tmp_path / "b.parquet", GOOD)
    write(tmp_path / "lines.jsonl", GOOD)
    (tmp_path / "array.json").write_text(json.dumps(GOOD, indent=1), encoding="utf-8-sig")
    (tmp_path / "one.json").write_text(json.dumps(GOOD[0], indent=1))
    (tmp_path / "line.json").write_text(json.dumps(GOOD))
    (tmp_path / "objects.json").write_text("\n".join(json.dumps(row, indent=1) for row in GOOD))
    (tmp_path / "joined.json").write_text("".join(map(json.dumps, GOOD)))
    (tmp_path / "mixed.jsonl").write_text(json.dumps(GOOD[0]) + "\n" + json.dumps(GOOD[1], indent=1) + "\n\n")
    names = ["*.parquet", "lines.jsonl", "array.json", "one.json", "line.json", "objects.json", "joined.json"]
    names.append("mixed.jsonl")
    assert rule_ids(of([str(tmp_path / name) for name in names] + ["hdfs://server/a.parquet"])) == []


def lines_of(path: Path, *rows: dict[str, Any]) -> list[str]:
    write(path, list(rows))
    return [problem.rule for problem in file_problems(of(path), KEYS)]


def test_keys_and_types_that_first_occur_behind_the_beginning_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, long = tmp_path / "train.jsonl", "1 + " * 50
    first = make_row(long, difficulty=None, level=1)
    monkeypatch.setattr(data_reading, "FIRST_BYTES", 3 * len(json.dumps(first)) - 9)
    start, plain = (first, first, first), make_row(level=1)
    assert lines_of(path, *start, plain, make_row(level=None)) == []
    late = {
        "key source is new": plain | {"source": None},
        "key extra_info.page is new": plain | {"extra_info": {"page": 1}},
        "key prompt.name is new": plain | {"prompt": [{"role": "user", "content": "P", "name": "N"}]},
        "difficulty is not null": plain | {"difficulty": "easy"},
        "level is not one of the whole numbers": plain | {"level": "hard"},
    }
    for reason, row in late.items():
        (rule,) = lines_of(path, *start, plain, row)
        assert rule.startswith(f"line 5: {reason}, but verl derives keys and types from the first 10 MiB"), rule
        assert lines_of(path, first, row, first, plain) == []  # at the beginning
    # Objects with different keys have no fixed type.
    assert lines_of(path, first | {"extra_info": {}}, *start, late["key extra_info.page is new"]) == []


FIRST = {"a": 1, "b": None, "c": "x", "d": {"e": 1}, "f": [{"g": "x"}], "h": [], "i": 0.5, "j": "2024-01-01", "k": True}
LATE: list[dict[str, Any]] = [{"a": value} for value in (2, 2.0, 2.5, "2", "x", None, True)]
LATE += [{"b": value} for value in (None, 1, "x", [], {}, [1])]
LATE += [{"c": value} for value in (1, 1.5, "y", "2024-01-01")]
LATE += [{"d": value} for value in ({"e": 2}, {}, None, {"z": 1}, {"e": 1, "z": None}, {"e": "x"}, {"e": "7"})]
LATE += [{"f": value} for value in ([], None, [{"g": "y"}] * 3, [{"z": 1}], [{"g": "y", "z": 1}])]
LATE += [{"h": value} for value in ([], None, [1], ["x"])]
LATE += [{"i": value} for value in (1, 0.25, "0.5", "-1e-3", "half", None)]
LATE += [{"j": value} for value in ("2024-05-06 10:00", "soon", None)]
LATE += [{"k": value} for value in (False, None)] + [{"z": 1}, {"z": None}, {}]


def test_later_rows_fit_as_datasets_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    size = len(json.dumps(FIRST)) - 1
    monkeypatch.setattr(data_reading, "FIRST_BYTES", size)
    verdicts = []
    for number, late in enumerate(LATE):
        path = write(tmp_path / f"{number}.jsonl", [FIRST, late])
        options: dict[str, Any] = {"data_files": str(path), "cache_dir": str(tmp_path / "cache"), "chunksize": size}
        try:
            datasets.load_dataset("json", **options)
            reads = True
        except datasets.exceptions.DatasetGenerationError:
            reads = False
        try:
            with data_reading.open_rows(path):
                verdicts.append((late, reads, True))
        except data_reading.DataFileError as error:
            assert error.rule_id == "late_column"
            verdicts.append((late, reads, False))
    assert [verdict for verdict in verdicts if verdict[1] != verdict[2]] == []


def test_dates_in_all_rows_of_a_json_file_are_no_text_to_verl(tmp_path: Path) -> None:
    for name in ("train.jsonl", "train.json"):
        rows = [make_row(truth="2024-01-01"), make_row(truth="2024-05-06T10:00Z")]
        (tmp_path / name).write_text(json.dumps(rows) if name == "train.json" else "\n".join(map(json.dumps, rows)))
        assert "row 0: reward_model.ground_truth is a date or time" in the_problem(of(tmp_path / name)).rule
    assert rule_ids(of(write(tmp_path / "train.parquet", rows))) == []
    for near in ("2024-02-30", "2024", "20240101", "12:30:00"):
        assert rule_ids(of(write(tmp_path / "near.jsonl", [make_row(truth=near)]))) == []


def test_a_null_far_behind_the_sample_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipe.treepo.settings.data_files.SAMPLE_ROWS", 400)
    monkeypatch.setattr("recipe.treepo.settings.data_files._LEAST_ROWS", 400)
    rows = [make_row(f"P {number}") for number in range(4_000)]
    for number, bad in ((3_777, make_row(prompt=None)), (2_345, make_row(truth=None))):
        for size in (150, 10_000):
            path = write(tmp_path / "train.parquet", [*rows[:number], bad, *rows[number + 1 :]], row_group_size=size)
            problem = the_problem(of(path))
            assert problem.rule.startswith(f"row {number}: ") and "(1 of 4" in problem.rule
    path = write(tmp_path / "train.parquet", [make_row(prompt=None), *rows])  # in the sample: counted once
    assert "(1 of 400 rows read)" in the_problem(of(path)).rule


def test_a_sample_is_spread_over_the_file_and_bounded(tmp_path: Path) -> None:
    rows = [make_row(f"P {number}") for number in range(2_000)]
    path = write(tmp_path / "train.parquet", rows, row_group_size=100)
    with data_reading.open_rows(path) as file:
        whole = [number for first, batch in file.batches(["prompt"]) for number in range(first, first + len(batch))]
        sample = [
            number for first, batch in file.batches(["prompt"], 160) for number in range(first, first + len(batch))
        ]
    assert whole == list(range(2_000))
    starts = [0, 300, 500, 800, 1_100, 1_400, 1_600, 1_900]
    assert sample == [start + number for start in starts for number in range(20)]


def test_the_home_folder_is_written_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "train.parquet", GOOD)
    problem = the_problem(of("~/train.parquet"))
    assert (problem.rule_id, problem.remedy) == ("home_folder", f"Use {tmp_path}/train.parquet.")


def test_a_final_slash_of_a_model_is_named() -> None:
    problem = the_problem(of(model=f"{TINY}/"))
    assert (problem.rule_id, problem.remedy) == ("final_slash", f"Use {TINY}.")


# --- long prompts ----------------------------------------------------------------------------------------------

LONG = make_row("1 + " * 60)


def test_prompts_that_verl_would_cut_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "train.parquet", [*GOOD, LONG, make_row("1 + " * 900)])
    limit = {LIMIT: 100, "data__truncation": "error"}
    problem = the_problem(of(path, TINY, **limit))
    assert (problem.rule_id, problem.key, problem.value) == ("prompt_too_long", "data.max_prompt_length", 100)
    assert (
        problem.rule.startswith(f"row 6 of {path} has a prompt of ") and "(at least 2 of 7 rows read)" in problem.rule
    )
    assert "data.truncation=error" in problem.rule and "data.truncation=left" in problem.remedy
    notes: list[ConfigProblem] = []
    assert file_problems(of(path, TINY, **limit | {"data__truncation": "left"}), KEYS, notes) == []
    assert [note.rule_id for note in notes] == ["prompt_too_long"]
    assert rule_ids(of(path, TINY, **limit, data__filter_overlong_prompts=True)) == []
    assert rule_ids(of(path, TINY, **limit | {LIMIT: 5_000})) == []


def test_data_of_which_the_filter_drops_every_row_are_a_problem(tmp_path: Path) -> None:
    path = write(tmp_path / "train.parquet", [LONG, make_row("1 + " * 900)])
    limit: dict[str, object] = {LIMIT: 100, "data__filter_overlong_prompts": True}
    problem = the_problem(of(path, TINY, **limit))
    assert (problem.rule_id, problem.key, problem.value) == ("all_prompts_dropped", "data.max_prompt_length", 100)
    assert problem.rule.startswith(f"all 2 prompts of {path} are longer")
    assert rule_ids(of(path, TINY, **limit | {LIMIT: 5_000})) == []
    assert rule_ids(of(write(tmp_path / "some.parquet", [LONG, *GOOD]), TINY, **limit)) == []


def test_the_limit_counts_tokens_with_the_chat_template(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    path = write(tmp_path / "train.parquet", [LONG])
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    exact = len(tokenizer.apply_chat_template(LONG["prompt"], add_generation_prompt=True)["input_ids"])
    assert rule_ids(of(path, TINY, **{LIMIT: exact})) == []
    problem = the_problem(of(path, TINY, **{LIMIT: exact - 1}))
    assert f"has a prompt of {exact} tokens" in problem.rule


def test_a_prompt_of_a_megabyte_is_measured_within_two_seconds(tmp_path: Path) -> None:
    path = write(tmp_path / "train.parquet", [*GOOD, make_row("12 + 3 = 15\n" * 100_000)])
    start = time.monotonic()
    problem = the_problem(of(path, TINY))
    assert time.monotonic() - start < 2 and "row 5 of" in problem.rule and "of more than " in problem.rule


def test_messages_that_the_chat_template_refuses_are_named(tmp_path: Path) -> None:
    template = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    template += "{{ m.content }}{% endfor %}"
    system = [{"role": "system", "content": "S"}, {"role": "user", "content": "P"}]
    path = write(tmp_path / "train.parquet", [*GOOD, make_row(prompt=system)])
    changes = {"actor_rollout_ref__model__custom_chat_template": template}
    problem = the_problem(of(path, TINY, **changes))
    assert problem.rule.startswith("row 5: the chat template refuses the messages (TemplateError: no system) (1 of 6")
    assert rule_ids(of(path, TINY, data__filter_overlong_prompts=True, **changes)) == []


OWN = "actor_rollout_ref__model__custom_chat_template"


@pytest.mark.parametrize(
    ("template", "rule_id", "words"),
    [
        ("chat.jinja", "chat_template_text", "names a file, but verl takes the text itself"),
        (__file__, "chat_template_text", "names a file"),
        ("", "chat_template_text", "has no messages in it"),
        ("Answer the question.", "chat_template_text", "has no messages in it"),
        ("{% for m in messages %}Q{% endfor %}", "chat_template_fails", "gives the same text for all prompts"),
        ("{{ mine + messages[0].content }}", "chat_template_fails", "(UndefinedError: 'mine' is undefined)"),
        ("{{ messages[0].text.strip() }}", "chat_template_fails", "has no attribute 'text'"),
        ("{{ 1 / 0 }}{{ messages }}", "chat_template_fails", "(ZeroDivisionError: division by zero)"),
        ("{{ messages }", "chat_template_syntax", "line 1"),
        ("{{ bos_token + other_token + messages[0].content }}", None, ""),
        ("{{ messages[0].content + mine }}{# data.apply_chat_template_kwargs #}", None, ""),
        ("{{ messages | tojson }}", None, ""),
    ],
)
def test_chat_templates_are_tried(template: str, rule_id: str | None, words: str, tmp_path: Path) -> None:
    files = [str(write(tmp_path / f"{name}.parquet", GOOD)) for name in ("a", "b")]
    options = {"mine": "M"} if "kwargs" in template else {}
    config = of(files, TINY, **{OWN: template, "data__apply_chat_template_kwargs": options})
    if rule_id is None:
        assert rule_ids(config) == []
        return
    problem = the_problem(config)
    assert (problem.rule_id, words in problem.rule) == (rule_id, True)
    if rule_id != "chat_template_syntax":
        assert problem.key == "actor_rollout_ref.model.custom_chat_template"


def test_a_template_of_the_model_that_fails_names_the_model(tmp_path: Path) -> None:
    folder = model_copy(tmp_path / "model")
    set_template(folder, "{{ messages[0].content + ending }}")
    problem = the_problem(of(write(tmp_path / "train.parquet", GOOD), folder))
    assert (problem.key, problem.value) == ("actor_rollout_ref.model.path", str(folder))
    assert "its chat template fails even for a single message of a user (UndefinedError: 'ending'" in problem.rule


# --- models ----------------------------------------------------------------------------------------------------


def model_copy(folder: Path) -> Path:
    shutil.copytree(TINY, folder)
    return folder


def weights(folder: Path) -> Path:
    return folder / "model.safetensors"


def change_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def drop_keys(folder: Path, *keys: str) -> dict[str, Any]:
    content = json.loads((folder / "config.json").read_text())
    dropped = {key: content.pop(key) for key in keys}
    (folder / "config.json").write_text(json.dumps(content))
    return dropped


def move_sizes(folder: Path, **changes: Any) -> None:
    """Move the sizes to the group of the text model, as in files of models with images."""
    sizes = drop_keys(folder, "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
    change_json(folder / "config.json", text_config=sizes | changes)


def rename_weight(folder: Path, name: str, other: str) -> None:
    assert len(name) == len(other)
    weights(folder).write_bytes(weights(folder).read_bytes().replace(name.encode(), other.encode()))


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def shard(folder: Path, *names: str) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {name: name for name in names}}))


def lfs(file: Path) -> None:
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 988097824\n")


def drop_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    content = json.loads((folder / "tokenizer_config.json").read_text())
    content.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(content))


def set_template(folder: Path, template: str) -> None:
    drop_template(folder)
    (folder / "chat_template.jinja").write_text(template)


BROKEN_MODELS = {
    "empty": (empty, "model_empty", "the folder is empty"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "model_config", "no config.json"),
    "cut config": (lambda folder: (folder / "config.json").write_text('{"a": '), "model_config_damaged", "config.json"),
    "list config": (lambda folder: (folder / "config.json").write_text("[]"), "model_config_damaged", "config.json"),
    "no weights": (lambda folder: weights(folder).unlink(), "model_weights", "no weights"),
    "cut weights": (
        lambda folder: weights(folder).write_bytes(weights(folder).read_bytes()[:-100]),
        "model_weights_damaged",
        "model.safetensors is cut off: it has",
    ),
    "cut header": (
        lambda folder: weights(folder).write_bytes(weights(folder).read_bytes()[:20]),
        "model_weights_damaged",
        "model.safetensors is cut off: it has 20 bytes of",
    ),
    "empty weights": (lambda folder: weights(folder).write_bytes(b""), "model_weights_damaged", "is empty"),
    "text as weights": (
        lambda folder: weights(folder).write_text("<html>not found</html>"),
        "model_weights_damaged",
        "model.safetensors is not a safetensors file",
    ),
    "cut archive": (
        lambda folder: weights(folder).rename(folder / "pytorch_model.bin").write_bytes(b"PK\x03\x04" + bytes(99)),
        "model_weights_damaged",
        "pytorch_model.bin is cut off: its 103 bytes lack the end of the archive",
    ),
    "lfs": (lambda folder: lfs(weights(folder)), "model_weights_damaged", "model.safetensors is a pointer of Git LFS"),
    "lfs tokenizer": (lambda folder: lfs(folder / "tokenizer.json"), "model_tokenizer_damaged", "tokenizer.json"),
    "missing shard": (
        lambda folder: (
            weights(folder).rename(folder / "a.safetensors"),
            shard(folder, "a.safetensors", "b.safetensors"),
        ),
        "model_shards",
        "model.safetensors.index.json names b.safetensors, which the folder lacks",
    ),
    "no index": (
        lambda folder: weights(folder).rename(folder / "model-00001-of-00002.safetensors"),
        "model_weights",
        "no weights",
    ),
    "broken index": (
        lambda folder: (weights(folder).unlink(), (folder / "model.safetensors.index.json").write_text("{}")),
        "model_index",
        "model.safetensors.index.json cannot be read (KeyError",
    ),
    "no tokenizer": (
        lambda folder: [file.unlink() for file in folder.glob("tokenizer*")],
        "model_tokenizer",
        "no tokenizer",
    ),
    "no vocabulary": (lambda folder: (folder / "tokenizer.json").unlink(), "model_tokenizer", "no tokenizer"),
    "cut tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text('{"a": '),
        "model_tokenizer_damaged",
        "tokenizer.json",
    ),
    "empty tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text("{}"),
        "model_tokenizer_damaged",
        "tokenizer.json has no model",
    ),
    "unknown type": (
        lambda folder: change_json(folder / "config.json", model_type="qwen2x"),
        "model_type",
        "has model_type qwen2x, which the installed transformers does not know",
    ),
    "other vocabulary": (
        lambda folder: change_json(folder / "config.json", vocab_size=429),
        "model_weights_differ",
        "model.embed_tokens.weight has [428, 128] elements, vocab_size and hidden_size are [429, 128]",
    ),
    "other width": (
        lambda folder: change_json(folder / "config.json", hidden_size=64),
        "model_weights_differ",
        "are [428, 64]",
    ),
    "other width of the text model": (
        lambda folder: move_sizes(folder, hidden_size=64),
        "model_weights_differ",
        "are [428, 64]",
    ),
    "more layers": (
        lambda folder: change_json(folder / "config.json", num_hidden_layers=6),
        "model_weights_differ",
        "layer 4 of 6 is missing",
    ),
    "no template": (drop_template, "chat_template", "no chat template"),
    "wrong template": (
        lambda folder: set_template(folder, "{% for m in messages %}\n{{ m.content }\n{% endfor %}"),
        "chat_template_syntax",
        "(chat_template.jinja, line 2: unexpected '}'",
    ),
    "unclosed template": (
        lambda folder: set_template(folder, "{% for m in messages %}"),
        "chat_template_syntax",
        "(chat_template.jinja, line 1: ",
    ),
    "unknown filter": (
        lambda folder: set_template(folder, "{{ messages[0].content | trimm }}"),
        "chat_template_syntax",
        "line 1: No filter named 'trimm'",
    ),
}


@pytest.mark.parametrize(("damage", "rule_id", "words"), BROKEN_MODELS.values(), ids=BROKEN_MODELS)
def test_a_broken_model_folder_is_named(damage: Any, rule_id: str, words: str, tmp_path: Path) -> None:
    folder = model_copy(tmp_path / "model")
    damage(folder)
    problem = the_problem(of(write(tmp_path / "train.parquet", GOOD), folder))
    assert (problem.rule_id, problem.key, problem.value) == (rule_id, "actor_rollout_ref.model.path", str(folder))
    assert words in problem.rule


MODEL = "actor_rollout_ref__model__"


def test_only_overrides_of_sizes_excuse_other_weights(tmp_path: Path) -> None:
    folder = model_copy(tmp_path / "model")
    change_json(folder / "config.json", num_hidden_layers=6)
    data = write(tmp_path / "train.parquet", GOOD)
    attention = {"attn_implementation": "sdpa"}
    assert rule_ids(of(data, folder, **{f"{MODEL}override_config": attention})) == ["model_weights_differ"]
    assert rule_ids(of(data, folder, **{f"{MODEL}override_config": attention | {"num_hidden_layers": 4}})) == []


@pytest.mark.parametrize(
    ("damage", "changes"),
    [
        (lambda folder: None, {}),
        (lambda folder: [file.unlink() for file in folder.glob("*token*")], {f"{MODEL}tokenizer_path": str(TINY)}),
        (drop_template, {f"{MODEL}custom_chat_template": "{{ messages[0].content }}"}),
        (drop_template, {f"{MODEL}trust_remote_code": True}),
        (drop_template, {"actor_rollout_ref__rollout__agent__default_agent_loop": "mine"}),
        (lambda folder: (drop_template(folder), (folder / "tekken.json").write_text("{}")), {}),
        (lambda folder: (drop_template(folder), change_json(folder / "config.json", model_type="deepseek_v4")), {}),
        (lambda folder: weights(folder).unlink(), {"actor_rollout_ref__actor__strategy": "megatron"}),
        (lambda folder: weights(folder).rename(folder / "pytorch_model.bin"), {}),
        (
            lambda folder: (weights(folder).rename(folder / "a.safetensors"), shard(folder, "a.safetensors")),
            {},
        ),
        (lambda folder: change_json(folder / "config.json", model_type=None), {}),
        (lambda folder: change_json(folder / "config.json", model_type="new", auto_map={}), {}),
        (lambda folder: change_json(folder / "config.json", model_type="new"), {f"{MODEL}trust_remote_code": True}),
        (lambda folder: change_json(folder / "config.json", num_hidden_layers=3), {}),
        (
            lambda folder: change_json(folder / "config.json", num_hidden_layers=6),
            {f"{MODEL}override_config": {"num_hidden_layers": 4}},
        ),
        (
            lambda folder: change_json(folder / "config.json", num_hidden_layers=6),
            {f"{MODEL}hf_config_path": str(TINY)},
        ),
        (lambda folder: change_json(folder / "config.json", text_config={"hidden_size": 9}), {}),
        (lambda folder: rename_weight(folder, "model.layers.", "modul.layers."), {}),
        (lambda folder: rename_weight(folder, "model.embed_tokens.weight", "model.tok_embedding.weigh"), {}),
        (lambda folder: drop_keys(folder, "hidden_size"), {}),
        (lambda folder: move_sizes(folder), {}),
        (lambda folder: change_json(folder / "config.json", hidden_size=64, auto_map={}), {}),
        (lambda folder: change_json(folder / "config.json", hidden_size=64), {f"{MODEL}trust_remote_code": True}),
        (lambda folder: change_json(folder / "config.json", model_type="mine"), {f"{MODEL}external_lib": "json"}),
        (
            lambda folder: [file.unlink() for file in folder.glob("*token*")],
            {f"{MODEL}external_lib": "json"},
        ),
        (lambda folder: (folder / "consolidated.safetensors").write_bytes(b"cut"), {}),
        (
            lambda folder: ((folder / "tokenizer.json").rename(folder / "vocab.json"), drop_template(folder)),
            {f"{MODEL}custom_chat_template": "{{ messages }}"},
        ),
        (
            lambda folder: (
                (folder / "tokenizer.json").unlink(),
                change_json(folder / "tokenizer_config.json", tokenizer_class="ByT5Tokenizer"),
            ),
            {},
        ),
        (lambda folder: (folder / "config.json").unlink(), {f"{MODEL}hf_config_path": str(TINY)}),
        (
            lambda folder: set_template(
                folder,
                "{% generation %}{{ messages | tojson }}{% endgeneration %}{% for m in [1] %}{% break %}{% endfor %}",
            ),
            {},
        ),
    ],
)
def test_models_that_verl_can_load_are_accepted(damage: Any, changes: dict[str, Any], tmp_path: Path) -> None:
    folder = model_copy(tmp_path / "model")
    damage(folder)
    assert rule_ids(of(write(tmp_path / "train.parquet", GOOD), folder, **changes)) == []


def test_a_model_is_named_by_a_folder_or_the_hub(tmp_path: Path) -> None:
    data = write(tmp_path / "train.parquet", GOOD)
    config = of(data)
    for value, words in ((None, "names no model"), ("https://huggingface.co/Qwen/Qwen2.5-0.5B", "is a URL")):
        config.actor_rollout_ref.model.path = value
        problem = the_problem(config)
        assert (problem.rule_id, problem.key) == ("missing_model", "actor_rollout_ref.model.path")
        assert words in problem.rule
    config.actor_rollout_ref.model.path = "hdfs://server/model"
    assert rule_ids(config) == []


def test_safetensors_are_measured_by_their_header(tmp_path: Path) -> None:
    folder = model_copy(tmp_path / "model")
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "__metadata__": {}}).encode()
    for data, ids in ((b"\0" * 8, []), (b"\0" * 7, ["model_weights_damaged"])):
        weights(folder).write_bytes(struct.pack("<Q", len(header)) + header + data)
        assert rule_ids(of(write(tmp_path / "train.parquet", GOOD), folder)) == ids


def test_the_critics_folder_is_checked_where_there_is_a_critic(tmp_path: Path) -> None:
    folder = model_copy(tmp_path / "critic")
    weights(folder).unlink()
    drop_template(folder)  # only the actor's counts
    changes = {"algorithm__adv_estimator": "gae", "critic__model__path": str(folder)}
    problem = the_problem(of(write(tmp_path / "train.parquet", GOOD), TINY, **changes))
    assert (problem.rule_id, problem.key) == ("model_weights", "critic.model.path")


# --- the hub ---------------------------------------------------------------------------------------------------


def closed_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


def ask_hub(name: str, home: Path, limit: float = 60.0, **environment: str) -> list[str]:
    """Check a name in a process of its own, because huggingface_hub reads its environment once."""
    code = (
        "import sys\n"
        "from helpers.configs import config_of\n"
        "from recipe.treepo.settings import hub_models\n"
        f"hub_models.TIMEOUT_S = {limit}\n"
        "config = config_of(actor_rollout_ref__model__path=sys.argv[1])\n"
        "print(*[str(problem) for problem in hub_models.hub_problems(config)], sep='\\n')\n"
    )
    variables = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT}/tests", "HF_HOME": str(home)} | environment
    done = subprocess.run([sys.executable, "-c", code, name], env=variables, capture_output=True, text=True, check=True)
    return [problem for problem in done.stdout.splitlines() if problem]


def test_a_hub_that_cannot_be_reached_is_known_at_once(tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{closed_port()}"
    problems = ask_hub("Qwen/Qwen2.5-0.5B-Instrct", tmp_path, HF_ENDPOINT=endpoint)
    assert len(problems) == 1
    assert problems[0].startswith(
        "actor_rollout_ref.model.path=Qwen/Qwen2.5-0.5B-Instrct: there is no such folder, and"
    )
    assert f"the hub ({endpoint}) cannot be reached (ConnectError: " in problems[0]
    assert ask_hub("Qwen/X", tmp_path, HF_ENDPOINT=endpoint, VERL_USE_MODELSCOPE="true") == []
    problems = ask_hub("Qwen/X", tmp_path, HF_ENDPOINT=endpoint, HF_HUB_OFFLINE="1")
    assert len(problems) == 1 and "the cache lacks this model of the hub, and HF_HUB_OFFLINE is set" in problems[0]
    # a model in the cache needs no hub
    snapshot = tmp_path / "hub/models--Qwen--X/snapshots/abc"
    shutil.copytree(TINY, snapshot)
    (tmp_path / "hub/models--Qwen--X/refs").mkdir()
    (tmp_path / "hub/models--Qwen--X/refs/main").write_text("abc")
    assert ask_hub("Qwen/X", tmp_path, HF_ENDPOINT=endpoint, HF_HUB_OFFLINE="1") == []


def test_a_hub_that_never_replies_is_given_up(tmp_path: Path) -> None:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        place.listen()
        endpoint = f"http://127.0.0.1:{place.getsockname()[1]}"
        problems = ask_hub("Qwen/X", tmp_path, limit=1.5, HF_ENDPOINT=endpoint)
    assert len(problems) == 1 and "cannot be reached" in problems[0]


@pytest.mark.parametrize(
    ("status", "code", "rule_id"),
    [
        (200, None, None),
        (404, "RepoNotFound", "hub_unknown"),
        (401, None, "hub_unknown"),
        (403, "GatedRepo", "hub_access"),
        (503, None, None),  # verl tries again
        (429, None, None),
    ],
)
def test_the_reply_of_the_hub_decides(
    status: int, code: str | None, rule_id: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import http.server

    class Reply(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code or "")
            self.send_header("ETag", '"e"')
            self.send_header("X-Repo-Commit", "c" * 40)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Reply)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    import huggingface_hub
    from huggingface_hub import constants

    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "hf_hub_url", lambda name, file: f"{endpoint}/{name}/resolve/main/{file}")
    try:
        problems = hub_problems(config_of(actor_rollout_ref__model__path="Qwen/Nowhere"))
    finally:
        server.shutdown()
    assert [problem.rule_id for problem in problems] == ([rule_id] if rule_id else [])


def test_a_name_that_the_hub_does_not_allow_is_unknown(tmp_path: Path) -> None:
    config = of(write(tmp_path / "train.parquet", GOOD), "Qwen/a--b")
    assert rule_ids(config) == []
    assert [problem.rule_id for problem in hub_problems(config)] == ["hub_unknown"]


def test_only_names_of_the_hub_that_are_not_here_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(hub_models, "_error_of", lambda name: asked.append(name))
    hub_problems(config_of(actor_rollout_ref__model__path=str(TINY)))
    hub_problems(config_of(actor_rollout_ref__model__path="./nowhere"))
    hub_problems(config_of(actor_rollout_ref__model__path="hdfs://server/model"))
    cluster = {"ray_kwargs": {"ray_init": {"address": "10.0.0.1:6379"}}}
    hub_problems(config_of(actor_rollout_ref__model__path="Nobody/Nothing", **cluster))
    assert asked == []
    hub_problems(config_of(actor_rollout_ref__model__path="Nobody/Nothing"))
    assert asked == ["Nobody/Nothing"] and not is_missing_model("Nobody/Nothing")


# --- folders to write to ---------------------------------------------------------------------------------------


def test_folders_that_cannot_be_made_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    data = write(tmp_path / "train.parquet", GOOD)
    for folder, words in (("file/run", "a file is in the way"), ("file", "is a file"), ("n" * 300, "cannot be made")):
        path = str(tmp_path / folder)
        problem = the_problem(of(data, trainer__default_local_dir=path, trainer__save_freq=5))
        assert (problem.rule_id, problem.key) == ("output_folder", "trainer.default_local_dir")
        assert problem.rule.startswith(words)
        console = of(data, trainer__default_local_dir=path, trainer__save_freq=-1)
        assert rule_ids(console) == []  # verl writes nothing there
        console.treepo.console = "treepo"
        assert rule_ids(console) == ["output_folder"]  # our logs
        problem = the_problem(of(data, trainer__rollout_data_dir=path))
        assert (problem.rule_id, problem.key) == ("output_folder", "trainer.rollout_data_dir")
    assert rule_ids(of(data, trainer__default_local_dir=str(tmp_path / "new/run"), trainer__save_freq=5)) == []
    assert not (tmp_path / "new").exists()
    problem = the_problem(of(data, trainer__default_local_dir="/proc/treepo/run", trainer__save_freq=5))
    assert problem.rule.startswith("is not writable (/proc")


def test_the_folder_of_tensorboard_is_tried_where_verl_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    data = write(tmp_path / "train.parquet", GOOD)
    monkeypatch.setenv("TENSORBOARD_DIR", str(tmp_path / "file/curves"))
    problem = the_problem(of(data, trainer__logger=["console", "tensorboard"]))
    assert (problem.rule_id, problem.key) == ("output_folder", "TENSORBOARD_DIR")
    assert problem.rule.startswith("a file is in the way")
    assert rule_ids(of(data, trainer__logger=["console"])) == []
    monkeypatch.delenv("TENSORBOARD_DIR")
    monkeypatch.chdir(tmp_path)
    names = {"trainer__project_name": "p", "trainer__experiment_name": "e"}
    assert rule_ids(of(data, trainer__logger="tensorboard", **names)) == []
    (tmp_path / "tensorboard_log").write_text("")
    problem = the_problem(of(data, trainer__logger="tensorboard", **names))
    assert (problem.key, problem.value) == ("TENSORBOARD_DIR", "tensorboard_log/p/e")


# --- code files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        "data.custom_cls.path",
        "reward.reward_manager.module.path",
        "trainer.v1.sampler.custom_sampler.path",
        "actor_rollout_ref.rollout.agent.agent_loop_config_path",
        "actor_rollout_ref.model.lora_adapter_path",
    ],
)
def test_a_missing_file_of_the_users_is_named(key: str) -> None:
    name = key.replace(".", "__")
    found = [(problem.rule_id, problem.key) for problem in file_problems(of(**{name: "nowhere.py"}), KEYS)]
    assert ("missing_file", key) in found
    assert "missing_file" not in rule_ids(of(**{name: __file__}))
