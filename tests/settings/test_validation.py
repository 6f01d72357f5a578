# SPDX-License-Identifier: Apache-2.0
"""The rules among settings and with verl's keys; every shipped yaml file passes them."""

import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from omegaconf import DictConfig, OmegaConf
from verl.workers.engine import EngineRegistry

from helpers.composition import composed
from helpers.configs import CONFIG, DATA, briefly, broken_rules, config_of, problems_of
from helpers.objectives import OBJECTIVES, PENALTY
from recipe.treepo.main_treepo import prepare, train
from recipe.treepo.search.stopping import FinishReason
from recipe.treepo.settings.schema import CUSTOM_ESTIMATOR, TREE_ESTIMATORS, AdvantageSettings, TreePOSettings
from recipe.treepo.settings.training_rules import TREE_MANAGER
from recipe.treepo.settings.tree_rules import unused_cache_block
from recipe.treepo.settings.validate import validate, validate_trees
from recipe.treepo.settings.values import ConfigError
from recipe.treepo.verl_adapters.packed_engine import PackedActorEngine, PackedCriticEngine

# name: depth, segment length, divergence, init_divergence, max_divergence, trajectories, response length
TREES = {
    "paper_best": (14, 512, (2, 2), (2, 8), None, 16, 7168),
    "paper_fixed": (14, 512, (2, 2), (2, 2), None, 16, 7168),
    # equal parts of the response length, here the default of 512 tokens: 4 x 128, 5 x 103, 6 x 86
    "ms_swift_d4_k2": (4, 128, (2, 2), (1, 1), 2, 8, 512),
    "ms_swift_d4_k3": (4, 128, (3, 3), (1, 1), 3, 8, 512),
    "ms_swift_d5_k2": (5, 103, (2, 2), (1, 1), 2, 8, 512),
    "ms_swift_d5_k3": (5, 103, (3, 3), (1, 1), 3, 8, 512),
    "ms_swift_d6_k2": (6, 86, (2, 2), (1, 1), 2, 8, 512),
    "ms_swift_d6_k3": (6, 86, (3, 3), (1, 1), 3, 8, 512),
    "scaling_2": (8, 2048, (2, 2), (2, 2), None, 16, 16384),
    "scaling_4": (8, 2048, (4, 4), (4, 4), None, 16, 16384),
    "scaling_8": (8, 2048, (8, 8), (8, 8), None, 16, 16384),
}


def shape_of(settings: TreePOSettings, config: DictConfig) -> tuple:
    rules, rollout = settings.branching, config.actor_rollout_ref.rollout
    length = rollout.response_length
    segment = settings.resolved_segment_length(length)
    roots = rules.root_children(rollout.n)
    return settings.depth, segment, rules.divergence, roots, rules.max_divergence, rollout.n, length


def test_all_problems_are_reported_at_once_in_their_order():
    config = config_of(
        {"init_divergence": 9, "segment_length": 20, "min_response_length": 100},
        data__train_files="/nowhere/train.parquet",
        data__val_files=["/nowhere/val.parquet", str(DATA)],
        actor_rollout_ref__model__path="./nowhere",
        actor_rollout_ref__rollout__temperature=0,
        trainer__v1__trainer_mode="sync",
    )
    assert broken_rules(config) == [
        "trainer.v1.trainer_mode=sync: other_trainer",
        "treepo.segment_length=20: segments_too_few",
        "treepo.init_divergence=[9, 9]: root_too_wide",
        "treepo.min_response_length=100: min_response_length_too_high",
        "actor_rollout_ref.rollout.temperature=0: greedy_trees",
        "data.train_files=/nowhere/train.parquet: missing_file",
        "data.val_files=/nowhere/val.parquet: missing_file",
        "actor_rollout_ref.model.path=./nowhere: missing_model",
    ]


def test_files_that_verl_cannot_read_are_problems_before_anything_starts(tmp_path):
    prompt = [{"role": "user", "content": "2+2?"}]
    whole = {"prompt": [prompt], "data_source": ["a"], "reward_model": [{"ground_truth": "4"}]}
    files = {name: tmp_path / f"{name}.parquet" for name in ("good", "asked", "foreign", "damaged")}
    pd.DataFrame(whole).to_parquet(files["good"])
    pd.DataFrame({**whole, "question": whole["prompt"]}).drop(columns="prompt").to_parquet(files["asked"])
    pd.DataFrame({"x": [1]}).to_parquet(files["foreign"])
    files["damaged"].write_bytes(files["good"].read_bytes()[:-9])
    names = [str(file) for file in files.values()]
    problems = problems_of(config_of(data__train_files=names[0], data__val_files=names[1:]))
    assert briefly(problems) == [
        f"data.val_files={names[1]}: missing_column",
        f"data.val_files={names[2]}: missing_column",
        f"data.val_files={names[3]}: damaged_file",
    ]
    assert [problem.rule.partition("column ")[2] for problem in problems[:2]] == [
        "prompt",
        "prompt, data_source, reward_model",
    ]
    assert all(f"`python -m recipe.treepo.data_prep.check {problem.value}`" in problem.remedy for problem in problems)
    validate(config_of(data__train_files=names[1], data__val_files=names[1], data__prompt_key="question"))
    # a custom data set class has its own columns
    validate(config_of(data__val_files=names[2], data__custom_cls={"path": __file__, "name": "problems_of"}))


def test_a_folder_for_trees_is_checked_before_anything_starts(tmp_path, monkeypatch):
    def broken(folder: Path) -> list[str]:
        return briefly(problems_of(config_of({"dump": {"dir": str(folder)}})))

    new = tmp_path / "new/trees"
    validate(config_of({"dump": {"dir": str(new)}}))
    assert not new.parent.exists()  # nothing is created yet
    file = tmp_path / "file"
    file.write_text("")
    assert broken(file / "trees") == [f"treepo.dump.dir={file}/trees: dump_folder"]
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may write everywhere
    assert broken(new) == [f"treepo.dump.dir={new}: dump_folder"]
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=63 * 2**20))
    assert broken(new) == [f"treepo.dump.dir={new}: dump_disk_full"]


BRANCHING = "treepo.branching"


@pytest.mark.parametrize(
    ("treepo", "problem", "remedy"),
    [
        (
            {"max_divergence": 2, "divergence": [3, 4]},
            "treepo.max_divergence=2: max_divergence_too_low",
            "treepo.max_divergence=3 or null",
        ),
        (
            {"search": "by_path", "branching": {"share": "entropy"}},
            f"{BRANCHING}.share=entropy: share_by_path",
            f"{BRANCHING}.share=even",
        ),
        (
            {"search": "by_path", "fallback": {"order": "longer_first"}},
            "treepo.fallback.order=longer_first: order_by_path",
            "treepo.fallback.order=random",
        ),
        (
            {"fallback": {"min_segments": 5}},
            "treepo.fallback.min_segments=5: min_segments_too_high",
            "treepo.fallback.min_segments=4",
        ),
        (
            # 3 children at most, segments of 25 tokens
            {"init_divergence": [2, 3], "branching": {"budget": "level_tokens"}},
            f"{BRANCHING}.level_tokens=null: budget_key_missing",
            f"{BRANCHING}.level_tokens=75",
        ),
        (
            {"init_divergence": [2, 3], "branching": {"budget": "level_tokens", "level_tokens": 74}},
            f"{BRANCHING}.level_tokens=74: level_tokens_too_few",
            f"{BRANCHING}.level_tokens=75",
        ),
        (
            # Boundaries may be moved by up to 7 tokens: 3 x (25 + 7).
            {"init_divergence": [2, 3], "cache_block": 8, "branching": {"budget": "level_tokens", "level_tokens": 95}},
            f"{BRANCHING}.level_tokens=95: level_tokens_too_few",
            f"{BRANCHING}.level_tokens=96",
        ),
        (
            {"branching": {"level_tokens": 200}},
            f"{BRANCHING}.level_tokens=200: budget_key_unused",
            f"{BRANCHING}.budget=level_tokens",
        ),
        (
            {"branching": {"budget": "total_tokens", "min_width": 3}},
            f"{BRANCHING}.total_tokens=null: budget_key_missing",
            f"{BRANCHING}.total_tokens=300",
        ),
        (
            {"branching": {"budget": "total_tokens", "total_tokens": 600}},
            f"{BRANCHING}.min_width=null: budget_key_missing",
            f"{BRANCHING}.min_width=1",
        ),
        (
            {"branching": {"min_width": 2}},
            f"{BRANCHING}.min_width=2: budget_key_unused",
            f"{BRANCHING}.budget=total_tokens",
        ),
        (
            {"search": "by_path", "branching": {"budget": "level_tokens", "level_tokens": 600}},
            f"{BRANCHING}.budget=level_tokens: budget_by_path",
            f"{BRANCHING}.budget=transfer",
        ),
        (
            {"branching": {"total_tokens": 600}},
            f"{BRANCHING}.total_tokens=600: budget_key_unused",
            f"{BRANCHING}.budget=total_tokens",
        ),
        (
            {"branching": {"budget": "total_tokens", "total_tokens": 900, "min_width": 9}},
            f"{BRANCHING}.min_width=9: min_width_too_high",
            f"{BRANCHING}.min_width=8",
        ),
        (
            {"branching": {"budget": "total_tokens", "total_tokens": 299, "min_width": 3}},
            f"{BRANCHING}.total_tokens=299: total_tokens_too_few",
            f"{BRANCHING}.total_tokens=300",
        ),
        (
            {"stopping": ["stop", "eos", "length", "depth"]},
            "treepo.stop_strings=[]: stop_without_strings",
            "remove stop from treepo.stopping",
        ),
        (
            {"stop_strings": ["###"]},
            "treepo.stopping=[answer, eos, length, depth]: strings_without_stop",
            "treepo.stop_strings=[]",
        ),
        (
            {"answer_needs_eos": True, "stopping": ["eos", "length", "depth"]},
            "treepo.answer_needs_eos=True: stopping_without_answer",
            "treepo.answer_needs_eos=false",
        ),
        (
            {"answer_needs_eos": True, "stopping": ["eos", "answer", "length", "depth"]},
            "treepo.answer_needs_eos=True: eos_before_answer",
            "treepo.answer_needs_eos=false",
        ),
    ],
)
def test_keys_that_contradict_each_other_are_one_problem_with_a_remedy(treepo, problem, remedy):
    [found] = problems_of(config_of(treepo))
    assert briefly([found]) == [problem]
    assert remedy in found.remedy
    with pytest.raises(ConfigError) as caught:
        validate_trees(config_of(treepo))
    assert caught.value.problems == [found]


def test_a_budget_of_response_tokens_is_refused_for_validation_with_trees():
    treepo = {
        "branching": {"budget": "total_tokens", "total_tokens": 600, "min_width": 3},
        "validate_with_tree": True,
    }
    config = config_of(treepo, actor_rollout_ref__rollout__val_kwargs__temperature=1.0)
    assert broken_rules(config) == ["treepo.validate_with_tree=True: validation_with_budget"]


@pytest.mark.parametrize(
    "treepo",
    [
        {"max_divergence": 3, "divergence": [3, 4]},
        {"search": "by_path", "branching": {"favor": "low", "temperature": [2, 1]}},
        {"search": "by_path", "fallback": {"start": "dry", "order": "longer_first"}},
        {"branching": {"share": "entropy"}, "fallback": {"order": "longer_first", "min_segments": 4}},
        {"init_divergence": [2, 3], "branching": {"budget": "level_tokens", "level_tokens": 75}},
        # budget=level_tokens ignores divergence
        {"max_divergence": 1, "branching": {"budget": "level_tokens", "level_tokens": 100}},
        {"branching": {"budget": "total_tokens", "total_tokens": 800, "min_width": 8}},
        {"stopping": ["stop", "eos", "length", "depth"], "stop_strings": ["###"]},
        {"answer_needs_eos": True},
        {"min_response_length": 99},
        {
            "init_divergence": [1, 8],
        },
    ],
)
def test_values_at_the_limits_are_accepted(treepo):
    validate(config_of(treepo))


def test_an_answer_cannot_wait_for_end_tokens_that_are_ignored():
    ignored = {"actor_rollout_ref__rollout__ignore_eos": True}
    assert broken_rules(config_of({"answer_needs_eos": True}, **ignored)) == [
        "treepo.answer_needs_eos=True: eos_ignored"
    ]
    validate(config_of(**ignored))


def test_a_level_that_no_path_can_reach_is_refused():
    # 3 segments of 34 hold 102 >= 100 tokens, so the fourth level is unreachable; segments of 33 leave one token for it
    [problem] = problems_of(config_of({"segment_length": 34}))
    assert briefly([problem]) == ["treepo.segment_length=34: segments_too_many"]
    assert problem.remedy.startswith("Use treepo.depth=3, or treepo.segment_length=25 (or null) for this depth, ")
    assert validate(config_of({"segment_length": 33})).segment_length == 33


def test_a_depth_that_whole_tokens_cannot_fill_is_refused():
    # 100 tokens in 14 levels: segments of 8 tokens fill it after 13, segments of 7 need 15.
    [problem] = problems_of(config_of({"depth": 14}))
    assert briefly([problem]) == ["treepo.depth=14: segments_too_many"]
    assert problem.remedy == "Use treepo.depth=13, or a larger data.max_response_length."
    # 4 x 20 = 80 < 100: 25 tokens for 4 levels, or 5 levels of 20
    [problem] = problems_of(config_of({"segment_length": 20}))
    assert briefly([problem]) == ["treepo.segment_length=20: segments_too_few"]
    assert problem.remedy.startswith("Use treepo.depth=5, or treepo.segment_length=25 (or null) for this depth, ")


def test_verls_own_keys_that_trees_depend_on_are_checked():
    name = "actor_rollout_ref.rollout"
    config = config_of(
        {"validate_with_tree": True},
        actor_rollout_ref__rollout__max_model_len=119,
        actor_rollout_ref__rollout__agent__default_agent_loop="other_agent",
        actor_rollout_ref__rollout__enable_rollout_routing_replay=True,
    )
    assert broken_rules(config) == [
        f"{name}.val_kwargs.temperature=0: greedy_validation",
        f"{name}.max_model_len=119: context_too_short",
        f"{name}.agent.default_agent_loop=other_agent: other_agent",
        f"{name}.enable_rollout_routing_replay=True: routing_replay",
    ]
    validate(config_of(actor_rollout_ref__rollout__max_model_len=120))


def test_values_that_are_not_numbers_are_problems_not_tracebacks():
    name = "actor_rollout_ref.rollout"
    config = config_of(actor_rollout_ref__rollout__n="abc", actor_rollout_ref__rollout__response_length=None)
    assert broken_rules(config) == [f"{name}.response_length=null: verl_number", f"{name}.n=abc: verl_number"]
    with pytest.raises(ConfigError) as caught:
        validate_trees(config)
    assert briefly(caught.value.problems) == [f"{name}.n=abc: number", f"{name}.response_length=None: number"]


def test_with_the_plain_sampler_the_shape_of_trees_does_not_matter():
    settings = validate(config_of({"sampler": "plain", "init_divergence": 99, "segment_length": 1}))
    assert settings.advantage == AdvantageSettings()


@pytest.mark.parametrize("group", ["tree", "preset", "platform"])
def test_the_name_of_a_group_that_hydra_did_not_find_is_refused(group):
    """``+tree=paper_best`` with verl's entry point, without the search path of the remedy."""
    config = config_of(**{group: "paper_best"})
    for check in (validate, validate_trees):
        with pytest.raises(ConfigError) as error:
            check(config)
        assert briefly(error.value.problems) == [f"{group}=paper_best: group_not_found"]


@pytest.mark.parametrize(
    ("changes", "length"),
    [
        ({"cache_block": 26, "segment_length": 25, "depth": 4}, 25),
        ({"cache_block": 34, "segment_length": None, "depth": 3}, 34),  # 100 / 3, rounded up: the block fits
        ({"cache_block": 35, "segment_length": None, "depth": 3}, 34),
        ({"cache_block": 35, "segment_length": None, "depth": 3, "sampler": "plain"}, None),
        ({"cache_block": None, "segment_length": 25, "depth": 4}, None),
        ({"cache_block": "auto", "segment_length": 25, "depth": 4}, None),
    ],
)
def test_a_cache_block_beyond_the_segments_is_remarked_not_refused(changes, length):
    config = config_of(changes)
    remark = unused_cache_block(validate(config, check_files=False), config)
    if length is None or changes["cache_block"] <= length:
        assert remark is None
    else:
        assert briefly([remark]) == [f"treepo.cache_block={changes['cache_block']}: cache_block_unused"]
        assert f"segments of {length} tokens" in remark.rule


def test_trees_without_the_manager_that_samples_them_are_refused():
    key = "actor_rollout_ref.rollout.agent.agent_loop_manager_class"
    [problem] = problems_of(config_of(**{key.replace(".", "__"): None}))
    assert briefly([problem]) == [f"{key}=None: other_manager"]
    assert f"Use {key}={TREE_MANAGER}," in problem.remedy


@pytest.mark.parametrize("mode", ["treepo_sync", "treepo_colocate_async", "treepo_separate_async"])
def test_the_estimator_works_with_each_of_our_trainers(mode):
    validate(config_of(trainer__v1__trainer_mode=mode))


@pytest.mark.parametrize(
    ("mode", "ours"),
    [
        ("colocate_async", "treepo_colocate_async"),
        ("separate_async", "treepo_separate_async"),
        ("mine", "treepo_sync or treepo_colocate_async or treepo_separate_async"),
    ],
)
def test_another_trainer_is_answered_with_ours_that_does_the_same(mode, ours):
    [problem] = problems_of(config_of(trainer__v1__trainer_mode=mode))
    assert briefly([problem]) == [f"trainer.v1.trainer_mode={mode}: other_trainer"]
    assert f"Use trainer.v1.trainer_mode={ours}, or" in problem.remedy
    validate(config_of(trainer__v1__trainer_mode=mode, algorithm__adv_estimator="grpo"))


@pytest.mark.parametrize("estimator", TREE_ESTIMATORS)
def test_each_of_our_estimators_needs_one_of_our_trainers(estimator):
    own = {"advantage": {"custom": {"path": "pkg://mine", "name": "Mine"}}} if estimator == CUSTOM_ESTIMATOR else {}
    validate(config_of(own, algorithm__adv_estimator=estimator), check_files=False)
    [problem] = problems_of(config_of(own, algorithm__adv_estimator=estimator, trainer__v1__trainer_mode="sync"))
    assert briefly([problem]) == ["trainer.v1.trainer_mode=sync: other_trainer"]
    assert f"algorithm.adv_estimator={estimator}" in problem.rule


@pytest.mark.parametrize("changes", [{"policy": "fail_run"}, {"max_share": 0.1}])
def test_other_than_default_handling_of_reward_errors_needs_our_trainer(changes):
    errors = {"reward_errors": changes}
    validate(config_of(errors, algorithm__adv_estimator="grpo"))
    [problem] = problems_of(config_of(errors, algorithm__adv_estimator="grpo", trainer__v1__trainer_mode="sync"))
    assert briefly([problem]) == ["trainer.v1.trainer_mode=sync: other_trainer"]
    assert problem.rule.startswith("treepo.reward_errors needs a trainer of this recipe")


@pytest.mark.parametrize(
    ("changes", "key", "value", "default"),
    [
        ({"shared_token_weight": "once"}, "treepo.shared_token_weight", "once", "per_trajectory"),
        ({"stale_tokens": {"policy": "decay"}}, "treepo.stale_tokens.policy", "decay", "keep"),
    ],
)
def test_weights_of_tokens_need_our_trainer_and_a_loss_that_reads_them(changes, key, value, default):
    validate(config_of(changes, algorithm__adv_estimator="grpo"))
    config = config_of(
        changes,
        algorithm__adv_estimator="grpo",
        trainer__v1__trainer_mode="sync",
        actor_rollout_ref__actor__policy_loss__loss_mode="geo_mean",
        algorithm__rollout_correction__bypass_mode=True,
    )
    problems = problems_of(config)
    assert briefly(problems) == [
        "trainer.v1.trainer_mode=sync: other_trainer",
        f"{key}={value}: loss_without_weights",
        f"{key}={value}: weights_replaced",
    ]
    assert f"{key}={value}" in problems[0].rule
    assert all(f"{key}={default}" in problem.remedy for problem in problems)


@pytest.mark.parametrize(
    ("sizes", "gpus", "mode", "fits"),
    [
        ((2, 1, 1), (1, 8), "treepo_sync", True),
        ((2, 1, 1), (1, 1), "treepo_sync", False),
        ((2, 1, 1), (1, 1), "treepo_separate_async", True),
        ((2, 3, 1), (2, 4), "sync", False),
        ((2, 3, 2), (3, 4), "treepo_colocate_async", True),
    ],
)
def test_servers_have_to_divide_the_gpus(sizes, gpus, mode, fits):
    config = config_of()
    names = ("tensor_model_parallel_size", "data_parallel_size", "pipeline_model_parallel_size")
    config.actor_rollout_ref.rollout.update(zip(names, sizes, strict=True))
    config.trainer.update(zip(("nnodes", "n_gpus_per_node"), gpus, strict=True))
    config.trainer.v1.trainer_mode = mode
    config.algorithm.adv_estimator = "grpo"
    if fits:
        validate(config)
        return
    [problem] = problems_of(config)
    assert (problem.key, problem.rule_id) == (f"actor_rollout_ref.rollout.{names[0]}", "gpus_per_server")
    # all GPUs, and those of one server
    numbers = [int(number) for number in re.findall(r"\d+", problem.rule)]
    assert numbers == [gpus[0] * gpus[1], sizes[0] * sizes[1] * sizes[2]]


@pytest.mark.parametrize("flat", [{"sampler": "plain"}, {"depth": 1}])
@pytest.mark.parametrize("estimator", ["treepo", "treepo_segment"])
def test_without_the_root_group_there_must_be_other_groups(estimator, flat):
    key = "treepo.advantage.root_group"
    without = {"advantage": {"root_group": False}}
    validate(config_of(without, algorithm__adv_estimator=estimator))
    validate(config_of({**without, **flat}, algorithm__adv_estimator="treerl"))
    assert broken_rules(config_of({**without, **flat}, algorithm__adv_estimator=estimator)) == [
        f"{key}=False: root_group_alone"
    ]


def test_a_misspelt_estimator_is_answered_with_those_that_there_are():
    with pytest.raises(ConfigError) as caught:
        prepare(composed("preset=tiny", "algorithm.adv_estimator=treepo_segmnt"), [], dry_run=True)
    (problem,) = caught.value.problems
    assert briefly([problem]) == ["algorithm.adv_estimator=treepo_segmnt: unregistered_name"]
    assert problem.remedy == "Use algorithm.adv_estimator=treepo_segment."
    with pytest.raises(ConfigError) as caught:
        prepare(composed("preset=tiny", "algorithm.adv_estimator=mine"), [], dry_run=True)
    (problem,) = caught.value.problems
    assert problem.remedy.startswith("Use one of gae, gpg, grpo,")
    assert problem.remedy.endswith("treepo, treepo_custom, treepo_segment, treerl, treerpo.")


# --- verl's objectives -------------------------------------------------------------------------------------------

OPTIONS = "reward.custom_reward_function.reward_kwargs"
OURS = "reward, score, acc, reward_boxed, reward_too_long, reward_timeout, reward_crash"


def test_rules_that_verl_checks_in_the_first_step_are_checked_before():
    config = composed(
        "preset=tiny",
        "algorithm.filter_groups.enable=True",
        "algorithm.filter_groups.metric=seq_reward",
        "reward.reward_manager.name=naive",
        f"{PENALTY}.enable=True",
        f"{PENALTY}.penalty_factor=0",
        f"+{OPTIONS}.require_bx=true",
        f"+{OPTIONS}.timeout_s=0",
    )
    with pytest.raises(ConfigError) as caught:
        validate(config, check_files=False)
    assert briefly(caught.value.problems) == [
        f"{PENALTY}.enable=True: penalty_manager",
        f"{PENALTY}.penalty_factor=0: penalty_factor",
        f"{PENALTY}.len=None: penalty_length",
        f"{OPTIONS}.require_bx=True: reward_option",
        f"{OPTIONS}.timeout_s=0: reward_option",
        "algorithm.filter_groups.metric=seq_reward: unknown_metric",
    ]
    assert f"{PENALTY}.len=25" in caught.value.problems[2].remedy  # a fifth of 128
    assert f"Use one of {OURS};" in caught.value.problems[-1].remedy


@pytest.mark.parametrize("length", [0, 129, 2.5, True])
def test_a_penalty_has_to_begin_within_the_response(length):
    config = composed("preset=tiny", f"{PENALTY}.enable=True", f"{PENALTY}.len={length}")
    with pytest.raises(ConfigError) as caught:
        validate(config, check_files=False)
    assert briefly(caught.value.problems) == [f"{PENALTY}.len={length}: penalty_length"]


def test_a_penalty_that_would_go_beyond_its_factor_is_refused():
    config = composed(
        "preset=tiny", f"{PENALTY}.enable=True", f"{PENALTY}.len=20", "reward.reward_kwargs.max_resp_len=127"
    )
    with pytest.raises(ConfigError) as caught:
        validate(config, check_files=False)
    assert briefly(caught.value.problems) == ["reward.reward_kwargs.max_resp_len=127: penalty_beyond_factor"]


def test_options_of_another_reward_function_are_its_own_business():
    other = ["reward.custom_reward_function.path=examples/tree_reward.py", f"+{OPTIONS}.node_cost=0.1"]
    validate(composed("preset=tiny", *other, f"{PENALTY}.enable=True", f"{PENALTY}.len=20"), check_files=False)


def test_missing_keys_of_a_penalty_are_problems_not_tracebacks():
    config = config_of(reward__reward_kwargs={"overlong_buffer_cfg": {"enable": True}})
    OmegaConf.set_struct(config, True)
    assert broken_rules(config) == [
        f"{PENALTY}.enable=True: penalty_manager",
        f"{PENALTY}.penalty_factor=None: penalty_factor",
        "reward.reward_kwargs.max_resp_len=None: penalty_without_length",
    ]


@pytest.mark.parametrize(
    "overrides",
    [
        ["algorithm.filter_groups.metric=reward"],
        ["algorithm.filter_groups.metric=overlong_reward", "reward.reward_manager.name=dapo"],
        # the metrics of another reward function are unknown
        ["algorithm.filter_groups.metric=mine", "reward.custom_reward_function.path=/somewhere/reward.py"],
    ],
)
def test_groups_are_filtered_by_any_metric_that_there_is(overrides):
    penalty = [f"{PENALTY}.enable={'dapo' in overrides[-1]}", f"{PENALTY}.len=128"]
    validate(composed("preset=tiny", "algorithm.filter_groups.enable=True", *penalty, *overrides), check_files=False)


def test_a_critics_model_is_looked_for_where_there_is_a_critic():
    missing = {"critic__model__path": "./nowhere", "critic__enable": None}
    validate(config_of(**missing))
    config = config_of(**missing, algorithm__adv_estimator="gae")
    assert broken_rules(config) == ["critic.model.path=./nowhere: missing_model"]
    # one model, one problem
    config.actor_rollout_ref.model.path = "./nowhere"
    assert len(problems_of(config)) == 1


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("preset", ["tiny", "small", "gpu"])
def test_every_objective_of_verl_composes_with_every_preset_and_passes_all_checks(name, platform, preset):
    config = composed(f"platform={platform}", f"preset={preset}", *OBJECTIVES[name])
    # includes verl's own checks; files are not checked, because none exist here
    prepare(config, [], dry_run=True)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_the_critic_is_set_up_like_the_actor(platform):
    config = composed(f"platform={platform}", "preset=gpu", "actor_rollout_ref.model.path=/models/mine")
    actor, critic = config.actor_rollout_ref, config.critic
    assert (critic.model.path, critic.strategy) == ("/models/mine", actor.actor.strategy)
    assert critic.model.override_config == actor.model.override_config
    assert critic.model.use_remove_padding == actor.model.use_remove_padding
    assert critic.model.enable_gradient_checkpointing == actor.model.enable_gradient_checkpointing
    for key in ("dtype", "model_dtype", "use_torch_compile"):
        assert critic.fsdp[key] == actor.actor.fsdp_config[key]
    assert critic.fsdp.get("mixed_precision") == actor.actor.fsdp_config.get("mixed_precision")


# --- shipped configurations ------------------------------------------------------------------------------------

# Without a preset, verl's default is to require a size of micro-batches.
BY_TOKENS = "actor_rollout_ref.actor.use_dynamic_bsz=True"


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("preset", ["tiny", "small", "gpu", "gpu_thinking"])
@pytest.mark.parametrize("partner", [[], ["treepo.sampler=plain", "algorithm.adv_estimator=grpo"]])
def test_every_preset_composes_and_keeps_the_rules_on_every_platform(platform, preset, partner):
    config = composed(f"platform={platform}", f"preset={preset}", *partner)
    settings = validate(config, check_files=False)
    expected = {
        "tiny": (4, 32, (2, 2), (4, 4), None, 8, 128),
        "small": (8, 8, (2, 2), (4, 4), None, 8, 64),
        "gpu": (5, 256, (2, 2), (4, 4), None, 8, 1280),
        "gpu_thinking": (8, 512, (2, 2), (4, 4), None, 8, 4096),
    }
    assert shape_of(settings, config) == expected[preset]


def test_every_named_tree_is_tested():
    assert {path.stem for path in (CONFIG / "tree").glob("*.yaml")} == {"none", *TREES}


@pytest.mark.parametrize("tree", TREES)
def test_every_named_tree_composes_and_keeps_the_rules(tree):
    config = composed(f"tree={tree}", BY_TOKENS)
    settings = validate(config, check_files=False)
    assert shape_of(settings, config) == TREES[tree]
    scales = tree.startswith("scaling")
    assert (settings.validate_with_tree, config.trainer.val_only) == (scales, scales)


@pytest.mark.parametrize("tree", TREES)
def test_a_named_tree_wins_over_the_preset(tree):
    # without the preset's max_model_len, which fits its own responses only
    config = composed("platform=cpu", "preset=tiny", f"tree={tree}", "actor_rollout_ref.rollout.max_model_len=null")
    settings = validate(config, check_files=False)
    depth, segment, *branching, n, length = TREES[tree]
    if tree.startswith("ms_swift"):
        # these trees take the run's response length, here 128 tokens: 4 x 32, 5 x 26, 6 x 22
        segment, length = {4: 32, 5: 26, 6: 22}[depth], 128
    assert shape_of(settings, config) == (depth, segment, *branching, n, length)
    assert config.data.train_batch_size == 16


def test_the_command_line_wins_over_a_named_tree():
    settings = validate(
        composed(
            *("treepo.depth=7", "tree=paper_best", "treepo.segment_length=1024", "treepo.fallback.start=early"),
            BY_TOKENS,
        ),
        check_files=False,
    )
    assert (settings.depth, settings.segment_length, settings.branching.init_divergence) == (7, 1024, (2, 8))
    assert settings.fallback.start == "early" and settings.fallback.self_ended_only


def test_the_papers_runs_are_as_published_and_differ_at_the_root():
    best, fixed = composed("tree=paper_best", BY_TOKENS), composed("tree=paper_fixed", BY_TOKENS)
    settings = validate(best, check_files=False)
    assert (settings.fallback.start, settings.fallback.order, settings.fallback.point) == ("dry", "random", "boundary")
    assert settings.fallback.self_ended_only and settings.answer_needs_eos
    assert settings.stopping[0] is FinishReason.REPETITION
    assert str(settings.repetition.unit) == "characters"
    assert (fixed.treepo.init_divergence, list(best.treepo.init_divergence)) == (2, [2, 8])
    fixed.treepo.init_divergence = best.treepo.init_divergence
    assert fixed == best


def test_test_time_scaling_validates_once_with_sampled_trees():
    config = composed("tree=scaling_4")
    sampling = config.actor_rollout_ref.rollout.val_kwargs
    assert (sampling.n, sampling.do_sample, sampling.temperature, sampling.top_p) == (16, True, 0.6, 1.0)
    assert config.trainer.val_before_train and config.trainer.val_only


# --- packed training ------------------------------------------------------------------------------------------------

PACKED = "treepo.packed_training=true"


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_packed_training_is_one_setting_for_actor_and_critic(platform):
    for more in ([], ["algorithm.adv_estimator=gae"]):
        config = composed(f"platform={platform}", "preset=tiny", PACKED, *more)
        assert validate(config, check_files=False).packed_training
    config = composed(
        "preset=tiny", PACKED, "actor_rollout_ref.model.override_config.attn_implementation=flex_attention"
    )
    assert validate(config, check_files=False).packed_training


@pytest.mark.parametrize(
    ("override", "rule_id"),
    [
        ("actor_rollout_ref.actor.strategy=megatron", "packed_strategy"),
        ("actor_rollout_ref.actor.ulysses_sequence_parallel_size=2", "packed_sequence_parallel"),
        ("actor_rollout_ref.actor.fsdp_config.ulysses_sequence_parallel_size=2", "packed_sequence_parallel"),
        ("critic.fsdp.ulysses_sequence_parallel_size=2", "packed_sequence_parallel"),
        ("trainer.device=npu", "packed_device"),
        ("distillation.enabled=true", "packed_distillation"),
        ("actor_rollout_ref.actor.pad_to_length=true", "packed_padding"),
        ("actor_rollout_ref.model.use_fused_kernels=true", "packed_fused_kernels"),
        ("actor_rollout_ref.model.override_config.attn_implementation=flash_attention_2", "packed_attention"),
        ("critic.model.override_config.attn_implementation=flash_attention_2", "packed_attention"),
    ],
)
def test_limits_of_packed_training_are_named_with_the_key_and_both_remedies(override, rule_id):
    # what these values need without packed training
    other = ["actor_rollout_ref.model.use_remove_padding=True", "critic.model.use_remove_padding=True"]
    other += ["trainer.n_gpus_per_node=2", "distillation.nnodes=1"]
    if override.endswith("megatron"):
        other += ["model_engine=megatron", "critic.strategy=megatron"]
    config = composed("preset=tiny", "algorithm.adv_estimator=gae", *other, override)
    validate(config, check_files=False)
    config.treepo.packed_training = True
    with pytest.raises(ConfigError) as caught:
        validate(config, check_files=False)
    key, _, value = override.partition("=")
    value = {"true": "True"}.get(value, value)
    [problem] = [problem for problem in caught.value.problems if (problem.key, str(problem.value)) == (key, value)]
    assert problem.rule_id == rule_id
    assert f"Use {key}=" in problem.remedy and problem.remedy.endswith("or treepo.packed_training=false.")


def test_the_packed_engines_are_first_for_verl(monkeypatch):
    started = []
    monkeypatch.setattr("recipe.treepo.verl_adapters.run.run_ppo", lambda config, **_: started.append(config))
    variables = []
    for override in (PACKED, "treepo.packed_training=false"):
        train(composed("platform=cpu", "preset=tiny", "treepo.console=verl", override))
        variables.append(OmegaConf.select(started[-1], "ray_kwargs.ray_init.runtime_env.env_vars.VERL_ENGINE_VENDOR"))
    assert variables == ["treepo_packed", None]
    monkeypatch.setenv("VERL_ENGINE_DEVICE", "cuda")
    monkeypatch.setenv("VERL_ENGINE_VENDOR", variables[0])
    for strategy in ("fsdp", "fsdp2"):
        assert EngineRegistry.get_engine_cls("language_model", strategy) is PackedActorEngine
        assert EngineRegistry.get_engine_cls("value_model", strategy) is PackedCriticEngine
