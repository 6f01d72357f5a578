# SPDX-License-Identifier: Apache-2.0
"""Reading of the settings, and their effect on the search; rules between keys: test_validation.py."""

import dataclasses
import os

import pytest
from omegaconf import OmegaConf

from helpers.paths import ROOT
from recipe.treepo import main_treepo
from recipe.treepo.advantages.options import Aggregation, ChainCounting
from recipe.treepo.answers.thinking import NO_THINKING, Thinking
from recipe.treepo.command_line.arguments import read_command_line
from recipe.treepo.interaction import OnError, Steps
from recipe.treepo.search import SearchKind, SearchShape
from recipe.treepo.search.branching import BranchingRules, Budget, Favor, Share
from recipe.treepo.search.fallback import FallbackRules, FallbackStart, PathOrder, PointRule
from recipe.treepo.search.stopping import FinishReason, Repetition, RepetitionUnit, StoppingRules
from recipe.treepo.settings.schema import (
    FREE_GROUPS,
    KEYS,
    AdvantageSettings,
    Console,
    DumpSettings,
    InteractionSettings,
    MissingPolicy,
    MissingSettings,
    Normalization,
    OwnClass,
    RewardErrorPolicy,
    RewardErrorSettings,
    Sampler,
    ScoreSettings,
    SharedTokenWeight,
    StalePolicy,
    StaleTokenSettings,
    TreePOSettings,
    WatchdogSettings,
    load_settings,
)
from recipe.treepo.settings.values import RENAMED, ConfigError, ConfigProblem, groups_of

YAML = ROOT / "recipe/treepo/config/treepo_trainer.yaml"
GROUPS = list(groups_of(KEYS))
# A value other than the default for every key.
OWN = {"path": "own.py", "name": "Own", "options": {"deep": {"list": [1]}}}
EVERY_KEY = {
    "sampler": "plain",
    "search": "by_path",
    "depth": 5,
    "segment_length": 64,
    "divergence": [2, 4],
    "init_divergence": 6,
    "max_divergence": 3,
    "branching": {
        "budget": "total_tokens",
        "level_tokens": 1,
        "total_tokens": 2,
        "min_width": 3,
        "share": "segment_mean",
        "favor": "low",
        "temperature": [5, 1.5],
        "custom": OWN,
    },
    "fallback": {
        "start": "dry",
        "order": "longer_first",
        "self_ended_only": True,
        "min_segments": 2,
        "point": "unlikely_block",
        "window": 4,
        "block_length": 32,
        "custom": OWN,
    },
    "max_segments_per_request": 1,
    "cache_block": 16,
    "stopping": ["repetition", "eos", "stop", "answer", "depth", "length"],
    "answer_needs_eos": True,
    "stop_strings": ["\n\n", "###"],
    "repetition": {"unit": "characters", "window": 20, "count": 5},
    "thinking": "off",
    "min_response_length": 7,
    "retries": 0,
    "validate_with_tree": True,
    "dump": {"dir": "trees", "every": 2, "prompts": None, "calls": True, "pictures": 0},
    "poll_interval": 0.5,
    "console": "verl",
    "interaction": {
        "path": "talk.py",
        "name": "Talk",
        "options": {"url": "http://x", "deep": {"list": [1]}},
        "turn_length": 32,
        "steps": "per_branch",
        "on_error": "end",
        "timeout_seconds": 2,
    },
    "reward_errors": {"policy": "fail_prompt", "max_share": 0.25, "timeout_seconds": 20.0},
    "missing_trajectories": {"policy": "fail_run", "max_share": 0.125},
    "watchdog": {
        "start_seconds": 1.0,
        "rollout_seconds": 2.0,
        "training_seconds": 3.0,
        "weights_seconds": 4.0,
        "checkpoint_seconds": None,
    },
    "packed_training": True,
    "shared_token_weight": "once",
    "stale_tokens": {"policy": "decay", "max_age": 3, "decay": 0.25},
    "advantage": {
        "aggregation": "group_size",
        "chains": "published",
        "root_group": False,
        "equal_groups": False,
        "parent_decay": 0.5,
        "normalization": "std",
        "custom": OWN,
    },
    "stopping_rules": {"custom": OWN},
    "policy_trial": False,
    "score": {"custom": OWN, "prune_below": -0.5, "prune_above": 2, "timeout_seconds": 7},
}


def flat(group: dict, name: str = "treepo") -> list[str]:
    names = []
    for key, value in group.items():
        inner = f"{name}.{key}"
        names += flat(value, inner) if isinstance(value, dict) and inner not in FREE_GROUPS else [inner]
    return names


def problems_of(treepo) -> list[ConfigProblem]:
    with pytest.raises(ConfigError) as caught:
        load_settings(OmegaConf.create({"treepo": treepo}))
    return caught.value.problems


def test_every_key_is_read_into_its_place():
    assert sorted(flat(EVERY_KEY)) == sorted(KEYS)
    assert load_settings(OmegaConf.create({"treepo": EVERY_KEY})) == TreePOSettings(
        sampler=Sampler.PLAIN,
        search=SearchKind.BY_PATH,
        depth=5,
        segment_length=64,
        branching=BranchingRules(
            budget=Budget.TOTAL_TOKENS,
            divergence=(2, 4),
            init_divergence=(6, 6),
            max_divergence=3,
            level_tokens=1,
            total_tokens=2,
            min_width=3,
            share=Share.SEGMENT_MEAN,
            favor=Favor.LOW,
        ),
        temperature=(5.0, 1.5),
        own_branching=OwnClass(**OWN),
        own_fallback=OwnClass(**OWN),
        own_stopping_rule=OwnClass(**OWN),
        policy_trial=False,
        score=ScoreSettings(custom=OwnClass(**OWN), prune_below=-0.5, prune_above=2.0, timeout_seconds=7.0),
        fallback=FallbackRules(
            start=FallbackStart.DRY,
            order=PathOrder.LONGER_FIRST,
            self_ended_only=True,
            min_segments=2,
            point=PointRule.UNLIKELY_BLOCK,
            window=4,
            block_length=32,
        ),
        max_segments_per_request=1,
        cache_block=16,
        stopping=(
            FinishReason.REPETITION,
            FinishReason.EOS,
            FinishReason.STOP,
            FinishReason.ANSWER,
            FinishReason.DEPTH,
            FinishReason.LENGTH,
        ),
        answer_needs_eos=True,
        stop_strings=("\n\n", "###"),
        repetition=Repetition(RepetitionUnit.CHARACTERS, 20, 5),
        thinking=NO_THINKING,
        min_response_length=7,
        retries=0,
        validate_with_tree=True,
        dump=DumpSettings(dir="trees", every=2, prompts=None, calls=True, pictures=0),
        poll_interval=0.5,
        console=Console.VERL,
        interaction=InteractionSettings(
            path="talk.py",
            name="Talk",
            options={"url": "http://x", "deep": {"list": [1]}},
            turn_length=32,
            steps=Steps.PER_BRANCH,
            on_error=OnError.END,
            timeout_seconds=2.0,
        ),
        reward_errors=RewardErrorSettings(policy=RewardErrorPolicy.FAIL_PROMPT, max_share=0.25, timeout_seconds=20.0),
        missing_trajectories=MissingSettings(policy=MissingPolicy.FAIL_RUN, max_share=0.125),
        watchdog=WatchdogSettings(
            start_seconds=1.0,
            rollout_seconds=2.0,
            training_seconds=3.0,
            weights_seconds=4.0,
            checkpoint_seconds=None,
        ),
        packed_training=True,
        shared_token_weight=SharedTokenWeight.ONCE,
        stale_tokens=StaleTokenSettings(policy=StalePolicy.DECAY, max_age=3, decay=0.25),
        advantage=AdvantageSettings(
            aggregation=Aggregation.GROUP_SIZE,
            chains=ChainCounting.PUBLISHED,
            root_group=False,
            equal_groups=False,
            parent_decay=0.5,
            normalization=Normalization.STD,
            custom=OwnClass(**OWN),
        ),
    )


@pytest.mark.parametrize("treepo", [None, {}, {"branching": None, "fallback": None, "advantage": {}}])
def test_groups_that_are_empty_or_missing_get_the_defaults(treepo):
    assert load_settings(OmegaConf.create({"treepo": treepo})) == TreePOSettings()
    assert load_settings(OmegaConf.create({"trainer": {}})) == TreePOSettings()


def test_the_yaml_declares_every_key_with_the_default_of_the_types():
    declared = OmegaConf.load(YAML)
    assert load_settings(declared) == TreePOSettings()
    assert sorted(flat(OmegaConf.to_container(declared.treepo))) == sorted(KEYS)
    assert TreePOSettings().stopping == ("answer", "eos", "length", "depth")


def test_every_field_of_the_types_has_a_key():
    def names(value: object, path: str = "") -> set[str]:
        if not dataclasses.is_dataclass(value):
            return {path.rstrip(".")}
        inner = dataclasses.fields(value)
        return set().union(*(names(getattr(value, field.name), f"{path}{field.name}.") for field in inner))

    fields = names(TreePOSettings())
    # set during training, from treepo.branching.temperature
    fields.remove("branching.temperature")
    assert fields == {key.field for key in KEYS.values()}
    assert len({key.field for key in KEYS.values()}) == len(KEYS)


def test_the_search_gets_the_shape_that_was_set():
    settings = load_settings(OmegaConf.create({"treepo": EVERY_KEY}))
    assert settings.shape(width=9, response_length=300, progress=1.0) == SearchShape(
        width=9,
        segment_length=64,
        search=SearchKind.BY_PATH,
        branching=dataclasses.replace(settings.branching, temperature=1.5),
        fallback=settings.fallback,
        max_segments_per_request=1,
        cache_block=16,
        retries=0,
        prune_below=-0.5,
        prune_above=2.0,
        score_timeout_seconds=7.0,
    )
    # None if a block does not fit into a segment, or if segments are turns
    for length, talks, expected in ((448, False, 64), (441, False, None), (448, True, None)):
        shape = TreePOSettings(cache_block=64).shape(width=8, response_length=length, progress=0.0, conversation=talks)
        assert shape.cache_block == expected
    # auto: no block before the engine is asked, and none beside a limit of a level's tokens
    auto = TreePOSettings()
    assert auto.cache_block == "auto"
    for settings, found, expected in (
        (auto, 16, 16),
        (auto, None, None),
        (TreePOSettings(cache_block=8), 16, 8),
        (TreePOSettings(cache_block=None), 16, None),
        (TreePOSettings(branching=BranchingRules(budget=Budget.LEVEL_TOKENS, level_tokens=999)), 16, None),
    ):
        shape = settings.with_cache_block(found).shape(width=8, response_length=448, progress=0.0)
        assert shape.cache_block == expected
    # 300 tokens in 7 segments
    default = TreePOSettings().shape(width=8, response_length=300, progress=0.0)
    assert default == SearchShape(width=8, segment_length=43, retries=2, score_timeout_seconds=60.0)


def test_the_search_gets_the_stopping_rules_that_were_set():
    settings = load_settings(OmegaConf.create({"treepo": EVERY_KEY}))
    expected = StoppingRules(
        order=settings.stopping,
        eos_token_ids=frozenset({3}),
        response_length=300,
        depth=5,
        decode=repr,
        answer_needs_eos=True,
        stop_strings=("\n\n", "###"),
        repetition=Repetition(RepetitionUnit.CHARACTERS, 20, 5),
        min_length=7,
        thinking=NO_THINKING,
    )
    assert settings.stopping_rules(eos_token_ids=frozenset({3}), response_length=300, decode=repr) == expected


def test_thinking_is_read_as_tags_or_off_and_by_default_left_to_the_chat_template():
    def read(value):
        return load_settings(OmegaConf.create({"treepo": {"thinking": value}})).thinking

    assert read(None) is None
    assert (read("off"), read(False)) == (NO_THINKING, NO_THINKING)
    assert load_settings(OmegaConf.create("treepo: {thinking: off}")).thinking == NO_THINKING  # YAML's false
    assert read({"open": "[T]", "close": "[/T]", "opened": True}) == Thinking("[T]", "[/T]", opened=True)
    found, rules = Thinking("<t>", "</t>"), {"eos_token_ids": frozenset(), "response_length": 9, "decode": repr}
    assert TreePOSettings().with_tags(found).stopping_rules(**rules).thinking == found
    assert TreePOSettings().with_tags(None).stopping_rules(**rules).thinking == Thinking()
    assert TreePOSettings(thinking=NO_THINKING).with_tags(found).stopping_rules(**rules).thinking == NO_THINKING


@pytest.mark.parametrize(
    ("temperature", "progress", "expected"),
    [
        # cos(pi / 3) = 1/2, so after a third of the time the temperature has gone a quarter of its way: 5 - 4 x 1/4
        ([5, 1], 0.0, 5.0),
        ([5, 1], 1 / 3, 4.0),
        ([5, 1], 0.5, 3.0),
        ([5, 1], 1.0, 1.0),
        ([1, 5], 1 / 3, 2.0),
        (0.5, 0.7, 0.5),
    ],
)
def test_the_temperature_goes_along_half_a_cosine_from_first_to_last(temperature, progress, expected):
    settings = load_settings(OmegaConf.create({"treepo": {"branching": {"temperature": temperature}}}))
    shape = settings.shape(width=8, response_length=100, progress=progress)
    assert shape.branching.temperature == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("key", "value", "rule_id"),
    [
        ("sampler", "trees", "choice"),
        ("depth", 0, "integer"),
        ("depth", 2.5, "integer"),
        ("segment_length", -1, "integer"),
        ("divergence", True, "integer_range"),
        ("divergence", [0, 2], "integer_range"),
        ("init_divergence", [3, 2], "integer_range"),
        ("init_divergence", [1, 2, 3], "integer_range"),
        ("init_divergence", "two", "integer_range"),
        ("max_divergence", 0, "integer"),
        ("thinking", "auto", "thinking"),
        ("thinking", {"open": "<t>", "close": "<t>"}, "thinking"),
        ("branching.budget", "tokens", "choice"),
        ("branching.level_tokens", 0, "integer"),
        ("branching.total_tokens", 1.0, "integer"),
        ("branching.min_width", 0, "integer"),
        (
            "branching.share",
            "logprob",
            "choice",
        ),
        ("branching.favor", "both", "choice"),
        ("branching.temperature", 0, "schedule"),
        ("branching.temperature", [1.0, float("inf")], "schedule"),
        ("branching.temperature", [1.0], "schedule"),
        ("branching.temperature", "warm", "schedule"),
        ("fallback", "dry", "group"),
        ("fallback.start", "late", "choice"),
        ("fallback.order", "first", "choice"),
        ("fallback.self_ended_only", 1, "boolean"),
        ("fallback.min_segments", 0, "integer"),
        (
            "fallback.point",
            "middle",
            "choice",
        ),
        ("fallback.window", 0, "integer"),
        ("fallback.block_length", 0, "integer"),
        ("max_segments_per_request", 0, "integer"),
        ("stopping", ["answer", "eos", "depth"], "stopping_rule_missing"),
        (
            "stopping",
            ["length"],
            "stopping_rule_missing",
        ),
        (
            "stopping",
            ["eos", "eos", "length", "depth"],
            "stopping_rules",
        ),
        ("stopping", "eos", "stopping_rules"),
        ("answer_needs_eos", "no", "boolean"),
        ("stop_strings", ["a", ""], "texts"),
        ("stop_strings", "a", "texts"),
        ("repetition.unit", "words", "choice"),
        ("repetition.window", 0, "integer"),
        ("repetition.count", 1, "integer"),
        ("min_response_length", -1, "integer"),
        ("retries", -1, "integer"),
        ("validate_with_tree", "yes", "boolean"),
        ("dump.dir", "", "path"),
        ("dump.every", 0, "integer"),
        ("dump.prompts", 0, "integer"),
        ("dump.calls", "yes", "boolean"),
        ("dump.pictures", -1, "integer"),
        ("interaction", "talk.py", "group"),
        ("interaction.path", 3, "path"),
        ("interaction.options", [1], "group"),
        ("interaction.options", {3: 1}, "group"),
        ("interaction.turn_length", 0, "integer"),
        ("interaction.steps", "each", "choice"),
        ("interaction.on_error", None, "choice"),
        ("interaction.timeout_seconds", 0, "positive_number"),
        ("score.timeout_seconds", 0, "positive_number"),
        ("interaction.timeout_seconds", True, "positive_number"),
        ("interaction.timeout_seconds", float("inf"), "positive_number"),
        ("advantage.aggregation", "median", "choice"),
        ("advantage.normalization", "max", "choice"),
        ("advantage.normalization", False, "choice"),
        ("advantage.chains", None, "choice"),
        ("advantage.parent_decay", 0, "positive_number"),
        ("advantage.parent_decay", 1.01, "positive_number"),
        ("advantage.parent_decay", True, "positive_number"),
        ("shared_token_weight", "twice", "choice"),
        ("stale_tokens.policy", "drop", "choice"),
        ("stale_tokens.max_age", -1, "integer"),
        ("stale_tokens.decay", 1.5, "positive_number"),
        ("cache_block", 0, "cache_block"),
        ("cache_block", "engine", "cache_block"),
        ("cache_block", True, "cache_block"),
    ],
)
def test_a_value_of_a_wrong_type_or_range_is_named_with_the_rule(key, value, rule_id):
    config = OmegaConf.create({"treepo": {}})
    OmegaConf.update(config, f"treepo.{key}", value, force_add=True)
    [problem] = problems_of(config.treepo)
    assert (problem.key, problem.value, problem.rule_id) == (f"treepo.{key}", value, rule_id)


def test_unknown_keys_are_refused_in_every_group_with_the_keys_that_there_are():
    found = problems_of({"segmnt_length": 3, "fallback": {"ordre": 1}, "advantage": {"zzz": "mean"}})
    assert [(problem.rule_id, problem.key) for problem in found] == [
        ("unknown_key", f"treepo.{key}") for key in ("segmnt_length", "fallback.ordre", "advantage.zzz")
    ]
    for problem, group in zip(found, ("treepo", "treepo.fallback", "treepo.advantage"), strict=True):
        assert problem.remedy.endswith(f"Keys of {group}: {', '.join(groups_of(KEYS)[group])}.")
    for problem, similar in zip(found, ("segment_length", "fallback.order"), strict=False):
        assert problem.remedy.startswith(f"Did you mean treepo.{similar}? ")


@pytest.mark.parametrize(
    ("key", "value", "new"),
    [
        ("width", 8, "actor_rollout_ref.rollout.n=8"),
        ("run_on", 3, "treepo.max_segments_per_request=3"),
        ("branching.favour", "low", "treepo.branching.favor=low"),
        ("branching.budget", "node", "treepo.search=by_path"),
    ],
)
def test_a_renamed_key_or_value_is_answered_with_its_new_name(key, value, new):
    config = OmegaConf.create({"treepo": {}})
    OmegaConf.update(config, f"treepo.{key}", value, force_add=True)
    problems = problems_of(config.treepo)
    line = read_command_line([f"treepo.{key}={value}"])
    for [problem] in (problems, line.name_problems + line.value_problems):
        assert problem.key == f"treepo.{key}" and problem.value == value and f"Use {new}" in problem.remedy
        assert problem.rule_id == ("renamed_value" if value == "node" else "renamed_key")


def test_every_new_name_is_a_key():
    for new in RENAMED.values():
        key, _, value = new.partition("=")
        assert key == "actor_rollout_ref.rollout.n" or key in KEYS
        assert not value or KEYS[key].read(value) == value


def test_interpolations_to_nowhere_are_problems_not_tracebacks():
    assert [problem.rule_id for problem in problems_of({"depth": "${nowhere}"})] == ["unresolved"]


def test_misspelt_overrides_are_found_before_hydra_sees_them():
    arguments = [
        "treepo.depht=3",
        "+treepo.advantage.kind=a",
        "treepo.fallbak.order=random",
        "--dry-run",
        "+treepo.depth=3",
        "++treepo.fallback.order=random",
        "treepo.repetition={unit: tokens}",
        "tree=paper_best",
        "trainer.nnodes=1",
    ]
    line = read_command_line(arguments)
    # The same overrides work for both entry points: verl's needs the plus sign, ours declares the key.
    assert line.arguments == [
        "treepo.depth=3",
        "treepo.fallback.order=random",
        "treepo.repetition={unit: tokens}",
        "tree=paper_best",
        "trainer.nnodes=1",
    ]
    assert [(problem.key, problem.value) for problem in line.name_problems] == [
        ("treepo.depht", 3),
        ("treepo.advantage.kind", "a"),
        ("treepo.fallbak.order", "random"),
    ]
    assert "Did you mean treepo.fallback.order?" in line.name_problems[2].remedy
    assert line.dry_run and not line.full


def test_every_group_and_key_can_be_given_on_the_command_line():
    arguments = [f"{name}=null" for name in [*GROUPS, *KEYS]]
    line = read_command_line(arguments)
    rest = line.arguments
    assert ([argument.lstrip("+") for argument in rest], line.name_problems, line.dry_run) == (arguments, [], False)
    # groups with keys that the user defines need the plus signs
    policies = ("branching", "fallback", "score", "stopping_rules", "advantage")
    free = {
        *("treepo", "treepo.interaction", "treepo.interaction.options"),
        *(f"treepo.{name}{below}" for name in policies for below in ("", ".custom", ".custom.options")),
    }
    assert {argument for argument in rest if argument.startswith("+")} == {f"++{name}=null" for name in free}
    inner = ("dump", "interaction", "reward_errors", "missing_trajectories", "watchdog", "stale_tokens", "repetition")
    assert set(GROUPS) == {
        *("treepo", *(f"treepo.{name}" for name in (*inner, *policies))),
        *(f"treepo.{name}.custom" for name in policies),
    }


def test_a_recipe_that_is_a_folder_of_a_checkout_is_loaded_by_its_name(monkeypatch):
    monkeypatch.setenv("VERL_USE_EXTERNAL_MODULES", "mine")
    main_treepo.use_plugin()
    assert os.environ["VERL_USE_EXTERNAL_MODULES"] == "mine"  # the recipe is installed here, so verl finds its plugin
    monkeypatch.setattr(main_treepo, "entry_points", lambda group: [])
    main_treepo.use_plugin()
    assert os.environ["VERL_USE_EXTERNAL_MODULES"] == "mine,recipe.treepo.plugin"
