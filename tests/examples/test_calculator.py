# SPDX-License-Identifier: Apache-2.0
"""Example calculator: known values, an oracle, hostile text, limits, and loading and calls by verl."""

import ast
import asyncio
import inspect
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from verl.tools.function_tool import load_function_tools_from_path, normalize_function_tool_return

from helpers.example_counts import examples
from helpers.load_file import load_file
from helpers.paths import ROOT
from recipe.treepo.sandbox.pool import GRACE_S
from tiny.conversations import CALCULATOR

(TOOL,) = load_function_tools_from_path(str(ROOT / "examples/calculator_tool.py"))
tool_module = inspect.getmodule(TOOL.fn)


arithmetic = load_file("examples/arithmetic.py")
LIMIT_S = tool_module.TIMEOUT_S


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise the wall-clock limit, so that a busy machine does not end calculations."""
    monkeypatch.setattr(tool_module, "TIMEOUT_S", 60.0)


def ask(expression: str) -> str:
    return asyncio.run(TOOL.call({"expression": expression}))


def cpu_seconds() -> float:
    """Return the CPU time of the calculator's workers, ended copies included."""
    times = []
    for worker in tool_module.shared_pool(tool_module.TASK_FILE, None).workers():
        fields = Path(f"/proc/{worker.process.pid}/stat").read_text().rpartition(")")[2].split()
        times += map(int, fields[11:15])
    return sum(times) / os.sysconf("SC_CLK_TCK")


VALUES = [
    ("1/3", "1/3"),
    ("2+3*4", "14"),
    ("(2+3)*4", "20"),
    ("-2**2", "-4"),
    ("2**3**2", "512"),
    ("2**-2", "1/4"),
    ("1/2 + 1/3", "5/6"),
    ("-7//2", "-4"),
    ("-7 % 3", "2"),
    ("7.5 // 2", "3"),
    ("7/2 % 1", "1/2"),
    ("+5", "5"),
    ("--5", "5"),
    ("6/3", "2"),
    ("0.1 + 0.2", "0.3"),
    ("1.25 * 4", "5"),
    ("0.5/3", "1/6"),
    ("3/8", "3/8"),
    ("3/8*1.0", "0.375"),
    ("-1/8*1.0", "-0.125"),
    (" 1_000 * 3\n", "3000"),
    ("sqrt(16)", "4"),
    ("sqrt(9/4)", "3/2"),
    ("sqrt(2)", "1.41421356237"),
    ("sqrt(10**100)", "1" + "0" * 50),
    ("8**(1/3)", "2"),
    ("8**(2/3)", "4"),
    ("(1/8)**(1/3)", "0.5"),
    ("0**(1/3)", "0"),
    ("0**(1/10**400)", "0"),
    ("0**0", "1"),
    ("0**10**400", "0"),
    ("(-1)**(10**9+1)", "-1"),
    ("abs(-3/4)", "3/4"),
    ("gcd(12, 18, 8)", "2"),
    ("lcm(4, 6)", "12"),
    ("factorial(5)", "120"),
    ("factorial(round(sqrt(5)))", "2"),
    ("factorial(0)", "1"),
    ("factorial(2000)//factorial(1999)", "2000"),
    ("comb(5, 2)", "10"),
    ("comb(2, 5)", "0"),
    ("min(3, 1/2, 2)", "1/2"),
    ("max(3, 7/2, 2)", "7/2"),
    ("round(10/3, 2)", "3.33"),
    ("round(7/2)", "4"),
    ("round(1234, -2)", "1200"),
    ("round(sqrt(2), 3)", "1.414"),
    ("floor(-7/2)", "-4"),
    ("ceil(-7/2)", "-3"),
    ("log(1000, 10)", "3"),
    ("log(2**4000, 2)", "4000"),
    ("log(1)", "0"),
    ("pi", "3.14159265359"),
    ("sin(pi/6)", "0.5"),
    ("cos(0)", "1"),
    ("tan(0)", "0"),
    ("-sin(0)", "0"),
    ("2**100000 % 7", "2"),  # 2**3 = 1 (mod 7) and 100000 = 3 * 33333 + 1
    ("2**100", "1267650600228229401496703205376"),
    ("10**99", "1" + "0" * 99),
    ("10**100", "about 1e+100"),
    ("-(2**1000)", "about -1.07150860719e+301"),
    ("1e-3", "0.001"),
    ("1e999", "about 1e+999"),
    ("-" * 498 + "1", "1"),
    ("0.30000000000000000000000000001", "0.30000000000000000000000000001"),
]
ERRORS = [
    ("1/0", "division by zero"),
    ("5 % 0", "division by zero"),
    ("0**-1", "division by zero"),
    ("2^3", "write ** for powers"),
    ("sqrt(-2)", "sqrt does not take these"),
    ("(-8)**(1/3)", "domain"),
    ("(0-sqrt(2))**0.5", "domain"),
    ("sqrt(0-sqrt(2))", "sqrt does not take these"),
    ("factorial(-1)", "factorial does not take these"),
    ("factorial(1/2)", "factorial does not take these"),
    ("gcd(sqrt(2), 2)", "gcd does not take these"),
    ("comb(-1, 2)", "comb does not take these"),
    ("log(0)", "log does not take these"),
    ("log(2, 1)", "division by zero"),
    ("round(2.5, 1001)", "too large"),
    ("round(5, -10**9)", "too large"),
    ("round(5, -1/2)", "round does not take these"),
    ("sqrt(1, 2)", "sqrt does not take these"),
    ("comb(1)", "comb does not take these"),
    ("max()", "max does not take these"),
    ("max(*(1, 2))", "'*(1, 2)' is not allowed"),
    ("log(x=2)", "not allowed"),
    ("x + 1", "'x' is not allowed"),
    ("sqrt", "'sqrt' is not allowed"),
    ("'a' * 9", "is not allowed"),
    ("True", "'True' is not allowed"),
    ("2j", "'2j' is not allowed"),
    ("(1, 2)", "'(1, 2)' is not allowed"),
    ("1 < 2", "'1 < 2' is not allowed"),
    ("1 if 2 else 3", "'1 if 2 else 3' is not allowed"),
    ("(1).real", "'(1).real' is not allowed"),
    ("x = 3", "not one arithmetic expression"),
    ("1\n2", "not one arithmetic expression"),
    ("", "not one arithmetic expression"),
    ("((((", "not one arithmetic expression"),
    ("(" * 400 + ")" * 400, "more than 500 characters"),
    ("(" * 249 + "1" + ")" * 249, "not one arithmetic expression"),
    ("1+" * 5_000 + "1", "more than 500 characters"),
    ("9**9**9", "too large"),
    ("10**10**8", "too large"),
    ("factorial(10**9)", "too large"),
    ("comb(10**9, 5*10**8)", "too large"),
    ("comb(10**9, 10**5)", "too large"),
    ("(1/3)**10**8", "too large"),
    ("2**-10**8", "too large"),
    ("1e99999", "too large"),
    ("1e" + "9" * 300, "too large"),
    ("1e-99999", "too large"),
    ("1e99999999", "too large"),
    ("1e-99999999", "too large"),
    ("lcm(101**16000, 102**16000, 103**16000)", "too large"),
    ("*".join(["(7**40000)"] * 40), "too large"),
    ("exp(1000)", "'exp(1000)' is not allowed"),
    ("sqrt(10**700+1)", "too large"),
    ("sqrt(2)**9999", "too large"),
    ("\ud800", "not one arithmetic expression"),
    ("1\0", "not one arithmetic expression"),
    ("\u4e00" * 400, "is not allowed"),
]


@pytest.mark.parametrize(("expression", "value"), VALUES)
def test_hand_worked_values(expression: str, value: str) -> None:
    assert ask(expression) == value


@pytest.mark.parametrize(("expression", "part"), ERRORS, ids=lambda text: ascii(text)[:40])
def test_any_other_text_is_one_line_with_the_error(expression: str, part: str) -> None:
    ask("1")  # starts a worker
    started = cpu_seconds()
    text = ask(expression)
    assert text.startswith("error: ") and part in text
    assert "\n" not in text and len(text) <= 256  # verl's default max_tool_response_length
    assert cpu_seconds() - started < LIMIT_S
    assert ask("1/3") == "1/3"


@pytest.mark.parametrize("value", [5, None, ["1"], {"a": 1}, True])
def test_arguments_of_another_type_are_an_error(value: object) -> None:
    assert ask(value) == "error: the expression must be a text"


def test_verl_shows_the_tool_as_the_tiny_chat_model_learned_it() -> None:
    schema = TOOL.tool_schema.model_dump(exclude_unset=True, exclude_none=True)
    assert json.dumps(schema) == json.dumps(CALCULATOR)
    assert (TOOL.name, TOOL.is_async) == ("calculator", True)
    for name in [*arithmetic.FUNCTIONS, "pi"]:
        assert re.search(rf"\b{name}\b", arithmetic.ALLOWED)
    assert normalize_function_tool_return(ask("2/6"))[0].text == "1/3"
    assert normalize_function_tool_return(ask("2/6"))[1:] == (0.0, {})


# --- oracle: Python's own evaluation of generated text, with each number in a Fraction


def _combine(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(children, st.sampled_from([" + ", "-", "*", "/", " // ", "%"]), children).map("".join),
        children.map(lambda text: f"({text})"),
        children.map(lambda text: f"-{text}"),
        st.tuples(children, st.sampled_from(["0", "1", "2", "3", "-1", "-2"])).map(
            lambda pair: f"({pair[0]})**{pair[1]}"
        ),
        st.tuples(st.sampled_from(["abs", "floor", "ceil", "round"]), children).map(
            lambda pair: f"{pair[0]}({pair[1]})"
        ),
        st.tuples(st.sampled_from(["min", "max"]), children, children).map(lambda it: f"{it[0]}({it[1]}, {it[2]})"),
    )


NUMBERS = st.integers(0, 50).map(str) | st.decimals(0, 50, places=2).map(str)
EXPRESSIONS = st.recursive(NUMBERS, _combine, max_leaves=8)


class Exact(ast.NodeTransformer):
    """Fraction whose operations return Fractions: // of two Fractions is an int, / of two ints a float."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.Call:
        return ast.Call(ast.Name("F", ast.Load()), [self.generic_visit(node)], [])


def by_python(text: str) -> Fraction:
    """Evaluate text of this test, never of a model."""
    wrapped = re.sub(r"\d+(\.\d+)?", lambda match: f"F('{match[0]}')", text)
    tree = ast.fix_missing_locations(Exact().visit(ast.parse(wrapped, mode="eval")))
    rounding = {function.__name__: lambda x, f=function: Fraction(f(x)) for function in (round, math.floor, math.ceil)}
    return eval(compile(tree, "", "eval"), {"F": Fraction} | rounding)


@examples(short=400, long=1_000)
@given(EXPRESSIONS)
@example("2-3-4")
@example("2/3/4*5")
@example("-2**2")
def test_random_expressions_agree_with_fractions(text: str) -> None:
    result = arithmetic.calculate(text)
    try:
        expected = by_python(text)
    except ZeroDivisionError:
        assert result == "error: division by zero"
        return
    if result.startswith("about "):
        assert len(str(expected)) > 100 or "." in text or "round" in text
        assert abs(Fraction(result.removeprefix("about ")) - expected) <= abs(expected) * Fraction(1, 10**11)
    else:
        assert Fraction(result) == expected


# --- hostile text

CANARY = Path(tempfile.gettempdir()) / f"treepo_calculator_{os.getpid()}"
CODE = [
    f"__import__('os').system('touch {CANARY}')",
    f"open('{CANARY}', 'w')",
    f"(lambda: open('{CANARY}', 'w'))()",
    f"[open('{CANARY}', 'w') for _ in (1,)]",
    f"max(open('{CANARY}', 'w'), 1)",
    f"f\"{{open('{CANARY}', 'w')}}\"",
    f"(y := open('{CANARY}', 'w'))",
    f"sqrt.__globals__['__builtins__']['open']('{CANARY}', 'w')",
    f"min(1, key=open('{CANARY}', 'w'))",
    f"{{**open('{CANARY}', 'w')}}",
    f"1 and open('{CANARY}', 'w')",
    "exit()",
    "().__class__.__bases__[0].__subclasses__()",
    "TOO_LARGE",
    "print(1)",
    "load()",
]


@pytest.mark.parametrize("code", CODE, ids=lambda code: code.replace(str(CANARY), "CANARY"))
def test_code_is_refused_and_never_run(code: str) -> None:
    assert ask(code).startswith("error: ")
    assert not CANARY.exists()


HOSTILE = st.one_of(
    st.text(max_size=600),
    st.text(alphabet="0123456789+-*/%().,eE_ j^", max_size=120),
    st.lists(
        st.sampled_from(
            [*"0123456789+-*/%(),.", "**", "//", "9" * 40, "1e900", "1e-900", "pi", *arithmetic.FUNCTIONS, *CODE]
        ),
        max_size=40,
    ).map("".join),
)


@examples(short=60, long=300)
@given(HOSTILE)
def test_random_text_never_raises_and_is_answered_in_time(text: str) -> None:
    ask("1")
    started = cpu_seconds()
    result = ask(text)
    assert cpu_seconds() - started < LIMIT_S
    assert result and "\n" not in result and len(result) <= 256
    assert re.fullmatch(r"(about )?-?\d[\d./]*(e[+-]\d+)?", result) or result.startswith("error: ")
    assert "takes longer" not in result and "memory" not in result  # arithmetic.py's bounds come first
    assert not CANARY.exists()


# --- limits, with tasks that have no bounds of their own

BOMBS = {
    "time": ("while True: pass", f"error: this takes longer than {LIMIT_S:g} seconds"),
    "one long C call": ("return str(3 ** 10**9)", f"error: this takes longer than {LIMIT_S:g} seconds"),
    "memory": ("return str(len(bytearray(2**30)))", "error: this takes too much memory"),
    "exception": ("raise SystemExit(0)", "error: this takes too much memory"),
    "stack": ("return (lambda f: f(f))(lambda f: f(f))", "error: this takes too much memory"),
    "killed": ("import os; os.kill(os.getpid(), 9)", "error: this takes too much memory"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_time_and_memory_end_in_an_error_and_the_worker_lives(
    bomb: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code, expected = BOMBS[bomb]
    task = tmp_path / "task.py"
    task.write_text(f"""
def run(question):
    if question["expression"] != "bomb":
        return question["expression"]
    {code}
def load():
    return run
""")
    monkeypatch.setattr(tool_module, "TASK_FILE", task)
    assert ask("before") == "before"
    (worker,) = tool_module.shared_pool(task, None).workers()
    with monkeypatch.context() as patch:
        if "longer" in expected:
            patch.setattr(tool_module, "TIMEOUT_S", LIMIT_S)
        started = time.monotonic()
        assert ask("bomb") == expected
        assert time.monotonic() - started < LIMIT_S + GRACE_S
    assert ask("after") == "after"
    assert tool_module.shared_pool(task, None).workers() == [worker]
    tool_module.shared_pool(task, None).close()


def test_many_calls_at_once_get_their_own_answers_from_few_processes() -> None:
    async def together() -> list[str]:
        return await asyncio.gather(*(TOOL.call({"expression": f"{n}**2 + 1/{n}"}) for n in range(2, 42)))

    expected = [str(Fraction(n**3 + 1, n)) for n in range(2, 42)]
    assert asyncio.run(together()) == expected
    with ThreadPoolExecutor(4) as threads:  # event loops, as of several agent-loop workers in one process
        assert list(threads.map(lambda _: asyncio.run(together()), range(4))) == [expected] * 4
    assert 1 <= len(tool_module.shared_pool(tool_module.TASK_FILE, None).workers()) <= tool_module.WORKERS


def test_the_event_loop_goes_on_while_a_calculation_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    task, enough = tmp_path / "task.py", tmp_path / "enough"
    task.write_text(f"""
import os, time
def run(question):
    while not os.path.exists({str(enough)!r}):
        time.sleep(0.01)
    return "done"
def load():
    return run
""")
    monkeypatch.setattr(tool_module, "TASK_FILE", task)

    async def beat() -> tuple[str, int]:
        call = asyncio.ensure_future(TOOL.call({"expression": "1"}))
        beats = 0
        while not call.done():
            beats += 1
            if beats == 5:
                enough.touch()
            await asyncio.sleep(0.05)
        return call.result(), beats

    result, beats = asyncio.run(beat())
    assert result == "done" and beats >= 5
    tool_module.shared_pool(task, None).close()


def test_the_workers_import_nothing_heavy() -> None:
    heavy = ["torch", "ray", "vllm", "verl", "transformers", "numpy", "sympy", "recipe"]
    code = f"""
import runpy, sys
runpy.run_path(sys.argv[1])
assert runpy.run_path(sys.argv[2])["load"]()({{"expression": "1/2"}}) == "1/2"
print(sorted({{name.split('.')[0] for name in sys.modules}} & set({heavy})))
"""
    files = [str(ROOT / "recipe/treepo/sandbox/worker.py"), str(ROOT / "examples/arithmetic.py")]
    done = subprocess.run([sys.executable, "-P", "-c", code, *files], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
