# SPDX-License-Identifier: Apache-2.0
"""Problems of an evaluation from verl's own data set; only the prompt builder is replaced."""

from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from omegaconf import OmegaConf

from recipe.treepo.evaluation.problems import load_problems
from recipe.treepo.settings.values import ConfigError
from recipe.treepo.verl_adapters.evaluation_inputs import read_rows


def letters(messages: list[dict]) -> list[int]:
    """Return one token per letter of the messages."""
    return [ord(letter) for message in messages for letter in message["content"]]


def row(number: int, source: str = "a", **changes) -> dict:
    prompt = [{"role": "user", "content": f"{number}?"}]
    reward = {"ground_truth": f"{number}"}
    return {"data_source": source, "prompt": prompt, "reward_model": reward, "extra_info": {"index": number}} | changes


def load(tmp_path: Path, *files: list[dict], blank_truths: bool = False, **data):
    names = []
    for number, rows in enumerate(files):
        names.append(str(tmp_path / f"{number}.parquet"))
        pd.DataFrame(rows).to_parquet(names[-1])
    settings = {
        "val_files": names,
        "filter_overlong_prompts": False,
        "max_prompt_length": 4,
        "cache_dir": str(tmp_path),
    }
    # verl's defaults: random rows, without a seed
    settings |= {"shuffle": True, "seed": None, **data}
    config = OmegaConf.create({"data": settings})
    return load_problems(
        names, partial(read_rows, config, None), letters, max_prompt_length=4, blank_truths=blank_truths
    )


def problems_of(tmp_path: Path, *files: list[dict], **data) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, *files, **data)
    return [str(problem).replace(f"{tmp_path}/", "") for problem in caught.value.problems]


def test_problems_are_numbered_within_their_data_set_over_all_files(tmp_path):
    found = load(tmp_path, [row(10), row(11, "b"), row(12)], [row(13, extra_info={"level": "5"}), row(14, "b")])
    assert [(p.data_source, p.row) for p in found] == [("a", 0), ("b", 0), ("a", 1), ("a", 2), ("b", 1)]
    assert found[0].prompt_ids == [ord("1"), ord("0"), ord("?")]
    assert found[3].fields["reward_model"] == {"ground_truth": "13"}
    assert found[3].fields["extra_info"]["level"] == "5"


def test_a_limit_takes_the_first_rows_of_each_file_every_time(tmp_path):
    files = [[row(number) for number in range(10, 40)], [row(number, "b") for number in range(10, 40)]]
    for _ in range(3):
        found = load(tmp_path, *files, val_max_samples=3)
        assert [p.fields["extra_info"]["index"] for p in found] == [10, 11, 12, 10, 11, 12]


CHECK = "Remove such rows; `python -m recipe.treepo.data_prep.check 0.parquet` lists them."


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"reward_model": {"ground_truth": " "}}, "has no reward_model.ground_truth for the reward"),
        ({"reward_model": None}, "has no reward_model.ground_truth for the reward"),
        ({"data_source": None}, "has no data_source"),
        ({"agent_name": "tool_agent"}, "has agent_name=tool_agent, but an evaluation supports only single_turn_agent"),
        ({"prompt": []}, "has no text prompt"),
        (
            {"prompt": [{"role": "user", "content": "12345"}]},
            "has a prompt of 5 tokens, more than data.max_prompt_length",
        ),
    ],
)
def test_unusable_rows_are_reported_with_file_and_row(tmp_path, changes, problem):
    good = row(10) | {key: "single_turn_agent" for key in changes if key == "agent_name"}
    assert problems_of(tmp_path, [good, good | changes]) == [f"data.val_files=0.parquet, row 1: {problem}. {CHECK}"]


def test_a_row_that_fails_in_verl_is_reported_like_the_others(tmp_path):
    (problem,) = problems_of(tmp_path, [row(10), row(11, prompt=None)])
    assert problem.startswith("data.val_files=0.parquet, row 1: cannot be converted to a prompt (")


def test_other_rewards_may_do_without_a_ground_truth(tmp_path):
    assert len(load(tmp_path, [row(10, reward_model={"ground_truth": ""})], blank_truths=True)) == 1


def test_many_bad_rows_are_counted(tmp_path):
    problems = problems_of(tmp_path, [row(10, data_source="") for _ in range(14)])
    assert len(problems) == 11 and problems[-1].startswith("data.val_files=...: 4 more rows cannot be evaluated")
