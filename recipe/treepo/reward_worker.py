# SPDX-License-Identifier: Apache-2.0
"""Compare answers with math-verify in processes of their own; run by file path from `reward_pool`.

math-verify hands untrusted text to SymPy, which may compute for ever or take all memory. So this process imports both
once, and for each question forks a copy of itself that the kernel ends at its time limit and that cannot take more
than its memory. The worker itself never touches untrusted text and goes on, whatever becomes of a copy; and each
question meets the same fresh state, so that a verdict does not depend on what was asked before (docs/reward.md says
why this is no time-out inside one process).

It speaks JSON lines: "ready" first, then one reply per request, until end of file on standard input (the parent has
gone). It imports nothing of this repository and neither torch nor ray.
"""

import gc
import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable

# Exit statuses of a copy; any other, or a signal but SIGALRM, is a crash.
EQUAL, DIFFERENT, FAILED = 10, 11, 12
# Compared before the first question, so that what the parser builds once is not built anew in every copy.
WARM_UP = (
    (r"\frac{1}{2}", r"\sqrt{\frac{1}{4}}"),
    (r"\frac{3+\sqrt{5}}{2}", r"\frac{3}{2}+\frac{\sqrt{5}}{2}"),
    (r"\frac{3+\sqrt{5}}{2}", r"\frac{2+\sqrt{7}}{3}"),
    (r"\sqrt[3]{54}", r"3\cdot 2^{1/3}"),
    ("(x+1)^2", "x^2+2x+1"),
    ("(x+2)(x-3)", "x^2-x+6"),
    (r"\frac{x^2-1}{y}", r"\frac{(x-1)(x+1)}{y}"),
    (r"\left[0,\frac{1}{2}\right)", r"0\le x<\frac{2}{4}"),
    (r"(-\infty,-1)\cup(2,\infty)", r"x<-1, x>2"),
    (r"\{1,\pi\}", r"\pi, 1"),
    (r"(\sqrt{2},-1)", r"(\frac{2}{\sqrt{2}},-1)"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\3\end{pmatrix}"),
    ("y=2x+1", "2x-y+1=0"),
    (r"\frac{\pi}{6}+\ln 2", r"\frac{\pi}{6}-\ln\frac{1}{2}"),
    (r"\sin\frac{\pi}{6}+e^{i\pi}", r"-\frac{1}{2}"),
    (r"\binom{6}{2}+4!", "39"),
    (r"|x-1|", r"\log_2 x"),
)


def limit_memory(extra_bytes: int) -> None:
    """Cap the address space at what is mapped now plus `extra_bytes`, so what importing needs comes on top."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        mapped = int(statm.read().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = mapped + extra_bytes
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def load_checker() -> Callable[[str, str], bool]:
    """Import math-verify and return a function (gold, answer) -> equal."""
    from latex2sympy2_extended import NormalizationConfig, latex2sympy, normalize_latex
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig
    from math_verify import grader, verify
    from math_verify.grader import should_treat_as_complex
    from sympy import I, MatrixBase, Set, Symbol
    from sympy.core import Basic
    from sympy.logic.boolalg import Boolean, BooleanAtom

    # The LaTeX parser itself: math-verify's own `parse` searches the text for an answer (the last box or fraction of
    # what it cannot read), drops letters such as t, h and m as units, and takes capitals for small letters.
    normalization = NormalizationConfig(units=False, malformed_operators=True, nits=False, boxed="none")
    conversion = ConversionConfig(lowercase_symbols=False, interpret_contains_as_eq=False)

    def read(text: str) -> list:
        latex = normalize_latex(text.strip(), normalization)
        try:
            real = not should_treat_as_complex(latex)
            return [latex2sympy(latex, is_real=real, normalization_config=None, conversion_config=conversion)]
        except Exception:  # what cannot be read agrees with nothing
            return []

    solve_and_compare = grader.sympy_solve_and_compare

    def compare_solutions(gold, answer, *options) -> bool:
        """Compare solved equations; math-verify takes any two without solutions for equal."""
        solvable = all(grader.solve(side, side.free_symbols) for side in (gold, answer))
        return solvable and solve_and_compare(gold, answer, *options)

    grader.sympy_solve_and_compare = compare_solutions

    def unify(expressions: list, imaginary: bool) -> list:
        """Let one name be one symbol on both sides, whichever the parser took it for, and i the imaginary unit."""
        unified = []
        for expression in expressions:
            if isinstance(expression, Basic | MatrixBase):
                symbols = {symbol: Symbol(symbol.name, real=True) for symbol in expression.atoms(Symbol)}
                if imaginary:
                    symbols |= {symbol: I for symbol in symbols if symbol.name in ("i", "imath")}
                try:
                    expression = expression.xreplace(symbols)
                except (TypeError, ValueError):  # i is the index of a sum, for instance
                    pass
            unified.append(expression)
        return unified

    def solution_set(expressions: list) -> tuple[Symbol, Set] | None:
        """Return variable and solutions of the relations of one variable in a parsed answer."""
        relation = expressions[0]
        if not isinstance(relation, Boolean) or len(relation.free_symbols) != 1:
            return None
        return relation.free_symbols.pop(), relation.as_set()

    def same_solutions(gold: list, answer: list) -> bool:
        try:
            solutions, gold_solutions = solution_set(answer), solution_set(gold)
        except (AttributeError, NotImplementedError, TypeError, ValueError):  # what SymPy raises where it cannot solve
            return False
        return solutions is not None and solutions == gold_solutions and not solutions[1].is_empty

    def check(gold: str, answer: str) -> bool:
        parsed_gold, parsed_answer = read(gold), read(answer)
        if not (parsed_gold and parsed_answer):
            return False
        # With a letter j beside it, or as an index, i is a vector or a number.
        imaginary = not any(
            isinstance(expression, Basic | MatrixBase) and {"j", "k", "n"} & {s.name for s in expression.atoms(Symbol)}
            for expression in (*parsed_gold, *parsed_answer)
        )
        parsed_gold, parsed_answer = unify(parsed_gold, imaginary), unify(parsed_answer, imaginary)
        # SymPy turns any equation that cannot hold into False, and any that always holds into True.
        if any(isinstance(expression, BooleanAtom) for expression in (*parsed_gold, *parsed_answer)):
            return False
        # Differences below 10^-precision count as none; 15 digits, the default, are what rounded values have.
        options = {"numeric_precision": 50, "allow_set_relation_comp": True, "timeout_seconds": None}
        return verify(parsed_gold, parsed_answer, **options) or same_solutions(parsed_gold, parsed_answer)

    return check


def answer_in_copy(request: dict, check: Callable[[str, str], bool]) -> dict:
    """Fork a copy that answers one request; return {"verdict": "equal", "different", "timeout" or "crash"}."""
    copy = os.fork()
    if copy == 0:
        status = FAILED
        try:
            # The default action of SIGALRM ends the copy inside the kernel, also when a long C call holds the
            # interpreter, and also where nobody is left to wait for it.
            signal.setitimer(signal.ITIMER_REAL, request["timeout_s"])
            os.close(0)
            os.closerange(3, 64)  # a pipe kept open here would hide from the parent that the worker died
            status = EQUAL if check(request["gold"], request["answer"]) else DIFFERENT
        except BaseException:  # whatever a hostile answer provokes
            status = FAILED
        finally:
            os._exit(status)
    _, wait_status = os.waitpid(copy, 0)
    if os.WIFSIGNALED(wait_status):
        return {"verdict": "timeout" if os.WTERMSIG(wait_status) == signal.SIGALRM else "crash"}
    return {"verdict": {EQUAL: "equal", DIFFERENT: "different"}.get(os.WEXITSTATUS(wait_status), "crash")}


def serve(memory_bytes: int) -> int:
    """Answer requests until standard input ends; return the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    logging.disable(logging.CRITICAL)
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever a library prints must not be taken for a reply

    def reply(message: dict) -> None:
        replies.write(json.dumps(message).encode("ascii") + b"\n")

    try:
        check = load_checker()
        for gold, answer in WARM_UP:
            check(gold, answer)
        limit_memory(memory_bytes)
    except Exception as error:
        reply({"failed": f"{type(error).__name__}: {error}"})
        return 1
    # A copy shares the worker's memory until it writes to it; a garbage collection would write to all of it.
    gc.collect()
    gc.freeze()
    gc.disable()
    reply({"ready": True})
    for line in sys.stdin.buffer:
        reply(answer_in_copy(json.loads(line), check))
    return 0


if __name__ == "__main__":
    sys.exit(serve(int(sys.argv[1])))
