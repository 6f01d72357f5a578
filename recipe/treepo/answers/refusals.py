# SPDX-License-Identifier: Apache-2.0
"""Reject answers that a mathematics parser would wrongly accept. Standard library only.

The parser solves and computes, so it would accept a copy of the problem. It also skips unknown symbols. Each rule takes
the answer and the ground truth after `tidy`, without units and without the name on the left of an equation. It returns
False, or None if it does not apply.
"""

import re
from collections.abc import Callable

from recipe.treepo.answers.lists import split_list
from recipe.treepo.answers.spelling import number_of

# Allowed on the left of a solved equation besides letters: subscripts, f^{-1} and arguments.
_ARGUMENT = re.compile(r"_(?:\{[^{}]*\}|\w)|\^\{-1\}(?=\()|(?<=[A-Za-z}])\([^()]*\)")
_ARITHMETIC = re.compile(r"[-\d+*/^!]|\\(?:frac|sqrt|cdot|times)(?![A-Za-z])")


def _unsolved_equation(answer: str, gold: str) -> bool | None:
    """Reject an unsolved equation (2x = 5 for 5) or a false one (2 = 5) if the ground truth is a value."""
    if "=" not in answer or "=" in gold:
        return None
    left = answer.partition("=")[0] if len(split_list(answer)[1]) > 1 else answer.rpartition("=")[0]
    return False if _ARITHMETIC.search(_ARGUMENT.sub("", left)) else None


_UNREAD = re.compile(
    r"(?<=[\d)]) ?_ ?(?:\{([^{}]*)\}|(\w))|(['\"])|(\\l?dots(?![A-Za-z]))|(!!)"
    r"|(?<=\d) ?([A-Za-z]) ?(?=\d)"  # a remainder, 7 R 2
    r"|(\\(?:approx|equiv|sim|simeq|cong|propto|to|mapsto|pmod)(?![A-Za-z]))"
)


def _unread_marks(answer: str, gold: str) -> bool | None:
    """Require equal marks that the parser skips: subscripts of numbers, primes, dots, relations such as ~."""
    marks, gold_marks = (["".join(groups) for groups in _UNREAD.findall(text)] for text in (answer, gold))
    return False if marks != gold_marks else None


_OPERATIONS = re.compile(
    r"\\(?:i*int|oint|sum|prod|lim|gcd|bmod|pmod|mod|det)(?![A-Za-z])|\\begin ?\{vmatrix\}"
    r"|\\text ?\{ ?(?:gcd|lcm|mod|lim|det) ?\}|\\frac ?\{ ?d(?: ?\^ ?\{?\d\}?)? ?\} ?\{ ?d ?[A-Za-z]"
)
_TERM = r"(?:\\frac(?:\{\d+\}|\d)(?:\{\d+\}|\d)|\d+(?:,\d{3})*(?:\.\d+)?(?:/\d+)?)"
_SIGN = r"[)} ]*(?:[-+*]|\\(?:times|cdot|div)(?![A-Za-z]))(?:\\\$|[-({ ])*"
# No exponents or subscripts, and no number followed by one or by a factorial.
_CHAIN = re.compile(
    rf"(?<![\d.^_])(?<![\^_]\{{){_TERM}(?:{_SIGN}{_TERM}(?![\d.]|[)}} ]*[\^!_]))+", re.ASCII
)  # fmt: skip


def _uncomputed(answer: str, gold: str) -> bool | None:
    r"""Reject an unfinished computation: the problem is not its result.

    An answer is unfinished if it has an operation (a sum, an integral, a limit, a greatest common divisor, ...) and the
    ground truth has none. If the ground truth consists of plain numbers, an answer is also unfinished if signs join
    three numbers, two of at least two digits each, or two whole numbers unless the sign is `\cdot`. `2^{10}`, `10!` and
    `3 \cdot 2^5` are notations of a number.
    """
    if _OPERATIONS.search(answer) and not _OPERATIONS.search(gold):
        return False
    if any(number_of(item) is None for item in split_list(gold)[1]):
        return None
    for chain in _CHAIN.finditer(answer):
        terms = re.findall(_TERM, chain.group(), re.ASCII)
        whole = "\\cdot" not in chain.group() and all(term.isdigit() for term in terms)
        if len(terms) > 2 or whole or all(len(re.findall(r"\d", term)) > 1 for term in terms):
            return False
    return None


REFUSALS: tuple[Callable[[str, str], bool | None], ...] = (_unsolved_equation, _unread_marks, _uncomputed)
