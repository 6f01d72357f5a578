# SPDX-License-Identifier: Apache-2.0
"""Rules for the shape of trees, the end of paths, and verl's rollout keys.

They read the settings and a :class:`Rollout` of numbers, which training fills from its configuration and an evaluation
from its own keys.
"""

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recipe.treepo.interaction import Steps
from recipe.treepo.search import SearchKind
from recipe.treepo.search.branching import Budget, Share
from recipe.treepo.search.fallback import SCORE_ORDERS, FallbackStart, PathOrder
from recipe.treepo.search.shape import SearchShape
from recipe.treepo.search.stopping import FinishReason
from recipe.treepo.settings.schema import (
    REPLACED_AGENTS,
    TOOL_AGENT,
    InteractionSettings,
    OwnClass,
    Sampler,
    TreePOSettings,
    leads_conversations,
)
from recipe.treepo.settings.support import ENGINES
from recipe.treepo.settings.values import ConfigProblem, WrongValue, integer, is_number

ROLLOUT = "actor_rollout_ref.rollout"
# Keys of the rollout and, in verl's yaml, the keys that set them.
LENGTHS = {"prompt_length": "data.max_prompt_length", "response_length": "data.max_response_length"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """verl's rollout keys that the rules for trees read.

    Attributes:
        n: Trajectories per prompt.
        prompt_length: Maximum tokens of a prompt.
        response_length: Maximum tokens of a response.
        temperature: Sampling temperature.
        validation_n: Trajectories per validation prompt.
        validation_temperature: Sampling temperature of validation.
        max_model_len: Context length of the engine, None for the model's.
        ignore_eos: Whether end tokens are ignored.
        agent: Default agent loop, None for verl's choice.
        engine: Name of the engine, None if unknown.
        routing_replay: Whether verl replays the routing of experts.
        full_determinism: Whether each request has a seed.
    """

    n: int
    prompt_length: int
    response_length: int
    temperature: float
    validation_n: int
    validation_temperature: float
    max_model_len: int | None
    ignore_eos: bool
    agent: str | None
    engine: str | None
    routing_replay: bool
    full_determinism: bool


def read_rollout(config: DictConfig, problems: list[ConfigProblem], **given: Any) -> Rollout | None:
    """Return verl's rollout keys; if one is not a number, append the problem and return None.

    Args:
        given: Values of :class:`Rollout` fields that replace those of the configuration.
    """

    def read(key: str) -> Any:
        return OmegaConf.select(config, f"{ROLLOUT}.{key}")

    wrong = len(problems)
    for key in ("n", "response_length", "prompt_length"):
        value = given.setdefault(key, read(key))
        try:
            integer()(value)
        except WrongValue as error:
            name = LENGTHS.get(key, "")
            if not name or value is None or OmegaConf.select(config, name) != value:
                name = f"{ROLLOUT}.{key}"
            problems.append(ConfigProblem("number", name, value, str(error), f"Use {name}=8, for example."))
    value = given.setdefault("temperature", read("temperature"))
    if not is_number(value):
        name = f"{ROLLOUT}.temperature"
        problems.append(ConfigProblem("number", name, value, "must be a number", f"Use {name}=1.0."))
    if len(problems) > wrong:
        return None
    numbers = {
        "validation_n": read("val_kwargs.n") or 1,
        "validation_temperature": read("val_kwargs.temperature") or 0,
        "max_model_len": read("max_model_len"),
        "ignore_eos": bool(read("ignore_eos")),
        "agent": read("agent.default_agent_loop"),
        "engine": read("name"),
        "routing_replay": bool(read("enable_rollout_routing_replay")),
        "full_determinism": bool(read("full_determinism")),
    }
    return Rollout(**(numbers | given))


def sampler_problems(settings: TreePOSettings, config: DictConfig) -> list[ConfigProblem]:
    """Check the requirements of ``treepo.sampler``."""
    problems: list[ConfigProblem] = []
    if settings.sampler is not Sampler.PLAIN:
        rollout = read_rollout(config, problems)
        return problems if rollout is None else tree_problems(settings, rollout) + _turn_limit_problems(config)
    if settings.interaction.path is not None:
        rule = "verl's own sampler (treepo.sampler=plain) supports no interaction"
        remedy = "Use treepo.sampler=independent for independent loops, or treepo.interaction.path=null."
        key = "treepo.interaction.path"
        problems.append(ConfigProblem("interaction_with_plain", key, settings.interaction.path, rule, remedy))
    for group, own in settings.policy_classes.items():
        if own.path is not None and group != "advantage":
            key, rule = f"treepo.{group}.custom.path", "verl's own sampler (treepo.sampler=plain) has no policies"
            problems.append(
                ConfigProblem("policy_with_plain", key, own.path, rule, f"Leave treepo.{group}.custom out.")
            )
    return problems


def unused_cache_block(settings: TreePOSettings, config: DictConfig) -> ConfigProblem | None:
    """Return a remark on a ``cache_block`` that has no effect, for which a run need not stop."""
    rollout = read_rollout(config, [])
    if settings.sampler is Sampler.PLAIN or not isinstance(settings.cache_block, int) or rollout is None:
        return None
    talks = leads_conversations(settings, rollout.agent)
    shape = _shape(settings, rollout, talks)
    if talks or shape.cache_block is not None:
        return None
    rule = f"has no effect on segments of {shape.segment_length} tokens, which are shorter"
    remedy = "Use longer segments (a smaller treepo.depth), or treepo.cache_block=null."
    return ConfigProblem("cache_block_unused", "treepo.cache_block", settings.cache_block, rule, remedy)


def tree_problems(settings: TreePOSettings, rollout: Rollout) -> list[ConfigProblem]:
    """Check that the search can grow trees with these settings."""
    talks = leads_conversations(settings, rollout.agent)
    n, length = rollout.n, rollout.response_length
    shape = _shape(settings, rollout, talks)
    return (
        (_turn_problems if talks else _segment_problems)(settings, length)
        + _interaction_problems(settings.interaction, talks)
        + _policy_problems(settings)
        + _branching_problems(settings, n)
        + _level_budget_problems(settings, n, shape.longest_segment)
        + _total_budget_problems(settings, n, length)
        + _fallback_problems(settings)
        + _stopping_problems(settings, length)
        + _answer_problems(settings, rollout.ignore_eos)
        + _rollout_problems(settings, rollout)
    )


def _shape(settings: TreePOSettings, rollout: Rollout, talks: bool) -> SearchShape:
    return settings.shape(width=rollout.n, response_length=rollout.response_length, progress=0.0, conversation=talks)


# --- the shape of the tree -------------------------------------------------------------------------------------


def _segment_problems(settings: TreePOSettings, response_length: int) -> list[ConfigProblem]:
    """Check that ``depth`` segments hold a whole response, and that the last of them is reachable."""
    depth, segment = settings.depth, settings.resolved_segment_length(response_length)
    fitting_depth, fitting_segment = -(-response_length // segment), -(-response_length // depth)
    if fitting_depth == depth:
        return []
    remedy = f"Use treepo.depth={fitting_depth}"
    if (depth - 1) * fitting_segment < response_length:
        remedy += f", or treepo.segment_length={fitting_segment} (or null) for this depth"
    tokens = f"{depth} segments of {segment} tokens"
    automatic = settings.segment_length is None
    key, value = ("treepo.depth", depth) if automatic else ("treepo.segment_length", segment)
    if fitting_depth > depth:
        rule = f"{tokens} hold {depth * segment} tokens, fewer than the response length {response_length}"
        return [
            ConfigProblem("segments_too_few", key, value, rule, f"{remedy}, or a smaller data.max_response_length.")
        ]
    rule = f"{tokens} exceed the response length {response_length}, so the last level is never reached"
    return [ConfigProblem("segments_too_many", key, value, rule, f"{remedy}, or a larger data.max_response_length.")]


def _turn_problems(settings: TreePOSettings, response_length: int) -> list[ConfigProblem]:
    """Check the lengths of turns and segments; a conversation may leave part of its length unused."""
    turn, segment = settings.interaction.turn_length, settings.segment_length
    problems, longest = [], turn or response_length
    if turn is not None and turn > response_length:
        rule = f"must not exceed the response length {response_length}"
        remedy = "Use null for no limit, or a larger data.max_response_length."
        problems.append(ConfigProblem("turn_too_long", "treepo.interaction.turn_length", turn, rule, remedy))
    if segment is not None and segment > longest:
        rule = f"must not exceed the {longest} tokens of a turn"
        remedy = "Use null for one segment per turn."
        problems.append(ConfigProblem("segment_longer_than_turn", "treepo.segment_length", segment, rule, remedy))
    return problems


def _class_problems(group: str, own: OwnClass) -> list[ConfigProblem]:
    """Check that the keys of a user's class come together."""
    if (own.path is None) != (own.name is None):
        missing = "path" if own.path is None else "name"
        rule = "path (a file) and name (a class in it) must be set together"
        remedy = f"Set {group}.{missing}, or leave both null."
        return [ConfigProblem("path_without_name", f"{group}.{missing}", "null", rule, remedy)]
    if own.path is None and own.options:
        rule, remedy = f"has no effect while {group}.path is null", f"Set {group}.path and name."
        return [ConfigProblem("options_without_class", f"{group}.options", dict(own.options), rule, remedy)]
    return []


def _policy_problems(settings: TreePOSettings) -> list[ConfigProblem]:
    """Check the keys of the user's policies, and that keys that read scores come with a score."""
    problems = [
        problem
        for group, own in settings.policy_classes.items()
        for problem in _class_problems(f"treepo.{group}.custom", own)
    ]
    readers = {
        "treepo.branching.share": settings.branching.share if settings.branching.share is Share.SCORE else None,
        "treepo.fallback.order": settings.fallback.order if settings.fallback.order in SCORE_ORDERS else None,
        "treepo.score.prune_below": settings.score.prune_below,
        "treepo.score.prune_above": settings.score.prune_above,
    }
    if settings.score.custom.path is None:
        rule, remedy = "needs the scores of treepo.score.custom", "Set treepo.score.custom.path and name."
        problems += [
            ConfigProblem("no_scores", key, value, rule, remedy) for key, value in readers.items() if value is not None
        ]
    return problems


def _interaction_problems(interaction: InteractionSettings, talks: bool) -> list[ConfigProblem]:
    """Check that keys of an interaction come with an interaction."""
    group = "treepo.interaction"
    problems = _class_problems(group, interaction)
    for key, value in (("turn_length", interaction.turn_length), ("steps", interaction.steps)):
        if not talks and value not in (None, Steps.SHARED):
            rule = "has no effect without an interaction or the tool agent"
            agent = f"{ROLLOUT}.agent.default_agent_loop={TOOL_AGENT}"
            unset = "null" if key == "turn_length" else Steps.SHARED
            remedy = f"Set {group}.path and name, or use {agent}, or {group}.{key}={unset}."
            problems.append(ConfigProblem("no_turns", f"{group}.{key}", value, rule, remedy))
    return problems


def _branching_problems(settings: TreePOSettings, n: int) -> list[ConfigProblem]:
    rules, problems = settings.branching, []
    by_path = settings.search is SearchKind.BY_PATH
    lowest, highest = rules.root_children(n)
    if highest > n:
        rule = f"must not exceed the width of the tree, {ROLLOUT}.n={n}"
        remedy = f"Use treepo.init_divergence={min(lowest, n)}, a range up to {n} or null, or a larger {ROLLOUT}.n."
        problems.append(ConfigProblem("root_too_wide", "treepo.init_divergence", [lowest, highest], rule, remedy))
    most, lowest = rules.max_divergence, rules.divergence[0]
    # budget=level_tokens ignores divergence.
    if most is not None and most < lowest and rules.budget is not Budget.LEVEL_TOKENS:
        rule = f"must not be less than the lowest divergence, {lowest}"
        remedy = f"Use treepo.max_divergence={lowest} or null, or a lower treepo.divergence."
        problems.append(ConfigProblem("max_divergence_too_low", "treepo.max_divergence", most, rule, remedy))
    if by_path and rules.share is not Share.EVEN:
        rule = "treepo.search=by_path does not compare paths, so shares must be even"
        remedy = "Use treepo.branching.share=even, or treepo.search=by_level."
        problems.append(ConfigProblem("share_by_path", "treepo.branching.share", rules.share, rule, remedy))
    if by_path and rules.budget is not Budget.TRANSFER:
        rule = "treepo.search=by_path does not compare paths, so they cannot share a token budget"
        remedy = "Use treepo.branching.budget=transfer, or treepo.search=by_level."
        problems.append(ConfigProblem("budget_by_path", "treepo.branching.budget", rules.budget, rule, remedy))
    return problems


def _budget_key(settings: TreePOSettings, key: str, owner: Budget, meaning: str, least: int) -> list[ConfigProblem]:
    """Check that a key of ``treepo.branching`` is set if and only if ``owner`` is the budget."""
    name, value = f"treepo.branching.{key}", getattr(settings.branching, key)
    budget = settings.branching.budget
    if budget is not owner and value is not None:
        rule = f"has no effect unless treepo.branching.budget={owner} (it is {budget})"
        return [
            ConfigProblem(
                "budget_key_unused", name, value, rule, f"Use {name}=null, or treepo.branching.budget={owner}."
            )
        ]
    if budget is owner and value is None:
        rule = f"treepo.branching.budget={owner} needs {meaning}"
        remedy = f"Use at least {name}={least}, or another treepo.branching.budget."
        return [ConfigProblem("budget_key_missing", name, "null", rule, remedy)]
    return []


def _level_budget_problems(settings: TreePOSettings, n: int, longest_segment: int) -> list[ConfigProblem]:
    rules, owner = settings.branching, Budget.LEVEL_TOKENS
    children = rules.root_children(n)[1]
    least = children * longest_segment
    problems = _budget_key(settings, "level_tokens", owner, "a maximum of tokens per level", least)
    if not problems and rules.level_tokens is not None and rules.level_tokens < least:
        rule = f"must hold the first level: {children} segments of {longest_segment} tokens"
        remedy = f"Use at least treepo.branching.level_tokens={least}, or a lower treepo.init_divergence."
        key = "treepo.branching.level_tokens"
        problems.append(ConfigProblem("level_tokens_too_few", key, rules.level_tokens, rule, remedy))
    return problems


def _total_budget_problems(settings: TreePOSettings, n: int, response_length: int) -> list[ConfigProblem]:
    rules, owner = settings.branching, Budget.TOTAL_TOKENS
    least = (rules.min_width or 1) * response_length
    problems = _budget_key(settings, "total_tokens", owner, "a maximum of response tokens per prompt", least)
    problems += _budget_key(settings, "min_width", owner, "a minimum of trajectories per prompt", 1)
    if settings.validate_with_tree and rules.budget is owner:
        rule = "verl would count trajectories that the token budget leaves out as wrong answers"
        remedy = f"Use treepo.validate_with_tree=false, or another treepo.branching.budget than {owner}."
        problems.append(ConfigProblem("validation_with_budget", "treepo.validate_with_tree", True, rule, remedy))
    if problems or rules.total_tokens is None or rules.min_width is None:
        return problems
    if rules.min_width > n:
        rule = f"must not exceed the width of the tree, {ROLLOUT}.n={n}"
        remedy = f"Use treepo.branching.min_width={n} or less, or a larger {ROLLOUT}.n."
        problems.append(
            ConfigProblem("min_width_too_high", "treepo.branching.min_width", rules.min_width, rule, remedy)
        )
    elif rules.total_tokens < least:
        rule = f"must hold treepo.branching.min_width={rules.min_width} responses of {response_length} tokens"
        remedy = f"Use at least treepo.branching.total_tokens={least}, or a smaller treepo.branching.min_width."
        key = "treepo.branching.total_tokens"
        problems.append(ConfigProblem("total_tokens_too_few", key, rules.total_tokens, rule, remedy))
    return problems


def _fallback_problems(settings: TreePOSettings) -> list[ConfigProblem]:
    rules, problems = settings.fallback, []
    by_path = settings.search is SearchKind.BY_PATH and rules.start is FallbackStart.EARLY
    if by_path and rules.order is not PathOrder.RANDOM:
        rule = "with treepo.search=by_path a path that ends resumes at once, so finished paths have no order"
        remedy = "Use treepo.fallback.order=random, or treepo.fallback.start=dry."
        problems.append(ConfigProblem("order_by_path", "treepo.fallback.order", rules.order, rule, remedy))
    if rules.min_segments > settings.depth:
        rule = f"no path has more than treepo.depth={settings.depth} segments, so all would resume at the root"
        remedy = f"Use treepo.fallback.min_segments={settings.depth} or less."
        key = "treepo.fallback.min_segments"
        problems.append(ConfigProblem("min_segments_too_high", key, rules.min_segments, rule, remedy))
    return problems


# --- the end of paths ------------------------------------------------------------------------------------------


def _stopping_problems(settings: TreePOSettings, response_length: int) -> list[ConfigProblem]:
    problems = []
    if FinishReason.STOP in settings.stopping and not settings.stop_strings:
        rule, remedy = (
            "the rule stop in treepo.stopping needs strings",
            "Set some, or remove stop from treepo.stopping.",
        )
        problems.append(ConfigProblem("stop_without_strings", "treepo.stop_strings", "[]", rule, remedy))
    if settings.stop_strings and FinishReason.STOP not in settings.stopping:
        rule, order = "must contain stop; otherwise treepo.stop_strings has no effect", _listed(settings.stopping)
        remedy = "Add stop to treepo.stopping, or use treepo.stop_strings=[]."
        problems.append(ConfigProblem("strings_without_stop", "treepo.stopping", order, rule, remedy))
    if settings.min_response_length >= response_length:
        rule = f"must be less than the response length {response_length}; otherwise every response is dropped"
        remedy = f"Use treepo.min_response_length={response_length - 1} or less."
        key = "treepo.min_response_length"
        problems.append(ConfigProblem("min_response_length_too_high", key, settings.min_response_length, rule, remedy))
    return problems


def _answer_problems(settings: TreePOSettings, ignore_eos: bool) -> list[ConfigProblem]:
    """Check that an answer with an end token is distinguishable from an end token alone."""
    if not settings.answer_needs_eos:
        return []
    problems, order = [], settings.stopping
    key, other = "treepo.answer_needs_eos", "or use treepo.answer_needs_eos=false."
    place = f"Put answer before eos in treepo.stopping, {other}"
    if FinishReason.ANSWER not in order:
        rule = f"treepo.stopping={_listed(order)} does not contain answer"
        problems.append(ConfigProblem("stopping_without_answer", key, True, rule, place))
    elif order.index(FinishReason.ANSWER) > order.index(FinishReason.EOS):
        rule = f"treepo.stopping={_listed(order)} checks eos first, so no path would end as answered"
        problems.append(ConfigProblem("eos_before_answer", key, True, rule, place))
    if ignore_eos:
        rule = f"{ROLLOUT}.ignore_eos=True leaves no end tokens"
        problems.append(ConfigProblem("eos_ignored", key, True, rule, f"Use {ROLLOUT}.ignore_eos=False, {other}"))
    return problems


def _listed(rules: tuple[FinishReason, ...]) -> str:
    return f"[{', '.join(rules)}]"


# --- verl's own keys -------------------------------------------------------------------------------------------


def context_problems(rollout: Rollout) -> list[ConfigProblem]:
    """Check that the engine's context holds the longest path; verl's SGLang server leaves a token free."""
    spare, room = int(rollout.engine == "sglang"), rollout.max_model_len
    needed = rollout.prompt_length + rollout.response_length + spare
    if room is None or not is_number(room) or room >= needed:
        return []
    more = " + 1 for SGLang" if spare else ""
    rule = f"a path of full length needs {needed} tokens (prompt_length + response_length{more})"
    return [
        ConfigProblem("context_too_short", f"{ROLLOUT}.max_model_len", room, rule, f"Use at least {needed}, or null.")
    ]


def _rollout_problems(settings: TreePOSettings, rollout: Rollout) -> list[ConfigProblem]:
    """Check keys of verl on which trees depend."""
    problems = []
    greedy = "greedy samples in one tree are all equal"
    if rollout.temperature <= 0:
        remedy = "Use a temperature above 0, or treepo.sampler=plain."
        problems.append(ConfigProblem("greedy_trees", f"{ROLLOUT}.temperature", rollout.temperature, greedy, remedy))
    if settings.validate_with_tree and rollout.validation_n > 1 and rollout.validation_temperature <= 0:
        remedy = "Use a temperature above 0 (and do_sample), or treepo.validate_with_tree=false."
        key = f"{ROLLOUT}.val_kwargs.temperature"
        problems.append(ConfigProblem("greedy_validation", key, rollout.validation_temperature, greedy, remedy))
    problems += context_problems(rollout)
    if rollout.agent not in (None, *REPLACED_AGENTS):
        rule = f"trees replace {' and '.join(REPLACED_AGENTS)} only"
        remedy = "Use one of them, or treepo.sampler=plain."
        problems.append(
            ConfigProblem("other_agent", f"{ROLLOUT}.agent.default_agent_loop", rollout.agent, rule, remedy)
        )
    if reason := ENGINES.get(str(rollout.engine)):
        remedy = f"Use {ROLLOUT}.name=vllm, or treepo.sampler=plain."
        problems.append(ConfigProblem("unfit_engine", f"{ROLLOUT}.name", rollout.engine, reason, remedy))
    if rollout.full_determinism:
        problems += seed_problems(rollout, f"{ROLLOUT}.full_determinism", True, "False")
    if rollout.routing_replay:
        key, rule = f"{ROLLOUT}.enable_rollout_routing_replay", "trees do not record the routing of experts"
        problems.append(ConfigProblem("routing_replay", key, True, rule, "Use false, or treepo.sampler=plain."))
    return problems


def seed_problems(rollout: Rollout, key: str, value: object, without: str) -> list[ConfigProblem]:
    """Check that the engine takes a seed per request: SGLang fails, because verl does not rename ``seed`` for it.

    Args:
        key: Key that gives each request a seed.
        value: Its value.
        without: Its value without seeds.
    """
    if rollout.engine != "sglang":
        return []
    rule, remedy = "verl's SGLang server takes no seed per request", f"Use {key}={without}, or {ROLLOUT}.name=vllm."
    return [ConfigProblem("request_seed", key, value, rule, remedy)]


def _turn_limit_problems(config: DictConfig) -> list[ConfigProblem]:
    """Check verl's limits of conversations, which verl itself reads only after the first turn."""
    problems = []
    for key, least, unset in (
        ("max_assistant_turns", 0, None),
        ("max_user_turns", 0, None),
        ("max_parallel_calls", 1, 1),
    ):
        name = f"{ROLLOUT}.multi_turn.{key}"
        value = OmegaConf.select(config, name, default=unset)
        try:
            if value != unset:
                integer(least)(value)
        except WrongValue as error:
            remedy = f"Use {name}={'null' if unset is None else unset}."
            problems.append(ConfigProblem("turn_limit", name, value, str(error), remedy))
    return problems
