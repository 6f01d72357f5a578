# SPDX-License-Identifier: Apache-2.0
"""Rules for verl's keys: each mistake is one problem whose remedy works, and values nearby are accepted."""

import pytest
from omegaconf import OmegaConf
from verl.checkpoint_engine import CheckpointEngineRegistry
from verl.trainer.config import CheckpointConfig
from verl.trainer.ppo import core_algos, rollout_corr_helper
from verl.utils.tracking import Tracking
from verl.workers.config import FSDPActorConfig, FSDPEngineConfig

from helpers.composition import composed
from helpers.configs import briefly
from helpers.verl_mistakes import FINE, MISTAKES, make_files, tiny_with
from recipe.treepo.command_line.arguments import read_command_line
from recipe.treepo.command_line.verl_overrides import with_known_keys
from recipe.treepo.main_treepo import prepare
from recipe.treepo.settings import verl_values
from recipe.treepo.settings.code_rules import package_problems
from recipe.treepo.settings.validate import validate
from recipe.treepo.settings.values import ConfigError, ConfigProblem
from recipe.treepo.settings.verl_keys import FORMER, new_name
from recipe.treepo.settings.verl_values import type_problems
from recipe.treepo.verl_adapters.run import dataclass_problems, name_problems


def problems_with(overrides: str) -> list[ConfigProblem]:
    try:
        validate(tiny_with(overrides), check_files=False)
    except ConfigError as error:
        return error.problems
    return []


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_files(tmp_path)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.overrides)
def test_a_mistake_is_one_problem_whose_remedy_works(mistake, files):
    [problem] = problems_with(mistake.overrides)
    assert (problem.rule_id, problem.key) == (mistake.rule, mistake.key)
    assert problem.rule and problem.remedy.endswith(".")
    assert not mistake.named or all(word in problem.remedy for word in mistake.mended.split())
    assert problems_with(f"{mistake.overrides} {mistake.mended}") == []


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
        ("critic.model.fsdp_config.param_offload=True", "critic.fsdp.param_offload=True"),
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
        ["preset=nowhere", "trainer.foo=1"],  # Hydra reports it
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


# --- types -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "rule"),
    [
        ("data.shuffle=no", "verl_boolean"),
        ("actor_rollout_ref.actor.use_torch_compile=2", "verl_boolean"),
        ("actor_rollout_ref.actor.data_loader_seed=one", "verl_number_type"),
        ("actor_rollout_ref.actor.kl_loss_coef=True", "verl_number_type"),
        ("reward.custom_reward_function=my.py", "verl_group"),
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
