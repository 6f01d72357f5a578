# SPDX-License-Identifier: Apache-2.0
"""Ends of paths. Expected values are counted by hand or found by brute force."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from helpers.example_counts import examples
from recipe.treepo.policies import PolicyContext
from recipe.treepo.search.stopping import (
    MODEL_ENDED,
    REPLACEMENT,
    RULES,
    SELF_ENDED,
    FinishReason,
    Repetition,
    RepetitionUnit,
    StoppingRules,
)

ANSWER, EOS, STOP, LENGTH, DEPTH, REPETITION = RULES
ORDER = (ANSWER, EOS, STOP, LENGTH, DEPTH, REPETITION)
END = (90, 91)  # two end tokens, as in Qwen2.5-Instruct
PIECES = ["\\boxed{", "7", "}", "Hu", "man", ": ", "n: yes", "\n\n", "x"]


def join_pieces(token_ids: list[int]) -> str:
    return "".join(PIECES[token] for token in token_ids if token < len(PIECES))


def rules(*, decode: Callable[[list[int]], str] = join_pieces, **changes) -> StoppingRules:
    return StoppingRules(
        **{"order": ORDER, "eos_token_ids": frozenset(END), "response_length": 100, "depth": 9, "decode": decode}
        | changes
    )


@dataclass
class Turn:
    """Turn with a text that does not follow from its tokens."""

    turn_ids: list[int]
    turn_text: str
    length: int = 1
    complete_segments: int = 1
    before: Callable[[], list[int]] = list

    @property
    def ids_before_turn(self) -> list[int]:
        return self.before()

    @property
    def last_token(self) -> int | None:
        return self.turn_ids[-1] if self.turn_ids else None

    @property
    def opens_box(self) -> bool:
        return "\\boxed" in self.turn_text


def reason(token_ids: list[int], *, segments: int = 1, **changes) -> FinishReason | None:
    turn = Turn(token_ids, join_pieces(token_ids), len(token_ids), segments)
    return rules(**changes).reason(turn, PolicyContext())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>It may be \\boxed{7}? Wait", None),
        ("<think>It may be \\boxed{7}.</think>So", None),
        ("<think>It may be 6.</think>So \\boxed{7}", ANSWER),
        ("It may be 6.</think>So \\boxed{7}", ANSWER),  # the prompt opened the thought
        ("<think>6</think>So \\boxed{7}. <think>But is", None),
    ],
)
def test_a_box_in_a_thought_ends_no_path(text, expected):
    assert rules().reason(Turn([8], text), PolicyContext()) is expected


# --- the rules ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token_ids", "segments", "expected"),
    [
        ([], 0, None),
        ([0, 1], 1, None),
        ([0, 1, 2], 1, ANSWER),
        ([0, 2], 1, None),  # \boxed{} holds no answer
        ([3, 90], 1, EOS),
        ([91], 1, EOS),  # the second end token, first in its segment
        ([90, 3], 1, None),  # only the last token counts
        ([3, 4, 5], 1, STOP),  # "Human: "
        ([8] * 8 + [7] * 91, 1, None),
        ([8, 7] * 50, 1, LENGTH),
        ([8], 8, None),
        ([8], 9, DEPTH),
        ([8] * 39, 1, REPETITION),  # windows of 32 begin at 8 places
        ([8] * 38, 1, None),
    ],
)
def test_each_rule_ends_its_paths(token_ids, segments, expected):
    changes = {"repetition": Repetition(window=93)} if len(token_ids) == 99 else {}
    assert reason(token_ids, segments=segments, stop_strings=("Human:",), **changes) is expected


def test_the_first_rule_that_applies_is_the_reason():
    response = [0, 1, 2, 90]  # a box, and an end token, and as long as allowed
    for first in (ANSWER, EOS, LENGTH):
        order = (first, *(rule for rule in ORDER if rule is not first))
        assert reason(response, order=order, response_length=4) is first
    assert reason(response, order=(STOP, REPETITION, DEPTH, LENGTH), response_length=5) is None


def test_an_answer_may_have_to_wait_for_an_end_token():
    assert reason([0, 1, 2], answer_needs_eos=True) is None
    assert reason([0, 1, 2, 8, 91], answer_needs_eos=True) is ANSWER
    assert reason([0, 1, 2, 8, 91], answer_needs_eos=True, order=(EOS, ANSWER, LENGTH, DEPTH)) is EOS
    assert reason([0, 1, 2, 91], answer_needs_eos=True, eos_token_ids=frozenset()) is None


def test_text_is_needed_only_where_a_rule_of_the_order_reads_it():
    assert rules(order=(LENGTH, DEPTH, ANSWER)).needs_text
    assert rules(order=(LENGTH, DEPTH, STOP), stop_strings=("x",)).needs_text
    by_tokens, by_characters = Repetition(RepetitionUnit.TOKENS), Repetition(RepetitionUnit.CHARACTERS)
    order = (LENGTH, DEPTH, EOS, REPETITION)
    assert rules(order=order, repetition=by_characters).needs_text
    assert not rules(order=order, repetition=by_tokens).needs_text
    assert not rules(order=(LENGTH, DEPTH, EOS), repetition=by_characters).needs_text
    # ... and all of it is read at each boundary for some
    assert not rules(order=(LENGTH, DEPTH, ANSWER)).reads_all_text
    assert rules(order=(LENGTH, DEPTH, ANSWER, STOP), stop_strings=("x",)).reads_all_text
    assert rules(order=order, repetition=by_characters).reads_all_text
    # needs no text
    assert rules(order=order, repetition=by_tokens).reason(Turn([8] * 39, "", 39), PolicyContext()) is REPETITION


def test_six_reasons_are_rules_and_three_of_them_the_models_own():
    assert RULES == ("answer", "eos", "stop", "length", "depth", "repetition")
    assert set(FinishReason) - set(RULES) == {"interaction", "turns", "error", "custom", "pruned"}
    assert MODEL_ENDED == {"answer", "eos", "stop"}
    assert SELF_ENDED == {"answer", "eos", "stop", "interaction", "custom"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": (EOS, LENGTH)}, "depth"),
        ({"order": (EOS, DEPTH)}, "length"),
        ({"stop_strings": ("x", "")}, "empty stop string"),
    ],
)
def test_rules_under_which_a_search_goes_wrong_are_refused(changes, message):
    with pytest.raises(AssertionError, match=message):
        rules(**changes)


# --- repetition --------------------------------------------------------------------------------------------------


def repeats_by_trying(sequence: Sequence, window: int, count: int) -> bool:
    """Compare every window with every other."""
    windows = [sequence[start : start + window] for start in range(len(sequence) - window + 1)]
    return any(sum(other == one for other in windows) >= count for one in windows)


@examples(short=250, long=500)
@given(st.lists(st.sampled_from([0, 1, 256, 65_536]), max_size=40), st.integers(1, 5), st.integers(2, 5))
def test_repeated_tokens_are_those_found_by_comparing_all_windows(token_ids, window, count):
    found = Repetition(RepetitionUnit.TOKENS, window, count).found_in(Turn(token_ids, ""))
    assert found == repeats_by_trying(token_ids, window, count)


@examples(short=250, long=500)
@given(st.text(st.sampled_from("ab\u00e9\U0001f600"), max_size=40), st.integers(1, 5), st.integers(2, 5))
def test_repeated_characters_are_those_found_by_comparing_all_windows(text, window, count):
    found = Repetition(RepetitionUnit.CHARACTERS, window, count).found_in(Turn([], text))
    assert found == repeats_by_trying(text, window, count)


@given(
    st.integers(0, 5000), st.integers(1, 40), st.integers(30, 34), st.lists(st.integers(0, 40), min_size=8, max_size=8)
)
def test_eight_copies_of_a_line_are_a_repetition_wherever_they_stand(seed, vocabulary, length, gaps):
    rng = random.Random(seed)
    line = [rng.randrange(vocabulary) for _ in range(length)]
    text = [100]
    for number, gap in enumerate(gaps):  # tokens between the lines occur only once
        text += [*line, *(1000 * (number + 1) + place for place in range(gap + 1))]
    assert Repetition().found_in(Turn(text, "")) == repeats_by_trying(text, 32, 8)
    assert Repetition().found_in(Turn(text, "")) or length < 32


# --- text, piece by piece ------------------------------------------------------------------------------------------


def byte_level_tokenizer() -> Tokenizer:
    """Train a tokenizer of some hundred tokens, as in GPT-2 and Qwen2.

    A character without a token of its own is spread over tokens for its bytes.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<end>"]
    )
    tokenizer.train_from_iterator(
        ["so the box is the sum \u00e9\u00e9 \u2705\u2705 \U0001f600 \U0001f602"] * 3, trainer
    )
    return tokenizer


def sentencepiece_tokenizer() -> Tokenizer:
    """Build a tokenizer as in Llama 2: the first token loses its space, and invalid bytes spoil their neighbors."""
    letters = ["<end>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *"abcdefghijklmnopqrstuvwxyz", "\u00e9"]
    merges = [("\u2581", "t"), ("h", "e"), ("\u2581t", "he"), ("\u2581", "s")]
    vocabulary = {token: number for number, token in enumerate([*letters, *(a + b for a, b in merges)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True))
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


TOKENIZERS = {"byte level": byte_level_tokenizer(), "sentencepiece": sentencepiece_tokenizer()}
tokenizers = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
ascii_text = st.text(st.sampled_from("the sum of x\n 12.,'{}\\<|"), max_size=60)
characters = st.characters(exclude_categories=["Cs"], exclude_characters=[REPLACEMENT, "\u2581"])
any_text = st.lists(
    st.one_of(st.sampled_from([*"the sum ", "\u00e9", "\u2705", "\U0001f600", "\U0001f602", "\u6570"]), characters),
    max_size=40,
).map("".join)
cuts = st.lists(st.integers(0, 10**6), max_size=6)


def texts_at_boundaries(stopping: StoppingRules, token_ids: list[int], cuts: list[int]) -> list[str]:
    """Return the text at the end of each segment, concatenated from the texts that segments add."""
    boundaries = [*sorted(cut % (len(token_ids) + 1) for cut in cuts), len(token_ids)]
    texts, text, start = [], "", 0
    for end in boundaries:
        text += stopping.text.added(token_ids[:end], start)
        texts.append(text)
        start = end
    return texts


@tokenizers
@examples(short=150, long=300)
@given(text=st.one_of(ascii_text, any_text), cuts=cuts, every_token=st.booleans())
def test_the_pieces_of_a_text_are_the_text(tokenizer, text, cuts, every_token):
    token_ids = tokenizer.encode(text).ids
    whole = tokenizer.decode(token_ids)
    cuts = list(range(len(token_ids))) if every_token else cuts
    texts = texts_at_boundaries(rules(decode=tokenizer.decode), token_ids, cuts)
    assert texts[-1] == whole
    assert all(whole.startswith(part) for part in texts)  # added text never changes


@examples(short=150, long=300)
@given(st.lists(st.integers(0, TOKENIZERS["byte level"].get_vocab_size() - 1), max_size=40), cuts)
def test_only_the_replacement_characters_of_invalid_bytes_are_lost(token_ids, cuts):
    decode = TOKENIZERS["byte level"].decode
    pieces = texts_at_boundaries(rules(decode=decode), token_ids, cuts)[-1]
    assert pieces.replace(REPLACEMENT, "") == decode(token_ids).replace(REPLACEMENT, "")


@tokenizers
def test_a_space_after_end_tokens_is_kept(tokenizer):
    end, first, both = tokenizer.token_to_id("<end>"), tokenizer.encode("e").ids, tokenizer.encode("e the").ids
    response = [*first, *[end] * 20]
    added = rules(decode=tokenizer.decode).text.added([*response, *both[len(first) :]], len(response))
    assert added == " the"


def test_a_boundary_costs_the_new_tokens_and_a_few_before_them():
    sizes = []

    def decode(token_ids: list[int]) -> str:
        sizes.append(len(token_ids))
        return join_pieces(token_ids)

    assert rules(decode=decode).text.added([8] * 5000 + [1] * 100, 5000) == "7" * 100
    assert sizes == [6, 106]


def test_text_that_the_new_tokens_change_is_added_from_where_it_differs():
    def decode(token_ids: list[int]) -> str:  # as clean_up_tokenization_spaces does
        return "".join("x ."[token] for token in token_ids).replace(" .", ".")

    assert rules(decode=decode).text.added([0, 1, 2], 2) == "."


# --- stop strings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token_ids", "start", "stop_strings", "expected"),
    [
        ([8, 3, 4, 5, 8], 0, ("Human:",), 4),  # x, Hu, man, ": " (the space is beyond)
        ([8, 3, 6, 8], 0, ("Human:",), None),  # "Hun: yes"
        ([3, 4, 5, 8], 2, ("x", "Human:"), 1),  # begins before the start
        ([3, 4, 5, 8], 0, ("x", "Human:"), 3),  # the earliest stop string
        ([7, 8, 3, 4], 1, ("x\n", "man", "Human"), 3),
        ([8, 7, 8], 1, ("\n\nx", "\n"), 1),
        ([8, 7], 2, ("y",), None),
        ([8, 7], 1, ("x",), 0),
        ([8, 7], 0, (), None),
    ],
)
def test_tokens_beyond_a_stop_string_do_not_count(token_ids, start, stop_strings, expected):
    stopping = rules(stop_strings=stop_strings)
    assert stopping.tokens_to_stop(token_ids, start, join_pieces(token_ids[:start])) == expected


def test_a_stop_string_may_end_in_a_character_that_began_before_the_start():
    tokenizer = TOKENIZERS["byte level"]
    stopping = rules(decode=tokenizer.decode, stop_strings=("x\U0001f6d1",))
    token_ids = tokenizer.encode("x\U0001f6d1!").ids  # at least two tokens for the sign's four bytes
    for start in range(1, len(token_ids) - 1):
        text_before = tokenizer.decode(token_ids[:start])
        assert stopping.tokens_to_stop(token_ids, start, text_before) == len(token_ids) - 1 - start


def test_stop_strings_have_no_effect_without_their_rule():
    stopping = rules(order=(EOS, LENGTH, DEPTH), stop_strings=("x",))
    assert stopping.tokens_to_stop([7, 8], 0, "") is None
    assert stopping.reason(Turn([7, 8], "\n\nx", 2), PolicyContext()) is None


@examples(short=150, long=300)
@given(
    any_text,
    st.integers(0, 10**6),
    st.lists(st.text(st.sampled_from("the s\u00e9\u2705\U0001f600"), min_size=1, max_size=3), min_size=1, max_size=3),
    st.booleans(),
)
def test_tokens_to_a_stop_string_are_those_found_by_trying_each_number(text, start, stop_strings, settled):
    decode = TOKENIZERS["byte level"].decode
    token_ids = TOKENIZERS["byte level"].encode(text).ids
    start %= len(token_ids) + 1
    stopping = rules(decode=decode, stop_strings=tuple(stop_strings))
    text_before = stopping.text.added(token_ids[:start], 0) if settled else decode(token_ids[:start])
    hits = (
        count
        for count in range(len(token_ids) - start + 1)
        if any(string in decode(token_ids[: start + count]) for string in stop_strings)
    )
    assert stopping.tokens_to_stop(token_ids, start, text_before) == next(hits, None)


def test_what_precedes_a_turn_is_read_for_a_text_with_an_answer_only():
    def fails() -> list[int]:
        raise AssertionError("read")

    assert rules().reason(Turn([8], "no box", before=fails), PolicyContext()) is None
    assert rules().reason(Turn([8], r"<think>\boxed{1}", before=fails), PolicyContext()) is None
    with pytest.raises(AssertionError, match="read"):
        rules().reason(Turn([8], r"\boxed{1}", before=fails), PolicyContext())
