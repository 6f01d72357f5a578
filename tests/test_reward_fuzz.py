# SPDX-License-Identifier: Apache-2.0
"""Hostile answers and ground truths, generated: nothing hangs, crashes or is executed, and the next score is right."""

import os
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from helpers.example_counts import examples
from recipe.treepo.answers.compare import LONGEST, compare_text
from recipe.treepo.answers.spelling import normalize
from recipe.treepo.reward import METRICS, compute_score
from recipe.treepo.sandbox.pool import GRACE_S
from recipe.treepo.sandbox.verifier import get_pool

CANARY = Path(tempfile.gettempdir()) / f"treepo_canary_{os.getpid()}"
OPTIONS = {"workers": 1, "memory_mb": 256, "timeout_s": 0.25}

CODE = [
    f"__import__('os').system('touch {CANARY}')",
    f"open('{CANARY}','w')",
    f"(lambda: open('{CANARY}','w'))()",
    f"exec(\"open('{CANARY}','w')\")",
    f"\\text{{__import__('pathlib').Path('{CANARY}').touch()}}",
    f"\\input{{|touch {CANARY}}}",
    f"\\immediate\\write18{{touch {CANARY}}}",
    f"\\openout5={CANARY}",
    f"$(touch {CANARY})",
    f"`touch {CANARY}`",
    "\\def\\x{\\x\\x}\\x",
    "\\loop\\iftrue\\repeat",
    "\\newcommand{\\frac}{\\sqrt}",
    "\\catcode`\\%=12",
    "{0.__class__.__mro__}",
    "%(x)s%n%s",
    "{answer!r}",
    "().__class__.__bases__[0].__subclasses__()",
    "__import__('os').abort()",
    "exit()",
    "import os; os._exit(10)",
]
HUGE = [
    "9^{9^{9^9}}",
    "9^{9^9}",
    "2^{10^{12}}",
    "99999!",
    "10^{9}!",
    "\\binom{10^9}{10^8}",
    "\\sum_{i=1}^{10^{12}} i^i",
    "\\prod_{k=1}^{99999} k^k",
    "\\int_0^1 x^{x^x} dx",
    "0.1^{-10^{10}}",
    "\\frac{1}{0}",
    "\\sqrt[0]{2}",
    "\\lim_{x\\to\\infty} x^{x^x}",
    "1e999999999",
    "(x+y+z)^{500}",
    "\\sin(10^{10^{10}})",
    "\\begin{pmatrix}" + "1&" * 60 + "1\\end{pmatrix}^{99999}",
]
pieces = st.one_of(
    st.sampled_from(CODE + HUGE),
    st.text(max_size=8),
    st.text(alphabet=st.characters(categories=["Cs", "Cc", "Cf", "Mn"]), max_size=6),  # surrogates, controls, marks
    st.sampled_from(
        ["\\frac", "\\sqrt", "^", "_", "{", "}", "(", ")", "\\{", "\\left", "&", "\\\\", "$", "%", "|", ","]
    ),
    st.sampled_from(["7", "x", "\\pi", "=", "<", ":", "5 cm", "(A) ", "101_2", "0.\\overline{3}", "\\text{or}", "\\$"]),
)


@st.composite
def hostile(draw: st.DrawFn) -> str:
    """A text of a few pieces, perhaps repeated or nested so that it is deep or long."""
    text = "".join(draw(st.lists(pieces, min_size=1, max_size=5)))
    shape = draw(st.sampled_from(["plain", "plain", "repeated", "nested", "long"]))
    if shape == "repeated":
        return text * draw(st.integers(2, 40))
    if shape == "nested":
        opening, closing = draw(
            st.sampled_from([("{", "}"), ("(", ")"), ("\\sqrt{", "}"), ("\\frac{1}{1+", "}"), ("2^{", "}"), ("|", "|")])
        )
        depth = draw(st.integers(2, 150))
        return opening * depth + text + closing * depth
    return text + draw(st.sampled_from("9x({\\")) * 100_000 if shape == "long" else text


def children_of(pid: int) -> set[int]:
    return {
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    }


@pytest.fixture(scope="module", autouse=True)
def pool():
    """The workers of this module's settings, closed at its end."""
    pool = get_pool(workers=1, memory_mb=256)
    assert compute_score("test", r"\boxed{\sqrt{4}}", "2", **{**OPTIONS, "timeout_s": 60})["acc"] == 1.0
    yield pool
    pool.close()


def check_bounded(solution: str, gold: str, pool) -> None:
    others = children_of(os.getpid()) - {worker.process.pid for worker in pool.workers()}
    wall, cpu = time.monotonic(), time.process_time()
    result = compute_score("fuzz", solution, gold, **OPTIONS)
    # On a busy machine the wall clock says little; the worker is given up for lost after this time at the latest.
    assert time.monotonic() - wall < OPTIONS["timeout_s"] + GRACE_S + 2
    assert time.process_time() - cpu < 10
    assert set(result) == set(METRICS)
    assert all(type(value) is float for value in result.values())
    assert result["score"] == result["acc"] in (0.0, 1.0)
    # Nothing was executed: no file, and no process but the worker, whose copy is gone.
    assert not CANARY.exists()
    (worker,) = pool.workers()
    assert children_of(os.getpid()) - others == {worker.process.pid}
    assert children_of(worker.process.pid) == set()


fuzz = examples(short=25, long=120, suppress_health_check=list(HealthCheck))


@fuzz
@given(hostile())
def test_a_hostile_answer_is_bounded_and_spoils_nothing(pool, answer: str) -> None:
    check_bounded(f"So \\boxed{{{answer}}}", "5", pool)
    check_bounded(f"So \\boxed{{{answer}}}", r"\sqrt{2}", pool)
    honest = {**OPTIONS, "timeout_s": 60}
    assert compute_score("test", r"\boxed{\frac{\sqrt{8}}{2}}", r"\sqrt{2}", **honest)["acc"] == 1.0
    assert compute_score("test", r"\boxed{\frac{\sqrt{8}}{3}}", r"\sqrt{2}", **honest)["acc"] == 0.0


@fuzz
@given(hostile().filter(str.strip), hostile())
def test_a_hostile_ground_truth_is_bounded_too(pool, gold: str, answer: str) -> None:
    check_bounded(r"\boxed{\sqrt{2}}", gold, pool)
    check_bounded(answer, gold, pool)


@examples(short=60, long=300)
@given(hostile(), hostile())
def test_text_neither_fails_nor_takes_long(answer: str, gold: str) -> None:
    answer, gold = answer[:LONGEST], gold[:LONGEST]
    started = time.process_time()
    compare_text(answer, gold)
    assert compare_text(answer, answer) is (answer.strip() != "")
    assert time.process_time() - started < 20  # 1 s at most was seen on quiet cores
    once = normalize(answer[:400])
    assert normalize(once) == once


@pytest.mark.parametrize("code", CODE, ids=lambda code: code.replace(str(CANARY), "CANARY"))
def test_code_is_text(code: str) -> None:
    for solution in (f"\\boxed{{{code}}}", code, f"\\boxed{{5 {code}}}"):
        assert compute_score("test", solution, "25", **OPTIONS)["acc"] == 0.0
    assert not CANARY.exists()
