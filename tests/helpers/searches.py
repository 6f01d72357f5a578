# SPDX-License-Identifier: Apache-2.0
"""Grow trees with the scripted engine, and check the invariants of all trees."""

import asyncio
import itertools

from hypothesis import strategies as st

from helpers.scripted_engine import EOS, ScriptedEngine, decode
from recipe.treepo.policies import Policies, PolicyContext
from recipe.treepo.search import SearchKind, SearchShape, grow_tree
from recipe.treepo.search.branching import BranchingRules, Budget, Favor, Share
from recipe.treepo.search.fallback import FallbackRules, FallbackStart, PathOrder, PointRule
from recipe.treepo.search.stopping import RULES, FinishReason, Repetition, RepetitionUnit, StoppingRules
from recipe.treepo.search.tree import Tree

PROMPT = [1000, 1001, 1002]


REQUIRED = (FinishReason.LENGTH, FinishReason.DEPTH)


def grow(engine: ScriptedEngine, *, seed: int = 0, eos=EOS, **numbers) -> Tree:
    """Grow a tree; options that belong to neither stopping rules nor shape are fields of the branching rules."""
    engine.prompt_length = len(PROMPT)
    return asyncio.run(start(engine, seed=seed, eos=eos, **numbers))


async def start(engine: ScriptedEngine, **options) -> Tree:
    return await grow_tree(PROMPT, **search_arguments(engine, **options))


def search_arguments(engine: ScriptedEngine, *, seed: int = 0, eos=EOS, **numbers) -> dict:
    """Return the arguments of `grow_tree` after the prompt; see `grow`."""
    stopping = {
        name: numbers.pop(name)
        for name in (
            *("response_length", "depth", "answer_needs_eos", "stop_strings", "repetition", "min_length"),
            "thinking",
        )
        if name in numbers
    }
    context, policies = numbers.pop("context", PolicyContext()), numbers.pop("policies", Policies())
    order = numbers.pop("order", (FinishReason.ANSWER, FinishReason.EOS, *REQUIRED))
    rules = StoppingRules(order=order, eos_token_ids=frozenset(eos), decode=decode, **stopping)
    shape = {
        name: numbers.pop(name)
        for name in (
            "width",
            "segment_length",
            "search",
            "fallback",
            "max_segments_per_request",
            "cache_block",
            "retries",
            *("prune_below", "prune_above", "score_timeout_seconds"),
        )
        if name in numbers
    }
    divergence = numbers.pop("divergence", 2)
    numbers.setdefault("init_divergence", (2, 2))
    shape = SearchShape(
        **shape,
        branching=BranchingRules(
            divergence=divergence if isinstance(divergence, tuple) else (divergence, divergence), **numbers
        ),
        retry_seconds=0.0,
    )
    return {"engine": engine, "shape": shape, "stopping": rules, "seed": seed, "context": context, "policies": policies}


@st.composite
def searches(draw, kinds=tuple(SearchKind)):
    width, segment, depth = draw(st.integers(1, 12)), draw(st.integers(1, 9)), draw(st.integers(1, 6))
    response_length = draw(st.integers((depth - 1) * segment + 1, depth * segment))
    kind = draw(st.sampled_from(list(kinds)))
    by_path = kind is SearchKind.BY_PATH
    budget = Budget.TRANSFER if by_path else draw(st.sampled_from(list(Budget)))
    init = draw(st.integers(1, width))
    lowest = draw(st.integers(1, 3))
    optional = draw(st.sets(st.sampled_from(sorted(set(RULES) - set(REQUIRED)))))
    rules = draw(st.permutations([*sorted(optional), *REQUIRED]))
    cache_block = draw(st.one_of(st.none(), st.integers(1, segment)))
    longest = segment + (cache_block or 1) - 1
    search = {
        "cache_block": cache_block,
        "width": width,
        "segment_length": segment,
        "depth": depth,
        "response_length": response_length,
        "order": tuple(rules),
        "answer_needs_eos": draw(st.booleans()),
        "stop_strings": tuple(draw(st.lists(st.sampled_from(["ab", "}", "bo\\", "xed{"]), min_size=1, max_size=2))),
        "repetition": Repetition(
            unit=draw(st.sampled_from(list(RepetitionUnit))),
            window=draw(st.integers(1, 3)),
            count=draw(st.integers(2, 6)),
        ),
        "min_length": draw(st.sampled_from([0, 0, 1, 3])),
        "search": kind,
        "budget": budget,
        "divergence": (lowest, draw(st.integers(lowest, 4))),
        "init_divergence": draw(st.one_of(st.none(), st.tuples(st.just(init), st.integers(init, width)))),
        "max_divergence": draw(st.one_of(st.none(), st.integers(1, 4))),
        "share": Share.EVEN
        if by_path
        else draw(st.sampled_from([share for share in Share if share is not Share.SCORE])),
        "favor": draw(st.sampled_from(list(Favor))),
        "temperature": draw(st.sampled_from([0.1, 1.0, 10.0])),
        "fallback": FallbackRules(
            start=draw(st.sampled_from(list(FallbackStart))),
            order=draw(st.sampled_from([order for order in PathOrder if "score" not in order])),
            self_ended_only=draw(st.booleans()),
            min_segments=draw(st.integers(1, 3)),
            point=draw(st.sampled_from(list(PointRule))),
            window=draw(st.one_of(st.none(), st.integers(1, 3))),
            block_length=draw(st.integers(1, 6)),
        ),
        "max_segments_per_request": draw(st.one_of(st.none(), st.integers(1, 3))),
        "retries": draw(st.integers(0, 3)),
        "seed": draw(st.integers(0, 2**32)),
    }
    if budget is Budget.LEVEL_TOKENS:
        children = search["init_divergence"][1] if search["init_divergence"] else -(-width // 2)
        search["level_tokens"] = draw(st.integers(longest * children, longest * 15))
    if budget is Budget.TOTAL_TOKENS:
        search["min_width"] = draw(st.integers(1, width))
        search["total_tokens"] = draw(st.integers(search["min_width"] * response_length, 15 * response_length))
    return search


def check_width(tree: Tree, search: dict, engine: ScriptedEngine) -> None:
    assert engine.most_running <= search["width"]
    if search["budget"] is Budget.LEVEL_TOKENS:
        assert engine.most_running * longest_segment(search) <= search["level_tokens"]
    missing = tree.counters.missing_trajectories
    assert missing == 0 or tree.counters.abandoned_paths > 0
    if search["budget"] is not Budget.TOTAL_TOKENS:
        assert len(tree.leaves) + missing == search["width"]
        return
    left = search["total_tokens"] - sum(len(tree.path(leaf).response_ids) for leaf in tree.leaves)
    assert left >= 0
    assert search["min_width"] <= len(tree.leaves) + missing <= search["width"]
    if missing == 0:
        assert len(tree.leaves) == search["width"] or left < search["response_length"]


def longest_segment(search: dict) -> int:
    return max(end - begin for begin, end in itertools.pairwise([0, *boundaries(search)]))


def boundaries(search: dict) -> list[int]:
    """Return the ends of the segments of a path, by brute force over all positions."""
    segment, depth, block = search["segment_length"], search["depth"], search["cache_block"] or 1
    prompt = search.get("prompt", len(PROMPT))
    places = [end for end in range(1, segment * depth + block) if (prompt + end) % block == 1 % block]
    nearest = [min(places, key=lambda end: abs(end - level * segment)) for level in range(1, depth)]
    # The last level must be reachable.
    nearest = [
        end if end < search["response_length"] else level * segment for level, end in enumerate(nearest, start=1)
    ]
    return [*nearest, segment * depth]


def pieces_of_call(node_of: dict, branch: str, calls: set[str]) -> list:
    """Return the nodes with the tokens of one call, in order, by their names."""
    pieces = []
    while branch in node_of:
        cuts = [node for key, node in node_of.items() if key.startswith(f"{branch}@")]
        pieces += [*sorted(cuts, key=lambda node: node.offset), node_of[branch]]
        branch += ".0"
        if branch in calls:
            break
    return pieces


def brute_force_box(text: str) -> bool:
    for start in range(len(text)):
        if text.startswith("\\boxed{", start):
            for end in range(start + 7, len(text) + 1):
                inside = text[start + 7 : end]
                depths = [inside[: i + 1].count("}") - inside[: i + 1].count("{") for i in range(len(inside))]
                if depths and depths[-1] == 1 and all(depth <= 0 for depth in depths[:-1]) and inside[:-1].strip():
                    return True
    return False
