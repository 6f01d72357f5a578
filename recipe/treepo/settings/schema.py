# SPDX-License-Identifier: Apache-2.0
"""Typed settings of the recipe.

The keys live under ``treepo:`` at the top level of verl's configuration, because verl rejects unknown keys inside its
own groups. The dataclasses declare them, ``config/treepo_trainer.yaml`` explains them, and a test compares the two.
Rules between keys: ``validate.py``. Imports no torch, ray or vllm: everything is checked before any of them starts.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from recipe.treepo.advantages.options import AdvantageOptions
from recipe.treepo.interaction import ConversationRules, OnError, Steps
from recipe.treepo.search import SearchKind, SearchShape
from recipe.treepo.search.branching import BranchingRules
from recipe.treepo.search.fallback import FallbackRules
from recipe.treepo.search.stopping import RULES, FinishReason, Repetition, StoppingRules
from recipe.treepo.settings.values import (
    ConfigError,
    ConfigProblem,
    Keys,
    WrongValue,
    build,
    class_name,
    keys_of,
    read_group,
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


class Normalization(StrEnum):
    """What is done to the advantages of a batch."""

    WHITEN = "whiten"  # mean 0 and variance 1 over the batch's response tokens
    STD = "std"  # divided by the standard deviation over them, the mean left where it is
    NONE = "none"


class SharedTokenWeight(StrEnum):
    """How much a token counts in the actor's loss that several trajectories share."""

    PER_TRAJECTORY = "per_trajectory"  # once for each of them
    ONCE = "once"


class Console(StrEnum):
    """What a training run prints."""

    TREEPO = "treepo"  # a line per step and a summary; everything else goes to files
    VERL = "verl"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvantageSettings(AdvantageOptions):
    """The ``treepo.advantage`` group; ``normalization`` None: as published for each estimator."""

    normalization: Normalization | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpSettings:
    """The ``treepo.dump`` group; ``dir`` None: no trees are written."""

    dir: str | None = None
    every: int = 10
    prompts: int | None = 8
    calls: bool = False
    pictures: int = field(default=2, metadata={"least": 0})

    def takes(self, *, validate: bool, step: int, number: int) -> bool:
        """Tell whether the dump takes a prompt, ``number`` within its step or validation."""
        if self.dir is None or (self.prompts is not None and number >= self.prompts):
            return False
        return validate or step == 1 or step % self.every == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class InteractionSettings:
    """The ``treepo.interaction`` group; ``path`` None: no interaction but verl's tools, where they are asked for."""

    path: str | None = None
    name: str | None = field(default=None, metadata={"read": class_name})
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


def _rules(value: Any) -> tuple[FinishReason, ...]:
    """Read ``treepo.stopping``."""
    rules = list(RULES)
    if not isinstance(value, list) or any(rule not in rules for rule in value) or len(set(value)) != len(value):
        raise WrongValue("stopping_rules", f"must be a list of distinct rules out of {', '.join(rules)}")
    missing = [rule for rule in rules if rule not in value and rule not in OPTIONAL_RULES]
    if missing:
        rule = f"must contain {' and '.join(missing)} (only {', '.join(OPTIONAL_RULES)} are optional)"
        raise WrongValue("stopping_rule_missing", rule)
    return tuple(FinishReason(rule) for rule in value)


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
    stopping: tuple[FinishReason, ...] = field(
        default=(FinishReason.ANSWER, FinishReason.EOS, FinishReason.LENGTH, FinishReason.DEPTH),
        metadata={"read": _rules},
    )
    answer_needs_eos: bool = False
    stop_strings: tuple[str, ...] = ()
    repetition: Repetition = field(default_factory=Repetition)
    min_response_length: int = field(default=0, metadata={"least": 0})
    retries: int = field(default=2, metadata={"least": 0})
    validate_with_tree: bool = False
    dump: DumpSettings = field(default_factory=DumpSettings)
    poll_interval: float = 0.2
    console: Console = Console.TREEPO
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


# --- the group -------------------------------------------------------------------------------------------------

# Fields whose key stands elsewhere in the group.
_PLACES = {
    **{f"branching.{key}": f"treepo.{key}" for key in ("divergence", "init_divergence", "max_divergence")},
    "branching.temperature": None,
    "temperature": "treepo.branching.temperature",
}
KEYS: Keys = keys_of("treepo", TreePOSettings, _PLACES)


def parse_settings(config: DictConfig) -> tuple[TreePOSettings | None, list[ConfigProblem]]:
    """Read the ``treepo`` group; return all problems found, and the settings if there are none."""
    problems: list[ConfigProblem] = []
    try:
        group = OmegaConf.select(config, "treepo")
        raw = OmegaConf.to_container(group, resolve=True) if OmegaConf.is_config(group) else group
    except OmegaConfBaseException as error:
        problem = f"cannot be resolved ({' '.join(str(error).split())})"
        return None, [ConfigProblem("unresolved", "treepo", "...", problem, "Correct the interpolation.")]
    values = read_group("treepo", raw, KEYS, problems, see=SEE)
    return (None, problems) if problems else (build(TreePOSettings, values), [])


def leads_conversations(settings: TreePOSettings, agent: str | None) -> bool:
    """Tell whether paths are conversations, as far as the configuration says; a row may ask for verl's tools itself.

    Args:
        agent: verl's ``rollout.agent.default_agent_loop``.
    """
    return settings.interaction.path is not None or agent == TOOL_AGENT
