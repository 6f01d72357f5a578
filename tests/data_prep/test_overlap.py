# SPDX-License-Identifier: Apache-2.0
"""Words of problems, and overlap with held-out problems against a brute force."""

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_prep.overlap import STOCK_PROBLEMS, HeldOut
from data_prep.words import same_words_key, word_tokens


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Find $x^2$, please!", "find x ^ 2 please !"),
        (r"\left(\dfrac{1}{2}\right) \text{ cm}", "frac 1 2 cm"),
        (r"\frac12\,\quad\!\;x \\ y", "frac 12 x y"),
        (r"It costs \$1,000 or 1{,}000{,}000 or 12,34", "it costs 1000 or 1000000 or 12 34"),
        ("x \u2212 1 \u2264 \\leq \u00d7 \\cdot", "x - 1 le le times times"),
        ("3.5 (3,5) .5 is 5. Then 1,000.25", "3.5 3 5 0.5 is 5 then 1000.25"),
        (
            "f'(2) f″ A'B' ABC' don't 'so' students'",
            "f prime 2 f prime prime a prime b prime abc prime don t so students",
        ),
        ("\\alpha' (f+g)' f^{\\prime\\prime} g^\\prime", "alpha prime f + g prime f prime prime g prime"),
        ("90^\\circ 90° $90^{\\circ}$ degrees f^\\circledast", "90 degree 90 degree 90 degree degree f ^ circledast"),
        ("x² x¹² 2½ ½", "x ^ 2 x ^ 12 2 1 / 2 1 / 2"),
        ("a ⊗ b ⟹ c", "a ⊗ b ⟹ c"),
        (r"leftover \leftarrow textual \textual", "leftover leftarrow textual textual"),
        ("Draw [asy] size(100); draw(A--B); [/asy] now [asy]x[/asy].", "draw now"),
        ("Cut [asy] off [asy] here", "cut asy off asy here"),
        ("已知 $a=1$", "已 知 a = 1"),
        ("ﬁnd ２", "find 2"),
        ("", ""),
        ("( ) , . $$", ""),
    ],
)
def test_words_are_those_of_the_rule(text: str, words: str) -> None:
    assert word_tokens(text) == words.split()


def test_operators_keep_problems_apart_and_typesetting_does_not() -> None:
    assert same_words_key("Solve $x + 1 = 0$.") == same_words_key("solve  \\(x+1=0\\)")
    assert same_words_key("Solve $x + 1 = 0$.") != same_words_key("Solve $x - 1 = 0$.")
    assert same_words_key("x_12") != same_words_key("x_{1} 2")
    assert same_words_key("()") == "()" != same_words_key("[]")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1, 2, \\ldots, n", "1, 2, …, n"),
        ("1, \\cdots, n", "1, ..., n"),
        ("A \\leqslant B \\geqslant C", "A ≤ B ≥ C"),
        ("3 \\mid n", "3 | n"),
        ("A \\cup B \\cap C", "A ∪ B ∩ C"),
        ("\\sqrt{16} \\pm 2\\pi", "√16 ± 2π"),
        ("6 \\div 2 \\cdot 3", "6 ÷ 2 · 3"),
        ("f'(x)", "f′(x)"),
        ("\\mathbb{R}", "ℝ"),
        ("x^{2} + x_{1}", "x² + x₁"),
        ("don't", "don’t"),
    ],
)
def test_a_sign_and_its_command_are_one_word(one: str, other: str) -> None:
    assert word_tokens(one) == word_tokens(other) and same_words_key(one) == same_words_key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Find A ∪ B", "Find A ∩ B"),
        ("Compute √16", "Compute 16"),
        ("Find f'(2)", "Find f(2)"),
        ("Find 6 ÷ 2", "Find 6 · 2"),
        ("x ± 1", "x 1"),
        ("Evaluate 3.5", "Evaluate (3,5)"),
        ("10:30", "10.30"),
        ("a ⊗ b", "a ⊕ b"),
        ("⌊x⌋", "⌈x⌉"),
    ],
)
def test_signs_tell_problems_apart(one: str, other: str) -> None:
    assert word_tokens(one) != word_tokens(other) and same_words_key(one) != same_words_key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Solve 2(x+3)=10", "Solve 2x+3=10"),
        ("x^{2+1}", "x^2+1"),
        ("\\sqrt{x+1}", "\\sqrt{x}+1"),
        ("\\frac{a}{b+c}", "\\frac{a}{b}+c"),
        ("[1,2]", "(1,2)"),
    ],
)
def test_brackets_tell_duplicates_apart_and_count_for_no_overlap(one: str, other: str) -> None:
    assert word_tokens(one) == word_tokens(other) and same_words_key(one) != same_words_key(other)


def test_braces_around_a_single_word_are_markup() -> None:
    assert same_words_key("{{x}} + \\text{cm} + {}3") == "x + cm + 3"
    assert same_words_key("}} {{x y}} {") == "} } { { x y } } {"  # unclosed braces stay


pieces = st.sampled_from(["x", "2", "{", "}", "(", ")", "\\{", "\\}", "[", "]", "^", "'", ".", " ", "\\sqrt", "\\left"])


@given(st.lists(pieces | st.text(max_size=3), max_size=12).map("".join))
def test_the_key_of_duplicates_is_the_words_with_brackets_between(text: str) -> None:
    key = same_words_key(text)
    brackets = {"(", ")", "[", "]", "{", "}", "\\{", "\\}"}
    words = word_tokens(text)
    assert [word for word in key.split(" ") if word not in brackets] == words or (key == text and not words)


def test_words_take_linear_time() -> None:
    pieces = (
        "[asy]",
        "$",
        "\\left",
        "1,",
        "{,}000",
        "\\\\",
        "[asy][/asy]",
        "{",
        "{a",
        "{}",
        "'",
        "\\a'",
        "^{\\prime",
        ".",
        "²",
    )
    for piece in pieces:
        started = time.process_time()
        same_words_key(piece * 100_000)
        assert time.process_time() - started < 5, piece  # of CPU time; measured: a tenth


def test_overlap_takes_linear_time() -> None:
    started = time.process_time()
    held_out = HeldOut([("file", "a b " * 50_000), ("file", " ".join(map(str, range(50_000))))], 13)
    assert held_out.files_with("b a " * 100_000) == {"file"}
    assert held_out.files_with("a c " * 100_000) == set()
    assert time.process_time() - started < 10


def overlap_by_hand(held_out: list[tuple[str, str]], text: str, n: int) -> set[str]:
    """The rule without an index: each n-gram of each problem against those of the text."""

    def grams(words: list[str]) -> list[list[str]]:
        return [words[i : i + n] for i in range(len(words)) if i + n <= len(words)]

    def is_stock_in(file: str, gram: list[str]) -> bool:
        different = {tuple(word_tokens(problem)) for name, problem in held_out if name == file}
        return sum(gram in grams(list(problem)) for problem in different) >= STOCK_PROBLEMS

    def is_stock(gram: list[str]) -> bool:
        return any(is_stock_in(file, gram) for file, _ in held_out)

    mine, found = word_tokens(text), set()
    for file, problem in held_out:
        words = word_tokens(problem)
        shared = [gram for gram in grams(words) if gram in grams(mine) and not is_stock(gram)]
        if words and (words == mine or shared):
            found.add(file)
    return found


few_words = st.lists(st.sampled_from("abc+"), max_size=9).map(" ".join)


@given(st.lists(st.tuples(st.sampled_from("fgh"), few_words), max_size=6), few_words, st.integers(1, 5))
@example([("f", "a b c"), ("g", "a b"), ("f", "b a b c")], "c a b c a", 3)
@example([("f", "a b a"), ("f", "a b b"), ("g", "a b c")], "c a b", 2)
@example([("f", "a b a"), ("f", "a b b"), ("f", "a b c"), ("g", "a b c")], "c a b", 2)
def test_overlap_is_that_of_the_brute_force(held_out: list[tuple[str, str]], text: str, n: int) -> None:
    assert HeldOut(held_out, n).files_with(text) == overlap_by_hand(held_out, text, n)


def test_a_short_held_out_problem_matches_only_as_a_whole() -> None:
    held_out = HeldOut([("short", "What is 1 + 1?")], 13)  # 6 words
    assert held_out.files_with("what is $1+1$") == {"short"}
    assert (
        held_out.files_with("First tell us: what is 1 + 1? And what is the sum of that and all of the others?") == set()
    )


def test_thirteen_words_in_a_row_are_an_overlap_and_twelve_are_none() -> None:
    words = [f"w{chr(97 + i)}" for i in range(20)]
    held_out = HeldOut([("file", " ".join(words))], 13)
    assert held_out.files_with("x " + " ".join(words[3:16]) + " y") == {"file"}
    assert held_out.files_with("x " + " ".join(words[3:15]) + " y") == set()


def test_a_stock_phrase_alone_is_not_an_overlap() -> None:
    phrase = "can be written as m/n where m and n are relatively prime positive integers. Find m+n."
    subjects = [
        "The area of a triangle with sides three, four and five",
        "The sum of all roots of that",
        "The probability",
    ]
    problems = [("aime", f"{subject} {phrase}") for subject in subjects]
    other = f"The length of the hypotenuse {phrase}"
    assert HeldOut(problems[:2], 13).files_with(other) == {"aime"}  # in two problems: not yet stock
    assert HeldOut(problems, 13).files_with(other) == set()
    for _, problem in problems:
        assert HeldOut(problems, 13).files_with(problem) == {"aime"}
    assert HeldOut(problems, 13).files_with(f"Now: {problems[0][1]}") == {"aime"}


def test_copies_of_one_problem_in_several_files_do_not_make_it_stock() -> None:
    text = "one two three four five six seven"
    held_out = HeldOut([(file, text) for file in "abcd"], 3)
    assert held_out.files_with("zero one two three") == set("abcd")


def test_copies_in_several_files_do_not_make_a_phrase_stock() -> None:
    problem = "Let ABC be a triangle with sides three, four and five, and D the midpoint of AB; find its area"
    copies = [problem, f"Problem 1. {problem} in square units", f"{problem} (AIME)"]
    held_out = [(f"file{number}", copy) for number, copy in enumerate(copies)]
    assert HeldOut(held_out).files_with(f"AMC: {problem}: (A) 6 (B) 7") == {"file0", "file1", "file2"}
    assert HeldOut([("one", copy) for copy in copies]).files_with(f"AMC: {problem}: (A) 6 (B) 7") == set()


def test_a_context_that_three_problems_of_one_file_share_is_stock() -> None:
    context = "Let f be a function from the integers to the integers that is never constant"  # 15 words
    held_out = [("file", f"{context}. Find f({number})") for number in (1, 2, 3)]
    assert HeldOut(held_out[:2]).files_with(f"{context}. Compute f(9)") == {"file"}
    assert HeldOut(held_out).files_with(f"{context}. Compute f(9)") == set()
    assert HeldOut(held_out).files_with(f"{context}. Find f(2)") == {"file"}  # equal to a held-out problem
