# SPDX-License-Identifier: Apache-2.0
"""verl's reward managers around a reward function: its arguments, and the use of its score."""

import asyncio
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from verl import DataProto
from verl.experimental.reward_loop.reward_manager import get_reward_manager_cls

from helpers.load_file import load_file
from recipe.treepo.answers.thinking import Thinking
from recipe.treepo.reward import compute_score
from recipe.treepo.verl_adapters.trajectory import with_thinking

PATH = [(1, 0), (4, 3), (9, 6)]


def example() -> Any:
    """Load the example from its file, as verl does."""
    return load_file("examples/tree_reward.py").compute_score


class Letters:
    """Tokenizer whose tokens are characters."""

    def decode(self, ids: torch.Tensor, skip_special_tokens: bool) -> str:
        return "".join(map(chr, ids.tolist()))


def row(response: str, extra_info: dict | None = None, tree: dict | None = None, padded_to: int = 40) -> DataProto:
    """Return the data of one trajectory as sent to a reward worker (AgentLoopWorker._compute_score)."""
    ids = torch.tensor([[ord(letter) for letter in response] + [0] * (padded_to - len(response))])
    mask = torch.cat([torch.ones(1, 2, dtype=torch.long), (ids > 0).long()], dim=1)
    fields = {
        "data_source": "test",
        "reward_model": {"ground_truth": "5"},
        "tool_extra_fields": tree,
        "__num_turns__": 2,
    }
    fields |= {} if extra_info is None else {"extra_info": extra_info}
    arrays = {key: np.array([value], dtype=object) for key, value in fields.items()}
    return DataProto(TensorDict({"responses": ids, "attention_mask": mask}, batch_size=1), arrays)


def scored(manager: str, function: Any, rows: list[DataProto], **penalty: Any) -> list[dict]:
    """Score rows concurrently with one manager and a maximum response length of 40 tokens."""
    kwargs = {"max_resp_len": 40, "overlong_buffer_cfg": {"enable": bool(penalty), "log": True, **penalty}}
    config = OmegaConf.create({"reward": {"reward_kwargs": kwargs}})

    async def run() -> list[dict]:
        manager_of_run = get_reward_manager_cls(manager)(config, Letters(), function)
        return await asyncio.gather(*(manager_of_run.run_single(data) for data in rows))

    return asyncio.run(run())


def tree_fields(**changes: Any) -> dict:
    return {"tree_path": PATH, "tree_finish_reason": "answer", "tree_statistics": {"engine_calls": 3}, **changes}


def remember(seen: list[dict]) -> Any:
    """Return a reward function that records its ``extra_info`` and then modifies it."""

    def function(*, data_source: str, solution_str: str, ground_truth: str, extra_info: dict) -> float:
        seen.append(dict(extra_info))
        extra_info["tree_path"] = extra_info["note"] = "spoilt"
        return 1.0

    return function


def test_a_reward_function_sees_the_tree_path_and_the_rows_own_fields() -> None:
    for manager in ("treepo", "naive"):
        seen: list[dict] = []
        scored(manager, remember(seen), [row("5", {"index": 7}, tree_fields())])
        assert seen == [{"index": 7, **tree_fields(), "num_turns": 2, "rollout_reward_scores": {}}], manager


def test_verls_dapo_manager_shows_no_path_which_is_why_there_is_ours() -> None:
    seen: list[dict] = []
    scored("dapo", remember(seen), [row("5", {"index": 7}, tree_fields())])
    assert seen == [{"index": 7}]


@pytest.mark.parametrize("manager", ["treepo", "naive", "dapo"])
def test_every_manager_passes_on_that_the_prompt_opened_a_thought(manager: str) -> None:
    opened = Thinking(opened=True)
    rows = [row(text, with_thinking({}, opened)["extra_info"]) for text in (r"\boxed{5}", r"a</think>\boxed{5}")]
    assert [result["reward_score"] for result in scored(manager, compute_score, rows)] == [0.0, 1.0]
    assert [result["reward_score"] for result in scored(manager, example(), rows)] == [0.0, 1.0]


@pytest.mark.parametrize("extra_info", [None, {}, {"index": 7}])
@pytest.mark.parametrize("tree", [None, {}])
def test_without_a_tree_there_is_no_path(extra_info: dict | None, tree: dict | None) -> None:
    seen: list[dict] = []
    scored("treepo", remember(seen), [row("5", extra_info, tree)])
    assert seen == [{**(extra_info or {}), "num_turns": 2, "rollout_reward_scores": {}}]


def test_siblings_that_share_a_row_see_nothing_of_each_other() -> None:
    shared = {"index": 7}
    seen: list[dict] = []
    trees = [tree_fields(tree_path=[(number, 0)]) for number in range(8)]
    scored("treepo", remember(seen), [row("5", shared, tree) for tree in trees])
    assert sorted(info["tree_path"] for info in seen) == [[(number, 0)] for number in range(8)]
    assert all(info["index"] == 7 and "note" not in info for info in seen)
    assert shared == {"index": 7}


def test_verls_naive_manager_writes_into_the_row_so_it_relies_on_ray_copying_it() -> None:
    shared = {"index": 7}
    data = row("5", shared, tree_fields())
    copy = pickle.loads(pickle.dumps(data))  # a remote call copies its arguments
    scored("naive", remember([]), [copy])
    assert shared == {"index": 7}
    scored("naive", remember([]), [data])
    assert shared != {"index": 7}


@pytest.mark.parametrize(
    ("length", "penalty"),
    [
        (30, 0.0),  # no penalty up to 40 - 10 tokens
        (31, 0.05),  # 1/10 of 0.5
        (35, 0.25),
        (40, 0.5),  # the whole factor
    ],
)
@pytest.mark.parametrize(("answer", "acc"), [("5", 1.0), ("6", 0.0)])
def test_a_long_response_loses_up_to_the_factor_and_acc_loses_nothing(
    length: int, penalty: float, answer: str, acc: float
) -> None:
    text = f"\\boxed{{{answer}}}".rjust(length, ".")
    (result,) = scored("treepo", compute_score, [row(text)], enable=True, len=10, penalty_factor=0.5)
    assert result["reward_score"] == pytest.approx(acc - penalty)
    info = result["reward_extra_info"]
    assert (info["score"], info["acc"]) == (acc, acc)
    assert info["overlong_reward"] == pytest.approx(-penalty) and info["overlong"] is (penalty > 0)
    assert all(type(value) in (float, bool) for value in info.values())
    (unshaped,) = scored("treepo", compute_score, [row(text)])
    assert unshaped["reward_score"] == acc and "overlong" not in unshaped["reward_extra_info"]


@pytest.mark.parametrize(
    ("solution", "options", "score", "acc"),
    [
        # SimpleRL: 1 correct, -0.5 wrong in a box, -1 without a box
        (r"\boxed{5}", {"wrong_score": -0.5, "no_box_score": -1.0}, 1.0, 1.0),
        (r"\boxed{6}", {"wrong_score": -0.5, "no_box_score": -1.0}, -0.5, 0.0),
        ("It is 5.", {"wrong_score": -0.5, "no_box_score": -1.0}, -1.0, 1.0),
        ("It is 5.", {"wrong_score": -0.5, "no_box_score": -1.0, "require_box": True}, -1.0, 0.0),
        (r"\boxed{5", {"wrong_score": -0.5, "no_box_score": -1.0}, -1.0, 0.0),
        # DAPO: 1 and -1
        (r"\boxed{6}", {"wrong_score": -1.0}, -1.0, 0.0),
        ("It is 5.", {"wrong_score": -1.0}, 1.0, 1.0),
        ("It is 5.", {"wrong_score": -1.0, "require_box": True}, -1.0, 0.0),
    ],
)
def test_format_is_shaped_by_options_and_acc_is_not(solution: str, options: dict, score: float, acc: float) -> None:
    result = compute_score("test", solution, "5", **options)
    assert (result["score"], result["acc"]) == (score, acc)


@pytest.mark.parametrize(
    ("tree", "score", "nodes", "cut_off"),
    [
        (tree_fields(), 1 - 3 * 0.1, 3.0, 0.0),
        (tree_fields(tree_finish_reason="length"), 1 - 3 * 0.1 - 0.25, 3.0, 1.0),
        (tree_fields(tree_path=[(2, 0)], tree_finish_reason="depth"), 1 - 0.1 - 0.25, 1.0, 1.0),
        (tree_fields(tree_path=[(2, 0)], tree_finish_reason="eos"), 1 - 0.1, 1.0, 0.0),
        (tree_fields(tree_path=[(2, 0)], tree_finish_reason="turns"), 1 - 0.1 - 0.25, 1.0, 1.0),
        (tree_fields(tree_path=[(2, 0)], tree_finish_reason="interaction"), 1 - 0.1, 1.0, 0.0),
        ({}, 1.0, 0.0, 0.0),
        (None, 1.0, 0.0, 0.0),
    ],
)
def test_the_example_subtracts_the_costs_of_the_tree(
    tree: dict | None, score: float, nodes: float, cut_off: float
) -> None:
    result = example()("test", r"\boxed{5}", "5", tree, node_cost=0.1, cut_off_cost=0.25, wrong_score=-1.0)
    assert math.isclose(result["score"], score)
    assert (result["acc"], result["tree_nodes"], result["tree_cut_off"]) == (1.0, nodes, cut_off)


def test_the_example_goes_with_the_overlong_penalty() -> None:
    def function(**arguments: Any) -> dict:
        return example()(**arguments, node_cost=0.125)

    text = r"\boxed{5}".rjust(35, ".")
    rows = [row(text, {"index": 1}, tree_fields()), row(text, {"index": 1}, tree_fields(tree_path=PATH[:1]))]
    results = scored("treepo", function, rows, enable=True, len=10, penalty_factor=0.5)
    # 3 nodes and 1 node, and half the way through the last 10 tokens
    assert [result["reward_score"] for result in results] == pytest.approx([1 - 0.375 - 0.25, 1 - 0.125 - 0.25])


def test_the_example_refuses_options_that_nobody_knows() -> None:
    with pytest.raises(ValueError, match="nodecost=0.1: unknown option"):
        example()("test", r"\boxed{5}", "5", nodecost=0.1)
