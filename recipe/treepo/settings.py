# SPDX-License-Identifier: Apache-2.0
"""Typed settings of the recipe and the rules that they must keep.

The keys live under ``treepo:`` at the top level of verl's configuration, because verl rejects unknown keys inside
its own groups. ``config/treepo_trainer.yaml`` declares and explains them; a test holds the two together. Imports no
torch, ray or vllm: everything here is checked before any of them is started.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from recipe.treepo.search import SearchShape
from recipe.treepo.stopping import FinishReason

TREE_MANAGER = "recipe.treepo.rollout.TreeAgentLoopManager"
TREEPO_TRAINER = "treepo_sync"
# The agent that a tree takes the place of; other agents talk to tools or users, which trees do not do yet.
REPLACED_AGENT = "single_turn_agent"


class Sampler(StrEnum):
    """How the trajectories of a training prompt are sampled."""

    TREE = "tree"  # one tree search per prompt
    PLAIN = "plain"  # verl's own sampler: rollout.n independent samples


class Aggregation(StrEnum):
    """How the sub-group advantages of a trajectory become one."""

    MEAN = "mean"  # plain mean over the distinct groups on its path
    GROUP_SIZE = "group_size"  # weighted by the number of trajectories in each group


class Normalization(StrEnum):
    """What is done to the advantages of a batch."""

    WHITEN = "whiten"  # mean 0 and variance 1 over the batch's response tokens
    NONE = "none"


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
    """The ``treepo.advantage`` group: options of the estimator ``treepo``."""

    aggregation: Aggregation = Aggregation.MEAN
    normalization: Normalization = Normalization.WHITEN


@dataclass(frozen=True, slots=True, kw_only=True)
class TreePOSettings:
    """The ``treepo`` group. Meanings, units and ranges: ``config/treepo_trainer.yaml``."""

    sampler: Sampler = Sampler.TREE
    width: int | None = None
    depth: int = 7
    segment_length: int | None = None
    divergence: int = 2
    init_divergence: tuple[int, int] = (2, 2)
    stopping: tuple[FinishReason, ...] = tuple(FinishReason)
    validate_with_tree: bool = False
    dump_dir: str | None = None
    advantage: AdvantageSettings = field(default_factory=AdvantageSettings)

    def resolved_segment_length(self, response_length: int) -> int:
        """Return tokens per segment: as set, or the least with which ``depth`` segments hold a whole response."""
        return self.segment_length or -(-response_length // self.depth)

    def shape(self, *, width: int, response_length: int) -> SearchShape:
        """Return how the tree of one prompt grows."""
        return SearchShape(
            width=width,
            segment_length=self.resolved_segment_length(response_length),
            divergence=self.divergence,
            init_divergence=self.init_divergence,
        )


def load_settings(config: DictConfig) -> TreePOSettings:
    """Read the ``treepo`` group; a configuration without one gets the defaults.

    Raises:
        ConfigError: naming every unknown key and every value of a wrong type or range.
    """
    settings, problems = _parse_settings(config)
    if settings is None:
        raise ConfigError(problems)
    return settings


def validate(config: DictConfig, *, check_files: bool = True) -> TreePOSettings:
    """Check the ``treepo`` group, how it fits verl's own keys, and that the files exist.

    Raises:
        ConfigError: listing all problems found.
    """
    settings, problems = _parse_settings(config)
    if settings is not None:
        problems += _relation_problems(settings, config)
    if check_files:
        problems += _missing_files(config)
    if problems:
        raise ConfigError(problems)
    assert settings is not None
    return settings


def validate_trees(config: DictConfig) -> None:
    """Check the ``treepo`` group and that the trees fit the rollout; for runs of verl's own entry point.

    Raises:
        ConfigError: listing all problems found.
    """
    settings, problems = _parse_settings(config)
    if settings is not None and settings.sampler is Sampler.TREE:
        problems += _tree_problems(settings, config)
    if problems:
        raise ConfigError(problems)


# --- reading the group -----------------------------------------------------------------------------------------


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


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("must be a path")
    return value


def _range(value: Any) -> tuple[int, int]:
    """Read a whole number or [lowest, highest]."""
    bounds = value if isinstance(value, list) else [value, value]
    if len(bounds) != 2 or any(isinstance(b, bool) or not isinstance(b, int) for b in bounds):
        raise ValueError("must be a whole number or a range [lowest, highest] of whole numbers")
    if not 1 <= bounds[0] <= bounds[1]:
        raise ValueError("must keep 1 <= lowest <= highest")
    return bounds[0], bounds[1]


def _rules(value: Any) -> tuple[FinishReason, ...]:
    rules = list(FinishReason)
    if not isinstance(value, list) or any(rule not in rules for rule in value) or len(set(value)) != len(value):
        raise ValueError(f"must be a list of distinct rules out of {', '.join(rules)}")
    missing = [rule for rule in rules if rule not in value and rule is not FinishReason.ANSWER]
    if missing:
        raise ValueError(f"must contain {' and '.join(missing)} (only {FinishReason.ANSWER} can be left out)")
    return tuple(FinishReason(rule) for rule in value)


_ADVANTAGE_KEYS: dict[str, Callable[[Any], Any]] = {
    "aggregation": _choice(Aggregation),
    "normalization": _choice(Normalization),
}
_KEYS: dict[str, Callable[[Any], Any]] = {
    "sampler": _choice(Sampler),
    "width": _optional(_integer(1)),
    "depth": _integer(1),
    "segment_length": _optional(_integer(1)),
    "divergence": _integer(1),
    "init_divergence": _range,
    "stopping": _rules,
    "validate_with_tree": _boolean,
    "dump_dir": _optional(_text),
}


def _parse_settings(config: DictConfig) -> tuple[TreePOSettings | None, list[Problem]]:
    problems: list[Problem] = []
    try:
        group = OmegaConf.select(config, "treepo")
        raw = OmegaConf.to_container(group, resolve=True) if OmegaConf.is_config(group) else group or {}
    except OmegaConfBaseException as error:
        return None, [Problem("treepo", "...", f"cannot be resolved ({error})", "Correct the interpolation.")]
    if not isinstance(raw, Mapping):
        return None, [Problem("treepo", raw, "must be a group of keys", _known("treepo", [*_KEYS, "advantage"]))]
    raw = dict(raw)
    advantage_raw = raw.pop("advantage", None) or {}
    values = _parse_group("treepo", raw, _KEYS, [*_KEYS, "advantage"], problems)
    advantage = _parse_group("treepo.advantage", advantage_raw, _ADVANTAGE_KEYS, [*_ADVANTAGE_KEYS], problems)
    if problems:
        return None, problems
    return TreePOSettings(**values, advantage=AdvantageSettings(**advantage)), []


def _parse_group(
    name: str, raw: Any, parsers: Mapping[str, Callable[[Any], Any]], known: list[str], problems: list[Problem]
) -> dict[str, Any]:
    if not isinstance(raw, Mapping):
        problems.append(Problem(name, raw, "must be a group of keys", _known(name, known)))
        return {}
    values = {}
    for key, value in raw.items():
        if key not in parsers:
            problems.append(unknown_key(f"{name}.{key}", value))
            continue
        try:
            values[key] = parsers[key](value)
        except ValueError as error:
            remedy = "See recipe/treepo/config/treepo_trainer.yaml for what the key means."
            problems.append(Problem(f"{name}.{key}", value, str(error), remedy))
    return values


def known_keys() -> list[str]:
    """Return the full names of all keys of the recipe."""
    return [f"treepo.{key}" for key in _KEYS] + [f"treepo.advantage.{key}" for key in _ADVANTAGE_KEYS]


def unknown_key(key: str, value: Any) -> Problem:
    """Return the problem of a key that the recipe does not have."""
    return Problem(key, value, "there is no such key", _known("treepo", known_keys()))


def _known(name: str, keys: list[str]) -> str:
    return f"Keys of {name}: {', '.join(keys)}."


# --- rules between keys ----------------------------------------------------------------------------------------


def _relation_problems(settings: TreePOSettings, config: DictConfig) -> list[Problem]:
    problems = _trainer_problems(settings, config)
    if settings.sampler is Sampler.TREE:
        problems += _tree_problems(settings, config)
    return problems


def _tree_problems(settings: TreePOSettings, config: DictConfig) -> list[Problem]:
    rollout = config.actor_rollout_ref.rollout
    name = "actor_rollout_ref.rollout"
    problems = [
        Problem(f"{name}.{key}", rollout.get(key), "must be a number", f"Set {name}.{key}.")
        for key in ("n", "response_length", "prompt_length", "temperature")
        if not isinstance(rollout.get(key), int | float)
    ]
    if problems:
        return problems
    return (
        _segment_problems(settings, rollout.response_length)
        + _width_problems(settings, rollout.n)
        + _rollout_problems(settings, rollout, name)
    )


def _width_problems(settings: TreePOSettings, n: int) -> list[Problem]:
    problems = []
    lowest, highest = settings.init_divergence
    if settings.width is not None and settings.width != n:
        rule = f"must equal actor_rollout_ref.rollout.n={n}, the trajectories that verl expects for each prompt"
        problems.append(Problem("treepo.width", settings.width, rule, "Leave it null to follow rollout.n."))
    if highest > n:
        rule = f"must not exceed the width of the tree, actor_rollout_ref.rollout.n={n}"
        remedy = f"Use treepo.init_divergence={min(lowest, n)} or a range up to {n}, or raise rollout.n."
        problems.append(Problem("treepo.init_divergence", list(settings.init_divergence), rule, remedy))
    return problems


def _rollout_problems(settings: TreePOSettings, rollout: DictConfig, name: str) -> list[Problem]:
    """Check verl's own keys that trees depend on; ``name`` is the full name of their group."""
    problems = []
    greedy = "siblings in a tree of greedy samples are equal"
    if rollout.temperature <= 0:
        remedy = "Use a temperature above 0, or treepo.sampler=plain."
        problems.append(Problem(f"{name}.temperature", rollout.temperature, greedy, remedy))
    validation = OmegaConf.select(rollout, "val_kwargs")
    if settings.validate_with_tree and validation.n > 1 and validation.temperature <= 0:
        remedy = "Use a temperature above 0 (and do_sample), or treepo.validate_with_tree=false."
        problems.append(Problem(f"{name}.val_kwargs.temperature", validation.temperature, greedy, remedy))
    needed, room = rollout.prompt_length + rollout.response_length, OmegaConf.select(rollout, "max_model_len")
    if room is not None and room < needed:
        rule = f"a path of full length needs {needed} tokens (prompt_length + response_length)"
        problems.append(Problem(f"{name}.max_model_len", room, rule, f"Use at least {needed}, or null."))
    agent = OmegaConf.select(rollout, "agent.default_agent_loop")
    if agent not in (None, REPLACED_AGENT):
        rule = f"trees take the place of {REPLACED_AGENT} only"
        remedy = f"Use {REPLACED_AGENT}, or treepo.sampler=plain."
        problems.append(Problem(f"{name}.agent.default_agent_loop", agent, rule, remedy))
    if OmegaConf.select(rollout, "enable_rollout_routing_replay"):
        rule = "trees do not record the experts that tokens were routed to"
        problems.append(
            Problem(f"{name}.enable_rollout_routing_replay", True, rule, "Use false, or treepo.sampler=plain.")
        )
    return problems


def _segment_problems(settings: TreePOSettings, response_length: int) -> list[Problem]:
    """Check that ``depth`` segments hold a whole response, and that the last of them can be reached."""
    depth, segment = settings.depth, settings.resolved_segment_length(response_length)
    fitting_depth, fitting_segment = -(-response_length // segment), -(-response_length // depth)
    if fitting_depth == depth:
        return []
    remedy = f"Use treepo.depth={fitting_depth}"
    if (depth - 1) * fitting_segment < response_length:
        remedy += f", or treepo.segment_length={fitting_segment} (or null) for this depth"
    reach = f"{depth} segments of {segment} tokens"
    if fitting_depth > depth:
        rule = f"{reach} hold {depth * segment} tokens, fewer than the response length {response_length}"
        remedy += ", or a smaller data.max_response_length."
    else:
        rule = f"{reach} go beyond the response length {response_length}, so the last level is never reached"
        remedy += ", or a larger data.max_response_length."
    if settings.segment_length is None:
        return [Problem("treepo.depth", depth, rule, remedy)]
    return [Problem("treepo.segment_length", segment, rule, remedy)]


def _trainer_problems(settings: TreePOSettings, config: DictConfig) -> list[Problem]:
    problems = []
    manager = OmegaConf.select(config, "actor_rollout_ref.rollout.agent.agent_loop_manager_class")
    if settings.sampler is Sampler.TREE and manager != TREE_MANAGER:
        key = "actor_rollout_ref.rollout.agent.agent_loop_manager_class"
        rule = "treepo.sampler=tree needs the recipe's rollout manager"
        problems.append(Problem(key, manager, rule, f"Use {key}={TREE_MANAGER}, or treepo.sampler=plain."))
    mode = OmegaConf.select(config, "trainer.v1.trainer_mode")
    if config.algorithm.adv_estimator == "treepo" and mode != TREEPO_TRAINER:
        rule = "algorithm.adv_estimator=treepo needs the trainer that hands tree paths to it"
        remedy = f"Use trainer.v1.trainer_mode={TREEPO_TRAINER}, or another adv_estimator."
        problems.append(Problem("trainer.v1.trainer_mode", mode, rule, remedy))
    if not OmegaConf.select(config, "trainer.use_v1"):
        problems.append(
            Problem("trainer.use_v1", False, "the recipe extends verl's V1 trainer", "Use trainer.use_v1=True.")
        )
    return problems


# --- files -----------------------------------------------------------------------------------------------------


def _missing_files(config: DictConfig) -> list[Problem]:
    problems = []
    for key, remedy in (
        ("data.train_files", "Make it with `python -m data_prep.numina_math`, or name another file."),
        ("data.val_files", "Make it with `python -m data_prep.numina_math`, or name another file."),
        ("reward.custom_reward_function.path", "Name a Python file, or leave it out for the recipe's reward."),
    ):
        value = OmegaConf.select(config, key)
        paths = value if OmegaConf.is_list(value) else [value]
        problems += [Problem(key, path, "there is no such file", remedy) for path in paths if _is_missing_file(path)]
    model = OmegaConf.select(config, "actor_rollout_ref.model.path")
    if model is not None and _is_missing_model(str(model)):
        remedy = "Name a folder with a Hugging Face model, or a model of the hub such as Qwen/Qwen2.5-0.5B."
        problems.append(Problem("actor_rollout_ref.model.path", model, "there is no such folder", remedy))
    return problems


def _is_missing_file(path: Any) -> bool:
    if path is None or re.match(r"\w+://", str(path)):
        return False
    return not os.path.exists(os.path.expanduser(str(path)))


def _is_missing_model(path: str) -> bool:
    """Tell whether ``path`` is neither a folder nor possibly a model of the hub (``organisation/name``)."""
    if re.match(r"\w+://", path) or os.path.isdir(os.path.expanduser(path)):
        return False
    is_hub_name = re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", path) is not None
    return not is_hub_name or os.path.isdir(path.split("/")[0])
