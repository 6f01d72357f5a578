# SPDX-License-Identifier: Apache-2.0
"""Conversion of source rows to verl's rows: dropped rows, prompts, filters, duplicates, overlap, split."""

from typing import Any

import pytest

from data_prep.errors import PrepError
from data_prep.options import Options
from data_prep.overlap import HeldOut
from data_prep.problems import Drop, Problem, make_problem
from data_prep.prompts import INSTRUCTION, build_prompt
from data_prep.reading import Source
from data_prep.rows import Converted, convert_rows, draw_tables
from data_prep.sets import DATA_SETS

TIR, AIME = DATA_SETS["numina_math_tir"], DATA_SETS["aime_2024"]


def make_options(**given: Any) -> Options:
    return Options(source=Source("somewhere", "train"), **({"data_source": "numina"} | given))


def make_row(problem: Any, solution: Any) -> dict[str, Any]:
    """A row in the schema of NuminaMath-TIR."""
    messages = [{"role": "user", "content": problem}, {"role": "assistant", "content": solution}]
    return {"problem": problem, "solution": solution, "messages": messages}


def good_rows(number: int) -> list[dict[str, Any]]:
    return [make_row(f"What is {n} + 1?", f"\\boxed{{{n + 1}}}") for n in range(number)]


def convert(rows: list[Any], **given: Any) -> Converted:
    arguments = {key: given.pop(key) for key in ("prompt_tokens", "held_out") if key in given}
    return convert_rows(rows, TIR, make_options(**given), **arguments)


def problems_of(result: Converted) -> list[str]:
    return [problem.text for _, problem in result.kept]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (None, Drop.MALFORMED_ROW),
        ([1, 2], Drop.MALFORMED_ROW),
        ({}, Drop.MALFORMED_ROW),
        ({"problem": "2+2?"}, Drop.MALFORMED_ROW),
        (make_row("2+2?", None), Drop.MALFORMED_ROW),
        (make_row(" ", None), Drop.MALFORMED_ROW),
        (make_row(4, r"\boxed{4}"), Drop.MALFORMED_ROW),
        (make_row("bad \ud800", r"\boxed{4}"), Drop.MALFORMED_ROW),
        (make_row("2+2?", "\ud800 \\boxed{4}"), Drop.MALFORMED_ROW),
        (make_row(" \n", r"\boxed{4}"), Drop.NO_PROBLEM),
        (make_row("2+2?", "The answer is 4."), Drop.NO_BOX),
        (make_row("2+2?", ""), Drop.NO_BOX),
        (make_row("2+2?", r"\boxed{4} or \boxed{}"), Drop.EMPTY_BOX),
        (make_row("2+2?", r"Hence \boxed{\text{Proof}}"), Drop.NO_ANSWER),
        (make_row("2+2?", r"\boxed{['4']}"), Drop.NO_ANSWER),
        (make_row('[{"role": "user", "content": "2+2?"}]', r"\boxed{4}"), Drop.JSON_TEXT),
        (make_row("[{'content': '2+2?', 'role': 'user'}]", r"\boxed{4}"), Drop.JSON_TEXT),
        (make_row("2+2?", r"\boxed{\text{ }}"), Drop.EMPTY_BOX),
        (make_row("2+2?", r"\boxed{\frac{4}{1}"), Drop.UNBALANCED_BOX),
        (make_row("2+2?", r"\boxed{3}, better \boxed{4"), Drop.UNBALANCED_BOX),
        (make_row("2+2?", r"\boxed{" + "4" * 1_001 + "}"), Drop.ANSWER_TOO_LONG),
    ],
)
def test_a_row_without_usable_answer_is_dropped_with_its_reason(row: Any, reason: Drop) -> None:
    result = convert([row])
    assert result.dropped == {reason: 1} and result.kept == []


def test_the_longest_answer_is_kept_and_one_character_more_is_too_long() -> None:
    assert make_problem("P", "4" * 1_000) == Problem("P", "4" * 1_000)
    assert make_problem("P", "4" * 1_001) is Drop.ANSWER_TOO_LONG
    assert make_problem("P", " " + "4" * 1_000 + " ") == Problem("P", "4" * 1_000)


def test_a_row_is_converted_to_verls_schema() -> None:
    row = make_row(" What is half? ", r"It is \boxed{2}, no, \boxed{ \frac{1}{2} }.")
    options = make_options(val_size=0)
    assert draw_tables(convert([None, row]).kept, TIR, options)["train"] == [
        {
            "data_source": "numina",
            "prompt": [{"role": "user", "content": f"What is half?\n\n{INSTRUCTION}"}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": r"\frac{1}{2}"},
            "extra_info": {"split": "train", "index": 1, "problem": "What is half?"},
        }
    ]


def test_templates_differ_only_in_where_the_instruction_goes() -> None:
    user = {"role": "user", "content": "P"}
    asked = {"role": "user", "content": "P\n\n" + INSTRUCTION}
    mine = {"role": "system", "content": "Be brief."}
    assert build_prompt("P", "plain") == [user]
    assert build_prompt("P", "boxed") == [asked]
    assert build_prompt("P", "system") == [{"role": "system", "content": INSTRUCTION}, user]
    assert build_prompt("P", "plain", "Be brief.") == [mine, user]
    assert build_prompt("P", "boxed", "Be brief.") == [mine, asked]
    options = make_options(val_size=0, template="plain", system_prompt="Be brief.")
    row = draw_tables(convert(good_rows(1)).kept, TIR, options)["train"][0]
    assert row["prompt"] == [mine, {"role": "user", "content": "What is 0 + 1?"}]
    assert "\\boxed{}" in INSTRUCTION


def test_examples_are_turns_before_the_problem_with_the_same_template() -> None:
    examples = [("1 + 1?", "2"), ("2 + 2?", "4")]
    turns = [
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "4"},
    ]
    mine, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "P"}
    assert build_prompt("P", "plain", None, examples) == [*turns, user]
    assert build_prompt("P", "plain", "Be brief.", examples) == [mine, *turns, user]
    asked = [message["content"] for message in build_prompt("P", "boxed", None, examples) if message["role"] == "user"]
    assert asked == [f"{text}\n\n{INSTRUCTION}" for text in ("1 + 1?", "2 + 2?", "P")]
    options = make_options(val_size=0, template="plain", example=tuple(examples))
    assert draw_tables(convert(good_rows(1)).kept, TIR, options)["train"][0]["prompt"][:-1] == turns
    assert options.record()["example"] == [["1 + 1?", "2"], ["2 + 2?", "4"]]


def test_length_limits_keep_a_prompt_of_exactly_that_length() -> None:
    rows = [make_row("12345", r"\boxed{4}")]
    assert convert(rows, template="plain", max_prompt_chars=5).dropped == {}
    assert convert(rows, template="plain", max_prompt_chars=4).dropped == {Drop.PROMPT_TOO_LONG: 1}
    assert convert(rows, max_prompt_tokens=9, prompt_tokens=lambda messages: 9).dropped == {}
    too_long = convert(rows, max_prompt_tokens=8, prompt_tokens=lambda messages: 9)
    assert too_long.dropped == {Drop.PROMPT_TOO_LONG: 1}


def test_the_option_defines_duplicates_and_the_first_stays() -> None:
    texts = ["Let $a  = 1$.", "Let $a\n= 1$. ", "let \\(a = 1\\)", "Let $a - 1$."]
    rows = [make_row(text, rf"\boxed{{{number}}}") for number, text in enumerate(texts)]
    for option, expected in (("none", "0123"), ("text", "023"), ("words", "03")):
        result = convert(rows, deduplicate=option)
        assert [problem.answer for _, problem in result.kept] == list(expected)
        assert result.dropped[Drop.DUPLICATE_PROBLEM] == 4 - len(expected)


def test_only_kept_rows_make_duplicates_and_duplicates_are_not_tokenized() -> None:
    rows = [make_row("P", "no answer"), make_row("P", r"\boxed{1}"), make_row("P", r"\boxed{2}")]
    counted: list[Any] = []

    def count(messages: Any) -> int:
        counted.append(messages)
        return 1

    result = convert(rows, max_prompt_tokens=5, prompt_tokens=count)
    assert [problem.answer for _, problem in result.kept] == ["1"] and len(counted) == 1
    assert result.dropped == {Drop.NO_BOX: 1, Drop.DUPLICATE_PROBLEM: 1}


def test_overlapping_rows_are_dropped_and_counted_per_file() -> None:
    held_out = HeldOut([("a", "What is 1 + 1?"), ("b", "What is $1+1$"), ("b", "What is 2 + 1?")])
    result = convert(good_rows(4), held_out=held_out)
    assert problems_of(result) == ["What is 0 + 1?", "What is 3 + 1?"]
    assert result.dropped == {Drop.HELD_OUT: 2} and result.overlaps == {"a": 1, "b": 2}


def indices(rows: list[dict[str, Any]]) -> list[int]:
    return [row["extra_info"]["index"] for row in rows]


def test_the_split_is_disjoint_and_val_is_independent_of_the_subset() -> None:
    kept = convert(good_rows(50)).kept
    whole = draw_tables(kept, TIR, make_options(val_size=10, seed=3))
    part = draw_tables(kept, TIR, make_options(val_size=10, seed=3, subset_size=15))
    other = draw_tables(kept, TIR, make_options(val_size=10, seed=4))
    assert sorted(indices(whole["train"]) + indices(whole["val"])) == list(range(50))
    assert indices(part["val"]) == indices(whole["val"]) == sorted(indices(whole["val"]))
    assert len(part["train"]) == 15 and set(indices(part["train"])) < set(indices(whole["train"]))
    assert indices(other["val"]) != indices(whole["val"])
    assert {row["extra_info"]["split"] for row in whole["val"]} == {"val"}
    assert list(draw_tables(kept, TIR, make_options(val_size=0))) == ["train"]


def test_an_evaluation_set_is_whole_in_source_order_or_a_seeded_part() -> None:
    kept = convert(good_rows(20)).kept
    whole = draw_tables(kept, AIME, make_options(val_size=0, seed=5))
    assert list(whole) == ["aime_2024"] and indices(whole["aime_2024"]) == list(range(20))
    assert {row["extra_info"]["split"] for row in whole["aime_2024"]} == {"test"}
    one, same, other = (
        indices(draw_tables(kept, AIME, make_options(val_size=0, seed=seed, subset_size=7))["aime_2024"])
        for seed in (5, 5, 6)
    )
    assert one == same == sorted(one) and len(one) == 7 and one != other


def test_too_few_usable_rows_is_an_error_with_both_numbers() -> None:
    kept = convert(good_rows(5)).kept
    with pytest.raises(PrepError, match=r"5 usable rows, 6 are needed. Lower --val-size or --subset-size"):
        draw_tables(kept, TIR, make_options(val_size=2, subset_size=4))
