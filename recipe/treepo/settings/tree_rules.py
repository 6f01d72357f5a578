# SPDX-License-Identifier: Apache-2.0
"""The rules for the shape of trees, the end of paths and verl's rollout keys. Called by ``validation.py``."""

from omegaconf import DictConfig, OmegaConf

from recipe.treepo.interaction import Steps
from recipe.treepo.search import SearchKind
from recipe.treepo.search.branching import Budget, Share
from recipe.treepo.search.fallback import FallbackStart, PathOrder
from recipe.treepo.search.stopping import FinishReason
from recipe.treepo.settings.schema import (
    REPLACED_AGENTS,
    TOOL_AGENT,
    InteractionSettings,
    Sampler,
    TreePOSettings,
    leads_conversations,
)
from recipe.treepo.settings.values import Problem, integer


def sampler_problems(settings: TreePOSettings, config: DictConfig) -> list[Problem]:
    """Check what the sampler of ``treepo.sampler`` needs."""
    if settings.sampler is not Sampler.PLAIN:
        return tree_problems(settings, config)
    if settings.interaction.path is None:
        return []
    rule = "verl's own sampler, treepo.sampler=plain, knows no interaction"
    remedy = "Use treepo.sampler=independent for loops that share nothing, or leave it null."
    return [Problem("treepo.interaction.path", settings.interaction.path, rule, remedy)]


def tree_problems(settings: TreePOSettings, config: DictConfig) -> list[Problem]:
    rollout = config.actor_rollout_ref.rollout
    name = "actor_rollout_ref.rollout"
    problems = [
        Problem(f"{name}.{key}", rollout.get(key), "must be a number", f"Set {name}.{key}.")
        for key in ("n", "response_length", "prompt_length", "temperature")
        if not isinstance(rollout.get(key), int | float)
    ]
    if problems:
        return problems
    talks = leads_conversations(settings, config)
    shape = settings.shape(width=rollout.n, response_length=rollout.response_length, progress=0.0, conversation=talks)
    lengths = _turn_problems if talks else _segment_problems
    return (
        lengths(settings, rollout.response_length)
        + _interaction_problems(settings.interaction, talks)
        + _width_problems(settings, rollout.n)
        + _branching_problems(settings)
        + _level_budget_problems(settings, shape.longest_segment)
        + _total_budget_problems(settings, rollout.n, rollout.response_length)
        + _fallback_problems(settings)
        + _stopping_problems(settings, rollout.response_length)
        + _answer_problems(settings, bool(OmegaConf.select(rollout, "ignore_eos")))
        + _rollout_problems(settings, rollout, name)
    )


# --- the shape of the tree -------------------------------------------------------------------------------------


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


def _turn_problems(settings: TreePOSettings, response_length: int) -> list[Problem]:
    """Check the lengths of turns and segments, of which a conversation may leave much unused."""
    turn = settings.interaction.turn_length
    problems, longest = [], turn or response_length
    if turn is not None and turn > response_length:
        rule = f"is more than the response length {response_length}"
        remedy = "Use null for no limit, or a larger data.max_response_length."
        problems.append(Problem("treepo.interaction.turn_length", turn, rule, remedy))
    if settings.segment_length is not None and settings.segment_length > longest:
        rule = f"is more than a turn may have, {longest} tokens"
        remedy = "Use null for segments of a whole turn each."
        problems.append(Problem("treepo.segment_length", settings.segment_length, rule, remedy))
    return problems


def _interaction_problems(interaction: InteractionSettings, talks: bool) -> list[Problem]:
    """Check that what is said about an interaction has one to go with."""
    problems, group = [], "treepo.interaction"
    if (interaction.path is None) != (interaction.name is None):
        missing = "path" if interaction.path is None else "name"
        rule = "path and name go together: the file, and the class in it"
        problems.append(Problem(f"{group}.{missing}", "null", rule, f"Set {group}.{missing}, or leave both null."))
    elif interaction.path is None and interaction.options:
        rule = f"{group}.path names no class that would take them"
        problems.append(Problem(f"{group}.options", dict(interaction.options), rule, f"Set {group}.path and name."))
    for key, value in (("turn_length", interaction.turn_length), ("steps", interaction.steps)):
        if not talks and value not in (None, Steps.SHARED):
            rule = "there are no turns without an interaction or verl's tools"
            agent = f"actor_rollout_ref.rollout.agent.default_agent_loop={TOOL_AGENT}"
            unset = "null" if key == "turn_length" else Steps.SHARED
            remedy = f"Set {group}.path and name, or {agent}, or use {group}.{key}={unset}."
            problems.append(Problem(f"{group}.{key}", value, rule, remedy))
    return problems


def _width_problems(settings: TreePOSettings, n: int) -> list[Problem]:
    problems = []
    lowest, highest = settings.branching.init_divergence
    if highest > n:
        rule = f"must not exceed the width of the tree, actor_rollout_ref.rollout.n={n}"
        remedy = f"Use treepo.init_divergence={min(lowest, n)} or a range up to {n}, or raise rollout.n."
        problems.append(Problem("treepo.init_divergence", [lowest, highest], rule, remedy))
    return problems


def _branching_problems(settings: TreePOSettings) -> list[Problem]:
    rules, problems = settings.branching, []
    lowest = rules.divergence[0]
    # A budget of tokens per level leaves divergence unread.
    if rules.max_divergence is not None and rules.max_divergence < lowest and rules.budget is not Budget.LEVEL_TOKENS:
        rule = f"must not be less than the lowest divergence, {lowest}"
        remedy = f"Use treepo.max_divergence={lowest} or null, or a lower treepo.divergence."
        problems.append(Problem("treepo.max_divergence", rules.max_divergence, rule, remedy))
    if settings.search is SearchKind.BY_PATH and rules.share is not Share.EVEN:
        rule = "treepo.search=by_path compares no paths, so only an even share is possible"
        remedy = "Use treepo.branching.share=even, or treepo.search=by_level."
        problems.append(Problem("treepo.branching.share", rules.share, rule, remedy))
    if settings.search is SearchKind.BY_PATH and rules.budget is not Budget.TRANSFER:
        rule = "treepo.search=by_path compares no paths, so they cannot share a budget of tokens"
        remedy = "Use treepo.branching.budget=transfer, or treepo.search=by_level."
        problems.append(Problem("treepo.branching.budget", rules.budget, rule, remedy))
    return problems


def _budget_key(settings: TreePOSettings, key: str, owner: Budget, meaning: str, least: int) -> list[Problem]:
    """Check that a key of ``treepo.branching`` is set where the budget is its ``owner``, and only there."""
    name, value = f"treepo.branching.{key}", getattr(settings.branching, key)
    if settings.branching.budget is not owner:
        if value is None:
            return []
        rule = f"is read with treepo.branching.budget={owner} only, and the budget is {settings.branching.budget}"
        return [Problem(name, value, rule, f"Use treepo.branching.budget={owner}, or {name}=null.")]
    if value is None:
        rule = f"treepo.branching.budget={owner} needs {meaning}"
        return [Problem(name, "null", rule, f"Use at least {name}={least}, or another treepo.branching.budget.")]
    return []


def _level_budget_problems(settings: TreePOSettings, longest_segment: int) -> list[Problem]:
    rules = settings.branching
    children = rules.init_divergence[1]
    least = children * longest_segment
    problems = _budget_key(settings, "level_tokens", Budget.LEVEL_TOKENS, "the most tokens of a level", least)
    if not problems and rules.level_tokens is not None and rules.level_tokens < least:
        rule = f"must hold the first level, {children} segments of {longest_segment} tokens"
        remedy = f"Use at least treepo.branching.level_tokens={least}, or a lower treepo.init_divergence."
        problems.append(Problem("treepo.branching.level_tokens", rules.level_tokens, rule, remedy))
    return problems


def _total_budget_problems(settings: TreePOSettings, n: int, response_length: int) -> list[Problem]:
    rules, owner = settings.branching, Budget.TOTAL_TOKENS
    least = (rules.min_width or 1) * response_length
    problems = _budget_key(settings, "total_tokens", owner, "the most response tokens of a prompt", least)
    problems += _budget_key(settings, "min_width", owner, "the least number of trajectories", 1)
    if settings.validate_with_tree and rules.budget is owner:
        rule = "verl counts the trajectories of a validation prompt that were not paid for as wrong answers"
        remedy = f"Use treepo.validate_with_tree=false, or another treepo.branching.budget than {owner}."
        problems.append(Problem("treepo.validate_with_tree", True, rule, remedy))
    if problems or rules.total_tokens is None or rules.min_width is None:
        return problems
    if rules.min_width > n:
        rule = f"must not exceed the width of the tree, actor_rollout_ref.rollout.n={n}"
        remedy = f"Use treepo.branching.min_width={n} or less, or raise rollout.n."
        problems.append(Problem("treepo.branching.min_width", rules.min_width, rule, remedy))
    elif rules.total_tokens < least:
        rule = f"must hold treepo.branching.min_width={rules.min_width} responses of {response_length} tokens"
        remedy = f"Use at least treepo.branching.total_tokens={least}, or a smaller min_width."
        problems.append(Problem("treepo.branching.total_tokens", rules.total_tokens, rule, remedy))
    return problems


def _fallback_problems(settings: TreePOSettings) -> list[Problem]:
    rules, problems = settings.fallback, []
    by_path = settings.search is SearchKind.BY_PATH and rules.start is FallbackStart.EARLY
    if by_path and rules.order is not PathOrder.RANDOM:
        rule = "with treepo.search=by_path width falls back at once, from the path that left it and no other"
        remedy = "Use treepo.fallback.order=random, or treepo.fallback.start=dry."
        problems.append(Problem("treepo.fallback.order", rules.order, rule, remedy))
    if rules.min_segments > settings.depth:
        rule = f"no path has more than treepo.depth={settings.depth} segments, so all would start again at the root"
        remedy = f"Use treepo.fallback.min_segments={settings.depth} or less."
        problems.append(Problem("treepo.fallback.min_segments", rules.min_segments, rule, remedy))
    return problems


# --- the end of paths ------------------------------------------------------------------------------------------


def _stopping_problems(settings: TreePOSettings, response_length: int) -> list[Problem]:
    problems = []
    if FinishReason.STOP in settings.stopping and not settings.stop_strings:
        rule = "the rule stop in treepo.stopping needs strings"
        problems.append(Problem("treepo.stop_strings", "[]", rule, "Name some, or take stop out of treepo.stopping."))
    if settings.stop_strings and FinishReason.STOP not in settings.stopping:
        rule = "must contain stop, or treepo.stop_strings are not looked for"
        order = _listed(settings.stopping)
        problems.append(Problem("treepo.stopping", order, rule, "Add stop, or use treepo.stop_strings=[]."))
    if settings.min_response_length >= response_length:
        rule = f"must be less than the response length {response_length}, or every response is dropped"
        remedy = f"Use at most treepo.min_response_length={response_length - 1}."
        problems.append(Problem("treepo.min_response_length", settings.min_response_length, rule, remedy))
    return problems


def _answer_problems(settings: TreePOSettings, ignore_eos: bool) -> list[Problem]:
    """Check that an answer that needs an end token can be told from an end token alone."""
    if not settings.answer_needs_eos:
        return []
    problems, order = [], settings.stopping
    key, other = "treepo.answer_needs_eos", "or use treepo.answer_needs_eos=false."
    place = f"Put answer before eos in treepo.stopping, {other}"
    if FinishReason.ANSWER not in order:
        problems.append(Problem(key, True, f"treepo.stopping={_listed(order)} does not ask for an answer", place))
    elif order.index(FinishReason.ANSWER) > order.index(FinishReason.EOS):
        rule = f"treepo.stopping={_listed(order)} asks for eos first, so no path would be recorded as answered"
        problems.append(Problem(key, True, rule, place))
    if ignore_eos:
        rule = "actor_rollout_ref.rollout.ignore_eos=True leaves no end token to go with an answer"
        problems.append(Problem(key, True, rule, f"Use actor_rollout_ref.rollout.ignore_eos=False, {other}"))
    return problems


def _listed(rules: tuple[FinishReason, ...]) -> str:
    return f"[{', '.join(rules)}]"


def context_problems(rollout: DictConfig) -> list[Problem]:
    """Check that the engine's context holds the longest prompt and response."""
    needed, room = rollout.prompt_length + rollout.response_length, OmegaConf.select(rollout, "max_model_len")
    if room is None or room >= needed:
        return []
    rule = f"a path of full length needs {needed} tokens (prompt_length + response_length)"
    return [Problem("actor_rollout_ref.rollout.max_model_len", room, rule, f"Use at least {needed}, or null.")]


# --- verl's own keys -------------------------------------------------------------------------------------------


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
    problems += context_problems(rollout) + _multi_turn_problems(rollout, f"{name}.multi_turn")
    agent = OmegaConf.select(rollout, "agent.default_agent_loop")
    if agent not in (None, *REPLACED_AGENTS):
        rule = f"trees take the place of {' and '.join(REPLACED_AGENTS)} only"
        remedy = "Use one of them, or treepo.sampler=plain."
        problems.append(Problem(f"{name}.agent.default_agent_loop", agent, rule, remedy))
    if OmegaConf.select(rollout, "enable_rollout_routing_replay"):
        rule = "trees do not record the experts that tokens were routed to"
        problems.append(
            Problem(f"{name}.enable_rollout_routing_replay", True, rule, "Use false, or treepo.sampler=plain.")
        )
    return problems


def _multi_turn_problems(rollout: DictConfig, name: str) -> list[Problem]:
    """Check verl's limits of conversations, which nobody would until the first turn has ended."""
    problems = []
    for key, least, unset in (
        ("max_assistant_turns", 0, None),
        ("max_user_turns", 0, None),
        ("max_parallel_calls", 1, 1),
    ):
        value = OmegaConf.select(rollout, f"multi_turn.{key}", default=unset)
        try:
            if value != unset:
                integer(least)(value)
        except ValueError as error:
            remedy = f"Use {name}.{key}={'null' if unset is None else unset}."
            problems.append(Problem(f"{name}.{key}", value, str(error), remedy))
    return problems
