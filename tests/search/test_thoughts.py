# SPDX-License-Identifier: Apache-2.0
"""Thoughts in a search: no box inside one ends a path, wherever segments and tokens divide the tags."""

import asyncio
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.scripted_conversation import FakeTokens, Recorded, Turns, talk
from helpers.scripted_engine import EOS, ScriptedEngine, decode
from helpers.searches import brute_force_box, search_arguments
from recipe.treepo.answers.thinking import NO_THINKING, Thinking
from recipe.treepo.search import SearchKind, grow_tree
from recipe.treepo.search.stopping import FinishReason
from recipe.treepo.search.thought_tokens import thinking_after, thinking_tokens
from recipe.treepo.search.tree import Tree

TAGS = Thinking()
PROMPTS = {False: list(b"user: 6?\nassistant:\n"), True: list(b"user: 6?\nassistant:\n<think>\n")}
PIECES = ["<think>", "</think>", "\\boxed{5}", "\\boxed{", "}", "so ", "<", "think>"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=10).map("".join)


def tree_of(texts: list[str], *, opened: bool, thinking: Thinking = TAGS, **search) -> Tree:
    """Grow a tree of the given responses, each with an end token, one character per token."""
    engine = ScriptedEngine(script=[[*text.encode(), EOS[0]] for text in texts])
    engine.prompt_length = len(PROMPTS[opened])
    arguments = search_arguments(engine, thinking=thinking, **search)
    return asyncio.run(grow_tree(PROMPTS[opened], **arguments))


def visible_by_tags(text: str, opened: bool) -> str | None:
    """Return the text behind the last tag if that tag ends a thought."""
    *_, tag, rest = ["<think>" if opened else "</think>", *re.split("(</?think>)", text)]
    return rest if tag == "</think>" else None


@given(
    texts=st.lists(TEXTS, min_size=1, max_size=3),
    opened=st.booleans(),
    segment=st.integers(1, 9),
    width=st.integers(1, 4),
    search=st.sampled_from(list(SearchKind)),
    most=st.sampled_from([None, 1, 2]),
)
def test_a_path_ends_at_the_first_boundary_behind_whose_thoughts_there_is_a_box(
    texts, opened, segment, width, search, most
):
    depth = 1 + max(map(len, texts)) // segment
    sizes = {"segment_length": segment, "depth": depth, "response_length": depth * segment, "width": width}
    tree = tree_of(texts, opened=opened, search=search, max_segments_per_request=most, init_divergence=(1, 1), **sizes)
    assert len(tree.leaves) == width
    for leaf in tree.leaves:
        path = tree.path(leaf)
        text = decode(path.response_ids)
        ends = [node.end for node in path.nodes[1:]]
        answered = [brute_force_box(visible_by_tags(text[:end], opened) or "") for end in ends]
        assert answered[:-1] == [False] * (len(ends) - 1)
        assert (path.last.finish_reason is FinishReason.ANSWER) is answered[-1]


@pytest.mark.parametrize(
    ("response", "opened", "thinking", "ends_after"),
    [
        ("a\\boxed{5}b", False, Thinking(), "a\\boxed{5}"),
        ("a\\boxed{5}b", True, Thinking(), None),
        ("a\\boxed{5}b</think>\\boxed{6}", True, Thinking(), "a\\boxed{5}b</think>\\boxed{6}"),
        ("a\\boxed{5}b", True, NO_THINKING, "a\\boxed{5}"),
        ("<think>\\boxed{5}b", False, NO_THINKING, "<think>\\boxed{5}"),
        ("[T]\\boxed{5}[/T]\\boxed{6}b", False, Thinking("[T]", "[/T]"), "[T]\\boxed{5}[/T]\\boxed{6}"),
        ("a\\boxed{5}b", False, Thinking(opened=True), None),
    ],
)
def test_ends_of_paths_by_hand(response, opened, thinking, ends_after):
    sizes = {"segment_length": 1, "depth": 60, "response_length": 60, "width": 1, "init_divergence": (1, 1)}
    tree = tree_of([response], opened=opened, thinking=thinking, **sizes)
    path = tree.path(tree.leaves[0])
    reason = FinishReason.EOS if ends_after is None else FinishReason.ANSWER
    assert (decode(path.response_ids), path.last.finish_reason) == (ends_after or response, reason)


# --- conversations -----------------------------------------------------------------------------------------------


class OpeningTokens(FakeTokens):
    """Chat template that begins each turn of the model after a reply with an open thought."""

    async def append(self, messages, updated, token_ids, tools):
        return [*await super().append(messages, updated, token_ids, tools), *b"<think>\n"]


def test_a_template_that_opens_a_thought_after_a_reply_counts_for_that_turn_only():
    box = list(b"\\boxed{5}")
    seen = {}

    class Sees(Recorded):
        def decide_finished(self, context):
            seen[context.turn] = (context.begins_in_thought, context.visible, context.text)
            return None

    turns = [[*box, *b"."], [*box, *b"</think>", *box, *b"."]]
    talk(
        *(Turns(*turns), Sees()), tokens=OpeningTokens(closes=False), end_token_id=None, segment_length=1, depth=60,
        response_length=200, width=1, init_divergence=(1, 1), order=tuple(FinishReason(name) for name in
        ("answer", "eos", "length", "depth")),
    )  # fmt: skip
    assert seen[1] == (False, "\\boxed{5}", "\\boxed{5}")
    assert seen[2] == (True, "\\boxed{5}", "\\boxed{5}</think>\\boxed{5}")


# --- tokens inside thoughts --------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([*PIECES, "<thi", "nk>a", "x" * 70]), max_size=12), st.booleans(), st.randoms())
def test_the_tokens_that_begin_inside_a_thought_are_counted(pieces, opened, rng):
    """Pieces are tokens, which divide some of the tags; a reply may have added any of them."""
    mask = [rng.randrange(2) for _ in pieces]
    starts = [sum(map(len, pieces[:number])) for number in range(len(pieces))]
    thinking = thinking_after(PROMPTS[opened], Thinking(), decode)
    assert thinking.opened is opened
    spans = thinking.thoughts("".join(pieces))
    inside = [any(begin <= start < end for begin, end in spans) for start in starts]
    count = thinking_tokens(range(len(pieces)), mask, thinking, lambda ids: "".join(pieces[one] for one in ids))
    assert count == sum(kept for kept, is_inside in zip(mask, inside, strict=True) if is_inside)


def test_tokens_of_replies_and_tags_are_not_counted():
    def spell(token_ids: list[int]) -> str:
        return "".join(["<think>", "so", ".</", "think", "> 5", "?", "</think>"][token] for token in token_ids)

    def count(token_ids: list[int], mask: list[int], thinking: Thinking = TAGS) -> int:
        return thinking_tokens(token_ids, mask, thinking, spell)

    assert count([0, 1, 1, 6, 1], [1] * 5) == 2
    assert count([0, 1, 1, 2, 3, 4, 1], [1] * 7) == 3  # the period belongs to the thought
    assert count([0, 1, 1, 6, 1, 0, 5, 5, 5], [1] * 9) == 5
    assert count([0, 1, 1, 5, 6], [1, 1, 0, 1, 1]) == 2
    assert count([1, 1, 6, 1], [1] * 4, Thinking(opened=True)) == 2
    assert count([1, 1], [1] * 2) == count([0, 1, 6], [1] * 3, NO_THINKING) == count([], []) == 0
    assert count([0, *[1] * 300, 6, *[5] * 100], [1] * 402) == 300
