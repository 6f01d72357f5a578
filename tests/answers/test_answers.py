# SPDX-License-Identifier: Apache-2.0
"""Extraction and comparison of answers as text. Expected values are written by hand."""

import re
import subprocess
import sys
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.example_counts import examples
from recipe.treepo.answers.boxes import BoxState, has_complete_box, last_boxed, scan_boxes
from recipe.treepo.answers.compare import compare_text
from recipe.treepo.answers.question import Question
from recipe.treepo.answers.spelling import normalize
from recipe.treepo.answers.statements import stated_answer
from recipe.treepo.answers.thinking import Thinking

BOXES = [
    (r"no box at all: 5", BoxState.ABSENT, ""),
    (r"\boxed{5}", BoxState.COMPLETE, "5"),
    (r"\boxed{3} then \boxed{4}.", BoxState.COMPLETE, "4"),
    (r"\boxed{\frac{1}{2}}", BoxState.COMPLETE, r"\frac{1}{2}"),
    (r"\boxed{\{1,2\}}", BoxState.COMPLETE, r"\{1,2\}"),
    (r"\boxed{a \} b}", BoxState.COMPLETE, r"a \} b"),
    (r"\boxed {7}", BoxState.COMPLETE, "7"),
    ("\\boxed\n{7}", BoxState.COMPLETE, "7"),
    (r"\\boxed{7}", BoxState.COMPLETE, "7"),  # escaped as in JSON
    (r"x \\\boxed{7}", BoxState.COMPLETE, "7"),  # a line break, then a box
    (r"\boxed{x=\boxed{3}+1}", BoxState.COMPLETE, r"x=\boxed{3}+1"),
    (r"stray } and { then \boxed{5}", BoxState.COMPLETE, "5"),
    (r"I shall use \boxed{ later. So \boxed{5}", BoxState.COMPLETE, "5"),
    (r"\boxed{}", BoxState.EMPTY, ""),
    (r"\boxed{3} or rather \boxed{ }", BoxState.EMPTY, ""),
    (r"\boxed{42", BoxState.UNCLOSED, ""),
    (r"\boxed{3} no: \boxed{\frac{1}{2}", BoxState.UNCLOSED, ""),
    (r"\boxed{5\}", BoxState.UNCLOSED, ""),
    (r"\boxed 5", BoxState.ABSENT, ""),
    (r"\boxedx{5}", BoxState.ABSENT, ""),
    ("", BoxState.ABSENT, ""),
    ("\\", BoxState.ABSENT, ""),
]


@pytest.mark.parametrize(("text", "state", "content"), BOXES)
def test_the_last_box_decides(text: str, state: BoxState, content: str) -> None:
    assert scan_boxes(text) == (state, content)
    assert last_boxed(text) == (content if state is BoxState.COMPLETE else None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{5}", True),
        (r"\boxed{5} and on \boxed{", True),
        (r"\boxed{5", False),
        (r"\boxed{\frac{1}{2}", False),
        (r"\boxed{}", False),
        (r"put it within \boxed{}. So \boxed{8}", True),
        (r"in \boxed x, \boxed {8}", True),
        ("\\boxed\n{8}", True),
        (r"\\\boxed{8}", True),  # a line break, then a box
        (r"\{\boxed{8\}", False),
        ("", False),
    ],
)
def test_a_complete_box_is_a_closed_one_with_content(text: str, expected: bool) -> None:
    assert has_complete_box(text) is expected


balanced = st.recursive(
    st.text(alphabet="ab1 +^=", max_size=5),
    lambda inner: st.lists(inner, max_size=3).map(lambda p: "{" + "".join(p) + "}"),
)


@given(before=st.text(alphabet="xy $.}", max_size=20), content=balanced, after=st.text(alphabet="xy $.}{", max_size=20))
def test_generated_nested_braces_come_back_whole(before: str, content: str, after: str) -> None:
    text = f"{before}\\boxed{{{content}}}{after}"
    assert last_boxed(text) == (content if content.strip() else None)
    assert has_complete_box(text) == bool(content.strip())


def brute_force_boxes(text: str) -> list[tuple[int, int]]:
    """Find all boxes of a text without escapes by counting braces from each one: (content start, content end)."""
    found = []
    for start in range(len(text)):
        if text.startswith("\\boxed{", start):
            depth = 0
            for end in range(start + 6, len(text)):
                depth += {"{": 1, "}": -1}.get(text[end], 0)
                if depth == 0:
                    found.append((start + 7, end))
                    break
    return found


@given(st.lists(st.sampled_from(["\\boxed{", "{", "}", "a", " "]), max_size=25).map("".join))
def test_boxes_agree_with_counting_braces_from_each_start(text: str) -> None:
    boxes = brute_force_boxes(text)
    assert has_complete_box(text) == any(text[start:end].strip() for start, end in boxes)
    start, end = max(boxes, key=lambda box: box[1], default=(None, None))
    cut_off = text.rfind("\\boxed{") + 7 not in {box[0] for box in boxes} and "\\boxed{" in text
    if boxes and not cut_off and text[start:end].strip():
        assert last_boxed(text) == text[start:end]
    if not boxes or cut_off:
        assert last_boxed(text) is None


def has_complete_box_from_the_start(text: str) -> bool:
    """Scan all of the text, escapes included, without skipping to the first box."""
    open_braces: list[tuple[int, bool]] = []  # (start of content, is a box)
    for match in re.finditer(r"\\\\?boxed\s*\{|\\[\s\S]|[{}]", text):
        token = match.group()
        if token == "{" or "boxed" in token:
            open_braces.append((match.end(), token != "{"))
        elif token == "}" and open_braces:
            start, is_box = open_braces.pop()
            if is_box and text[start : match.start()].strip():
                return True
    return False


@examples(short=1000, long=2000)
@given(
    st.lists(st.sampled_from(["\\", "{", "}", "boxed", "\\boxed", "\\boxed{", "\\boxed {", " ", "7"]), max_size=25).map(
        "".join
    )
)
def test_text_before_the_first_box_does_not_matter(text: str) -> None:
    assert has_complete_box(text) == has_complete_box_from_the_start(text)


HOSTILE = [
    *("\\", "{", "}", "\\boxed{", "\\boxed", "1,", "1", "-", "1/", " ", "\\boxed ", "1.", "$", "\\{", "\u2212"),
    *("<think>", "</think>"),
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_scanning_takes_time_in_proportion_to_the_length(piece: str) -> None:
    """CPU time at 100 and 400 kB: four times as much if linear, sixteen if quadratic.

    Takes the minimum of up to ten measurements, because other processes slow this one down.
    """

    def cpu_seconds(length: int) -> float:
        text = piece * (length // len(piece))
        started = time.process_time()
        scan_boxes(text), has_complete_box(text), stated_answer(text)
        Thinking().visible(text), Thinking().thoughts(text)
        return time.process_time() - started

    short = long = float("inf")
    for _ in range(10):
        short, long = min(short, cpu_seconds(100_000)), min(long, cpu_seconds(400_000))
        if long < 9 * short + 0.02:
            return
    raise AssertionError(f"{short:.3f} s for 100 kB, {long:.3f} s for 400 kB")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (" $5$. ", "5"),
        (r"\dfrac{1}{2}", r"\frac{1}{2}"),
        (r"\left( 3, 4 \right)", "(3, 4)"),
        ("(3,4)", "(3, 4)"),
        ("1,234", "1234"),
        (r"1{,}234", "1234"),
        (r"1,\!234", "1234"),
        ("1, 234", "1, 234"),
        ("2 3", "2 3"),
        (r"\textbf{Monday}", "Monday"),
        (r"5\text{ cm}", "5cm"),
        (r"50\%", "50%"),
        (r"\(x^2\)", "x^2"),
        (r"\boxed{6}", "6"),
        (r"1\\(2)", r"1\\(2)"),  # a line break of a matrix, not the start of a formula
        (r"1\\ 2", r"1\\2"),
        ("{1}{2}{3}", "123"),
        (r"\$5", r"\$5"),
        (r"30\degree", r"30^\circ"),
        (r"\text{}", ""),
        ("$", ""),
    ],
)
def test_normalize_drops_parts_without_meaning(raw: str, expected: str) -> None:
    assert normalize(raw) == expected


pieces = st.lists(
    st.sampled_from([*"$(){}[].,:0123 +-Ax~\\\0", "\\text{", "\\left", "\\dfrac", "\\boxed{", "\\!", "{,}", "\u2212"]),
    max_size=20,
)


@examples(short=250, long=500)
@given(st.one_of(st.text(max_size=40), pieces.map("".join)))
def test_normalize_is_idempotent(text: str) -> None:
    once = normalize(text)
    assert normalize(once) == once


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("5", "5.0", True),
        ("5", "6", False),
        ("", "5", False),
        ("(B)", "B", True),
        ("b", "B", False),
        ("yes", "Yes", True),
        ("elub", "blue", False),  # as a product of letters they would be equal
        ("on", "no", False),
        (r"\frac12", "0.5", True),
        (r"\pi", "\u03c0", True),
        ("0.33", r"\frac13", False),
        ("0.33333333", r"\frac13", False),
        (r"0.\overline{142857}", "1/7", True),  # 142857/999999
        (r"-1\frac{2}{3}", r"-\frac{5}{3}", True),
        (r"1.5\times10^{3}", "1500", True),
        (r"50\%", "0.5", True),
        ("0.5", r"5\%", False),
        ("5 in", r"5\text{ inches}", True),
        (r"5\text{ feet squared}", r"5\text{ ft}^2", True),
        (r"5\text{ m}^2", r"5\text{ m}", False),
        ("(1, 2)", "(1,2.0)", True),
        ("2,1", r"\{1,2\}", True),
        ("1,1,2", "1,2,2", False),
        ("2,1", "(1,2)", False),
        (r"\{1,2\}", "(1,2)", False),
        (r"\{(1,2)\}", "(1, 2)", True),
        (r"[1,2]", "1,2", False),
        (r"(1,2]", "(1,2)", False),
        (r"\{1,1,2\}", r"\{2,1\}", True),
        ("1,2", "1,2,3", False),
        ("3:30 p.m.", r"3:30\text{ PM}", True),
        ("3:30 AM", "3:30 PM", False),
        ("2:3", "2:3:5", False),
        ("5 to 2", "5:2", True),
        (r"\$5", r"5\text{ cents}", False),
        (r"-\$5", "-5", True),
        (r"30\text{ mph}", "30 miles per hour", True),
        ("12 apples", "12 pears", False),
        (r"x\in[2,5]", "[2,5]", True),
        ("x=5", "5.0", True),
        ("f(x)=5", "g(x)=5", None),  # another function: mathematics decides
        ("2N", "2n", False),
        (r"\text{not even}", "even", False),
        ("x<1 and x>2", r"x<1\text{ or }x>2", False),
        ("perhaps 4 or 5", "5", None),
        ("3x+2=11", "x=3", False),  # the problem is not its solution
        ("2x>6", "x>3", False),
        ("x^2-5x+6=0", "x=2, x=3", False),
        ("|x-1|<2", "-1<x<3", False),
        ("6/2=x", "x=3", None),
        ("3<x", "x>3", None),
        (r"-1<x\text{ and }x<3", "-1<x<3", None),
        ("2x-y+1=0", "y=2x+1", None),  # a line is not a solution
        ("1/0", "0", None),  # not a number
        ("x_1", "x", None),  # not a base
        (r"\sin x", "x", None),  # not a unit
        ("101_2", r"101_{\text{two}}", True),
        ("(D) 7", "D", True),
        ("(d)", "D", True),
        ("(x)", "X", False),
        ("A", "a", False),
        ("a", "A", False),
        ("(A) (B)", "A", False),
        ("5 million", "5", False),
        (r"5\text{ or more}", "5", None),
        ("5 xyz", "5", None),
        (r"5\text{ mW}", r"5\text{ MW}", False),
        ("2x=5", "5", False),  # unsolved
        ("f'(x)=2x", "2x", True),
        ("f'(x)=2x", "f(x)=2x", False),
        ("5_3", "5", False),
        ("1, 2, \\ldots, 10", "1,2,10", False),
        ("10+15", "25", False),  # not computed
        (r"\frac12+\frac13", r"\frac56", False),
        ("1+2+3", "6", False),
        ("(12)(13)", "156", None),
        (r"3 \cdot 2^5", "96", None),
        ("2^{10}-24", "1000", None),
        (r"\int_0^1 x^2 dx", r"\frac13", False),
        (r"\gcd(a,b)", r"\gcd(b,a)", None),
        (r"\{x\}", "x", False),
        (r"[x]", "x", False),
        (r"\{5\}", "5", None),
        (r"\Delta", r"\delta", False),
        (r"x\approx 3.14", "3.14", True),
        (r"x\approx 5", "5", False),
        (r"7 \approx 5", "7", False),  # not a decimal of an exact value
        (r"f(2)=5", "f(3)=5", None),
        (r"\frac{2}{3} \approx 0.667", r"\frac{2}{3}", True),
        ("(10)_{2}", "90", False),
        ("(101)_2", r"101_\text{two}", True),
        ("ABC_{16}", "BAC_{16}", False),
        (r"k\in(2,3)", "2<x<3", False),
        (r"x=1\text{ and }y=2", r"x=1\text{ or }y=2", False),
        (r"\textcolor{red}{5}", "5", True),
        ("**5**", "5", True),
        ("(D) 7", "(D) 8", False),
    ],
)
def test_text_decides_first(answer: str, gold: str, expected: bool | None) -> None:
    verdict = compare_text(answer, gold)
    assert (None if isinstance(verdict, Question) else verdict) is expected


@pytest.mark.parametrize(
    ("answer", "gold", "question"),
    [
        ("ba", "ab", ("ba", "ab")),
        (r"\sqrt{0.25}\text{ cm}", "0.5", (r"\sqrt{\frac{1}{4}}", r"\frac{1}{2}")),
        (r"x = 1.2\pi", r"\pi", (r"\frac{6}{5}\pi", r"\pi")),
        (r"\cos 60^\circ", "1/2", (r"\cos (\frac{60\pi}{180})", "1/2")),
        (r"1,000\pi", r"2\pi", (r"1000\pi", r"2\pi")),
        (r"100,200\pi", r"2,\pi", (r"100,200\pi", r"2,\pi")),  # perhaps a list
        (r"3\frac12\pi", r"2\frac{3}{2}\pi", (r"\frac{7}{2}\pi", r"2\frac{3}{2}\pi")),
        ("10+15=25", "25", ("10+15", "25")),
        (r"x<-1\text{ or }2\le x<3", r"A\cup B", (r"x<-1, 2\le x<3", r"A\cup B")),
        (r"\{x\mid x<2\}", r"(1,2)", ("x<2", "(1,2)")),
    ],
)
def test_mathematics_gets_exact_values_without_units(answer: str, gold: str, question: tuple[str, str]) -> None:
    assert compare_text(answer, gold) == Question(*question)


numbers = st.fractions(max_denominator=999).filter(lambda value: abs(value) < 10**6)


@st.composite
def spelled(draw: st.DrawFn) -> tuple[Fraction, str]:
    """Draw a fraction and one of its spellings."""
    value, factor = draw(numbers), draw(st.integers(1, 9))
    top, bottom = abs(value.numerator) * factor, value.denominator * factor
    whole, rest = divmod(top, bottom)
    ways = [f"{top}/{bottom}", f"\\frac{{{top}}}{{{bottom}}}", f"\\dfrac{{ {top} }}{{{bottom}}}"]
    ways += [f"{whole}\\frac{{{rest}}}{{{bottom}}}", f"{whole} {rest}/{bottom}"] if whole and rest else []
    ways += [f"{whole}", f"{whole}.0", f"{whole:,}"] if not rest else []
    return value, ("-" if value < 0 else "") + draw(st.sampled_from(ways))


@examples(short=250, long=500)
@given(spelled(), spelled())
def test_plain_numbers_agree_as_their_values_do(one: tuple[Fraction, str], other: tuple[Fraction, str]) -> None:
    assert compare_text(one[1], other[1]) is (one[0] == other[0])
    assert compare_text(f"${one[1]}$", f"{one[1]} ") is True


def test_answer_imports_nothing_heavy() -> None:
    code = "import sys, recipe.treepo.answers.compare; print(sorted({m.split('.')[0] for m in sys.modules} & set(%r)))"
    heavy = ["torch", "ray", "vllm", "verl", "numpy", "sympy", "math_verify", "transformers", "pandas"]
    done = subprocess.run([sys.executable, "-c", code % heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
