# SPDX-License-Identifier: Apache-2.0
"""How the settings are read, and what the search gets of them; the rules between them: test_validation.py."""

import dataclasses
import os

import pytest
from omegaconf import OmegaConf

from helpers.paths import ROOT
from recipe.treepo import main_treepo
from recipe.treepo.command_line.arguments import read_command_line
from recipe.treepo.interaction import OnError, Steps
from recipe.treepo.search import SearchKind, SearchShape
from recipe.treepo.search.branching import BranchingRules, Budget, Favor, Share
from recipe.treepo.search.fallback import FallbackRules, FallbackStart, PathOrder, PointRule
from recipe.treepo.search.stopping import FinishReason, Repetition, RepetitionUnit, StoppingRules
from recipe.treepo.settings.schema import (
    FREE_GROUP,
    KEYS,
    AdvantageSettings,
    Aggregation,
    Chains,
    InteractionSettings,
    Normalization,
    Sampler,
    SharedTokenWeight,
    TreePOSettings,
    known_keys,
    load_settings,
)
from recipe.treepo.settings.values import ConfigError, all_keys

YAML = ROOT / "recipe/treepo/config/treepo_trainer.yaml"
GROUPS = list(all_keys({"treepo": KEYS}))
# Every key with a value that is not its default.
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
    },
    "fallback": {
        "start": "dry",
        "order": "longer_first",
        "self_ended_only": True,
        "min_segments": 2,
        "point": "unlikely_block",
        "window": 4,
        "block_length": 32,
    },
    "max_segments_per_request": 1,
    "cache_block": 16,
    "stopping": ["repetition", "eos", "stop", "answer", "depth", "length"],
    "answer_needs_eos": True,
    "stop_strings": ["\n\n", "###"],
    "repetition": {"unit": "characters", "window": 20, "count": 5},
    "min_response_length": 7,
    "retries": 0,
    "validate_with_tree": True,
    "dump_dir": "trees",
    "poll_interval": 0.5,
    "interaction": {
        "path": "talk.py",
        "name": "Talk",
        "options": {"url": "http://x", "deep": {"list": [1]}},
        "turn_length": 32,
        "steps": "per_branch",
        "on_error": "end",
        "timeout_seconds": 2,
    },
    "packed_training": True,
    "shared_token_weight": "once",
    "advantage": {
        "aggregation": "group_size",
        "chains": "published",
        "root_group": False,
        "equal_groups": False,
        "parent_decay": 0.5,
        "normalization": "std",
    },
}


def flat(group: dict, name: str = "treepo") -> list[str]:
    names = []
    for key, value in group.items():
        inner = f"{name}.{key}"
        names += flat(value, inner) if isinstance(value, dict) and inner != FREE_GROUP else [inner]
    return names


def problems_of(treepo) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        load_settings(OmegaConf.create({"treepo": treepo}))
    return {problem.key: str(problem) for problem in caught.value.problems}


def test_every_key_is_read_into_its_place():
    assert flat(EVERY_KEY) == known_keys()
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
        min_response_length=7,
        retries=0,
        validate_with_tree=True,
        dump_dir="trees",
        poll_interval=0.5,
        interaction=InteractionSettings(
            path="talk.py",
            name="Talk",
            options={"url": "http://x", "deep": {"list": [1]}},
            turn_length=32,
            steps=Steps.PER_BRANCH,
            on_error=OnError.END,
            timeout_seconds=2.0,
        ),
        packed_training=True,
        shared_token_weight=SharedTokenWeight.ONCE,
        advantage=AdvantageSettings(
            aggregation=Aggregation.GROUP_SIZE,
            chains=Chains.PUBLISHED,
            root_group=False,
            equal_groups=False,
            parent_decay=0.5,
            normalization=Normalization.STD,
        ),
    )


@pytest.mark.parametrize("treepo", [None, {}, {"branching": None, "fallback": None, "advantage": {}}])
def test_groups_that_are_empty_or_missing_get_the_defaults(treepo):
    assert load_settings(OmegaConf.create({"treepo": treepo})) == TreePOSettings()
    assert load_settings(OmegaConf.create({"trainer": {}})) == TreePOSettings()


def test_the_yaml_declares_every_key_with_the_default_of_the_types():
    declared = OmegaConf.load(YAML)
    assert load_settings(declared) == TreePOSettings()
    assert flat(OmegaConf.to_container(declared.treepo)) == known_keys()
    assert TreePOSettings().stopping == ("answer", "eos", "length", "depth")


def test_every_field_of_the_types_has_a_key():
    fields = set()
    for field in dataclasses.fields(TreePOSettings):
        value = getattr(TreePOSettings(), field.name)
        inner = dataclasses.fields(value) if dataclasses.is_dataclass(value) else []
        fields |= {f"treepo.{field.name}.{f.name}" for f in inner} or {f"treepo.{field.name}"}
    # what is filled in when training is under way, from treepo.branching.temperature
    fields.remove("treepo.temperature")
    elsewhere = {f"treepo.{key}": f"treepo.branching.{key}" for key in EVERY_KEY if key.endswith("divergence")}
    assert len(elsewhere) == 3
    assert fields == {elsewhere.get(key, key) for key in known_keys()}


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
    )
    # not where a block does not fit into a segment, or turns are the segments
    for length, talks, expected in ((448, False, 64), (441, False, None), (448, True, None)):
        shape = TreePOSettings(cache_block=64).shape(width=8, response_length=length, progress=0.0, conversation=talks)
        assert shape.cache_block == expected
    # 300 tokens in 7 segments
    default = TreePOSettings().shape(width=8, response_length=300, progress=0.0)
    assert default == SearchShape(width=8, segment_length=43, retries=2)


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
    )
    assert settings.stopping_rules(eos_token_ids=frozenset({3}), response_length=300, decode=repr) == expected


@pytest.mark.parametrize(
    ("temperature", "progress", "expected"),
    [
        # cos(pi / 3) = 1/2, so a third of the way in time is a quarter of the way in temperature: 5 - 4 x 1/4
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
    ("key", "value", "rule"),
    [
        ("sampler", "trees", "must be one of tree, independent, plain"),
        ("depth", 0, "must be a whole number of at least 1"),
        ("depth", 2.5, "must be a whole number of at least 1"),
        ("segment_length", -1, "must be a whole number of at least 1"),
        ("divergence", True, "must be a whole number or a range [lowest, highest] of whole numbers"),
        ("divergence", [0, 2], "must keep 1 <= lowest <= highest"),
        ("init_divergence", [3, 2], "must keep 1 <= lowest <= highest"),
        ("init_divergence", [1, 2, 3], "must be a whole number or a range [lowest, highest] of whole numbers"),
        ("init_divergence", "two", "must be a whole number or a range [lowest, highest] of whole numbers"),
        ("max_divergence", 0, "must be a whole number of at least 1"),
        ("branching.budget", "tokens", "must be one of transfer, level_tokens, total_tokens"),
        ("branching.level_tokens", 0, "must be a whole number of at least 1"),
        ("branching.total_tokens", 1.0, "must be a whole number of at least 1"),
        ("branching.min_width", 0, "must be a whole number of at least 1"),
        (
            "branching.share",
            "logprob",
            "must be one of even, path_sum, path_mean, segment_sum, segment_mean, entropy",
        ),
        ("branching.favor", "both", "must be one of high, low"),
        ("branching.temperature", 0, "must be above 0"),
        ("branching.temperature", [1.0, float("inf")], "must be above 0"),
        ("branching.temperature", [1.0], "must be a number or [first, last] over training"),
        ("branching.temperature", "warm", "must be a number or [first, last] over training"),
        ("fallback", "dry", "must be a group of keys"),
        ("fallback.start", "late", "must be one of early, dry"),
        ("fallback.order", "first", "must be one of random, answered_first, answered_first_soft, longer_first"),
        ("fallback.self_ended_only", 1, "must be true or false"),
        ("fallback.min_segments", 0, "must be a whole number of at least 1"),
        (
            "fallback.point",
            "middle",
            "must be one of boundary, least_likely_token, likely_block, unlikely_block, root",
        ),
        ("fallback.window", 0, "must be a whole number of at least 1"),
        ("fallback.block_length", 0, "must be a whole number of at least 1"),
        ("max_segments_per_request", 0, "must be a whole number of at least 1"),
        ("stopping", ["answer", "eos", "depth"], "must contain length (only answer, stop, repetition can be left out)"),
        (
            "stopping",
            ["length"],
            "must contain eos and depth (only answer, stop, repetition can be left out)",
        ),
        (
            "stopping",
            ["eos", "eos", "length", "depth"],
            "must be a list of distinct rules out of answer, eos, stop, length, depth, repetition",
        ),
        ("stopping", "eos", "must be a list of distinct rules out of answer, eos, stop, length, depth, repetition"),
        ("answer_needs_eos", "no", "must be true or false"),
        ("stop_strings", ["a", ""], "must be a list of texts that are not empty"),
        ("stop_strings", "a", "must be a list of texts that are not empty"),
        ("repetition.unit", "words", "must be one of tokens, characters"),
        ("repetition.window", 0, "must be a whole number of at least 1"),
        ("repetition.count", 1, "must be a whole number of at least 2"),
        ("min_response_length", -1, "must be a whole number of at least 0"),
        ("retries", -1, "must be a whole number of at least 0"),
        ("validate_with_tree", "yes", "must be true or false"),
        ("dump_dir", "", "must be a path"),
        ("interaction", "talk.py", "must be a group of keys"),
        ("interaction.path", 3, "must be a path"),
        ("interaction.options", [1], "must be a group of keys"),
        ("interaction.options", {3: 1}, "must be a group of keys"),
        ("interaction.turn_length", 0, "must be a whole number of at least 1"),
        ("interaction.steps", "each", "must be one of shared, per_branch"),
        ("interaction.on_error", None, "must be one of drop, end, fail"),
        ("interaction.timeout_seconds", 0, "must be a number above 0"),
        ("interaction.timeout_seconds", True, "must be a number above 0"),
        ("interaction.timeout_seconds", float("inf"), "must be a number above 0"),
        ("advantage.aggregation", "median", "must be one of mean, group_size"),
        ("advantage.normalization", "max", "must be one of whiten, std, none"),
        ("advantage.normalization", False, "must be one of whiten, std, none"),
        ("advantage.chains", None, "must be one of distinct, published"),
        ("advantage.parent_decay", 0, "must be a number above 0 and at most 1"),
        ("advantage.parent_decay", 1.01, "must be a number above 0 and at most 1"),
        ("advantage.parent_decay", True, "must be a number above 0 and at most 1"),
        ("shared_token_weight", "twice", "must be one of per_trajectory, once"),
    ],
)
def test_a_value_of_a_wrong_type_or_range_is_named_with_the_rule(key, value, rule):
    config = OmegaConf.create({"treepo": {}})
    OmegaConf.update(config, f"treepo.{key}", value, force_add=True)
    found = problems_of(config.treepo)
    assert list(found) == [f"treepo.{key}"]
    assert found[f"treepo.{key}"].startswith(f"treepo.{key}={value}: {rule}. ")


def test_unknown_keys_are_refused_in_every_group_with_the_keys_that_there_are():
    found = problems_of({"segmnt_length": 3, "fallback": {"ordre": 1}, "advantage": {"zzz": "mean"}})
    assert list(found) == ["treepo.segmnt_length", "treepo.fallback.ordre", "treepo.advantage.zzz"]
    assert found["treepo.segmnt_length"].startswith(
        "treepo.segmnt_length=3: there is no such key. Did you mean treepo.segment_length? "
        "Keys of treepo: sampler, search, depth, segment_length, divergence, init_divergence, max_divergence, branching"
    )
    assert found["treepo.fallback.ordre"] == (
        "treepo.fallback.ordre=1: there is no such key. Did you mean treepo.fallback.order? "
        "Keys of treepo.fallback: start, order, self_ended_only, min_segments, point, window, block_length."
    )
    keys = "aggregation, chains, root_group, equal_groups, parent_decay, normalization"
    assert f"Keys of treepo.advantage: {keys}." in found["treepo.advantage.zzz"]


def test_interpolations_to_nowhere_are_problems_not_tracebacks():
    assert "cannot be resolved" in problems_of({"depth": "${nowhere}"})["treepo"]


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
    # verl's own entry point needs the plus sign, ours declares the key: the same overrides serve both
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
    arguments = [f"{name}=null" for name in [*GROUPS, *known_keys()]]
    line = read_command_line(arguments)
    rest = line.arguments
    assert ([argument.lstrip("+") for argument in rest], line.name_problems, line.dry_run) == (arguments, [], False)
    # what holds keys of the user's own has to be added to
    free = ["treepo", "treepo.interaction", "treepo.interaction.options"]
    assert [argument for argument in rest if argument.startswith("+")] == [f"++{name}=null" for name in free]
    assert GROUPS == [
        "treepo", "treepo.branching", "treepo.fallback", "treepo.repetition", "treepo.interaction", "treepo.advantage",
    ]  # fmt: skip


def test_a_recipe_that_is_a_folder_of_a_checkout_is_loaded_by_its_name(monkeypatch):
    monkeypatch.setenv("VERL_USE_EXTERNAL_MODULES", "mine")
    main_treepo.use_plugin()
    assert os.environ["VERL_USE_EXTERNAL_MODULES"] == "mine"  # here it is installed, verl finds it by itself
    monkeypatch.setattr(main_treepo, "entry_points", lambda group: [])
    main_treepo.use_plugin()
    assert os.environ["VERL_USE_EXTERNAL_MODULES"] == "mine,recipe.treepo.plugin"
