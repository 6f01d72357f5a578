# SPDX-License-Identifier: Apache-2.0
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from recipe.treepo import main_treepo
from recipe.treepo.main_treepo import split_arguments
from recipe.treepo.settings import (
    TREE_MANAGER,
    Aggregation,
    ConfigError,
    Normalization,
    Sampler,
    TreePOSettings,
    known_keys,
    load_settings,
    validate,
)
from recipe.treepo.stopping import FinishReason

YAML = Path(__file__).parent.parent / "recipe/treepo/config/treepo_trainer.yaml"


def config_of(treepo: dict | None = None, **changes) -> DictConfig:
    """The part of a verl configuration that the rules look at, with 8 trajectories of 100 tokens."""
    config = OmegaConf.create(
        {
            "treepo": {"depth": 4, **(treepo or {})},
            "actor_rollout_ref": {
                "rollout": {
                    "n": 8,
                    "prompt_length": 20,
                    "response_length": 100,
                    "max_model_len": None,
                    "val_kwargs": {"n": 4, "temperature": 0},
                    "temperature": 1.0,
                    "agent": {"agent_loop_manager_class": TREE_MANAGER},
                },
                "model": {"path": "Qwen/Qwen2.5-0.5B"},
            },
            "algorithm": {"adv_estimator": "treepo"},
            "trainer": {"use_v1": True, "v1": {"trainer_mode": "treepo_sync"}},
            "data": {"train_files": str(YAML), "val_files": [str(YAML)]},
        }
    )
    for key, value in changes.items():
        OmegaConf.update(config, key.replace("__", "."), value)
    return config


def problems_of(config: DictConfig) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        validate(config)
    return {problem.key: str(problem) for problem in caught.value.problems}


def test_a_valid_configuration_is_read_into_types():
    settings = validate(config_of({"init_divergence": [2, 6], "stopping": ["eos", "length", "depth"]}))
    assert settings.sampler is Sampler.TREE
    assert settings.init_divergence == (2, 6)
    assert settings.stopping == (FinishReason.EOS, FinishReason.LENGTH, FinishReason.DEPTH)
    # 100 tokens in 4 segments
    assert settings.shape(width=8, response_length=100).segment_length == 25
    assert settings.resolved_segment_length(101) == 26


def test_a_run_without_our_group_gets_the_defaults():
    assert load_settings(OmegaConf.create({"trainer": {}})) == TreePOSettings()


def test_the_yaml_declares_every_key_with_the_default_of_the_types():
    declared = OmegaConf.load(YAML)
    assert load_settings(declared) == TreePOSettings()
    group = OmegaConf.to_container(declared.treepo)
    advantage = group.pop("advantage")
    assert [*(f"treepo.{key}" for key in group), *(f"treepo.advantage.{key}" for key in advantage)] == known_keys()
    assert {field.name for field in dataclasses.fields(TreePOSettings)} == {*group, "advantage"}


def test_all_problems_are_reported_at_once_with_key_value_rule_and_remedy():
    found = problems_of(
        config_of(
            {"width": 4, "init_divergence": 9, "segment_length": 20},
            data__train_files="/nowhere/train.parquet",
            data__val_files=["/nowhere/val.parquet", str(YAML)],
            actor_rollout_ref__model__path="./nowhere",
            actor_rollout_ref__rollout__temperature=0,
            trainer__v1__trainer_mode="sync",
        )
    )
    assert set(found) == {
        "treepo.width", "treepo.init_divergence", "treepo.segment_length", "data.train_files", "data.val_files",
        "actor_rollout_ref.model.path", "actor_rollout_ref.rollout.temperature", "trainer.v1.trainer_mode",
    }  # fmt: skip
    assert "treepo.width=4: must equal actor_rollout_ref.rollout.n=8" in found["treepo.width"]
    assert "Use treepo.init_divergence=8" in found["treepo.init_divergence"]
    # 4 x 20 = 80 < 100: 25 tokens for 4 levels, or 5 levels of 20
    assert "treepo.segment_length=25" in found["treepo.segment_length"]
    assert "treepo.depth=5" in found["treepo.segment_length"]


def test_a_level_that_no_path_can_reach_is_refused():
    # 3 segments of 34 hold 102 >= 100 tokens, so the fourth level is out of reach; 33 leave it one token
    assert "never reached" in problems_of(config_of({"segment_length": 34}))["treepo.segment_length"]
    assert validate(config_of({"segment_length": 33})).segment_length == 33


def test_a_depth_that_whole_tokens_cannot_fill_is_refused_also_with_the_automatic_segment_length():
    # 100 tokens in 14 levels: segments of 8 tokens fill it after 13, segments of 7 need 15.
    found = problems_of(config_of({"depth": 14}))
    assert set(found) == {"treepo.depth"}
    assert "treepo.depth=13" in found["treepo.depth"] and "segment_length=8" not in found["treepo.depth"]


def test_verls_own_keys_that_trees_depend_on_are_checked():
    found = problems_of(
        config_of(
            {"validate_with_tree": True},
            actor_rollout_ref__rollout__max_model_len=119,
            actor_rollout_ref__rollout__agent__default_agent_loop="tool_agent",
            actor_rollout_ref__rollout__enable_rollout_routing_replay=True,
        )
    )
    prefix = "actor_rollout_ref.rollout"
    assert set(found) == {
        f"{prefix}.max_model_len",
        f"{prefix}.agent.default_agent_loop",
        f"{prefix}.enable_rollout_routing_replay",
        f"{prefix}.val_kwargs.temperature",
    }
    assert "at least 120" in found[f"{prefix}.max_model_len"]
    validate(config_of(actor_rollout_ref__rollout__max_model_len=120))


def test_values_that_are_no_numbers_and_interpolations_to_nowhere_are_problems_not_tracebacks():
    found = problems_of(
        config_of(actor_rollout_ref__rollout__n="abc", actor_rollout_ref__rollout__response_length=None)
    )
    assert set(found) == {"actor_rollout_ref.rollout.n", "actor_rollout_ref.rollout.response_length"}
    assert "cannot be resolved" in problems_of(config_of({"depth": "${nowhere}"}))["treepo"]


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("depth", 0, "at least 1"),
        ("depth", 2.5, "whole number"),
        ("divergence", True, "whole number"),
        ("init_divergence", [3, 2], "lowest <= highest"),
        ("init_divergence", [1, 2, 3], "range"),
        ("init_divergence", "two", "range"),
        ("segment_length", -1, "at least 1"),
        ("sampler", "trees", "tree, plain"),
        ("stopping", ["answer", "eos", "depth"], "length"),
        ("stopping", ["length", "depth"], "eos"),
        ("stopping", ["eos", "eos", "length", "depth"], "distinct"),
        ("stopping", "eos", "list"),
        ("validate_with_tree", "yes", "true or false"),
        ("advantage.aggregation", "median", "mean, group_size"),
        ("advantage.normalization", None, "whiten, none"),
    ],
)
def test_a_value_of_a_wrong_type_or_range_is_named(key, value, rule):
    config = config_of()
    OmegaConf.update(config, f"treepo.{key}", value, force_add=True)
    found = problems_of(config)
    assert rule in found[f"treepo.{key}"]


def test_unknown_keys_are_refused_at_both_levels():
    found = problems_of(config_of({"segmnt_length": 3, "advantage": {"agregation": "mean"}}))
    assert set(found) == {"treepo.segmnt_length", "treepo.advantage.agregation"}
    assert "treepo.segment_length" in found["treepo.segmnt_length"]


def test_with_the_plain_sampler_the_shape_of_trees_does_not_matter():
    settings = validate(config_of({"sampler": "plain", "init_divergence": 99, "segment_length": 1}))
    assert settings.advantage.aggregation is Aggregation.MEAN
    assert settings.advantage.normalization is Normalization.WHITEN


def test_trees_without_the_manager_that_samples_them_are_refused():
    config = config_of(actor_rollout_ref__rollout__agent__agent_loop_manager_class=None)
    assert TREE_MANAGER in problems_of(config)["actor_rollout_ref.rollout.agent.agent_loop_manager_class"]


def test_misspelt_overrides_are_found_before_hydra_sees_them():
    arguments = ["treepo.depht=3", "+treepo.advantage.kind=a", "--dry-run", "+treepo.depth=3", "trainer.nnodes=1"]
    rest, problems, dry_run = split_arguments(arguments)
    # verl's own entry point needs the plus sign, ours declares the key: the same overrides serve both
    assert rest == ["treepo.depth=3", "trainer.nnodes=1"]
    assert [problem.key for problem in problems] == ["treepo.depht", "treepo.advantage.kind"]
    assert dry_run


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("preset", ["tiny", "gpu"])
@pytest.mark.parametrize("partner", [[], ["treepo.sampler=plain", "algorithm.adv_estimator=grpo"]])
def test_every_preset_composes_and_keeps_the_rules_on_every_platform(platform, preset, partner):
    with initialize_config_module("recipe.treepo.config", version_base=None):
        config = compose("treepo_trainer", [f"platform={platform}", f"preset={preset}", *partner])
    settings = validate(config, check_files=False)
    assert settings.depth * settings.resolved_segment_length(config.data.max_response_length) >= (
        config.data.max_response_length
    )


@pytest.mark.parametrize("module", ["settings", "tree", "search", "branching", "fallback", "stopping", "metrics"])
def test_the_pure_modules_import_no_torch_ray_or_vllm(module):
    code = f"import sys, recipe.treepo.{module}; print([m for m in ('torch', 'ray', 'vllm') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_recipe_that_is_a_folder_of_a_checkout_is_loaded_by_its_name(monkeypatch):
    monkeypatch.setenv("VERL_USE_EXTERNAL_MODULES", "mine")
    main_treepo._use_plugin()
    assert os.environ["VERL_USE_EXTERNAL_MODULES"] == "mine"  # here it is installed, verl finds it by itself
    monkeypatch.setattr(main_treepo, "entry_points", lambda group: [])
    main_treepo._use_plugin()
    assert os.environ["VERL_USE_EXTERNAL_MODULES"] == "mine,recipe.treepo.plugin"
