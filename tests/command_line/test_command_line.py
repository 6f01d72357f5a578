# SPDX-License-Identifier: Apache-2.0
"""Command line of ``main_treepo`` and ``main_eval``: arguments, help, composition and dry-run report."""

import re
import shlex

import pytest
import yaml
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from helpers.configs import briefly
from helpers.paths import ROOT
from recipe.treepo.command_line.arguments import TREEPO, read_command_line
from recipe.treepo.command_line.composition import (
    add_overrides,
    verl_config_folder,
    without_importing_verl,
    without_output,
)
from recipe.treepo.command_line.differences import compare, defaults_for, dry_run_report
from recipe.treepo.command_line.help_text import comments, declared, first_words, help_text
from recipe.treepo.command_line.pages import EVALUATION, EVALUATION_PAGE, TRAINING_PAGE
from recipe.treepo.command_line.settings_docs import PAGE, first_sentence, settings_page
from recipe.treepo.evaluation.settings import load_evaluation
from recipe.treepo.main_eval import with_group
from recipe.treepo.settings.schema import KEYS
from recipe.treepo.settings.validate import validate

CONFIG = ROOT / "recipe/treepo/config"
EVALUATION_YAML = "evaluation/compare.yaml"
TINY = ["platform=cpu", "preset=tiny"]
PAGES = {"main_treepo": TRAINING_PAGE, "main_eval": EVALUATION_PAGE}


def composed(*overrides: str) -> DictConfig:
    with initialize_config_module("recipe.treepo.config", version_base=None):
        return compose("treepo_trainer", without_importing_verl(list(overrides)))


# --- help ------------------------------------------------------------------------------------------------------


def listed_keys(text: str) -> dict[str, object]:
    """Read keys and defaults back from a help text."""
    found, group = {}, ""
    for line in text.splitlines():
        heading = re.match(r"((?:treepo|evaluation)[\w.]*)\.(  |$)", line)
        if heading:
            group = heading[1]
        elif not line.startswith("  "):
            group = ""
        if group and (heading is None or group.endswith(".custom")):
            for key, value in re.findall(r"(\w+)=(\[.*?\]|\{.*\}|\S+)", line):
                found[f"{group}.{key}"] = yaml.safe_load(value)
    return found


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_the_help_fits_on_a_page(page):
    lines = help_text(page).splitlines()
    assert len(lines) <= 84
    assert max(map(len, lines)) <= 120


def test_the_help_lists_every_key_with_its_default():
    training = listed_keys(help_text(TRAINING_PAGE))
    declared = OmegaConf.load(CONFIG / "treepo_trainer.yaml")
    assert sorted(training) == sorted(KEYS) and len(training) == 87
    assert training == {key: plain(OmegaConf.select(declared, key)) for key in training}
    assert (training["treepo.depth"], training["treepo.stopping"]) == (7, ["answer", "eos", "length", "depth"])
    evaluation = listed_keys(help_text(EVALUATION_PAGE))
    assert sorted(evaluation) == sorted(EVALUATION.keys) and len(evaluation) == 10
    declared = OmegaConf.load(CONFIG / EVALUATION_YAML)
    assert evaluation == {f"evaluation.{key}": plain(declared[key]) for key in declared}


def plain(value: object) -> object:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def test_the_help_has_a_few_words_for_every_key():
    text = help_text(TRAINING_PAGE)
    assert re.search(r" depth=7 +Maximum segments per path( |$)", text, re.MULTILINE)
    assert re.search(r" retries=2 +Retries of a failed request( |$)", text, re.MULTILINE)
    words = declared(TREEPO).comments | declared(EVALUATION).comments
    for key in [*KEYS, *EVALUATION.keys]:
        assert 1 <= len(first_words(words[key]).split()) <= 9, key


def test_the_page_of_settings_is_written_from_the_declarations():
    page = settings_page()
    assert PAGE.read_text(encoding="utf-8") == page, "run python -m recipe.treepo.command_line.settings_docs"
    rows, group = {}, ""
    for line in page.splitlines():
        if heading := re.match(r"### `([\w.]+)`", line):
            group = heading[1]
        elif row := re.match(r"\| `(\w+)` +\| `(.*?)` +\| (.+?) +\|$", line):
            rows[f"{group}.{row[1]}"] = yaml.safe_load(row[2])
    assert rows == listed_keys(help_text(TRAINING_PAGE)) | listed_keys(help_text(EVALUATION_PAGE))
    assert re.search(r"^\| `depth` +\| `7` +\| Maximum segments per path \(at least 1\) +\|$", page, re.MULTILINE)


def test_the_first_words_are_those_of_the_comment_just_above():
    text = """\
# A file.

a:

  # Most things (at least 1). More.
  b: 1

  # Of pkg://x or 1.5: nothing
  c: {d: 2}
  # Goes on
  # here, then
  e:
    # Inner; rest
    f: 1
  g: 2
# Outer.
h: 3
"""
    assert comments(text) == {
        "a.b": "Most things (at least 1). More.",
        "a.c": "Of pkg://x or 1.5: nothing",
        "a.e": "Goes on here, then",
        "a.e.f": "Inner; rest",
        "h": "Outer.",
    }
    assert [first_words(comment) for comment in comments(text).values()] == [
        *("Most things", "Of pkg://x or 1.5", "Goes on here", "Inner", "Outer"),
    ]
    assert [first_sentence(comment) for comment in ("Most (at least 1.5). More.", "a|b.")] == [
        *("Most (at least 1.5)", "a|b"),
    ]


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_the_help_lists_the_configurations_by_name_and_the_default_first(page):
    text = " ".join(help_text(page).split())
    listed = {group: re.search(rf"{group} ((?:\w+, )+\w+)", text)[1].split(", ") for group in page.choices}
    for group, names in listed.items():
        assert sorted(names) == sorted(path.stem for path in (CONFIG / group).iterdir())
    declared = yaml.safe_load((CONFIG / "treepo_trainer.yaml").read_text())["defaults"]
    for group, default in [
        (group, name) for entry in declared if isinstance(entry, dict) for group, name in entry.items()
    ]:
        assert listed[group][0] == default
    assert "paper_best" in listed["tree"] and listed.get("evaluation", ["compare"])[0] == "compare"
    assert with_group([]) == ["+evaluation=compare"]


@pytest.mark.parametrize("name", PAGES)
def test_the_examples_of_the_help_are_valid(name):
    page = PAGES[name]
    assert len(page.examples) == 3
    for command, meaning in page.examples:
        above, behind = f"  # {meaning}\n  {command}\n", f"  {command}  # {meaning}\n"
        assert (above in help_text(page) + "\n") != (behind in help_text(page) + "\n")
        assert command.startswith(f"python -m recipe.treepo.{name} ")
        line = read_command_line(shlex.split(command.replace("\\\n", " "))[3:], (TREEPO, EVALUATION))
        assert not line.name_problems
        if name == "main_eval":
            assert load_evaluation(composed(*with_group(line.arguments)), check_files=False).out_dir == "out"
        elif "preset=gpu" in line.arguments:
            assert validate(composed(*line.arguments), check_files=False).depth == 5


# --- arguments -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_may_stand_anywhere(flag):
    assert read_command_line(["a=1", flag, "b=2"]).asks_help
    assert not read_command_line(["a=--help", "b=-h"]).asks_help


def test_our_flags_are_taken_out_and_those_of_hydra_are_left():
    line = read_command_line(["--dry-run", "a=1", "--config-dir", "here", "--full"])
    assert line.arguments == ["a=1", "--config-dir", "here"]
    assert (line.dry_run, line.full, line.for_hydra_only, line.name_problems) == (True, True, False, [])
    for flag in ("--hydra-help", "--cfg=job", "-c", "--multirun", "-m", "--info", "--version"):
        line = read_command_line([flag, "treepo.depth=3"])
        assert line.for_hydra_only and line.arguments == [flag, "treepo.depth=3"]
    assert read_command_line(["hydra.mode=MULTIRUN"]).for_hydra_only


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--full"], "--full=True: full_without_dry_run"),
        (["--dry-run", "-m"], "--dry-run=True: dry_run_conflict"),
        (["--cfg", "job", "--dry-run"], "--dry-run=True: dry_run_conflict"),
    ],
)
def test_flags_that_do_not_fit_are_problems(flags, problem):
    line = read_command_line([*flags, "treepo.dept=3"])
    assert briefly(line.name_problems) == [problem, "treepo.dept=3: unknown_key"]


def test_keys_of_an_evaluation_are_checked_by_name_and_its_arms_are_the_users_own():
    arguments = [
        "evaluation=scaling",
        "evaluation.nn=3",
        "+evaluation.arms.wide={depth: 3}",
        "+evaluation.arms={a: {}}",
        "evaluation.seeds.a=1",
        "~evaluation.k",
        "treepo.dept=3",
    ]
    line = read_command_line(arguments, (TREEPO, EVALUATION))
    assert line.arguments == [arguments[index] for index in (0, 2, 3, 5)]
    assert briefly(line.name_problems) == [
        "evaluation.nn=3: unknown_key",
        "evaluation.seeds.a=1: unknown_key",
        "treepo.dept=3: unknown_key",
    ]
    hints = [problem.remedy.partition("?")[0] for problem in line.name_problems]
    assert hints == [f"Did you mean {key}" for key in ("evaluation.n", "evaluation.seed", "treepo.depth")]
    # a training run leaves evaluation keys to Hydra
    assert read_command_line(["evaluation.nn=3"]).arguments == ["evaluation.nn=3"]


def test_wrong_values_are_known_without_a_composed_configuration():
    arguments = [
        "treepo.depth=x",
        "+treepo.fallback={order: first, start: dry}",
        "treepo.fallback.window=0",
        "evaluation.bootstrap=1",
        # correct values, or values that can be checked only after Hydra has composed
        "treepo.segment_length=${actor_rollout_ref.rollout.n}",
        "treepo.max_segments_per_request=a,b",
        "treepo.interaction.options.depth=x",
        "evaluation=scaling",
        "evaluation.arms.tree=null",
        "~treepo.retries",
        "treepo.divergence=[2,3]",
        "treepo.stop_strings=['a']",
    ]
    line = read_command_line(arguments, (TREEPO, EVALUATION))
    assert line.name_problems == []
    assert briefly(line.value_problems) == [
        "treepo.depth=x: integer",
        "treepo.fallback.order=first: choice",
        "treepo.fallback.window=0: integer",
        "evaluation.bootstrap=1: integer",
    ]


# --- composition -----------------------------------------------------------------------------------------------


def test_overrides_are_added_next_to_the_others():
    assert add_overrides(["--config-dir", "a=b", "x=1", "-m"], ["y=2"]) == ["--config-dir", "a=b", "y=2", "x=1", "-m"]
    assert add_overrides(["x=1", "--config-dir", "here"], ["y=2"]) == ["y=2", "x=1", "--config-dir", "here"]
    assert add_overrides(["--info", "all", "x=1"], ["y=2"]) == ["--info", "all", "y=2", "x=1"]
    assert add_overrides(["--resolve"], ["y=2"]) == ["--resolve", "y=2"]
    assert add_overrides([], ["y=2"]) == ["y=2"]


def test_hydra_writes_nothing_with_any_arguments():
    own = ["hydra.run.dir=out/x", "++hydra.output_subdir=.h", "hydra/job_logging=none", "hydra.job.name=a", "x=1"]
    assert without_output(own) == [
        "hydra.run.dir=.",
        "hydra.output_subdir=null",
        "hydra/job_logging=stdout",
        "hydra.job_logging.handlers.console.stream=ext://sys.stderr",
        "hydra.job.name=a",
        "x=1",
    ]


def test_overrides_of_a_run_of_verls_entry_point_are_taken_as_they_are():
    given = [
        "hydra.searchpath=[pkg://recipe.treepo.config]",
        *("+tree=paper_best", "++preset=tiny", "+platform=cpu", "++treepo.depth=5"),
        *("+actor_rollout_ref.model.override_config.attn_implementation=sdpa", "+other=group", "data.seed=1"),
        *("~reward.reward_kwargs", "hydra.searchpath=[pkg://mine]"),
    ]
    assert read_command_line(given).arguments == [
        *("tree=paper_best", "preset=tiny", "platform=cpu", "treepo.depth=5"),
        *("++actor_rollout_ref.model.override_config.attn_implementation=sdpa", "+other=group", "data.seed=1"),
        *("~reward.reward_kwargs", "hydra.searchpath=[pkg://mine]"),
    ]


@pytest.mark.parametrize(
    "arguments", [["--config-name=mine"], ["-cn", "mine"], ["--config-dir", "here"], ["++hydra.searchpath=[pkg://a]"]]
)
def test_other_configurations_of_the_user_are_searched_as_named(arguments):
    assert without_importing_verl(arguments) == arguments


@pytest.mark.parametrize("overrides", [[], TINY, ["+evaluation=scaling", "tree=scaling_2", "platform=cpu"]])
def test_the_configuration_is_the_same_whether_verl_is_imported_for_it_or_not(overrides):
    assert without_importing_verl(overrides) != overrides
    with initialize_config_module("recipe.treepo.config", version_base=None):
        imported = compose("treepo_trainer", overrides)
    assert OmegaConf.to_yaml(composed(*overrides)) == OmegaConf.to_yaml(imported)


def test_verls_folder_is_found():
    assert (verl_config_folder() / "ppo_trainer.yaml").is_file()


# --- differences -----------------------------------------------------------------------------------------------


def flat(value: object, name: str = "") -> dict[str, object]:
    if not isinstance(value, dict) or not value:
        return {name: value}
    return {key: leaf for k, inner in value.items() for key, leaf in flat(inner, f"{name}.{k}" if name else k).items()}


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        TINY,
        [*TINY, "+evaluation=scaling", "tree=scaling_2"],
        ["preset=gpu_chat", "tree=paper_best", "++treepo.interaction.options={url: 1}", "~trainer.balance_batch"],
    ],
)
def test_the_differences_are_those_that_a_comparison_of_all_keys_finds(overrides):
    config = composed(*overrides)
    with initialize_config_module("verl.trainer.config", version_base=None):
        base = flat(OmegaConf.to_container(compose("ppo_trainer")))
    base |= flat(yaml.safe_load((CONFIG / "treepo_trainer.yaml").read_text())["treepo"], "treepo")
    if "evaluation" in config:
        base |= flat(yaml.safe_load((CONFIG / EVALUATION_YAML).read_text()), "evaluation")
    written, resolved = flat(OmegaConf.to_container(config)), flat(OmegaConf.to_container(config, resolve=True))
    expected = {
        key: resolved[key]
        for key, value in written.items()
        if key not in base or base[key] != value or type(base[key]) is not type(value)
    }
    found = compare(config, defaults_for(config))
    assert flat(found.values) == expected
    assert (found.changed, found.same) == (len(expected), len(written) - len(expected))
    assert found.removed == (["trainer.balance_batch"] if "~trainer.balance_batch" in overrides else [])


def test_the_report_is_yaml_that_makes_the_configuration_of_the_defaults():
    config = composed(*TINY, "treepo.retries=3")
    text = dry_run_report(config, full=False)
    first = text.splitlines()[0]
    same, changed = map(int, re.search(r"(\d+) keys are as .* \(--full prints all\), (\d+) differ", first).groups())
    assert same + changed == len(flat(OmegaConf.to_container(config))) and changed < 90
    found = OmegaConf.create(yaml.safe_load(text))
    assert found.treepo == {"depth": 4, "segment_length": 32, "retries": 3}
    assert found.data.max_response_length == 128
    # an interpolation of data.max_response_length, as in verl
    assert config.actor_rollout_ref.rollout.response_length == 128
    assert "response_length" not in found.actor_rollout_ref.rollout
    merged = OmegaConf.merge(OmegaConf.create(defaults_for(config)), found)
    assert OmegaConf.to_container(merged, resolve=True) == OmegaConf.to_container(config, resolve=True)
    assert dry_run_report(config, full=True) == OmegaConf.to_yaml(config, resolve=True)


def test_kinds_of_values_that_differ():
    config = OmegaConf.create(
        {"a": True, "b": 1.0, "c": {}, "d": None, "e": [1, "x"], "f": {"g": 1}, "h": "${a}", "i": "${b}", "j": {"k": 2}}
    )
    base = {"a": 1, "b": 1.0, "c": {"x": 1}, "d": {"y": 1}, "e": [1, "x"], "f": None, "h": "${a}", "i": 1.0, "z": 0}
    found = compare(config, base)
    assert found.values == {"a": True, "c": {}, "d": None, "f": {"g": 1}, "i": 1.0, "j": {"k": 2}}
    assert (found.changed, found.same, found.removed) == (6, 3, ["z"])


def test_the_defaults_can_be_composed_while_hydra_runs():
    with initialize_config_module("recipe.treepo.config", version_base=None):
        running = GlobalHydra.instance().hydra
        assert defaults_for(OmegaConf.create({"treepo": {}}))["treepo"]["depth"] == 7
        assert GlobalHydra.instance().hydra is running
        assert compose("treepo_trainer").treepo.depth == 7
