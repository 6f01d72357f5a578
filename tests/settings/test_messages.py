# SPDX-License-Identifier: Apache-2.0
"""Compare the sentences of all problems with a record, ``messages.txt``: one line per rule id, with an example.

The other tests assert key and rule id. After a change of wording run
``PYTHONPATH=.:tests python tests/settings/test_messages.py``, read the differences and commit the new record.
"""

import ast
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import DictConfig, OmegaConf

from helpers.configs import config_of, problems_of, special_tag
from helpers.paths import ROOT
from helpers.verl_mistakes import MISTAKES, make_files, tiny_with
from recipe.treepo.command_line.arguments import read_command_line
from recipe.treepo.command_line.verl_overrides import with_known_keys
from recipe.treepo.evaluation.settings import load_evaluation
from recipe.treepo.settings import json_columns
from recipe.treepo.settings.code_rules import package_problems
from recipe.treepo.settings.schema import InteractionSettings, load_settings
from recipe.treepo.settings.support import never_run_note
from recipe.treepo.settings.tree_rules import unused_cache_block
from recipe.treepo.settings.validate import validate
from recipe.treepo.settings.values import ConfigError, ConfigProblem
from recipe.treepo.settings.verl_keys import unread_key_problems
from recipe.treepo.settings.verl_switches import unread_notes
from recipe.treepo.settings.verl_values import type_problems
from recipe.treepo.verl_adapters.run import call_problems, dataclass_problems, name_problems
from recipe.treepo.verl_adapters.user_code import interaction_problems, policy_problems, tool_problems

RECORD = Path(__file__).with_name("messages.txt")
# Rules checked after the start of a run: their own tests have examples.
LATER = {
    *("dump_disk_full", "policy_trial_time"),
    *("hub_access", "hub_offline", "hub_unknown", "hub_unreachable"),
    *("engine_vendor", "folder_in_use", "model_not_loaded", "more_wrong_rows", "no_rows", "other_samples"),
    "wrong_row",
}
WRONG_VALUES = {
    "depth": 0,
    "dump": {"dir": "", "every": 0},
    "dump_dir": "trees",
    "poll_interval": 0,
    "stop_strings": "a",
    "stopping": ["length"],
    "divergence": [3, 2],
    "branching": {"budget": "node", "favor": "both", "temperature": 0},
    "fallback": "dry",
    "retires": 3,
    "interaction": {"name": "a b"},
    "answer_needs_eos": "no",
    "run_on": 2,
    "thinking": "on",
    "cache_block": 0,
}
BY_PATH = {"search": "by_path", "branching": {"share": "entropy", "budget": "level_tokens", "level_tokens": 600}}
TOTAL = {"budget": "total_tokens", "total_tokens": 299, "min_width": 3}
CONFIGS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (WRONG_VALUES, {}),
    ({"stopping": ["eos", "eos", "length", "depth"]}, {}),
    ({"depth": "${nowhere}"}, {}),
    ({"segment_length": 20, "init_divergence": 9, "max_divergence": 1, "min_response_length": 100}, {}),
    ({"segment_length": 34, "fallback": {"min_segments": 5}, "stop_strings": ["#"]}, {}),
    ({**BY_PATH, "fallback": {"order": "longer_first"}, "stopping": ["stop", "eos", "length", "depth"]}, {}),
    ({"branching": {"level_tokens": 200}, "interaction": {"name": "Talk", "steps": "per_branch"}}, {}),
    ({"branching": {"budget": "level_tokens"}, "interaction": {"options": {"x": 1}}}, {}),
    ({"branching": {"budget": "level_tokens", "level_tokens": 49}}, {}),
    ({"branching": TOTAL}, {}),
    ({"branching": {**TOTAL, "min_width": 9}}, {}),
    ({"branching": {**TOTAL, "total_tokens": 300}, "validate_with_tree": True}, {}),
    (
        {"segment_length": 80, "interaction": {"turn_length": 101}},
        {"agent.default_agent_loop": "tool_agent", "multi_turn.max_user_turns": -1},
    ),
    (
        {"segment_length": 80, "interaction": {"turn_length": 30}},
        {"agent.default_agent_loop": "tool_agent"},
    ),
    ({"sampler": "plain", "interaction": {"path": "pkg://talk", "name": "Talk"}}, {}),
    ({"sampler": "plain", "score": {"custom": {"path": "pkg://mine", "name": "Mine"}}}, {}),
    ({"score": {"prune_above": "x"}}, {}),
    ({"score": {"prune_below": 0.5}, "advantage": {"custom": {"path": "pkg://mine", "name": "Mine"}}}, {}),
    ({"answer_needs_eos": True, "stopping": ["eos", "answer", "length", "depth"]}, {"ignore_eos": True}),
    ({"answer_needs_eos": True, "stopping": ["eos", "length", "depth"]}, {}),
    ({}, {"n": "abc"}),
    (
        {"validate_with_tree": True},
        {
            "temperature": 0,
            "max_model_len": 119,
            "agent.default_agent_loop": "mine",
            "enable_rollout_routing_replay": True,
        },
    ),
    ({}, {"agent.agent_loop_manager_class": None}),
]
TWICE = ["twice.parquet", "twice.jsonl", "behind.jsonl"]
PENALTY = {"overlong_buffer_cfg": {"enable": True, "len": 0, "penalty_factor": 0}}
PACKED: dict[str, Any] = {
    "trainer": {"device": "npu"},
    "distillation": {"enabled": True},
    "actor_rollout_ref": {
        "actor": {"strategy": "megatron", "ulysses_sequence_parallel_size": 2, "pad_to_length": True},
        "model": {"use_fused_kernels": True},
    },
}
TRAINING: list[dict[str, Any]] = [
    {
        "trainer": {"use_v1": False, "n_gpus_per_node": 1, "v1": {"trainer_mode": "sync"}},
        "actor_rollout_ref": {"rollout": {"tensor_model_parallel_size": 2}},
    },
    {"treepo": {"sampler": "independent", "advantage": {"root_group": False}}},
    {
        "treepo": {"shared_token_weight": "once", "stale_tokens": {"policy": "mask"}},
        "actor_rollout_ref": {"actor": {"policy_loss": {"loss_mode": "geo_mean"}}},
        "algorithm": {"rollout_correction": {"bypass_mode": True}},
    },
    {"treepo": {"packed_training": True}, **PACKED},
    {
        "reward": {
            "custom_reward_function": {"path": "pkg://recipe.treepo.reward", "reward_kwargs": {"workers": 0}},
            "reward_kwargs": PENALTY,
            "reward_manager": {"name": "naive"},
        },
        "algorithm": {"filter_groups": {"enable": True, "metric": "seq_reward"}},
    },
    {
        "reward": {"reward_manager": {"name": "treepo"}, "reward_kwargs": {**PENALTY, "max_resp_len": 127}},
        "data": {"max_response_length": 128},
    },
    {"data": {"train_files": "foreign.parquet", "val_files": ["damaged.parquet", "missing.parquet"]}},
    {"actor_rollout_ref": {"model": {"path": "./missing"}}},
    {"treepo": {"width": 8}},
    {"tree": "paper_best"},
    {"treepo": {"dump": {"dir": "damaged.parquet/trees"}}},
    {"trainer": {"default_local_dir": "damaged.parquet/run", "save_freq": 1}},
    {
        "data": {"train_files": "long.jsonl", "max_prompt_length": 20, "filter_overlong_prompts": True},
        "actor_rollout_ref": {"model": {"path": "model"}},
    },
    {
        "data": {
            "train_files": ["folder.parquet", "empty.parquet", "late.parquet", "taken.parquet", "utf16.jsonl", *TWICE],
            "val_files": ["rows.jsonl", "~/rows.jsonl", "long.jsonl"],
        },
        "actor_rollout_ref": {"model": {"path": "model", "custom_chat_template": "{{ messages[0].content }}"}},
    },
    *({"actor_rollout_ref": {"model": {"path": f"models/{name}"}}} for name in range(16)),
    {"data": {"train_files": "good.parquet"}, "actor_rollout_ref": {"model": {"path": "models/12"}}},
    {"actor_rollout_ref": {"model": {"path": "model", "custom_chat_template": "chat.jinja"}}},
    {"actor_rollout_ref": {"model": {"path": "model/"}}},
]
EVALUATIONS: list[dict[str, Any]] = [
    {"evaluation": {"n": 0, "arms": {}}},
    {"evaluation": {"arms": {"a/b": {}}}},
    {"evaluation": {"arms": {"a_b": {}, "A_b": {}}}},
    {
        "evaluation": {"arms": {"loops": {"sampler": "independent"}, "wide": {"init_divergence": 8}}, "n": 4, "k": 8},
        "actor_rollout_ref": {"rollout": {"val_kwargs": {"temperature": 0, "n": None}}},
        "reward": {"reward_model": {"enable": True}},
        "data": {"val_files": None},
        "treepo": {"branching": TOTAL},
    },
    {"evaluation": {"n": None}, "actor_rollout_ref": {"rollout": {"val_kwargs": {"n": None}}}},
    {"actor_rollout_ref": {"rollout": {"val_kwargs": {"temperature": -1, "top_p": 7, "top_k": 0}}}},
    {"actor_rollout_ref": {"rollout": {"agent": {"default_agent_loop": "tool_agent"}}}},
    {"actor_rollout_ref": {"rollout": {"response_length": 0}}},
]
TALK = """
from recipe.treepo.interaction import Interaction
class Talk(Interaction):
    pass
class Late(Interaction):
    async def setup(self, agent): ...
class Other:
    pass
"""


def evaluation_of(changes: dict[str, Any]) -> DictConfig:
    whole = {
        "evaluation": {"out_dir": "out", "arms": {"plain": {"sampler": "plain"}, "tree": {"sampler": "tree"}}, "n": 8},
        "actor_rollout_ref": {"rollout": {"val_kwargs": {"temperature": 1.0, "top_p": 1.0, "top_k": -1}}},
    }
    merged = OmegaConf.merge(config_of(), whole)
    for group, keys in changes.items():  # the arms replace the others
        if "arms" in keys:
            merged[group].arms = {}
    return OmegaConf.merge(merged, changes)


def write_broken_files() -> None:
    """Write data files and model folders with a defect each, and a good model."""
    os.environ["HOME"] = os.getcwd()
    Path("folder.parquet").mkdir()
    row = {
        "prompt": [{"role": "user", "content": "P"}],
        "data_source": "mine",
        "reward_model": {"ground_truth": "1"},
    }
    whole = pa.Table.from_pylist([row])
    pq.write_table(whole, "good.parquet")
    pq.write_table(whole.slice(0, 0), "empty.parquet")
    late = pa.array([4_000_000], pa.int32()).cast(pa.date32())  # the year 12921
    pq.write_table(whole.set_column(1, "data_source", late), "late.parquet")
    pq.write_table(whole.append_column("trace", pa.array([True])), "taken.parquet")
    pq.write_table(pa.table([*whole.columns, pa.array([1])] + [pa.array([2])], [*row, "x", "x"]), "twice.parquet")
    Path("twice.jsonl").write_text(json.dumps(row)[:-1] + ', "data_source": "mine"}')
    long = {**row, "prompt": [{"role": "user", "content": "1" * json_columns.FIRST_BYTES}]}
    Path("behind.jsonl").write_text("\n".join(map(json.dumps, (long, row, {**row, "level": 3}))))
    Path("utf16.jsonl").write_text(json.dumps(row), encoding="utf-16-le")
    Path("rows.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({**row, "prompt": None}))
    Path("long.jsonl").write_text(json.dumps({**row, "prompt": [{"role": "user", "content": "1 + " * 20}]}))
    shutil.copytree(ROOT / "tiny/model", "model")
    damages: list[Callable[[Path], Any]] = [
        lambda folder: [file.unlink() for file in folder.iterdir()],
        lambda folder: (folder / "config.json").unlink(),
        lambda folder: (folder / "config.json").write_text("{"),
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "model.safetensors").write_bytes(b"\0\1" * 10),
        lambda folder: _index(folder, "{}"),
        lambda folder: _index(folder, '{"weight_map": {"a": "a.safetensors"}}'),
        lambda folder: [file.unlink() for file in folder.glob("tokenizer*")],
        lambda folder: (folder / "tokenizer.json").write_text("{"),
        lambda folder: _template(folder, None),
        lambda folder: _template(folder, "{{ messages }"),
        lambda folder: (folder / "chat_template.jinja").write_bytes(b"\xff"),
        lambda folder: _template(folder, "{{ messages[0].content + ending }}"),
        lambda folder: _config(folder, model_type="qwen2x"),
        lambda folder: _config(folder, num_hidden_layers=6),
        special_tag,
    ]
    for number, damage in enumerate(damages):
        damage(Path(shutil.copytree("model", f"models/{number}")))


def _config(folder: Path, **changes: Any) -> None:
    (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | changes))


def _index(folder: Path, content: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(content)


def _template(folder: Path, template: str | bytes | None) -> None:
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))


def examples() -> Iterator[ConfigProblem]:
    """Yield the problems of configurations that violate every rule at least once; the working directory is empty."""
    for treepo, rollout in CONFIGS:
        config = config_of(treepo)
        for key, value in rollout.items():
            OmegaConf.update(config, f"actor_rollout_ref.rollout.{key}", value)
        yield from problems_of(config)
    pd.DataFrame({"x": [1]}).to_parquet("foreign.parquet")
    Path("damaged.parquet").write_text("x")
    write_broken_files()
    for changes in TRAINING:
        yield from problems_of(OmegaConf.merge(config_of(), changes))
    for changes in EVALUATIONS:
        with pytest.raises(ConfigError) as caught:
            load_evaluation(evaluation_of(changes))
        yield from caught.value.problems
    short = config_of({"segment_length": 25, "depth": 4, "cache_block": 32})
    yield from filter(None, [unused_cache_block(validate(short, check_files=False), short)])
    for flags in (["--full"], ["--dry-run", "--multirun"]):
        yield from read_command_line(flags).name_problems
    yield from examples_with_verls_keys()
    Path("talk.py").write_text(TALK)
    for path, name in (("none.py", "Talk"), *(("talk.py", name) for name in ("Tlak", "Other", "Late"))):
        yield from interaction_problems(InteractionSettings(path=path, name=name))
    yield from interaction_problems(InteractionSettings(path="talk.py", name="Talk", options={"x": 1}))
    Path("mine.py").write_text("class Mine:\n    def children(self, paths, room, context): return [room] * 9\n")
    for group in ("branching", "score"):
        own = {"custom": {"path": "mine.py", "name": "Mine"}}
        yield from policy_problems(load_settings(OmegaConf.create({"treepo": {group: own}})), dict)
    tools = {"format": "xyz", "function_tool_path": "talk.py"}
    yield from tool_problems(OmegaConf.create({"actor_rollout_ref": {"rollout": {"multi_turn": tools}}}))


def examples_with_verls_keys() -> Iterator[ConfigProblem]:
    make_files(Path())
    for mistake in MISTAKES:
        with pytest.raises(ConfigError) as caught:
            validate(tiny_with(mistake.overrides), check_files=False)
        yield from caught.value.problems
    forms = ["--dryrun", "trainer", "trainer.logger=[console", "trainer.logger=console,wandb", "platform=cpuu"]
    yield from with_known_keys(read_command_line(["preset=tiny", "data.train_batchsize=3", *forms])).name_problems
    yield from unread_notes(tiny_with("actor_rollout_ref.actor.grad_clip=0.5"))
    other = "trainer.device=cuda actor_rollout_ref.rollout.name=sglang actor_rollout_ref.actor.strategy=fsdp"
    yield from filter(None, [never_run_note(tiny_with(other))])
    yield from unread_key_problems(tiny_with("+trainer.save_frequency=3"), tiny_with(""))
    absent = "actor_rollout_ref.model.external_lib=nowhere reward.custom_reward_function.path=imports.py"
    attention = "actor_rollout_ref.model.override_config.attn_implementation=flash_attention_2"
    yield from package_problems(tiny_with(f"{absent} {attention}"))
    types = "data.shuffle=no actor_rollout_ref.actor.data_loader_seed=one reward.custom_reward_function=my.py"
    yield from type_problems(tiny_with(types), tiny_with(""))
    yield from package_problems(tiny_with("trainer.logger=swanlab"))
    yield from name_problems(tiny_with("actor_rollout_ref.actor.policy_loss.loss_mode=gspoo"))
    yield from dataclass_problems(tiny_with("+actor_rollout_ref.actor.foo=2"))
    yield from dataclass_problems(tiny_with("actor_rollout_ref.rollout.trace.max_samples_per_step_per_worker=-1"))
    optimizer = "actor_rollout_ref.actor.optim.optimizer"
    yield from call_problems(tiny_with(f"+ray_kwargs.ray_init.num_cpu=3 {optimizer}=AdamX"))
    yield from call_problems(tiny_with(f"{optimizer}_impl=nowhere"))


def messages() -> str:
    """Return a line for each rule id in alphabetical order, with its first example."""
    before, home = os.getcwd(), os.environ["HOME"]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            found: dict[str, str] = {}
            for problem in examples():
                found.setdefault(problem.rule_id, str(problem).replace(folder, "FOLDER"))
        finally:
            os.chdir(before)
            os.environ["HOME"] = home
    return "".join(f"{rule_id} | {message}\n" for rule_id, message in sorted(found.items()))


def rule_ids() -> set[str]:
    """Return the rule ids in the source, each of which is a literal."""
    makers = {"ConfigProblem", "DataFileError", "Defect", "WrongValue", "reader", "check"}
    return {
        node.args[0].value
        for path in (ROOT / "recipe/treepo").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in makers
        if node.args and isinstance(node.args[0], ast.Constant)
    }


def test_the_sentences_are_those_of_the_record():
    assert messages() == RECORD.read_text(encoding="utf-8")


def test_every_rule_has_an_example():
    recorded = {line.partition(" | ")[0] for line in RECORD.read_text(encoding="utf-8").splitlines()}
    assert recorded | LATER == rule_ids() and not recorded & LATER


if __name__ == "__main__":
    RECORD.write_text(messages(), encoding="utf-8")
