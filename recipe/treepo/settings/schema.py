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
from enum import StrEnum
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from recipe.treepo.interaction import ConversationRules, OnError, Steps
from recipe.treepo.search import SearchKind, SearchShape
from recipe.treepo.search.branching import BranchingRules, Budget, Favor, Share
from recipe.treepo.search.fallback import FallbackRules, FallbackStart, PathOrder, PointRule
from recipe.treepo.search.stopping import RULES, FinishReason, Repetition, RepetitionUnit, StoppingRules
from recipe.treepo.settings.values import (
    ConfigError,
    Keys,
    Problem,
    boolean,
    choice,
    class_name,
    fraction,
    int_range,
    integer,
    leaf_keys,
    mapping,
    optional,
    parse_group,
    path,
    positive,
    schedule,
    texts,
)

# Our trainers by the name that trainer.v1.trainer_mode chooses, and verl's trainer that each of them extends.
TREEPO_TRAINERS = {
    "treepo_sync": "sync",
    "treepo_colocate_async": "colocate_async",
    "treepo_separate_async": "separate_async",
}
# Our estimators by the name that algorithm.adv_estimator chooses.
TREE_ESTIMATORS = ("treepo", "treepo_segment", "treerl", "treerpo")
# verl's agents that a tree takes the place of.
SINGLE_TURN_AGENT, TOOL_AGENT = REPLACED_AGENTS = ("single_turn_agent", "tool_agent")
# The file that explains the keys.
SEE = "recipe/treepo/config/treepo_trainer.yaml"
# The group whose keys are the user's own.
FREE_GROUP = "treepo.interaction.options"
# Name under which packed training registers its engines; verl knows no such vendor, but looks for it where told to.
PACKED_VENDOR = "treepo_packed"
OPTIONAL_RULES = (FinishReason.ANSWER, FinishReason.STOP, FinishReason.REPETITION)


class Sampler(StrEnum):
    """How the trajectories of a training prompt are sampled."""

    TREE = "tree"  # one tree search per prompt
    INDEPENDENT = "independent"  # rollout.n loops that share nothing, each going on segment by segment
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
class InteractionSettings:
    """The ``treepo.interaction`` group; ``path`` None: no interaction but verl's tools, where they are asked for."""

    path: str | None = None
    name: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    turn_length: int | None = None
    steps: Steps = Steps.SHARED
    on_error: OnError = OnError.DROP
    timeout_seconds: float | None = 60.0

    def rules(self, *, max_assistant_turns: int | None, max_user_turns: int | None) -> ConversationRules:
        """Return how conversations are led; the arguments are those of verl's ``rollout.multi_turn``."""
        limits = [max_assistant_turns, max_user_turns + 1 if max_user_turns else None]
        return ConversationRules(
            turn_length=self.turn_length,
            max_turns=min((limit for limit in limits if limit), default=None),
            steps=self.steps,
            on_error=self.on_error,
            timeout_seconds=self.timeout_seconds,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TreePOSettings:
    """The ``treepo`` group. Meanings, units and ranges: ``config/treepo_trainer.yaml``.

    Three keys of it, ``divergence``, ``init_divergence`` and ``max_divergence``, are in ``branching``.

    Attributes:
        branching: Its own temperature is not used.
        temperature: First and last value of ``treepo.branching.temperature`` over training.
    """

    sampler: Sampler = Sampler.TREE
    search: SearchKind = SearchKind.BY_LEVEL
    depth: int = 7
    segment_length: int | None = None
    branching: BranchingRules = field(default_factory=BranchingRules)
    temperature: tuple[float, float] = (1.0, 1.0)
    fallback: FallbackRules = field(default_factory=FallbackRules)
    max_segments_per_request: int | None = None
    cache_block: int | None = None
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
    poll_interval: float = 0.2
    interaction: InteractionSettings = field(default_factory=InteractionSettings)
    packed_training: bool = False
    shared_token_weight: SharedTokenWeight = SharedTokenWeight.PER_TRAJECTORY
    advantage: AdvantageSettings = field(default_factory=AdvantageSettings)

    def resolved_segment_length(self, response_length: int, *, conversation: bool = False) -> int:
        """Return tokens per segment.

        As set; or in a conversation a whole turn, elsewhere the least with which ``depth`` segments hold a response.
        """
        if self.segment_length is not None:
            return self.segment_length
        if conversation:
            return self.interaction.turn_length or response_length
        return -(-response_length // self.depth)

    def independent(self, n: int) -> "TreePOSettings":
        """Return the same with n loops that never branch, each of which stops at every boundary of a segment."""
        branching = BranchingRules(divergence=(1, 1), init_divergence=(n, n))
        return replace(
            self, search=SearchKind.BY_PATH, branching=branching, fallback=FallbackRules(), max_segments_per_request=1
        )

    def shape(self, *, width: int, response_length: int, progress: float, conversation: bool = False) -> SearchShape:
        """Return how the tree of one prompt grows; ``progress`` is how far training is, 0 to 1."""
        first, last = self.temperature
        segment_length = self.resolved_segment_length(response_length, conversation=conversation)
        # Boundaries at blocks would meet where segments are shorter, and those of conversations are where turns end.
        blocks = self.cache_block is not None and self.cache_block <= segment_length and not conversation
        # A half cosine: slow at the beginning and at the end.
        temperature = first + (last - first) * (1 - math.cos(math.pi * progress)) / 2
        return SearchShape(
            width=width,
            segment_length=segment_length,
            search=self.search,
            branching=replace(self.branching, temperature=temperature),
            fallback=self.fallback,
            max_segments_per_request=self.max_segments_per_request,
            cache_block=self.cache_block if blocks else None,
            retries=self.retries,
        )

    def stopping_rules(
        self, *, eos_token_ids: frozenset[int], response_length: int, decode: Callable[[list[int]], str]
    ) -> StoppingRules:
        """Return when paths end; the arguments are those of :class:`recipe.treepo.search.stopping.StoppingRules`."""
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


def _rules(value: Any) -> tuple[FinishReason, ...]:
    rules = list(RULES)
    if not isinstance(value, list) or any(rule not in rules for rule in value) or len(set(value)) != len(value):
        raise ValueError(f"must be a list of distinct rules out of {', '.join(rules)}")
    missing = [rule for rule in rules if rule not in value and rule not in OPTIONAL_RULES]
    if missing:
        raise ValueError(f"must contain {' and '.join(missing)} (only {', '.join(OPTIONAL_RULES)} can be left out)")
    return tuple(FinishReason(rule) for rule in value)


# --- the group -------------------------------------------------------------------------------------------------

KEYS: Keys = {
    "sampler": choice(Sampler),
    "search": choice(SearchKind),
    "depth": integer(1),
    "segment_length": optional(integer(1)),
    "divergence": int_range,
    "init_divergence": int_range,
    "max_divergence": optional(integer(1)),
    "branching": {
        "budget": choice(Budget),
        "level_tokens": optional(integer(1)),
        "total_tokens": optional(integer(1)),
        "min_width": optional(integer(1)),
        "share": choice(Share),
        "favor": choice(Favor),
        "temperature": schedule,
    },
    "fallback": {
        "start": choice(FallbackStart),
        "order": choice(PathOrder),
        "self_ended_only": boolean,
        "min_segments": integer(1),
        "point": choice(PointRule),
        "window": optional(integer(1)),
        "block_length": integer(1),
    },
    "max_segments_per_request": optional(integer(1)),
    "cache_block": optional(integer(1)),
    "stopping": _rules,
    "answer_needs_eos": boolean,
    "stop_strings": texts,
    "repetition": {
        "unit": choice(RepetitionUnit),
        "window": integer(1),
        "count": integer(2),
    },
    "min_response_length": integer(0),
    "retries": integer(0),
    "validate_with_tree": boolean,
    "dump_dir": optional(path),
    "poll_interval": positive,
    "interaction": {
        "path": optional(path),
        "name": optional(class_name),
        "options": mapping,
        "turn_length": optional(integer(1)),
        "steps": choice(Steps),
        "on_error": choice(OnError),
        "timeout_seconds": optional(positive),
    },
    "packed_training": boolean,
    "shared_token_weight": choice(SharedTokenWeight),
    "advantage": {
        "aggregation": choice(Aggregation),
        "chains": choice(Chains),
        "root_group": boolean,
        "equal_groups": boolean,
        "parent_decay": fraction,
        "normalization": optional(choice(Normalization)),
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
    values = parse_group("treepo", raw, KEYS, problems, see=SEE)
    return (None, problems) if problems else (_build(values), [])


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
        interaction=InteractionSettings(**values.pop("interaction", {})),
        advantage=AdvantageSettings(**values.pop("advantage", {})),
        **values,
    )


def leads_conversations(settings: TreePOSettings, config: DictConfig) -> bool:
    """Tell whether paths are conversations, as far as the configuration says; a row may ask for verl's tools itself."""
    agent = OmegaConf.select(config, "actor_rollout_ref.rollout.agent.default_agent_loop")
    return settings.interaction.path is not None or agent == TOOL_AGENT


def known_keys() -> list[str]:
    """Return the full names of all keys of the recipe."""
    return leaf_keys("treepo", KEYS)
