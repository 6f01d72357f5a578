# SPDX-License-Identifier: Apache-2.0
"""Choice of the dumped trees, and the files of worker and trainer as read by the viewer."""

from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from helpers.scripted_engine import ScriptedEngine
from helpers.searches import grow
from recipe.treepo.dumps.reader import Dump
from recipe.treepo.settings.schema import DumpSettings, TreePOSettings
from recipe.treepo.verl_adapters.trajectory import trajectory_fields
from recipe.treepo.verl_adapters.tree_dump import DUMP_FIELD, CreditDump, CreditRow, SampledTree, TreeDump

ROLLOUT = {"n": 2, "response_length": 8, "temperature": 1.0}
CONFIG = OmegaConf.create(
    {
        "actor_rollout_ref": {"model": {"path": "m"}, "rollout": ROLLOUT},
        "algorithm": {"adv_estimator": "treepo"},
    }
)


def decode(token_ids: list[int]) -> str:
    return "".join(chr(token) if token < 256 else "#" for token in token_ids)


@pytest.mark.parametrize(
    ("prompt", "taken"),
    [
        ({"validate": False, "step": 1, "number": 0}, True),  # the first step
        ({"validate": False, "step": 2, "number": 0}, False),
        ({"validate": False, "step": 9, "number": 0}, False),
        ({"validate": False, "step": 10, "number": 7}, True),
        ({"validate": False, "step": 10, "number": 8}, False),  # the eight prompts are 0 to 7
        ({"validate": True, "step": 3, "number": 7}, True),
        ({"validate": True, "step": 3, "number": 8}, False),
    ],
)
def test_by_default_eight_prompts_of_every_tenth_step_and_of_every_validation_are_taken(prompt, taken):
    assert DumpSettings(dir="trees").takes(**prompt) is taken
    assert not DumpSettings().takes(**prompt)


def test_all_prompts_of_all_steps_can_be_taken():
    everything = DumpSettings(dir="trees", every=1, prompts=None)
    assert everything.takes(validate=False, step=7, number=1_000)


def test_worker_and_trainer_write_one_tree_with_rewards_and_advantages(tmp_path):
    # Two paths of two segments with a shared first segment.
    engine = ScriptedEngine(script=[[97, 98, 99, 100, 101, 102, 103, 104], [97, 98, 99, 100, 105, 106, 107, 108]])
    tree = grow(engine, width=2, depth=2, segment_length=4, response_length=8, init_divergence=(1, 1))
    dump = TreeDump(CONFIG, TreePOSettings(depth=2, dump=DumpSettings(dir=str(tmp_path))), decode)
    row = {
        "uid": "u",
        "global_steps": 10,
        "data_source": "sums",
        "index": 5,
        "reward_model": {"ground_truth": "42"},
    }
    outputs: list[Any] = [
        SimpleNamespace(reward_score=1.0, extra_fields={"reward_extra_info": {"acc": 1.0, "pred": "42"}}),
        SimpleNamespace(reward_score=0.0, extra_fields={}),
    ]
    dump.write(SampledTree(tree), row, outputs, validate=False, number=3)
    fields = [{**own, DUMP_FIELD: dump.report, "reward_extra_info": {"acc": 1.0}} for own in trajectory_fields(tree)]
    nodes = [[node for node, _ in own["tree_path"]] for own in fields]
    assert nodes == [[1, 2], [1, 3]]
    credit = CreditDump(str(tmp_path))
    # The last two tokens of the second node are not trained.
    mask = [1, 1, 1, 1, 1, 1, 0, 0]
    credit.write(
        [
            CreditRow("u", 10, 1.0, [0.5] * 4 + [1.0, 2.0, 0.0, 0.0], mask, fields[0]),
            CreditRow("u", 10, 0.0, [-0.5] * 4 + [-1.0, -1.0, 0.0, 0.0], mask, fields[1]),
            CreditRow("other", 10, 0.0, [0.0] * 8, [1] * 8, trajectory_fields(tree)[0]),  # tree not dumped
        ]
    )

    found = Dump(tmp_path)
    found.refresh()
    [entry] = found.trees()
    assert entry.folder == "train_000010"
    assert {key: entry.summary[key] for key in ("reward", "mixed", "trajectories", "number")} == {
        "reward": 0.5,
        "mixed": True,
        "trajectories": 2,
        "number": 3,
    }
    document = found.load(entry)
    assert (document["row"], document["data_source"], document["ground_truth"]) == (5, "sums", "42")
    assert [node["text"] for node in document["nodes"]] == ["", "abcd", "efgh", "ijkl"]
    assert document["trajectories"] == [
        {"leaf": 2, "reward": 1.0, "parts": {"acc": 1.0, "pred": "42"}, "advantages": [(1, 0.5), (2, 1.5)]},
        {"leaf": 3, "reward": 0.0, "parts": {}, "advantages": [(1, -0.5), (3, -1.0)]},
    ]
    assert len(list(tmp_path.glob("*/*"))) == 2 and credit.failures == 0


def test_a_disk_failure_is_counted_and_reported_and_stops_nothing(tmp_path, caplog):
    (tmp_path / "train_000001").write_text("a file where the folder should be")
    dump = TreeDump(CONFIG, TreePOSettings(dump=DumpSettings(dir=str(tmp_path))), decode)
    tree = grow(ScriptedEngine(), width=1, depth=1, segment_length=4, response_length=4, init_divergence=(1, 1))
    outputs: list[Any] = [SimpleNamespace(reward_score=None, extra_fields={})]
    for _ in range(2):
        dump.write(SampledTree(tree), {"uid": "u", "global_steps": 1}, outputs, validate=False, number=0)
    assert dump.report["failures"] == 2
    assert caplog.text.count("a line could not be written") == 1
    credit = CreditDump(str(tmp_path))
    [fields] = trajectory_fields(tree)
    credit.write([CreditRow("u", 1, 0.0, [0.0] * 4, [1] * 4, {**fields, DUMP_FIELD: dump.report})])
    assert credit.failures == 3  # two of the worker, one of the trainer


def test_a_tree_that_cannot_be_decoded_is_a_failure_too(tmp_path):
    def broken(token_ids: list[int]) -> str:
        raise RuntimeError("no such token")

    dump = TreeDump(CONFIG, TreePOSettings(dump=DumpSettings(dir=str(tmp_path))), broken)
    tree = grow(ScriptedEngine(), width=1, depth=1, segment_length=4, response_length=4, init_divergence=(1, 1))
    outputs: list[Any] = [SimpleNamespace(reward_score=1.0, extra_fields={})]
    dump.write(SampledTree(tree), {"uid": "u", "global_steps": 1}, outputs, validate=True, number=0)
    assert dump.report["failures"] == 1 and not list(tmp_path.iterdir())
