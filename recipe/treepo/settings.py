# SPDX-License-Identifier: Apache-2.0
"""Typed settings of the recipe, and how they are read.

The keys live under ``treepo:`` at the top level of verl's configuration, because verl rejects unknown keys inside
its own groups. ``config/treepo_trainer.yaml`` declares and explains them; a test holds the two together. What the keys
must keep among each other: ``validation.py``. Imports no torch, ray or vllm: everything is checked before any of them
is started.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from enum import StrEnum
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from recipe.treepo.branching import BranchingRules, Budget, Favour, Share
from recipe.treepo.fallback import FallbackRules, FallbackStart, PathOrder, ResumePoint
from recipe.treepo.search import SearchShape
from recipe.treepo.stopping import FinishReason, Repetition, RepetitionUnit, StoppingRules

# Our trainers by the name that trainer.v1.trainer_mode chooses, and verl's trainer that each of them extends.
TREEPO_TRAINERS = {
    "treepo_sync": "sync",
    "treepo_colocate_async": "colocate_async",
    "treepo_separate_async": "separate_async",
}
# Our estimators by the name that algorithm.adv_estimator chooses.
TREE_ESTIMATORS = ("treepo", "treepo_segment", "treerl", "treerpo")
# The agent that a tree takes the place of; other agents talk to tools or users, which trees do not do yet.
REPLACED_AGENT = "single_turn_agent"
OPTIONAL_RULES = (FinishReason.ANSWER, FinishReason.STOP, FinishReason.REPETITION)


class Sampler(StrEnum):
    """How the trajectories of a training prompt are sampled."""

    TREE = "tree"  # one tree search per prompt
    PLAIN = "plain"  # verl's own sampler: rollout.n independent samples


class Aggregation(StrEnum):
    """How the sub-group advantages of a trajectory become one."""

    MEAN = "mean"  # plain mean over the distinct groups on its path
    GROUP_SIZE = "group_size"  # weighted by the number of trajectories in each group


class Chains(StrEnum):
    """How segments that did not branch count."""

    DISTINCT = "distinct"  # as one: all of them have the same trajectories
    PUBLISHED = "published"  # each on its own


class Normalization(StrEnum):
    """What is done to the advantages of a batch."""

    WHITEN = "whiten"  # mean 0 and variance 1 over the batch's response tokens
    STD = "std"  # divided by the standard deviation over them, the mean left where it is
    NONE = "none"


class SharedTokenWeight(StrEnum):
    """How much a token counts in the actor's loss that several trajectories share."""

    PER_TRAJECTORY = "per_trajectory"  # once for each of them
    ONCE = "once"


@dataclass(frozen=True, slots=True)
class Problem:
    """One broken rule, in words for the person who wrote the configuration."""

    key: str
    value: Any
    rule: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.key}={self.value}: {self.rule}. {self.remedy}"


class ConfigError(ValueError):
    """All that is wrong with a configuration."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        lines = "\n".join(f"  {number}. {problem}" for number, problem in enumerate(problems, start=1))
        super().__init__(f"{len(problems)} problem(s) in the configuration:\n{lines}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvantageSettings:
    """The ``treepo.advantage`` group: options of the estimators; ``normalization`` None: as each was published."""

    aggregation: Aggregation = Aggregation.MEAN
    chains: Chains = Chains.DISTINCT
    root_group: bool = True
    equal_groups: bool = True
    parent_decay: float = 1.0
    normalization: Normalization | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TreePOSettings:
    """The ``treepo`` group. Meanings, units and ranges: ``config/treepo_trainer.yaml``.

    Three keys of it, ``divergence``, ``init_divergence`` and ``max_divergence``, are in ``branching``.

    Attributes:
        branching: Its own temperature is not used.
        temperature: First and last value of ``treepo.branching.temperature`` over training.
    """

    sampler: Sampler = Sampler.TREE
    width: int | None = None
    depth: int = 7
    segment_length: int | None = None
    branching: BranchingRules = field(default_factory=BranchingRules)
    temperature: tuple[float, float] = (1.0, 1.0)
    fallback: FallbackRules = field(default_factory=FallbackRules)
    run_on: int | None = None
    stopping: tuple[FinishReason, ...] = (
        FinishReason.ANSWER,
        FinishReason.EOS,
        FinishReason.LENGTH,
        FinishReason.DEPTH,
    )
    answer_needs_eos: bool = False
    stop_strings: tuple[str, ...] = ()
    repetition: Repetition = field(default_factory=Repetition)
    min_response_length: int = 0
    retries: int = 2
    validate_with_tree: bool = False
    dump_dir: str | None = None
    shared_token_weight: SharedTokenWeight = SharedTokenWeight.PER_TRAJECTORY
    advantage: AdvantageSettings = field(default_factory=AdvantageSettings)

    def resolved_segment_length(self, response_length: int) -> int:
        """Return tokens per segment: as set, or the least with which ``depth`` segments hold a whole response."""
        return self.segment_length or -(-response_length // self.depth)

    def shape(self, *, width: int, response_length: int, progress: float) -> SearchShape:
        """Return how the tree of one prompt grows; ``progress`` is how far training is, 0 to 1."""
        first, last = self.temperature
        # A half cosine: slow at the beginning and at the end.
        temperature = first + (last - first) * (1 - math.cos(math.pi * progress)) / 2
        return SearchShape(
            width=width,
            segment_length=self.resolved_segment_length(response_length),
            branching=replace(self.branching, temperature=temperature),
            fallback=self.fallback,
            run_on=self.run_on,
            retries=self.retries,
        )

    def stopping_rules(
        self, *, eos_token_ids: frozenset[int], response_length: int, decode: Callable[[list[int]], str]
    ) -> StoppingRules:
        """Return when paths end; the arguments are those of :class:`recipe.treepo.stopping.StoppingRules`."""
        return StoppingRules(
            order=self.stopping,
            eos_token_ids=eos_token_ids,
            response_length=response_length,
            depth=self.depth,
            decode=decode,
            answer_needs_eos=self.answer_needs_eos,
            stop_strings=self.stop_strings,
            repetition=self.repetition,
            min_length=self.min_response_length,
        )


def load_settings(config: DictConfig) -> TreePOSettings:
    """Read the ``treepo`` group; a configuration without one gets the defaults.

    Raises:
        ConfigError: naming every unknown key and every value of a wrong type or range.
    """
    settings, problems = parse_settings(config)
    if settings is None:
        raise ConfigError(problems)
    return settings


# --- values ----------------------------------------------------------------------------------------------------


def _integer(minimum: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise ValueError(f"must be a whole number of at least {minimum}")
        return value

    return parse


def _optional(parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else parse(value)


def _choice(choices: type[StrEnum]) -> Callable[[Any], StrEnum]:
    def parse(value: Any) -> StrEnum:
        if value not in list(choices):
            raise ValueError(f"must be one of {', '.join(choices)}")
        return choices(value)

    return parse


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _fraction(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise ValueError("must be a number above 0 and at most 1")
    return float(value)


def _path(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("must be a path")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) and text for text in value):
        raise ValueError("must be a list of texts that are not empty")
    return tuple(value)


def _range(value: Any) -> tuple[int, int]:
    """Read a whole number or [lowest, highest]."""
    bounds = value if isinstance(value, list) else [value, value]
    if len(bounds) != 2 or any(isinstance(b, bool) or not isinstance(b, int) for b in bounds):
        raise ValueError("must be a whole number or a range [lowest, highest] of whole numbers")
    if not 1 <= bounds[0] <= bounds[1]:
        raise ValueError("must keep 1 <= lowest <= highest")
    return bounds[0], bounds[1]


def _schedule(value: Any) -> tuple[float, float]:
    """Read a number or [first, last]."""
    ends = value if isinstance(value, list) else [value, value]
    if len(ends) != 2 or any(isinstance(end, bool) or not isinstance(end, int | float) for end in ends):
        raise ValueError("must be a number or [first, last] over training")
    if not all(0 < end < math.inf for end in ends):
        raise ValueError("must be above 0")
    return float(ends[0]), float(ends[1])


def _rules(value: Any) -> tuple[FinishReason, ...]:
    rules = list(FinishReason)
    if not isinstance(value, list) or any(rule not in rules for rule in value) or len(set(value)) != len(value):
        raise ValueError(f"must be a list of distinct rules out of {', '.join(rules)}")
    missing = [rule for rule in rules if rule not in value and rule not in OPTIONAL_RULES]
    if missing:
        raise ValueError(f"must contain {' and '.join(missing)} (only {', '.join(OPTIONAL_RULES)} can be left out)")
    return tuple(FinishReason(rule) for rule in value)


# --- the group -------------------------------------------------------------------------------------------------

_Parser = Callable[[Any], Any]
_KEYS: dict[str, _Parser | dict[str, _Parser]] = {
    "sampler": _choice(Sampler),
    "width": _optional(_integer(1)),
    "depth": _integer(1),
    "segment_length": _optional(_integer(1)),
    "divergence": _range,
    "init_divergence": _range,
    "max_divergence": _optional(_integer(1)),
    "branching": {
        "budget": _choice(Budget),
        "level_tokens": _optional(_integer(1)),
        "total_tokens": _optional(_integer(1)),
        "min_width": _optional(_integer(1)),
        "share": _choice(Share),
        "favour": _choice(Favour),
        "temperature": _schedule,
    },
    "fallback": {
        "start": _choice(FallbackStart),
        "order": _choice(PathOrder),
        "self_ended_only": _boolean,
        "min_segments": _integer(1),
        "point": _choice(ResumePoint),
        "window": _optional(_integer(1)),
        "block_length": _integer(1),
    },
    "run_on": _optional(_integer(1)),
    "stopping": _rules,
    "answer_needs_eos": _boolean,
    "stop_strings": _texts,
    "repetition": {
        "unit": _choice(RepetitionUnit),
        "window": _integer(1),
        "count": _integer(2),
    },
    "min_response_length": _integer(0),
    "retries": _integer(0),
    "validate_with_tree": _boolean,
    "dump_dir": _optional(_path),
    "shared_token_weight": _choice(SharedTokenWeight),
    "advantage": {
        "aggregation": _choice(Aggregation),
        "chains": _choice(Chains),
        "root_group": _boolean,
        "equal_groups": _boolean,
        "parent_decay": _fraction,
        "normalization": _optional(_choice(Normalization)),
    },
}


def parse_settings(config: DictConfig) -> tuple[TreePOSettings | None, list[Problem]]:
    """Read the ``treepo`` group; return all problems found, and the settings if there are none."""
    problems: list[Problem] = []
    try:
        group = OmegaConf.select(config, "treepo")
        raw = OmegaConf.to_container(group, resolve=True) if OmegaConf.is_config(group) else group
    except OmegaConfBaseException as error:
        return None, [Problem("treepo", "...", f"cannot be resolved ({error})", "Correct the interpolation.")]
    values = _parse_group("treepo", raw, _KEYS, problems)
    return (None, problems) if problems else (_build(values), [])


def _parse_group(name: str, raw: Any, parsers: Mapping[str, Any], problems: list[Problem]) -> dict[str, Any]:
    if raw is None:
        return {}
    if not isinstance(raw, Mapping):
        problems.append(Problem(name, raw, "must be a group of keys", _keys_of(name)))
        return {}
    values = {}
    for key, value in raw.items():
        parser = parsers.get(key)
        if parser is None:
            problems.append(unknown_key(f"{name}.{key}", value))
        elif isinstance(parser, dict):
            values[key] = _parse_group(f"{name}.{key}", value, parser, problems)
        else:
            try:
                values[key] = parser(value)
            except ValueError as error:
                remedy = "See recipe/treepo/config/treepo_trainer.yaml for what the key means."
                problems.append(Problem(f"{name}.{key}", value, str(error), remedy))
    return values


def _build(values: dict[str, Any]) -> TreePOSettings:
    branching = values.pop("branching", {})
    if "temperature" in branching:
        values["temperature"] = branching.pop("temperature")
    for key in ("divergence", "init_divergence", "max_divergence"):
        if key in values:
            branching[key] = values.pop(key)
    return TreePOSettings(
        branching=BranchingRules(**branching),
        fallback=FallbackRules(**values.pop("fallback", {})),
        repetition=Repetition(**values.pop("repetition", {})),
        advantage=AdvantageSettings(**values.pop("advantage", {})),
        **values,
    )


def known_keys() -> list[str]:
    """Return the full names of all keys of the recipe."""
    names = []
    for key, parser in _KEYS.items():
        names += [f"treepo.{key}.{inner}" for inner in parser] if isinstance(parser, dict) else [f"treepo.{key}"]
    return names


def known_groups() -> list[str]:
    """Return the full names of the groups that these keys are in, the outermost first."""
    return ["treepo", *(f"treepo.{key}" for key, parser in _KEYS.items() if isinstance(parser, dict))]


def unknown_key(key: str, value: Any) -> Problem:
    """Return the problem of a key that the recipe does not have."""
    group = key.rpartition(".")[0]
    while group and group not in known_groups():
        group = group.rpartition(".")[0]
    similar = get_close_matches(key, known_keys(), n=1)
    hint = f"Did you mean {similar[0]}? " if similar else ""
    return Problem(key, value, "there is no such key", hint + _keys_of(group or "treepo"))


def _keys_of(group: str) -> str:
    keys = _KEYS if group == "treepo" else _KEYS[group.partition(".")[2]]
    return f"Keys of {group}: {', '.join(keys)}."
