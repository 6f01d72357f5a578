# SPDX-License-Identifier: Apache-2.0
"""Rules for verl's keys: each mistake is one problem whose remedy works, and values nearby are accepted."""

import copy
import importlib
import importlib.util
import os
import shutil
import sys
from functools import cache

import pytest
from omegaconf import DictConfig, OmegaConf
from verl.checkpoint_engine import CheckpointEngineRegistry
from verl.trainer.config import CheckpointConfig
from verl.trainer.ppo import core_algos, rollout_corr_helper
from verl.utils.tracking import Tracking
from verl.workers.config import FSDPActorConfig, FSDPEngineConfig

from helpers.composition import composed
from helpers.configs import briefly
from helpers.verl_mistakes import FINE, MISTAKES, changed, make_files, tiny_with
from recipe.treepo.command_line import verl_overrides
from recipe.treepo.command_line.arguments import read_command_line
from recipe.treepo.command_line.verl_overrides import defaults, with_known_keys
from recipe.treepo.main_treepo import prepare
from recipe.treepo.settings import code_rules, verl_values
from recipe.treepo.settings.code_rules import module_exists, package_problems
from recipe.treepo.settings.nearest import closest_name, is_near
from recipe.treepo.settings.validate import validate
from recipe.treepo.settings.values import ConfigError, ConfigProblem
from recipe.treepo.settings.verl_keys import ADDABLE, FORMER, MEANT, REMOVED, REPLACED, new_name, unread_key_problems
from recipe.treepo.settings.verl_relations import _vllm_arguments
from recipe.treepo.settings.verl_switches import machine_problems, unread_notes
from recipe.treepo.settings.verl_values import name_remedy, type_problems
from recipe.treepo.verl_adapters.agent_loop import TREE_AGENT
from recipe.treepo.verl_adapters.run import _registered, dataclass_problems, name_problems


def problems_with(overrides: str, config: DictConfig | None = None) -> list[ConfigProblem]:
    try:
        validate(tiny_with(overrides) if config is None else changed(config, overrides), check_files=False)
    except ConfigError as error:
        return error.problems
    return []


@pytest.fixture(scope="module")
def folder_with_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    make_files(folder)
    return folder


@pytest.fixture
def files(folder_with_files, monkeypatch):
    monkeypatch.chdir(folder_with_files)


@pytest.fixture(autouse=True)
def defaults_composed_once(monkeypatch):
    monkeypatch.setattr(verl_overrides, "defaults", lambda chosen: copy.deepcopy(_defaults(tuple(chosen))))


@cache
def _defaults(chosen):
    return defaults(chosen)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.overrides)
def test_a_mistake_is_one_problem_whose_remedy_works(mistake, files):
    config = tiny_with("")
    [problem] = problems_with(mistake.overrides, config)
    assert (problem.rule_id, problem.key) == (mistake.rule, mistake.key)
    assert problem.rule and problem.remedy.endswith(".")
    assert not mistake.named or all(word in problem.remedy for word in mistake.mended.split())
    assert problems_with(mistake.mended, config) == []


@pytest.mark.parametrize("overrides", FINE)
def test_values_that_verl_accepts_are_accepted(overrides, files):
    assert problems_with(overrides) == []


def test_all_problems_of_all_kinds_are_listed_at_once():
    line = with_known_keys(
        read_command_line(
            ["platform=cpu", "preset=tiny", "treepo.depth=x", "trainer.foo=1", "data.shuffle=no"]
            + ["trainer.resume_mode=resume_path", "actor_rollout_ref.actor.policy_loss.loss_mode=gspoo"]
        )
    )
    with pytest.raises(ConfigError) as caught:
        prepare(composed(*line.arguments), line.name_problems, dry_run=True, known=line.known)
    assert briefly(caught.value.problems) == [
        "trainer.foo=1: unknown_verl_key",
        "treepo.depth=x: integer",
        "trainer.resume_from_path=null: resume_path_missing",
        "data.shuffle=no: verl_boolean",
        "actor_rollout_ref.actor.policy_loss.loss_mode=gspoo: unregistered_name",
    ]


def test_a_key_that_verl_does_not_read_is_noted():
    group = "actor_rollout_ref.actor"
    notes = list(unread_notes(tiny_with(f"{group}.grad_clip=0.5")))
    assert briefly(notes) == [f"{group}.grad_clip=0.5: grad_clip_unread"]
    for fine in (f"{group}.grad_clip=0.5 {group}.optim.clip_grad=0.5", f"{group}.grad_clip=1.0", "critic.grad_clip=2"):
        assert list(unread_notes(tiny_with(fine))) == []


def test_the_sizes_of_a_model_in_the_hubs_cache_are_known(folder_with_files, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    shutil.copytree(folder_with_files / "three", tmp_path / "models--own--three/snapshots/abc")
    (tmp_path / "models--own--three/refs").mkdir()
    (tmp_path / "models--own--three/refs/main").write_text("abc")
    model = "actor_rollout_ref.model.path=own/three actor_rollout_ref.rollout.max_model_len=513"
    assert [problem.rule_id for problem in problems_with(model)] == ["context_beyond_model"]


def test_a_group_that_became_a_value_stops_all_other_rules():
    with pytest.raises(ConfigError) as caught:
        prepare(tiny_with("reward=abc"), [], dry_run=True, known=tiny_with(""))
    assert briefly(caught.value.problems) == ["reward=abc: verl_group"]


@pytest.mark.parametrize(
    "override", ["actor_rollout_ref.rollout.max_model_len=abc", "trainer.v1.trainer_mode=-7", "trainer.logger=null"]
)
def test_values_of_any_type_are_problems_not_tracebacks(override):
    assert problems_with(override)[0].key == override.partition("=")[0]


# --- names of keys ---------------------------------------------------------------------------------------------


def unknown(*overrides: str) -> list[ConfigProblem]:
    return with_known_keys(read_command_line(["platform=cpu", "preset=tiny", *overrides])).name_problems


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("data.train_batchsize=3", "data.train_batch_size"),
        ("actor_rollout_ref.actor.lr=3", "actor_rollout_ref.actor.optim.lr"),
        ("actor.optim.lr=3", "actor_rollout_ref.actor.optim.lr"),
        ("trainer.lr=3", "actor_rollout_ref.actor.optim.lr"),
        ("rollout.n=4", "actor_rollout_ref.rollout.n"),
        ("trainer.save_frequency=3", "trainer.save_freq"),
        ("actor_rollout_ref.rolout.n=3", "actor_rollout_ref.rollout.n"),
    ],
)
def test_an_unknown_key_is_answered_with_the_one_that_is_meant(override, meant):
    [problem] = unknown(override)
    assert (problem.rule_id, problem.key) == ("unknown_verl_key", override.partition("=")[0])
    assert problem.remedy.startswith(f"Did you mean {meant}")


@pytest.mark.parametrize(
    ("override", "new"),
    [
        ("ray_init.num_cpus=3", "ray_kwargs.ray_init.num_cpus=3"),
        ("critic.model.fsdp_config.param_offload=True", "critic.fsdp.param_offload=true"),
        ("reward_model.reward_kwargs.max_resp_len=3", "reward.reward_kwargs.max_resp_len=3"),
        ("trainer.val_generations_to_log_to_wandb=3", "trainer.log_val_generations=3"),
    ],
)
def test_a_former_key_is_answered_with_its_new_name(override, new):
    [problem] = unknown(override)
    assert (problem.rule_id, problem.remedy) == ("former_key", f"Use {new}.")
    assert unknown(new) == []


@pytest.mark.parametrize(
    "overrides",
    [
        ["+custom.x=1", "custom.x=2"],
        ["++data.mine=1", "data.mine=2"],
        ["actor_rollout_ref.rollout.engine_kwargs={vllm:{a:1}}", "actor_rollout_ref.rollout.engine_kwargs.vllm.a=2"],
        ["model_engine=megatron", "actor_rollout_ref.actor.megatron.tensor_model_parallel_size=1"],
        ["actor_rollout_ref.actor.optim.betas=[0.9,0.95]", "hydra.verbose=true", "~trainer.nnodes"],
        ["--config-name", "mine", "trainer.foo=1"],
        ["actor/nowhere=x", "trainer.foo=1"],  # Hydra reports it
    ],
)
def test_keys_that_a_configuration_has_are_left_to_hydra(overrides):
    line = read_command_line(["platform=cpu", *overrides])
    assert with_known_keys(line).name_problems == []
    assert with_known_keys(line).arguments == line.arguments


def test_the_new_names_exist():
    config = composed("platform=cpu", "preset=tiny")
    for former, new in FORMER.items():
        group, _, last = new.rpartition(".")
        assert new_name(former) == new and last in (OmegaConf.select(config, group) if group else config)


def test_keys_that_only_verls_objects_have_can_be_added():
    group = "actor_rollout_ref"
    for end in ADDABLE:
        name, _, last = end.partition(".")
        name = f"{group}.actor.checkpoint" if name == "checkpoint" else f"{group}.{name}"
        overrides = {"checkpoint_manager_class": "null", "target_parameters": "null"}
        config = tiny_with(f"+{name}.{last}={overrides.get(last, 1)}")
        assert dataclass_problems(config) == [], end
        assert unknown(f"{name}.{last}=1")[0].remedy.startswith("To add it"), end
    precision = f"+{group}.actor.fsdp_config.mixed_precision.param_dtype=bf16"
    assert dataclass_problems(tiny_with(precision)) == []
    line = read_command_line(["platform=gpu", precision.lstrip("+")])  # the embedded run declares it
    assert with_known_keys(line).name_problems[0].remedy == f"To add it, use {precision}."


def test_the_remedies_of_former_and_foreign_keys_exist():
    config = composed("platform=cpu", "preset=tiny")
    new = [*REPLACED.values(), *({None: f"{key}=1"} for key in MEANT.values())]
    for override in " ".join(" ".join(forms.values()).format(1) for forms in new).split():
        group, _, last = override.partition("=")[0].rpartition(".")
        assert last in OmegaConf.select(config, group)
    for key in (*REPLACED, *REMOVED, *FORMER):
        assert [problem.rule_id for problem in unknown(f"{key}=True")] in (["former_key"], []), key


@pytest.mark.parametrize(
    ("override", "remedy"),
    [
        (
            "actor_rollout_ref.actor.use_token_level_loss=True",
            "Use actor_rollout_ref.actor.loss_agg_mode=token-mean.",
        ),
        (
            "actor_rollout_ref.actor.tis_imp_ratio_cap=2",
            "Use algorithm.rollout_correction.rollout_is=token algorithm.rollout_correction.rollout_is_threshold=2.",
        ),
        ("actor_rollout_ref.rollout.n_agent=4", "Use actor_rollout_ref.rollout.n=4."),
        ("actor_rollout_ref.rollout.val_temperature=1", "Use actor_rollout_ref.rollout.val_kwargs.temperature=1."),
        ("algorithm.rollout_is=token", "Use algorithm.rollout_correction.rollout_is=token."),
        ("reward_model.launch_reward_fn_async=True", "Leave it out."),
        ("reward_model.overlong_buffer.len=4", "Use reward.reward_kwargs.overlong_buffer_cfg.len=4."),
        ("trainer.learning_rate=3", "Use actor_rollout_ref.actor.optim.lr=3."),
        ("critic.learning_rate=3", "Use critic.optim.lr=3."),
        ("trainer.max_steps=3", "Use trainer.total_training_steps=3."),
        ("actor_rollout_ref.rollout.engine_kwargs.vllm.seed=1", "To add it, use +actor_rollout_ref.rollout."),
        ("actor_rollout_ref.actor.use_something_else=True", "Leave it out."),
        ("data.train_batchsize=3", "Did you mean data.train_batch_size?"),
        ("actor_rollout_ref.rollout.limit_images=2", "To add it, use +actor_rollout_ref.rollout.limit_images=2."),
        ("data.mine.of_all=null", "To add the key nevertheless, use +data.mine.of_all=null."),
        ("data.mine.of_all=True", "To add the key nevertheless, use +data.mine.of_all=true."),
        (
            "data.mine.of_all={a:[1,{b:null}]}",
            "To add the key nevertheless, use +data.mine.of_all='{a: [1,{b: null}]}'.",
        ),
        ("trainer.something_else=3", "To add the key nevertheless, use +trainer.something_else=3."),
    ],
)
def test_a_remedy_never_names_a_key_of_another_meaning(override, remedy):
    [problem] = unknown(override)
    assert problem.remedy.startswith(remedy)


@pytest.mark.parametrize(
    ("override", "rule"),
    [
        ("+trainer.save_frequency=3", "unread_key"),
        ("+data.train_batchsize=3", "unread_key"),
        ("+data.shufle=True", "unread_key"),
        ("+trainer.learning_rate=3", "unread_key"),
    ],
)
def test_an_added_key_that_verl_ignores_is_a_problem_if_another_is_meant(override, rule):
    [problem] = unread_key_problems(tiny_with(override), tiny_with(""))
    assert (problem.rule_id, problem.key) == (rule, override.lstrip("+").partition("=")[0])
    rollout = "actor_rollout_ref.rollout.agent"
    for own in (
        "data.custom_cls.path=my.py",
        "reward.reward_manager.module.path=my.py",
        f"{rollout}.agent_loop_config_path=loops.yaml",
        f"{rollout}.agent_loop_manager_class=my.Manager",
        "treepo.interaction.path=my.py",
    ):
        assert unread_key_problems(tiny_with(f"{override} {own}"), tiny_with("")) == [], own


def test_a_plugin_may_read_any_key(monkeypatch):
    override = "+trainer.save_frequency=3 data.train_batch_size=0"
    found = []
    for modules in ("", "json"):
        monkeypatch.setenv("VERL_USE_EXTERNAL_MODULES", modules)
        with pytest.raises(ConfigError) as caught:
            prepare(tiny_with(override), [], dry_run=True, known=tiny_with(""))
        found.append([problem.rule_id for problem in caught.value.problems])
    assert found == [["verl_number", "unread_key"], ["verl_number"]]


@pytest.mark.parametrize(
    "override",
    [
        *("+data.mine=1", "+data.name=gsm8k", "+data.path=x", "+data.type=x", "+data.mode=x", "+data.num_workers=4"),
        *("+data.temperature=1", "+trainer.path=x", "+trainer.seed=1"),
        "+trainer.wandb_proxy=http://x",
        "+data.cache_dir=x",
        "+data.apply_chat_template_kwargs.enable_thinking=False",
        "+custom.learning_rate=1",
        "+trainer.v1.sampler.sampler_kwargs.sead=1",
    ],
)
def test_added_keys_without_a_near_one_are_accepted(override):
    assert unread_key_problems(tiny_with(override), tiny_with("")) == []


def mistakes_of(*arguments: str) -> list[ConfigProblem]:
    return with_known_keys(read_command_line(["platform=cpu", *arguments])).name_problems


@pytest.mark.parametrize(
    ("argument", "rule", "remedy"),
    [
        ("trainer.logger=console,wandb", "sweep", "Use trainer.logger=[console,wandb] for a list, or a single value."),
        *(
            (f"{key}=1,2", "sweep", "Add --multirun, or use a single value.")
            for key in (
                "trainer.nnodes",
                "trainer.total_training_steps",
                "actor_rollout_ref.actor.optim.lr_warmup_steps",
            )
        ),
        ("actor_rollout_ref.model.path=a,b", "sweep", "Add --multirun, or use a single value."),
        ("data.val_files=a,b", "sweep", "Use data.val_files=[a,b] for a list, or a single value."),
        ("data.train_files=~/x.parquet", "unreadable_value", "Use data.train_files=$HOME/x.parquet."),
        (
            "data.train_files=[~/x.json,~/y.json]",
            "unreadable_value",
            "Use data.train_files=[$HOME/x.json,$HOME/y.json].",
        ),
        ("preset=tny", "unknown_choice", "Use preset=tiny."),
        ("tree=best", "unknown_choice", "Use one of ms_swift_d4_k2"),
        ("model_engine=fsdp", "unknown_choice", "Use one of dp, "),
        ("data=gsm8k", "unknown_choice", "Use one of legacy_data"),
        ("--dryrun", "unknown_option", "Use --dry-run."),
        ("--verbose=1", "unknown_option", "Use one of --dry-run, --full, --help, or KEY=VALUE."),
        ("trainer", "not_an_override", "Add = and the value"),
        ("trainer.logger=[console", "unreadable_value", "Close it, or write the text in two kinds of quotes"),
    ],
)
def test_a_mistake_in_the_form_is_one_sentence(argument, rule, remedy):
    [problem] = mistakes_of(argument)
    assert (problem.rule_id, problem.key) == (rule, argument.partition("=")[0])
    assert problem.remedy.startswith(remedy)
    assert mistakes_of(argument, "trainer.foo=1")[-1].key == "trainer.foo"


def test_the_default_of_an_unreadable_value_is_not_checked():
    line = with_known_keys(
        read_command_line(["platform=cpu", "preset=tiny", "data.train_files=~/x.csv", "data.val_files=b.csv"])
    )
    config = changed(composed(*line.arguments), "data.train_files=default.csv")
    with pytest.raises(ConfigError) as caught:
        prepare(config, line.name_problems, dry_run=True, known=line.known)
    assert briefly(caught.value.problems) == [
        "data.train_files=~/x.csv: unreadable_value",
        "data.val_files=b.csv: data_file_type",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config-name", "mine"],
        ["--config-d", "folder"],
        ["-cn=mine"],
        ["preset=mine", "hydra.searchpath=[file://folder]"],
        ["trainer.logger=console,wandb", "--multirun"],
        ["--hydra-help"],
        ["data=legacy_data", "tree=none", "preset=gpu"],
        ["~trainer.nnodes", "trainer.logger='console,wandb'", "hydra.verbose=true"],
    ],
)
def test_correct_forms_are_left_to_hydra(arguments):
    line = read_command_line(arguments)
    assert with_known_keys(line).name_problems == [] and with_known_keys(line).arguments == arguments


# --- types -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "rule"),
    [
        ("data.shuffle=no", "verl_boolean"),
        ("actor_rollout_ref.actor.use_torch_compile=2", "verl_boolean"),
        ("actor_rollout_ref.actor.data_loader_seed=one", "verl_number_type"),
        ("actor_rollout_ref.actor.kl_loss_coef=True", "verl_number_type"),
        ("reward.custom_reward_function=my.py", "verl_group"),
        ("actor_rollout_ref.rollout.val_kwargs=null", "verl_group"),
        ("actor_rollout_ref.rollout=null", "verl_group"),
    ],
)
def test_a_value_of_another_type_than_the_default_is_refused(override, rule):
    [problem] = type_problems(tiny_with(override), tiny_with(""))
    assert (problem.rule_id, problem.key) == (rule, override.partition("=")[0])


@pytest.mark.parametrize(
    "override",
    [
        "actor_rollout_ref.actor.use_torch_compile=1",
        "trainer.logger=console",
        "data.train_files=[a,b]",
        "actor_rollout_ref.model.target_modules=[q_proj]",
        "algorithm.rollout_correction.rollout_is_threshold=0.5_5.0",
        "actor_rollout_ref.actor.entropy_coeff=0.01",
        "data.seed=1",
        "actor_rollout_ref.rollout.max_num_seqs=null",
        "actor_rollout_ref.actor.optim.lr=${critic.optim.lr}",
        "algorithm.rollout_correction=null",
        "reward_model=null custom_reward_function=null",
    ],
)
def test_values_that_verl_takes_although_the_default_has_another_type(override):
    assert type_problems(tiny_with(override), tiny_with("")) == []


# --- with verl -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "name", "near"),
    [
        ("actor_rollout_ref.actor.policy_loss.loss_mode", "gspoo", "gspo"),
        ("reward.reward_manager.name", "dapoo", "dapo"),
        ("trainer.v1.trainer_mode", "colocate_asinc", "colocate_async"),
        ("actor_rollout_ref.rollout.name", "vlm", "vllm"),
        ("actor_rollout_ref.rollout.checkpoint_engine.backend", "ncl", "nccl"),
        ("actor_rollout_ref.rollout.agent.default_agent_loop", "single_turn", "single_turn_agent"),
    ],
)
def test_a_name_in_no_registry_is_answered_with_the_nearest(key, name, near):
    [problem] = name_problems(tiny_with(f"{key}={name}"))
    assert (problem.rule_id, problem.key, problem.remedy) == ("unregistered_name", key, f"Use {key}={near}.")
    assert name_problems(tiny_with(f"{key}={near}")) == []
    assert name_problems(tiny_with(f"{key}={name} actor_rollout_ref.model.external_lib=mine")) == []


def test_a_name_that_a_plugin_registers_is_accepted(monkeypatch):
    monkeypatch.setitem(core_algos.POLICY_LOSS_REGISTRY, "mine", print)
    assert name_problems(tiny_with("actor_rollout_ref.actor.policy_loss.loss_mode=mine")) == []


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        ("+actor_rollout_ref.actor.foo=2", "actor_rollout_ref.actor.foo=2: undeclared_key"),
        ("+actor_rollout_ref.rollout.temprature=3", "actor_rollout_ref.rollout.temprature=3: undeclared_key"),
        (
            "+actor_rollout_ref.model.lora_target=all-linear",
            "actor_rollout_ref.model.lora_target=all-linear: undeclared_key",
        ),
        ("+actor_rollout_ref.actor.optim.lrate=3", "actor_rollout_ref.actor.optim.lrate=3: undeclared_key"),
        (
            "actor_rollout_ref.rollout.trace.max_samples_per_step_per_worker=-1",
            "actor_rollout_ref.rollout.trace.max_samples_per_step_per_worker=-1: verls_rule",
        ),
    ],
)
def test_what_verls_objects_refuse_is_a_problem_with_the_key(overrides, problem):
    assert briefly(dataclass_problems(tiny_with(overrides))) == [problem]


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        ("+ray_kwargs.ray_init.num_cpu=3", "ray_kwargs.ray_init.num_cpu=3: ray_argument"),
        (
            "actor_rollout_ref.actor.optim.optimizer=AdamX",
            "actor_rollout_ref.actor.optim.optimizer=AdamX: optimizer_name",
        ),
        (
            "actor_rollout_ref.actor.optim.optimizer_impl=nowhere",
            "actor_rollout_ref.actor.optim.optimizer_impl=nowhere: optimizer_module",
        ),
        ("~trainer.nnodes", "trainer.nnodes=...: verls_rule"),
    ],
)
def test_what_fails_with_verl_later_is_a_problem(overrides, problem):
    with pytest.raises(ConfigError) as caught:
        prepare(tiny_with(overrides), [], dry_run=True)
    assert briefly(caught.value.problems) == [problem]


def test_undeclared_fields_of_verls_objects_are_accepted():
    fields = "+actor_rollout_ref.rollout.repetition_penalty=1.1 +actor_rollout_ref.actor.optim.grad_clip=1.0"
    prepare(tiny_with(f"{fields} +ray_kwargs.ray_init._temp_dir=/tmp/x"), [], dry_run=True)


def test_packages_of_loggers_are_looked_for_except_in_a_dry_run():
    config = tiny_with("trainer.logger=[console,swanlab]")
    validate(config, check_files=False)
    [problem] = package_problems(config)
    assert briefly([problem]) == ["trainer.logger=['console', 'swanlab']: missing_package"]
    assert package_problems(tiny_with("trainer.logger=[console,tensorboard]")) == []
    assert package_problems(tiny_with("trainer.logger=swanlab +ray_kwargs.ray_init.runtime_env.pip=[swanlab]")) == []


def test_a_wrong_name_needs_no_verl_unless_there_are_plugins(monkeypatch):
    wrong = "actor_rollout_ref.actor.policy_loss.loss_mode=gspoo"
    monkeypatch.setitem(sys.modules, "recipe.treepo.verl_adapters.run", None)  # an import would fail
    with pytest.raises(ConfigError) as caught:
        prepare(tiny_with(wrong), [], dry_run=True)
    assert briefly(caught.value.problems) == [f"{wrong}: unregistered_name"]
    monkeypatch.setenv("VERL_USE_EXTERNAL_MODULES", "recipe.treepo.plugin,mine")
    with pytest.raises(ImportError):
        prepare(tiny_with(wrong), [], dry_run=True)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("actor_rollout_ref.actor.policy_loss.loss_mode", "dapoo"),
        ("algorithm.adv_estimator", "grop_x"),
        ("trainer.device", "tpu"),
    ],
)
def test_another_name_is_not_taken_for_a_misspelt_one(key, name):
    assert name_remedy(key, name, ["sapo", "gspo", "grpo", "xpu", "cpu"]).startswith("Use one of ")


@pytest.mark.parametrize(
    ("name", "known", "near"),
    [
        ("gspo", "grpo", False),
        ("dapo", "sapo", False),
        ("gpu", "xpu", False),
        ("fp8", "fp9", False),
        ("n_agent", "agent", False),
        ("rollout_is", "group", False),
        ("use_token_level_loss", "use_kl_loss", False),
        ("tis_imp_ratio_cap", "clip_ratio_c", False),
        ("clip_ratio_max", "clip_ratio", False),
        ("grop", "grpo", True),
        ("gspoo", "gspo", True),
        ("vlm", "vllm", True),
        ("train_batchsize", "train_batch_size", True),
        ("save_frequency", "save_freq", True),
        ("temprature", "temperature", True),
        ("Token-Mean", "token_mean", True),
        ("max_response", "max_response_length", True),
    ],
)
def test_only_typing_mistakes_and_shorter_forms_are_near(name, known, near):
    assert is_near(name, known) is near


def test_of_two_equally_near_names_none_is_chosen():
    assert closest_name("seq-mean", ["seq-mean-token-sum", "seq-mean-token-mean"]) is None
    assert closest_name("low_var", ["low_var_kl", "low_var_kl+"]) == "low_var_kl"


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        ("actor_rollout_ref.rollout.trace.backend=weave", "missing_package"),
        ("actor_rollout_ref.rollout.name=sglang treepo.sampler=plain", "missing_package"),
        ("actor_rollout_ref.actor.strategy=megatron", "missing_package"),
        ("actor_rollout_ref.rollout.checkpoint_engine.backend=nixl", "missing_package"),
        ("actor_rollout_ref.model.use_liger=True", "missing_package"),
        ("actor_rollout_ref.model.override_config.attn_implementation=flash_attention_2", "missing_attention"),
        ("~actor_rollout_ref.model.override_config.attn_implementation", "missing_attention"),
        ("actor_rollout_ref.model.external_lib=nowhere", "external_lib"),
        ("actor_rollout_ref.model.external_lib=[json,recipe.treepo.nowhere]", "external_lib"),
        ("reward.custom_reward_function.path=imports.py", "code_import"),
        ("reward.custom_reward_function.path=beside.py", "code_import"),
    ],
)
def test_what_is_not_installed_is_a_problem(overrides, problem, files, monkeypatch):
    found = importlib.util.find_spec
    absent = ("weave", "sglang", "megatron", "nixl", "liger_kernel", "flash_attn", "kernels")
    monkeypatch.setattr(code_rules, "find_spec", lambda name: None if name in absent else found(name))
    assert [found.rule_id for found in package_problems(tiny_with(overrides))] == [problem]


@pytest.mark.parametrize(
    "overrides",
    [
        "",
        "actor_rollout_ref.model.external_lib=recipe.treepo.reward",
        "actor_rollout_ref.model.external_lib=os.path",
        "actor_rollout_ref.model.external_lib=[json,xml.dom.minidom]",
        "actor_rollout_ref.model.external_lib=nowhere +ray_kwargs.ray_init.runtime_env.working_dir=.",
        "actor_rollout_ref.model.override_config.attn_implementation=flash_attention_2 trainer.device=npu",
        "reward.custom_reward_function.path=careful.py",
        "reward.custom_reward_function.path=site.py",
        "reward.custom_reward_function.path=absent.py",
        "reward.custom_reward_function.path=broken.py",
    ],
)
def test_modules_that_can_be_found_are_accepted(overrides, files):
    assert package_problems(tiny_with(overrides)) == []


def test_no_module_is_imported_by_looking_for_it(files):
    before = set(sys.modules)
    assert module_exists("email.mime.nonmultipart") and not module_exists("lib2to3.nowhere")
    assert set(sys.modules) - before <= {"email", "lib2to3"}


def test_the_machine_needs_enough_cpus_if_ray_counts_them(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    key = "ray_kwargs.ray_init.num_cpus"
    assert briefly(machine_problems(tiny_with(f"{key}=null"))) == [f"{key}=4: ray_cpus"]
    assert machine_problems(tiny_with("")) == []
    assert machine_problems(tiny_with(f"{key}=null +ray_kwargs.ray_init.address=1.2.3.4:5")) == []
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert machine_problems(tiny_with(f"{key}=null")) == []


def test_the_arguments_of_vllm_are_complete():
    serve = pytest.importorskip("vllm.entrypoints.cli.serve")
    parser = importlib.import_module("vllm.utils.argparse_utils").FlexibleArgumentParser()
    parsers = parser.add_subparsers(dest="subparser")
    [own] = [command.subparser_init(parsers) for command in serve.cmd_init()]
    options = {name for action in own._actions for name in action.option_strings if name.startswith("--")}
    plain = {name.removeprefix("--").removeprefix("no-").replace("-", "_") for name in options}
    assert plain - {"help"} <= _vllm_arguments()


def test_the_lists_of_names_are_verls():
    with pytest.raises(ValueError, match="loss_agg_mode"):
        FSDPActorConfig(rollout_n=1, use_dynamic_bsz=True, loss_agg_mode="mean")
    for mode in verl_values.AGGREGATIONS:
        FSDPActorConfig(rollout_n=1, use_dynamic_bsz=True, loss_agg_mode=mode, fsdp_config=FSDPEngineConfig())
    choices = {key: set(names) for names, _, key in verl_values.CHOICES}
    assert choices["trainer.logger"] == {*Tracking.supported_backend, "tracking"}
    assert set(CheckpointConfig().save_contents) < choices["actor_rollout_ref.actor.checkpoint.save_contents"]
    assert set(verl_values.REJECTIONS) == rollout_corr_helper.SUPPORTED_ROLLOUT_RS_OPTIONS
    names = verl_values.REGISTERED
    assert set(names["actor_rollout_ref.actor.policy_loss.loss_mode"]) == set(core_algos.POLICY_LOSS_REGISTRY)
    assert set(names["algorithm.adv_estimator"]) == set(map(str, core_algos.ADV_ESTIMATOR_REGISTRY))
    for key in names:  # else a wrong message without plugins
        # Another test may have imported our agent loop, whose name users do not write.
        assert set(_registered(key)) - {TREE_AGENT} <= {name for name in names[key] if name}, key
    known = set(names["actor_rollout_ref.rollout.checkpoint_engine.backend"])
    assert set(CheckpointEngineRegistry._registry) <= known


@pytest.mark.parametrize("engine", ["dp", "megatron", "veomni", "torchtitan"])
def test_verls_defaults_keep_the_rules_with_every_engine(engine):
    used = [
        "algorithm.use_kl_in_reward=True",
        "actor_rollout_ref.actor.use_kl_loss=True",
        "algorithm.adv_estimator=gae",
    ]
    used += ["actor_rollout_ref.actor.use_dynamic_bsz=True", f"model_engine={engine}", "actor_rollout_ref.rollout.n=2"]
    validate(composed(*used), check_files=False)
