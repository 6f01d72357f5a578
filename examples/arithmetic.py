# SPDX-License-Identifier: Apache-2.0
"""Compute an arithmetic expression: the task of `calculator_tool.py` for `recipe/treepo/sandbox/worker.py`.

The text is parsed, never executed: a walk over its syntax tree computes the listed operations and refuses all others.
Numbers are exact (int and Fraction, decimals as written) until an irrational function returns a float. Bounds on the
size of numbers refuse most large computations before the time limit, so results do not depend on the machine's load.
"""

import ast
import math
import operator
import sys
from collections.abc import Callable
from decimal import Context, Decimal, Inexact
from fractions import Fraction
from functools import reduce
from typing import Any

Number = int | Fraction | float
MAX_BITS = 2**17  # bits of a power, factorial or binomial: 39,456 digits. 2**100000 % 7 is fine, 9**9**9 is not
MAX_PLACES = 1_000  # exponent of a decimal (1e1000), and places of round(x, places)
SHOWN = 100  # characters of an exact result; a longer one is rounded


def load() -> Callable[[dict], str]:
    """Return the function of the task: {"expression": text} -> result or "error: ..."."""
    return lambda question: calculate(question["expression"])


def calculate(expression: str) -> str:
    """Return the value of an expression, or one line that starts with "error: "."""
    try:
        source = expression.strip()
        value = _value(ast.parse(source, mode="eval").body, source)
        return _shown(value, decimals=any(mark in source for mark in (".", "e-", "round")))
    except (SyntaxError, UnicodeError, RecursionError, MemoryError):
        return f"error: this is not one arithmetic expression; {ALLOWED}"
    except ValueError as refusal:
        return f"error: {refusal}"
    except ZeroDivisionError:
        return "error: division by zero"
    except ArithmeticError:
        return "error: the number is too large"


def _value(node: ast.expr, source: str) -> Number:
    """Compute a node. Raises ValueError if refused, ArithmeticError if too large or divided by zero."""
    match node:
        case ast.Constant(value=value) if type(value) is int:
            return value
        case ast.Constant(value=value) if type(value) is float:
            written = Decimal(ast.get_source_segment(source, node) or "")
            return _bounded(Fraction(_limited(written, abs(written.adjusted()), MAX_PLACES)))
        case ast.Name(id="pi"):
            return math.pi
        case ast.UnaryOp(op=op, operand=operand) if type(op) in OPERATORS:
            return OPERATORS[type(op)](_value(operand, source))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return _bounded(OPERATORS[type(op)](_value(left, source), _value(right, source)))
        case ast.BinOp(op=ast.BitXor()):
            raise ValueError("^ is not allowed, write ** for powers")
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
            values = [_value(arg, source) for arg in args]
            try:
                return _bounded(FUNCTIONS[name](*values))
            except (AttributeError, TypeError, ValueError):
                raise ValueError(f"{name} does not take these arguments") from None
    raise ValueError(f"{ascii(ast.get_source_segment(source, node))[:20]} is not allowed; {ALLOWED}")


def _limited(value: Any, size: float, limit: float = MAX_BITS) -> Any:
    """Return `value` if its `size` is within the limit. Raises OverflowError."""
    if not size <= limit:
        raise OverflowError
    return value


def _bounded(value: Number) -> Number:
    """Return a result, whole numbers as int. Raises OverflowError if it is too large."""
    if isinstance(value, float):
        return _limited(value, abs(value), sys.float_info.max)
    size = max(value.numerator.bit_length(), value.denominator.bit_length())
    return _limited(value.numerator if value.denominator == 1 else value, size, 2 * MAX_BITS)


def _power(base: Number, exponent: Number) -> Number:
    """Compute base ** exponent, exactly for a whole exponent and for the root of a square."""
    if base == 0 < exponent:
        return 0
    if isinstance(exponent, int) and not isinstance(base, float):
        # Bits after the first, so that 1 and -1 allow any exponent.
        bits = max(base.numerator.bit_length(), base.denominator.bit_length()) - 1
        return Fraction(base) ** _limited(exponent, bits * abs(exponent))
    if exponent == 0.5 and base > 0 and not isinstance(base, float):
        root = Fraction(math.isqrt(base.numerator), math.isqrt(base.denominator))
        return root if root * root == base else math.pow(base, exponent)
    return math.pow(base, exponent)


OPERATORS: dict[type, Callable[..., Number]] = {
    **{ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Add: operator.add, ast.Sub: operator.sub},
    **{ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: _power},
    ast.Div: lambda a, b: a / (b if isinstance(b, float) else Fraction(b)),
}
FUNCTIONS: dict[str, Callable[..., Number]] = {
    **{"sqrt": lambda x: _power(x, 0.5), "abs": abs, "floor": math.floor, "ceil": math.ceil},
    "round": lambda x, places=0: round(Fraction(x), _limited(operator.index(places), abs(places), MAX_PLACES)),
    **{"min": lambda *values: min(values), "max": lambda *values: max(values), "gcd": math.gcd},
    "lcm": lambda *values: reduce(lambda a, b: _bounded(math.lcm(a, b)), values, 1),
    "factorial": lambda n: math.factorial(_limited(n, n * n.bit_length())),
    "comb": lambda n, k: math.comb(_limited(n, min(n, min(k, n - k) * n.bit_length())), k),
    **{"log": math.log, "sin": math.sin, "cos": math.cos, "tan": math.tan},
}
ALLOWED = f"allowed: numbers, + - * / // % ** ( ), pi, {', '.join(FUNCTIONS)}"


def _shown(value: Number, decimals: bool) -> str:
    """Return a number as text: exact up to SHOWN characters, else rounded; with `decimals`, 0.375 for 3/8."""
    if isinstance(value, float):
        return f"{value + 0.0:.12g}"  # -0.0 is 0
    context = Context(prec=SHOWN)
    quotient = context.divide(*map(Decimal, value.as_integer_ratio()))
    if value.numerator.bit_length() + value.denominator.bit_length() <= 4 * SHOWN:
        text = f"{quotient:f}" if decimals and not context.flags[Inexact] else str(value)
        if len(text) <= SHOWN:
            return text
    return f"about {Context(prec=12).plus(quotient).normalize():g}"
