# SPDX-License-Identifier: Apache-2.0
"""Support of trees: each combination is refused or composes as the table says, and what never ran is noted."""

import copy
import json
import os
from functools import cache
from itertools import product

import pytest

from helpers.composition import composed
from helpers.configs import briefly
from helpers.paths import ROOT
from helpers.verl_mistakes import changed, tiny_with
from recipe.treepo.packed.support import MODEL_TYPES
from recipe.treepo.settings import verl_values
from recipe.treepo.settings.support import (
    ENGINES,
    MODE,
    STRATEGIES,
    TESTED,
    TRAINER_MODES,
    Status,
    never_run_note,
    status,
)
from recipe.treepo.settings.validate import validate
from recipe.treepo.settings.values import ConfigError
from recipe.treepo.verl_adapters.run import check_with_verl

ROLLOUT, MODEL = "actor_rollout_ref.rollout", "actor_rollout_ref.model"
MODEL_ENGINES = {"megatron": "megatron", "veomni": "veomni", "torchtitan": "torchtitan"}
SEPARATE = (
    f"data.train_batch_size=32 {ROLLOUT}.nnodes=1 {ROLLOUT}.n_gpus_per_node=1 {ROLLOUT}.checkpoint_engine.backend=nccl"
)


def rules(config):
    """Return the ids of the violated rules of the recipe; without any, check verl's own rules."""
    try:
        settings = validate(config, check_files=False)
    except ConfigError as error:
        return [problem.rule_id for problem in error.problems]
    check_with_verl(config, settings)
    return []


# Each strategy, with and without LoRA; each pair of trainer mode and engine.
PARTS = [("treepo_sync", "vllm", strategy, lora) for strategy, lora in product(STRATEGIES, (False, True))]
PARTS += [(mode, engine, "fsdp2", False) for mode, engine in product(TRAINER_MODES, ENGINES)]


@cache
def base(strategy):
    roles = (f"{role}.strategy={strategy}" for role in ("actor_rollout_ref.actor", "critic"))
    return composed("preset=gpu", f"model_engine={MODEL_ENGINES.get(strategy, 'dp')}", *roles)


def check(mode, engine, strategy, lora):
    rank = "lora.rank" if strategy == "megatron" else "lora_rank"
    overrides = f"{MODE}={mode} {ROLLOUT}.name={engine} {MODEL}.{rank}={8 * lora} "
    config = changed(copy.deepcopy(base(strategy)), overrides + (SEPARATE if "separate" in mode else ""))
    expected = ["unfit_engine"] * (engine == "trtllm")
    expected += ["lora_unread"] * (lora and strategy in ("veomni", "torchtitan"))
    assert sorted(rules(config)) == sorted(expected)
    is_refused = status(mode=mode, engine=engine, strategy=strategy, lora=lora) is Status.REFUSED
    assert is_refused == bool(expected)


@pytest.mark.parametrize(("mode", "engine", "strategy", "lora"), dict.fromkeys(PARTS))
def test_each_part_composes_or_is_refused_as_the_table_says(mode, engine, strategy, lora):
    check(mode, engine, strategy, lora)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_combination_does(strategy):
    for mode, engine, lora in product(TRAINER_MODES, ENGINES, (False, True)):
        check(mode, engine, strategy, lora)


def test_by_hand_the_tested_combinations_are_these():
    found = [
        parts
        for parts in product(TRAINER_MODES, ENGINES, STRATEGIES, (False, True))
        if status(**dict(zip(("mode", "engine", "strategy", "lora"), parts, strict=True))) is Status.TESTED
    ]
    assert found == [
        ("treepo_sync", "vllm", "fsdp2", False),
        ("treepo_sync", "vllm", "fsdp2", True),
        ("treepo_colocate_async", "vllm", "fsdp2", False),
        ("treepo_separate_async", "vllm", "fsdp2", False),
    ]


def test_the_table_has_all_names_of_verl_and_tests_that_exist():
    assert set(ENGINES) == set(verl_values.ENGINES)
    assert set(STRATEGIES) == {name for names, _ in verl_values.STRATEGIES.values() for name in names}
    for file, parts in TESTED.items():
        text = (ROOT / file).read_text(encoding="utf-8")
        assert parts[MODE] == "treepo_sync" or str(parts[MODE]) in text  # treepo_sync is the default


def test_a_tested_combination_has_no_note_and_others_name_what_differs(tmp_path, monkeypatch):
    tiny = f"{MODEL}.path={ROOT}/tiny/model"
    modes = [f"{MODE}={mode}" for mode in ("treepo_sync", "treepo_colocate_async", "treepo_separate_async")]
    for fine in (*modes, f"{ROLLOUT}.name=sglang treepo.sampler=plain"):
        assert never_run_note(tiny_with(f"{tiny} {fine}")) is None
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    never, see = "trees never ran in this combination, only with", "See docs/support.md."
    for overrides, sentence in {
        "trainer.device=cuda": f"trainer.device=cuda: {never} cpu. {see}",
        f"trainer.device=cuda {ROLLOUT}.name=sglang": f"trainer.device=cuda: {never} cpu. "
        f"Nor with {ROLLOUT}.name=sglang (only vllm). {see}",
        f"{MODE}=treepo_separate_async {MODEL}.lora_rank=16": (
            f"{MODE}=treepo_separate_async: {never} treepo_sync. {see}"
        ),
        f"{MODEL}.path={tmp_path}": f"model_type=qwen3: {never} qwen2. {see}",
    }.items():
        assert str(never_run_note(tiny_with(f"{tiny} {overrides}"))) == sentence
    # A model that is not on this machine is not known.
    monkeypatch.setenv("HF_HUB_CACHE", os.fspath(tmp_path))
    assert never_run_note(tiny_with(f"{MODEL}.path=owner/name")) is None
    # An evaluation has no trainer.
    config = tiny_with(f"{tiny} {MODE}=treepo_separate_async {MODEL}.lora_rank=16 {ROLLOUT}.name=sglang")
    assert briefly([never_run_note(config, trains=False)]) == [f"{ROLLOUT}.name=sglang: never_run"]
    assert "Nor" not in str(never_run_note(config, trains=False))


def test_a_note_compares_with_the_nearest_combination_and_with_lora_of_any_rank():
    tiny = f"{MODEL}.path={ROOT}/tiny/model {MODEL}.lora_rank=4"
    assert never_run_note(tiny_with(tiny)) is None
    note = never_run_note(tiny_with(f"{tiny} {MODE}=treepo_colocate_async"))
    # Both were tested, but not together.
    assert briefly([note]) == [f"{MODE}=treepo_colocate_async: never_run"] and "Nor" not in str(note)


@pytest.mark.parametrize(
    "model_type", ["qwen2", "qwen3", "llama", "mistral", "gemma2", "qwen3_moe", "mixtral", "qwen3_next", "qwen2_5_vl"]
)
def test_trees_compose_with_each_model_family_and_packed_training_with_those_it_names(model_type, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    assert rules(tiny_with(f"{MODEL}.path={tmp_path}")) == []
    expected = [] if model_type in ("qwen2", "qwen3", "llama") else ["packed_model"]
    assert rules(tiny_with(f"{MODEL}.path={tmp_path} treepo.packed_training=True")) == expected
    assert (model_type in MODEL_TYPES) == (expected == [])
