# SPDX-License-Identifier: Apache-2.0
"""The text behind thoughts, by hand and against an automaton that reads one character after another."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe.treepo.answers.thinking import NO_THINKING, Thinking, read_thinking, tags_in
from recipe.treepo.reward import compute_score, find_answer

TAGS = Thinking()
OPENED = Thinking(opened=True)
OTHER = Thinking("[THINK]", "[/THINK]")


@pytest.mark.parametrize(
    ("text", "thoughts", "visible"),
    [
        ("", [], ""),
        ("a", [], "a"),
        ("<think>a</think>b", ["a"], "b"),
        ("a<think>b</think>c<think>d</think>e", ["b", "d"], "e"),
        ("a</think>b", ["a"], "b"),
        ("a</think>b</think>c", ["a", "b"], "c"),
        ("a<think>b", ["b"], None),
        ("a</think>b<think>c", ["a", "c"], None),
        ("<think>a<think>b</think>c", ["a<think>b"], "c"),
        ("<think>a</think>b</think>c", ["a", "b"], "c"),
        ("<think></think><think>", ["", ""], None),
        ("<think>\n\n</think>\n\na", ["\n\n"], "\n\na"),
        ("<think", [], "<think"),
        ("<think>a</think", ["a</think"], None),
        ("<think>a</ think>b", ["a</ think>b"], None),
    ],
)
def test_thoughts_by_hand(text, thoughts, visible):
    assert [text[begin:end] for begin, end in TAGS.thoughts(text)] == thoughts
    assert TAGS.visible(text) == visible
    other = text.replace("<think>", OTHER.open).replace("</think>", OTHER.close)
    expected = visible and visible.replace("<think>", OTHER.open)
    assert OTHER.visible(other) == expected


@pytest.mark.parametrize(
    ("text", "thoughts", "visible"),
    [
        ("", [""], None),
        ("a", ["a"], None),
        ("a</think>b", ["a"], "b"),
        ("<think>a</think>b", ["<think>a"], "b"),
        ("a</think>b<think>c", ["a", "c"], None),
        ("a</think>b</think>c", ["a", "b"], "c"),
    ],
)
def test_thoughts_that_the_prompt_opened(text, thoughts, visible):
    assert [text[begin:end] for begin, end in OPENED.thoughts(text)] == thoughts
    assert OPENED.visible(text) == visible


@pytest.mark.parametrize(
    ("prompt", "opened"),
    [
        ("assistant\n<think>", True),
        ("assistant\n<think>\n", True),
        ("assistant\n<think>\n\n</think>\n\n", False),  # Qwen3 with enable_thinking=False
        ("assistant\n", False),
        ("Put your thoughts between <think> and </think>.\nassistant\n", False),
        ("", False),
    ],
)
def test_a_prompt_that_ends_with_the_tag_opens_a_thought(prompt, opened):
    assert TAGS.after(prompt) == Thinking(opened=opened)
    assert OPENED.after(prompt) == OPENED
    assert OTHER.after(prompt) == OTHER
    assert NO_THINKING.after(prompt) == NO_THINKING


def test_without_tags_all_text_is_visible():
    text = "<think>a</think>b"
    assert (NO_THINKING.visible(text), NO_THINKING.thoughts(text)) == (text, [])


PIECES = st.sampled_from(["<think>", "</think>", "a", "b c", "<", "think>", "/", "\\boxed{5}", "\\boxed{6", "}"])
TEXTS = st.lists(PIECES, max_size=12).map("".join)


def automaton(text: str, inside: bool) -> list[tuple[bool, int]]:
    """Return (inside a thought, position) for each character outside of tags, and for the end of the text.

    A closing tag outside of a thought puts everything since the last closing tag inside.
    """
    marks, at, last = [], 0, 0
    while at < len(text):
        if text.startswith("</think>", at):
            if not inside:
                marks[last:] = [(True, position) for _, position in marks[last:]]
            inside, at, last = False, at + 8, len(marks)
        elif text.startswith("<think>", at) and not inside:
            inside, at = True, at + 7
        else:
            marks.append((inside, at))
            at += 1
    return [*marks, (inside, at)]


@given(TEXTS, st.booleans())
def test_thoughts_are_those_of_an_automaton(text, opened):
    thinking = Thinking(opened=opened)
    *marks, (unfinished, _) = automaton(text, opened)
    spans = thinking.thoughts(text)
    assert all(begin <= end for begin, end in spans)
    assert all(end + len("</think>") <= begin for (_, end), (begin, _) in pairwise(spans))
    visible = thinking.visible(text)
    assert (visible is None) is unfinished
    inside = {position for begin, end in spans for position in range(begin, end)}
    assert inside == {position for is_inside, position in marks if is_inside}
    if visible is not None:
        begin = len(text) - len(visible)
        assert text.endswith(visible) and begin == (spans[-1][1] + len("</think>") if spans else 0)
        assert not any(is_inside for is_inside, position in marks if position >= begin)


@given(TEXTS, TEXTS.filter(lambda text: "think>" not in text), st.booleans())
def test_a_box_behind_a_thought_counts_as_without_it_and_one_inside_never(thought, answer, opened):
    """Thoughts hold any pieces, tags included; only a closing tag ends one."""
    thinking = Thinking(opened=opened)
    own = thought if opened else f"<think>{thought}"
    for require_box in (False, True):
        alone = find_answer(answer, require_box, NO_THINKING)
        assert find_answer(f"{own}</think>{answer}", require_box, thinking) == alone
    unfinished = own.replace("</think>", "")
    assert find_answer(unfinished, False, thinking) == find_answer(f"a</think>{unfinished}<think>", False, thinking)
    assert find_answer(unfinished, False, thinking) == (None, False)


@given(TEXTS, TEXTS.filter(lambda text: "think>" not in text))
def test_the_reward_of_a_response_is_that_of_the_text_behind_its_thoughts(thought, answer):
    for opening, extra_info in (("<think>", None), ("", {"treepo_thinking": OPENED.fields})):
        for gold in ("5", "6"):
            behind = compute_score("", answer, gold)
            assert compute_score("", f"{opening}{thought}</think>{answer}", gold, extra_info) == behind
            unfinished = f"{opening}{thought.replace('</think>', '')}"
            nothing = compute_score("", "", gold)
            assert compute_score("", unfinished, gold, extra_info) == nothing and nothing["score"] == 0.0


def test_the_tags_of_a_chat_template_are_found():
    assert tags_in("{{ '<think>\\n\\n</think>\\n\\n' }}") == TAGS
    assert tags_in("{{ content.split('</think>')[-1] }}") == TAGS  # DeepSeek-R1 removes former thoughts
    assert tags_in("{{ messages[0].content }}<think>") == TAGS
    assert tags_in("{{ messages[0].content }}") is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("off", NO_THINKING),
        (False, NO_THINKING),
        ({}, TAGS),
        ({"opened": True}, OPENED),
        ({"open": "[THINK]", "close": "[/THINK]"}, OTHER),
        (NO_THINKING.fields, NO_THINKING),
        (OPENED.fields, OPENED),
    ],
)
def test_tags_are_read_from_a_configuration(value, expected):
    assert read_thinking(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        *(True, "auto", "<think>", 1, ["<think>", "</think>"]),
        *({"start": "a"}, {"open": ""}, {"open": "a", "close": ""}, {"open": 1, "close": 2}),
        *({"open": "<t>\n", "close": "</t>"}, {"open": "a", "close": "a"}, {"open": "<t>", "close": "<t><t>"}),
        *({"opened": 1}, {"open": "", "close": "", "opened": True}),
    ],
)
def test_other_tags_are_refused(value):
    with pytest.raises(ValueError, match=r"^(must be|open|opened) "):
        read_thinking(value)
