# SPDX-License-Identifier: Apache-2.0
"""Hold six seeded searches to a record: a change of structure must not change a token, a name or a counter.

After a change of behavior, run ``PYTHONPATH=.:tests python tests/search/test_golden_trees.py``, read the differences
and commit the new record.
"""

import hashlib
import sys
from array import array
from pathlib import Path
from typing import Any

from helpers.scripted_conversation import Chancy, FakeTokens, talk
from helpers.scripted_engine import ScriptedEngine
from helpers.searches import grow
from recipe.treepo.interaction import ConversationRules, Steps
from recipe.treepo.search import SearchKind
from recipe.treepo.search.branching import Budget, Share
from recipe.treepo.search.fallback import FallbackRules, FallbackStart, PathOrder, PointRule
from recipe.treepo.search.statistics import TreeStatistics
from recipe.treepo.search.stopping import RULES, Repetition
from recipe.treepo.search.tree import Tree

RECORD = Path(__file__).with_name("golden_trees.txt")
SIZES: dict[str, Any] = {"width": 8, "depth": 4, "segment_length": 6, "response_length": 24}


def transfer() -> Tree:
    return grow(ScriptedEngine(seed=1, end_rate=0.05), seed=1, **SIZES)


def by_path() -> Tree:
    engine = ScriptedEngine(seed=2, end_rate=0.06, fail_rate=0.2, jitter=3)
    return grow(engine, seed=2, search=SearchKind.BY_PATH, retries=1, min_length=5, **SIZES)


def level_tokens() -> Tree:
    fallback = FallbackRules(point=PointRule.LEAST_LIKELY_TOKEN, window=2, order=PathOrder.LONGER_FIRST)
    rules = {"budget": Budget.LEVEL_TOKENS, "level_tokens": 40, "share": Share.SEGMENT_MEAN, "cache_block": 4}
    return grow(ScriptedEngine(seed=3, end_rate=0.05), seed=3, fallback=fallback, **rules, **SIZES)


def total_tokens() -> Tree:
    fallback = FallbackRules(start=FallbackStart.DRY, order=PathOrder.ANSWERED_FIRST_SOFT)
    rules = {
        "budget": Budget.TOTAL_TOKENS,
        "total_tokens": 120,
        "min_width": 2,
        "max_segments_per_request": 2,
        "divergence": (1, 3),
    }
    return grow(ScriptedEngine(seed=4, end_rate=0.06), seed=4, fallback=fallback, **rules, **SIZES)


def text_rules() -> Tree:
    fallback = FallbackRules(point=PointRule.UNLIKELY_BLOCK, block_length=3)
    rules = {"order": RULES, "stop_strings": ("ab",), "repetition": Repetition(window=2, count=3), "repeat": 0.4}
    engine = ScriptedEngine(seed=5, end_rate=0.03, repeat_rate=rules.pop("repeat"))
    return grow(engine, seed=5, fallback=fallback, max_divergence=2, share=Share.ENTROPY, **rules, **SIZES)


def conversation() -> Tree:
    interaction = Chancy(end_rate=0.3, fail_rate=0.1, jitter=6)
    rules = ConversationRules(turn_length=8, max_turns=3, steps=Steps.PER_BRANCH)
    engine = ScriptedEngine(seed=6, end_rate=0.2, jitter=6)
    return talk(
        engine, interaction, rules=rules, tokens=FakeTokens(jitter=6), seed=6, **(SIZES | {"response_length": 90})
    )


CASES = (transfer, by_path, level_tokens, total_tokens, text_rules, conversation)


def lines_of(tree: Tree) -> list[str]:
    statistics = TreeStatistics.of(tree)
    lines = [" ".join(f"{name}={getattr(statistics, name)}" for name in COUNTS)]
    for node in tree.nodes[1:]:
        logprobs = array("f", node.segment.logprobs).tolist()
        tokens = repr((list(node.segment.token_ids), logprobs, node.reply and node.reply.messages, node.text))
        digest = hashlib.sha256(tokens.encode()).hexdigest()[:12]
        end = f" {node.finish_reason}" if node.finish_reason else ""
        detail = f" ({node.finish_detail})" if node.finish_detail else ""
        dropped = " dropped" if node.dropped else ""
        lines.append(
            f"{node.index} < {node.parent} {node.key} depth {node.depth} {node.offset}..{node.end} {digest}"
            f"{end}{detail}{dropped}"
        )
    return lines


COUNTS = (
    "trajectories",
    "engine_calls",
    "failed_calls",
    "decoded_tokens",
    "overrun_tokens",
    "computed_prompt_tokens",
    "cached_prompt_tokens",
    "unique_tokens",
    "total_tokens",
    "fallbacks",
    "dropped_paths",
    "missing_trajectories",
)


def record() -> str:
    return "".join(f"# {case.__name__}\n" + "\n".join(lines_of(case())) + "\n" for case in CASES)


def test_seeded_searches_grow_the_recorded_trees():
    assert record().splitlines() == RECORD.read_text().splitlines()


if __name__ == "__main__":
    sys.stdout.write(f"{RECORD.write_text(record())} characters\n")
