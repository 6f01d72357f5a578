# SPDX-License-Identifier: Apache-2.0
"""Compare answers with math-verify: the task of the processes of `verifier.py` (see `worker.py`).

math-verify passes untrusted text to SymPy, which may compute forever or take all memory.
"""

from collections.abc import Callable
from typing import Any

PRECISION = 1_000
"""Digits of the numbers that are compared."""
# Compared before the first question, so that the forked copies need not repeat the parser's one-time work.
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


def load_checker() -> Callable[[str, str], bool]:
    """Import math-verify and return a function (gold, answer) -> equal."""
    from latex2sympy2_extended import NormalizationConfig, latex2sympy, normalize_latex
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig
    from math_verify import grader, verify
    from math_verify.grader import should_treat_as_complex
    from sympy import (
        Abs,
        EmptySet,
        Expr,
        FiniteSet,
        Float,
        I,
        MatrixBase,
        Pow,
        Set,
        Symbol,
        Union,
        expand_log,
        log,
        simplify,
    )
    from sympy.core import Basic
    from sympy.logic.boolalg import Boolean, BooleanAtom

    # Use the LaTeX parser itself: math-verify's own `parse` searches the text for an answer (the last box or fraction
    # of unreadable text), drops letters such as t, h and m as units, and lowercases letters.
    normalization = NormalizationConfig(units=False, malformed_operators=True, nits=False, boxed="none")
    conversion = ConversionConfig(lowercase_symbols=False, interpret_contains_as_eq=False)

    def read(text: str) -> list[Any]:
        latex = normalize_latex(text.strip(), normalization)
        try:
            real = not should_treat_as_complex(latex)
            return [latex2sympy(latex, is_real=real, normalization_config=None, conversion_config=conversion)]
        except Exception:  # unreadable text agrees with nothing
            return []

    solve_and_compare = grader.sympy_solve_and_compare

    def compare_solutions(gold: Any, answer: Any, *options: Any) -> bool:
        """Compare solved equations; math-verify alone accepts any two without solutions."""
        solvable = all(grader.solve(side, side.free_symbols) for side in (gold, answer))
        return solvable and solve_and_compare(gold, answer, *options)

    grader.sympy_solve_and_compare = compare_solutions

    def unify(expressions: list[Any], imaginary: bool) -> list[Any]:
        """Use one real symbol per name on both sides, and the imaginary unit for i if `imaginary`."""
        unified = []
        for expression in expressions:
            if isinstance(expression, Basic | MatrixBase):
                symbols = {symbol: Symbol(symbol.name, real=True) for symbol in expression.atoms(Symbol)}
                if imaginary:
                    symbols |= {symbol: I for symbol in symbols if symbol.name in ("i", "imath")}
                try:
                    expression = expression.xreplace(symbols)
                except (TypeError, ValueError):  # for example if i is the index of a sum
                    pass
            unified.append(expression)
        return unified

    def solution_set(expression: Any) -> Set | None:
        """Return the solutions of relations in one variable, joined by "or"; None for other answers."""
        relations = expression.args if isinstance(expression, FiniteSet) else (expression,)
        if not all(isinstance(relation, Boolean) for relation in relations) or len(expression.free_symbols) != 1:
            return None
        return Union(*(relation.as_set() for relation in relations))

    def same_solutions(gold: Any, answer: Any) -> bool:
        """Return whether two relations of one variable, or a relation and a union of intervals, are the same set."""
        try:
            if isinstance(gold, Boolean) and isinstance(answer, Boolean):
                if gold.free_symbols != answer.free_symbols:
                    return False
            elif not any(isinstance(side, Union) for side in (gold, answer)):
                return False
            sets = [side if isinstance(side, Union) else solution_set(side) for side in (gold, answer)]
        except (AttributeError, NotImplementedError, TypeError, ValueError):  # SymPy cannot solve
            return False
        return sets[0] == sets[1] and sets[0] not in (None, EmptySet)

    def differ(gold: Any, answer: Any) -> bool:
        """Return whether two numbers differ by more than 10^-900 of their size; math-verify compares 50 decimals."""
        if not all(isinstance(side, Expr) and side.is_number and side.is_real for side in (gold, answer)):
            return False
        if gold.is_Rational and answer.is_Rational:
            return bool(gold != answer)
        difference = Abs((gold - answer).evalf(PRECISION))
        return bool(difference > Abs(gold.evalf(PRECISION)) * Float(10, PRECISION) ** (100 - PRECISION))

    def root_or_log(expression: Any) -> bool:
        return expression.has(log) or any(not power.exp.is_Integer for power in expression.atoms(Pow))

    def same_for_positive(gold: Any, answer: Any) -> bool:
        r"""Return whether two expressions agree for positive variables: `\sqrt{ab}` and `\sqrt{a}\sqrt{b}`.

        Only expressions that both have a root, a logarithm or a power with a variable: else `\sqrt{x^2}` would be x.
        """
        sides = [gold, answer]
        if not all(isinstance(side, Expr) and side.free_symbols and root_or_log(side) for side in sides):
            return False
        if any(side.has(Abs) for side in sides):
            return False
        positive = {symbol: Symbol(symbol.name, positive=True) for side in sides for symbol in side.free_symbols}
        gold, answer = (side.xreplace(positive) for side in sides)
        return bool(simplify(expand_log(gold - answer)) == 0)

    def check(gold: str, answer: str) -> bool:
        parsed_gold, parsed_answer = read(gold), read(answer)
        if not (parsed_gold and parsed_answer):
            return False
        # Next to j, k or n, the letter i is a vector or an index.
        imaginary = not any(
            isinstance(expression, Basic | MatrixBase) and {"j", "k", "n"} & {s.name for s in expression.atoms(Symbol)}
            for expression in (*parsed_gold, *parsed_answer)
        )
        parsed_gold, parsed_answer = unify(parsed_gold, imaginary), unify(parsed_answer, imaginary)
        # SymPy turns an equation that never holds into False, and one that always holds into True.
        if any(isinstance(expression, BooleanAtom) for expression in (*parsed_gold, *parsed_answer)):
            return False
        # Differences below 10^-precision are ignored; 15 digits, the default, would accept rounded values.
        sides = parsed_gold[0], parsed_answer[0]
        if differ(*sides):
            return False
        options = {"numeric_precision": 50, "allow_set_relation_comp": True, "timeout_seconds": None}
        return verify(parsed_gold, parsed_answer, **options) or same_solutions(*sides) or same_for_positive(*sides)

    return check


def load() -> Callable[[dict[str, str]], bool]:
    """Return a function ({"gold": text, "answer": text}) -> equal, warmed up."""
    check = load_checker()
    for gold, answer in WARM_UP:
        check(gold, answer)
    return lambda question: check(question["gold"], question["answer"])
