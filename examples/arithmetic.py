# SPDX-License-Identifier: Apache-2.0
"""Compute an arithmetic expression: the task of `calculator_tool.py`, see `recipe/treepo/sandbox/worker.py`.

The text is parsed, never run: a walk over its syntax tree computes what is on the lists below and refuses the rest.
Numbers are exact (whole numbers, fractions, decimals as written) until a root, logarithm or angle makes them floats.
Bounds on the size of numbers, rather than the time limit, refuse most of what is too large: what a model is told
should not depend on how busy a machine is.
"""

import ast
import math
import operator
from collections.abc import Callable
from decimal import Context, Decimal, InvalidOperation
from fractions import Fraction

Number = Fraction | float

MAX_BITS = 2**17  # of numerators and denominators on the way, 39,456 digits: 2**100000 % 7 is fine, 9**9**9 is not
MAX_EXPONENT = 1_000  # of decimals as written: 1e1000
MAX_PLACES = 100  # of round(x, places)
SHOWN = 100  # characters of an exact result; a longer one is rounded, so that no tool limit cuts a number in two
SIGNIFICANT = 12  # digits of a rounded result

TOO_LARGE = "the number is too large"
ALLOWED = (
    "allowed: numbers, + - * / // % ** ( ), pi, sqrt, abs, round, floor, ceil, min, max, gcd, lcm, factorial, comb, "
    "log, sin, cos, tan"
)


class Refused(ValueError):
    """An expression that is not computed; the message says why."""


def load() -> Callable[[dict], str]:
    """Return a function ({"expression": text}) -> result or "error: ..."."""
    return lambda question: calculate(question["expression"])


def calculate(expression: str) -> str:
    """Return the value of an expression, or one line that begins with "error: "."""
    source = expression.strip()
    try:
        tree = ast.parse(source, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return f"error: this is not one arithmetic expression; {ALLOWED}"
    try:
        value = _bounded(_value(tree.body, source))
        return _shown(value, decimals=any(_asks_for_decimals(node) for node in ast.walk(tree)))
    except Refused as refusal:
        return f"error: {refusal}"
    except ZeroDivisionError:
        return "error: division by zero"
    except OverflowError:
        return f"error: {TOO_LARGE}"
    except RecursionError:
        return "error: the expression is nested too deeply"


def _asks_for_decimals(node: ast.AST) -> bool:
    return (isinstance(node, ast.Constant) and type(node.value) is float) or (
        isinstance(node, ast.Name) and node.id == "round"
    )


def _value(node: ast.expr, source: str) -> Number:
    """Compute a node. Raises Refused, ZeroDivisionError, OverflowError."""
    match node:
        case ast.Constant():
            return _constant(node, source)
        case ast.Name(id="pi"):
            return math.pi
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            value = _value(operand, source)
            return -value if isinstance(sign, ast.USub) else value
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return _bounded(OPERATORS[type(op)](_value(left, source), _value(right, source)))
        case ast.BinOp(op=ast.BitXor()):
            raise Refused("^ is not allowed, write ** for powers")
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
            function, least, most = FUNCTIONS[name]
            if not least <= len(args) <= most:
                counts = str(least) if least == most else f"{least} to {most}"
                raise Refused(f"{name} takes {counts} argument(s)")
            return _bounded(function(*(_value(arg, source) for arg in args)))
        case ast.Name(id=name) | ast.Call(func=ast.Name(id=name)):
            raise Refused(f"{name[:20]!a} is not allowed here; {ALLOWED}")
    raise Refused(f"{type(node).__name__} is not allowed; {ALLOWED}")


def _constant(node: ast.Constant, source: str) -> Fraction:
    """Return a number exactly as it is written: 0.1 is 1/10, and 1e400 no infinity."""
    if type(node.value) is int:
        return Fraction(node.value)
    if type(node.value) is not float:
        raise Refused(f"{type(node.value).__name__} values are not allowed; {ALLOWED}")
    try:
        written = Decimal(ast.get_source_segment(source, node))
    except InvalidOperation:  # an exponent beyond what even Decimal takes
        raise Refused(TOO_LARGE) from None
    if written and abs(written.adjusted()) > MAX_EXPONENT:
        raise Refused(TOO_LARGE)
    return Fraction(written)


def _bounded(value: Number | int) -> Number:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Refused(TOO_LARGE)
        return value
    if isinstance(value, complex):
        raise Refused("the result is not a real number")
    value = Fraction(value)
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > 2 * MAX_BITS:
        raise Refused(TOO_LARGE)
    return value


def _power(base: Number, exponent: Number) -> Number:
    """Compute base ** exponent; exact where both are rational and the result is, but for large roots."""
    if isinstance(base, float) or isinstance(exponent, float):
        return float(base) ** float(exponent)
    if base == 0 and exponent != 0:
        if exponent < 0:
            raise ZeroDivisionError
        return Fraction(0)
    if exponent.denominator == 1:
        # A number of b bits has at least b - 1 after the first: 1 and -1 take any exponent.
        bits = max(base.numerator.bit_length(), base.denominator.bit_length()) - 1
        if bits * abs(exponent.numerator) > MAX_BITS:
            raise Refused(TOO_LARGE)
        return base**exponent.numerator
    if base < 0:
        raise Refused("a root of a negative number is not real")
    root = _exact_root(base, exponent.denominator)
    return float(base) ** float(exponent) if root is None else _power(root, Fraction(exponent.numerator))


def _exact_root(value: Fraction, degree: int) -> Fraction | None:
    """Return the root of a number of at least 0 where it is rational."""
    roots = []
    for part in (value.numerator, value.denominator):
        root = math.isqrt(part) if degree == 2 else round(float(part) ** (1 / degree))
        if root**degree != part:
            return None
        roots.append(root)
    return Fraction(*roots)


def _sqrt(value: Number) -> Number:
    # A negative float would give a complex number, which is refused in other words.
    return _power(Fraction(value) if value < 0 else value, Fraction(1, 2))


def _whole(*values: Number) -> list[int]:
    for value in values:
        if isinstance(value, float) or value.denominator != 1:
            raise Refused(f"{_shown(value, decimals=False)} is not a whole number")
    return [value.numerator for value in values]


def _round(value: Number, places: Number = Fraction(0)) -> Number | int:
    (places,) = _whole(places)
    if abs(places) > MAX_PLACES:
        raise Refused(f"round takes at most {MAX_PLACES} places")
    return round(Fraction(value), places)


def _factorial(value: Number) -> int:
    (n,) = _whole(value)
    if n < 0:
        raise Refused("factorial of a negative number")
    if n * n.bit_length() > MAX_BITS:
        raise Refused(TOO_LARGE)
    return math.factorial(n)


def _comb(total: Number, chosen: Number) -> int:
    n, k = _whole(total, chosen)
    if n < 0 or k < 0:
        raise Refused("comb of a negative number")
    if min(n, min(k, n - k) * n.bit_length()) > MAX_BITS:
        raise Refused(TOO_LARGE)
    return math.comb(n, k)


def _lcm(*values: Number) -> int:
    multiple = 1
    for value in _whole(*values):
        multiple = _bounded(math.lcm(multiple, value)).numerator
    return multiple


def _log(value: Number, base: Number | None = None) -> float:
    if value <= 0 or (base is not None and (base <= 0 or base == 1)):
        raise Refused("log takes a number above 0 and a base above 0 other than 1")
    # Of whole numbers, math.log is also right where they are too large for floats.
    logs = [
        math.log(number) if isinstance(number, float) else math.log(number.numerator) - math.log(number.denominator)
        for number in ([value] if base is None else [value, base])
    ]
    return logs[0] if base is None else logs[0] / logs[1]


OPERATORS: dict[type, Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}
# name: (function, fewest arguments, most arguments)
FUNCTIONS: dict[str, tuple[Callable[..., Number | int], int, int]] = {
    "abs": (abs, 1, 1),
    "ceil": (math.ceil, 1, 1),
    "comb": (_comb, 2, 2),
    "cos": (math.cos, 1, 1),
    "factorial": (_factorial, 1, 1),
    "floor": (math.floor, 1, 1),
    "gcd": (lambda *values: math.gcd(*_whole(*values)), 1, 100),
    "lcm": (_lcm, 1, 100),
    "log": (_log, 1, 2),
    "max": (lambda *values: max(values), 1, 100),
    "min": (lambda *values: min(values), 1, 100),
    "round": (_round, 1, 2),
    "sin": (math.sin, 1, 1),
    "sqrt": (_sqrt, 1, 1),
    "tan": (math.tan, 1, 1),
}


def _shown(value: Number, decimals: bool) -> str:
    """Return a number as text: exact where that is short, otherwise rounded.

    Args:
        value: the number.
        decimals: whether a fraction whose decimals end is written with them (0.3) or not (3/10).
    """
    if isinstance(value, float):
        return f"{value + 0.0:.{SIGNIFICANT}g}"  # -0.0 is 0
    digits = value.numerator.bit_length() + value.denominator.bit_length()
    if digits <= 4 * SHOWN:  # bits; more than SHOWN characters for certain
        text = str(value)
        if decimals and value.denominator != 1:
            text = _decimal(value) or text
        if len(text) <= SHOWN:
            return text
    context = Context(prec=SIGNIFICANT)
    return f"about {context.divide(Decimal(value.numerator), Decimal(value.denominator)).normalize(context):g}"


def _decimal(value: Fraction) -> str | None:
    """Write a fraction as a decimal number; None where its decimals do not end."""
    rest, places = value.denominator, 0
    for prime in (2, 5):
        power = 0
        while rest % prime == 0:
            rest, power = rest // prime, power + 1
        places = max(places, power)
    if rest != 1:
        return None
    return f"{Decimal(value.numerator * 10**places // value.denominator).scaleb(-places, Context(prec=1_000)):f}"
