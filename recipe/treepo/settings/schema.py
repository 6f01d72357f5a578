# SPDX-License-Identifier: Apache-2.0
"""Typed settings of the recipe.

The keys live under ``treepo:`` at the top level of verl's configuration, because verl rejects unknown keys inside its
own groups. The dataclasses declare the keys, ``config/treepo_trainer.yaml`` explains them, and a test compares the two.
Rules between keys: ``validate.py``. Imports no torch, ray or vllm, so all checks run before any of them starts.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from recipe.treepo.advantages.options import AdvantageOptions
from recipe.treepo.answers.thinking import Thinking, read_thinking
from recipe.treepo.interaction import ConversationRules, OnError, Steps
from recipe.treepo.search import SearchKind, SearchShape
from recipe.treepo.search.branching import BranchingRules, Budget
from recipe.treepo.search.fallback import FallbackRules
from recipe.treepo.search.stopping import RULES, FinishReason, Repetition, StoppingRules
from recipe.treepo.search.thought_tokens import thinking_after
from recipe.treepo.settings.values import (
    ConfigError,
    ConfigProblem,
    Keys,
    WrongValue,
    build,
    class_name,
    finite,
    is_number,
    keys_of,
    read_group,
)

# Our trainers (values of trainer.v1.trainer_mode), each with the trainer of verl that it extends.
TREEPO_TRAINERS = {
    "treepo_sync": "sync",
    "treepo_colocate_async": "colocate_async",
    "treepo_separate_async": "separate_async",
}
# Our estimators (values of algorithm.adv_estimator).
CUSTOM_ESTIMATOR = "treepo_custom"
TREE_ESTIMATORS = ("treepo", "treepo_segment", "treerl", "treerpo", CUSTOM_ESTIMATOR)
# verl's agents that trees replace.
SINGLE_TURN_AGENT, TOOL_AGENT = REPLACED_AGENTS = ("single_turn_agent", "tool_agent")
# File that explains the keys.
SEE = "recipe/treepo/config/treepo_trainer.yaml"
# Hydra groups that a run may choose from.
GROUPS = ("tree", "preset", "platform")
# Groups with the policies of a user, each with ``custom``, and the method that their classes need.
POLICY_METHODS = {
    "branching": "children",
    "fallback": "resume",
    "stopping_rules": "ends",
    "score": "score",
    "advantage": "credit",
}
# Files of the user's classes, and groups with keys that the user defines.
OWN_PATHS = ("treepo.interaction.path", *(f"treepo.{name}.custom.path" for name in POLICY_METHODS))
FREE_GROUPS = ("treepo.interaction.options", *(f"treepo.{name}.custom.options" for name in POLICY_METHODS))
# Vendor of the packed engines in verl's engine registry, selected by VERL_ENGINE_VENDOR.
PACKED_VENDOR = "treepo_packed"
# Environment variable with a name of the run, in all of its processes.
RUN_VARIABLE = "TREEPO_RUN"
OPTIONAL_RULES = (FinishReason.ANSWER, FinishReason.STOP, FinishReason.REPETITION)


class CacheBlock(StrEnum):
    """Values of ``treepo.cache_block`` that are no number."""

    AUTO = "auto"  # the engine's block size


class Sampler(StrEnum):
    """Sampler of a training prompt."""

    TREE = "tree"  # one tree search per prompt
    INDEPENDENT = "independent"  # rollout.n separate loops that stop at every segment boundary
    PLAIN = "plain"  # verl's own sampler: rollout.n independent samples


class Normalization(StrEnum):
    """Normalization of the advantages of a batch."""

    WHITEN = "whiten"  # mean 0 and variance 1 over the batch's response tokens
    STD = "std"  # divided by their standard deviation, mean unchanged
    NONE = "none"


class SharedTokenWeight(StrEnum):
    """Weight of a shared token in the actor's loss."""

    PER_TRAJECTORY = "per_trajectory"  # once per trajectory
    ONCE = "once"


class StalePolicy(StrEnum):
    """Weight in the actor's loss of tokens that old weights sampled."""

    KEEP = "keep"  # like all others
    MASK = "mask"  # 0
    DECAY = "decay"  # a power of a factor


class RewardErrorPolicy(StrEnum):
    """Consequence of a failed reward."""

    FAIL_TRAJECTORY = "fail_trajectory"  # the trajectory is removed from the batch
    FAIL_PROMPT = "fail_prompt"  # so are the prompt's other trajectories
    FAIL_RUN = "fail_run"  # the run ends


class MissingPolicy(StrEnum):
    """Consequence of a batch with too few trajectories."""

    WARN = "warn"  # the batch is trained on, with a warning
    FAIL_RUN = "fail_run"  # the run ends


class Phase(StrEnum):
    """Phase of a training run, for its limits."""

    START = "start"
    ROLLOUT = "rollout"
    TRAINING = "training"
    WEIGHTS = "weights"
    CHECKPOINT = "checkpoint"
    VALIDATION = "validation"


class Console(StrEnum):
    """Output of a training run."""

    TREEPO = "treepo"  # a line per step and a summary; everything else goes to files
    VERL = "verl"


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnClass:
    """A class of the user's; ``path`` None: none."""

    path: str | None = None
    name: str | None = field(default=None, metadata={"read": class_name})
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvantageSettings(AdvantageOptions):
    """The ``treepo.advantage`` group; ``normalization`` None: each estimator's published one."""

    normalization: Normalization | None = None
    custom: OwnClass = field(default_factory=OwnClass)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSettings:
    """The ``treepo.score`` group; thresholds None: no path is pruned; seconds None: no limit."""

    custom: OwnClass = field(default_factory=OwnClass)
    prune_below: float | None = field(default=None, metadata={"read": finite})
    prune_above: float | None = field(default=None, metadata={"read": finite})
    timeout_seconds: float | None = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StaleTokenSettings:
    """The ``treepo.stale_tokens`` group.

    Attributes:
        max_age: Training steps after which tokens are stale.
        decay: Factor per step of age beyond ``max_age``.
    """

    policy: StalePolicy = StalePolicy.KEEP
    max_age: int = field(default=1, metadata={"least": 0})
    decay: float = field(default=0.5, metadata={"most": 1})


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardErrorSettings:
    """The ``treepo.reward_errors`` group."""

    policy: RewardErrorPolicy = RewardErrorPolicy.FAIL_TRAJECTORY
    max_share: float = field(default=0.5, metadata={"most": 1})
    timeout_seconds: float | None = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingSettings:
    """The ``treepo.missing_trajectories`` group."""

    policy: MissingPolicy = MissingPolicy.WARN
    max_share: float = field(default=0.5, metadata={"most": 1})


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchdogSettings:
    """The ``treepo.watchdog`` group: maximum seconds without progress, None for no limit."""

    start_seconds: float | None = 3600.0
    rollout_seconds: float | None = 3600.0
    training_seconds: float | None = 14400.0
    weights_seconds: float | None = 1800.0
    checkpoint_seconds: float | None = 7200.0

    @staticmethod
    def key(phase: Phase) -> str:
        """Return the key of a phase's limit."""
        return f"{Phase.ROLLOUT if phase is Phase.VALIDATION else phase}_seconds"

    def limit(self, phase: Phase) -> float | None:
        """Return the limit of a phase in seconds."""
        limit: float | None = getattr(self, self.key(phase))
        return limit


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpSettings:
    """The ``treepo.dump`` group; ``dir`` None: no dump."""

    dir: str | None = None
    every: int = 10
    prompts: int | None = 8
    calls: bool = False
    pictures: int = field(default=2, metadata={"least": 0})

    def takes(self, *, validate: bool, step: int, number: int) -> bool:
        """Return whether the dump includes a prompt, ``number`` within its step or validation."""
        if self.dir is None or (self.prompts is not None and number >= self.prompts):
            return False
        return validate or step == 1 or step % self.every == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class InteractionSettings(OwnClass):
    """The ``treepo.interaction`` group; ``path`` None: no interaction, except verl's tools if selected."""

    turn_length: int | None = None
    steps: Steps = Steps.SHARED
    on_error: OnError = OnError.DROP
    timeout_seconds: float | None = 60.0

    def rules(self, *, max_assistant_turns: int | None, max_user_turns: int | None) -> ConversationRules:
        """Return the rules of a conversation; the arguments are those of verl's ``rollout.multi_turn``."""
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


def _thinking(value: Any) -> Thinking:
    """Read ``treepo.thinking``."""
    try:
        return read_thinking(value)
    except ValueError as error:
        raise WrongValue("thinking", str(error)) from error


def _cache_block(value: Any) -> int | CacheBlock:
    """Read ``treepo.cache_block``."""
    if value == CacheBlock.AUTO:
        return CacheBlock.AUTO
    if not is_number(value, int) or value < 1:
        raise WrongValue("cache_block", "must be auto, null, or a whole number of at least 1")
    block: int = value
    return block


@dataclass(frozen=True, slots=True, kw_only=True)
class TreePOSettings:
    """The ``treepo`` group. Meanings, units and ranges: ``config/treepo_trainer.yaml``.

    The keys ``divergence``, ``init_divergence`` and ``max_divergence`` are fields of ``branching``.

    Attributes:
        branching: Branching rules; their own temperature is unused.
        own_branching: The user's class in place of the branching rules below the root.
        own_fallback: The user's class in place of the order and the point of the fallback rules.
        own_stopping_rule: The user's class, after the rules of ``stopping``.
        temperature: First and last value of ``treepo.branching.temperature`` over training.
        cache_block: ``auto`` has no effect before :meth:`with_cache_block`.
        thinking: Tags of thoughts; None for those of the chat template (:meth:`with_tags`).
    """

    sampler: Sampler = Sampler.TREE
    search: SearchKind = SearchKind.BY_LEVEL
    depth: int = 7
    segment_length: int | None = None
    branching: BranchingRules = field(default_factory=BranchingRules)
    temperature: tuple[float, float] = (1.0, 1.0)
    own_branching: OwnClass = field(default_factory=OwnClass)
    fallback: FallbackRules = field(default_factory=FallbackRules)
    own_fallback: OwnClass = field(default_factory=OwnClass)
    score: ScoreSettings = field(default_factory=ScoreSettings)
    max_segments_per_request: int | None = None
    cache_block: int | CacheBlock | None = field(default=CacheBlock.AUTO, metadata={"read": _cache_block})
    stopping: tuple[FinishReason, ...] = field(
        default=(FinishReason.ANSWER, FinishReason.EOS, FinishReason.LENGTH, FinishReason.DEPTH),
        metadata={"read": _rules},
    )
    own_stopping_rule: OwnClass = field(default_factory=OwnClass)
    policy_trial: bool = True
    answer_needs_eos: bool = False
    stop_strings: tuple[str, ...] = ()
    repetition: Repetition = field(default_factory=Repetition)
    thinking: Thinking | None = field(default=None, metadata={"read": _thinking})
    min_response_length: int = field(default=0, metadata={"least": 0})
    retries: int = field(default=2, metadata={"least": 0})
    validate_with_tree: bool = False
    dump: DumpSettings = field(default_factory=DumpSettings)
    poll_interval: float = 0.2
    console: Console = Console.TREEPO
    interaction: InteractionSettings = field(default_factory=InteractionSettings)
    reward_errors: RewardErrorSettings = field(default_factory=RewardErrorSettings)
    missing_trajectories: MissingSettings = field(default_factory=MissingSettings)
    watchdog: WatchdogSettings = field(default_factory=WatchdogSettings)
    packed_training: bool = False
    shared_token_weight: SharedTokenWeight = SharedTokenWeight.PER_TRAJECTORY
    stale_tokens: StaleTokenSettings = field(default_factory=StaleTokenSettings)
    advantage: AdvantageSettings = field(default_factory=AdvantageSettings)

    @property
    def policy_classes(self) -> dict[str, OwnClass]:
        """Classes of the user's policies by their groups, in which they have the key ``custom``."""
        return {
            "branching": self.own_branching,
            "fallback": self.own_fallback,
            "stopping_rules": self.own_stopping_rule,
            "score": self.score.custom,
            "advantage": self.advantage.custom,
        }

    def resolved_segment_length(self, response_length: int, *, conversation: bool = False) -> int:
        """Return tokens per segment.

        Without a set value: a whole turn in a conversation, otherwise the minimum for which ``depth`` segments hold a
        response.
        """
        if self.segment_length is not None:
            return self.segment_length
        if conversation:
            return self.interaction.turn_length or response_length
        return -(-response_length // self.depth)

    @property
    def weights_tokens(self) -> bool:
        """Whether tokens have weights of ours in the actor's loss."""
        once = self.shared_token_weight is SharedTokenWeight.ONCE
        return once or self.stale_tokens.policy is not StalePolicy.KEEP

    def independent(self, n: int) -> "TreePOSettings":
        """Return a copy for n loops that never branch and that stop at every segment boundary."""
        branching = BranchingRules(divergence=(1, 1), init_divergence=(n, n))
        return replace(
            self, search=SearchKind.BY_PATH, branching=branching, fallback=FallbackRules(), max_segments_per_request=1
        )

    def with_tags(self, found: Thinking | None) -> "TreePOSettings":
        """Return a copy with the tags found in the chat template, unless the settings name others."""
        return replace(self, thinking=self.thinking or found)

    def with_cache_block(self, found: int | None) -> "TreePOSettings":
        """Return a copy with the engine's block size (None if unknown) in place of ``auto``.

        A limit on the tokens of a level has been checked with segments of equal length, so these stay.
        """
        if self.cache_block is not CacheBlock.AUTO:
            return self
        keeps = self.branching.budget is Budget.LEVEL_TOKENS
        return replace(self, cache_block=None if keeps else found)

    @property
    def tags(self) -> Thinking:
        """Tags of thoughts, by default those that most models have."""
        return self.thinking or Thinking()

    def known_thinking(self, prompt_ids: Sequence[int], decode: Callable[[list[int]], str]) -> Thinking | None:
        """Return the tags of responses to a prompt, None if neither ``thinking`` nor the end of the prompt has any."""
        thinking = thinking_after(prompt_ids, self.tags, decode)
        return thinking if self.thinking is not None or thinking.opened else None

    def shape(self, *, width: int, response_length: int, progress: float, conversation: bool = False) -> SearchShape:
        """Return the shape of one prompt's tree; ``progress`` is the share of training done, 0 to 1."""
        first, last = self.temperature
        segment_length = self.resolved_segment_length(response_length, conversation=conversation)
        # With segments shorter than a block, boundaries would coincide; in conversations, turns end segments.
        block = self.cache_block if isinstance(self.cache_block, int) and not conversation else None
        # A half cosine: slow at the beginning and at the end.
        temperature = first + (last - first) * (1 - math.cos(math.pi * progress)) / 2
        return SearchShape(
            width=width,
            segment_length=segment_length,
            search=self.search,
            branching=replace(self.branching, temperature=temperature),
            fallback=self.fallback,
            max_segments_per_request=self.max_segments_per_request,
            cache_block=block if block is not None and block <= segment_length else None,
            retries=self.retries,
            prune_below=self.score.prune_below,
            prune_above=self.score.prune_above,
            score_timeout_seconds=self.score.timeout_seconds,
        )

    def stopping_rules(
        self, *, eos_token_ids: frozenset[int], response_length: int, decode: Callable[[list[int]], str]
    ) -> StoppingRules:
        """Return the path-ending rules; arguments: :class:`recipe.treepo.search.stopping.StoppingRules`."""
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
            thinking=self.tags,
        )


def load_settings(config: DictConfig) -> TreePOSettings:
    """Read the ``treepo`` group; a configuration without it gets the defaults.

    Raises:
        ConfigError: listing every unknown key and every value of a wrong type or range.
    """
    settings, problems = parse_settings(config)
    if settings is None:
        raise ConfigError(problems)
    return settings


# --- the group -------------------------------------------------------------------------------------------------

_OWN_FIELDS = {"own_branching": "branching", "own_fallback": "fallback", "own_stopping_rule": "stopping_rules"}
# Fields whose key is elsewhere in the group.
_PLACES = {
    **{f"branching.{key}": f"treepo.{key}" for key in ("divergence", "init_divergence", "max_divergence")},
    "branching.temperature": None,
    **{
        f"{field_name}.{key}": f"treepo.{group}.custom.{key}"
        for field_name, group in _OWN_FIELDS.items()
        for key in ("path", "name", "options")
    },
    "temperature": "treepo.branching.temperature",
}
KEYS: Keys = keys_of("treepo", TreePOSettings, _PLACES)


def parse_settings(config: DictConfig) -> tuple[TreePOSettings | None, list[ConfigProblem]]:
    """Read the ``treepo`` group; return the problems, and the settings if there are none."""
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
    """Return whether the configuration makes paths conversations; a data row may select verl's tools on its own.

    Args:
        agent: verl's ``rollout.agent.default_agent_loop``.
    """
    return settings.interaction.path is not None or agent == TOOL_AGENT
