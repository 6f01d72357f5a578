# SPDX-License-Identifier: Apache-2.0
"""Compare answers in words. Standard library only."""

import re

from recipe.treepo.answers.spelling import plain

WORDS = re.compile(r"[^\W\d_]+(?:[ '-][^\W\d_]+)*")
_SHORTWORDS = frozenset("a an as at be by do if in is it no of on or so to up we".split())


def same_words(answer: str, gold: str) -> bool | None:
    """Compare words as text: a mathematics parser would read "blue" as a product of letters."""
    bare_answer, bare_gold = bare(answer), bare(gold)
    words = (
        len(bare_gold) > 1  # "a" is a word, but here a variable
        and WORDS.fullmatch(bare_gold) is not None
        and all(len(word) > 2 or word in _SHORTWORDS for word in bare_gold.split())
    )
    if words:
        return bare_answer == bare_gold
    return False if WORDS.fullmatch(bare_answer) and len(bare_answer) > 2 and not re.search(r"[A-Za-z]", gold) else None


def bare(answer: str) -> str:
    """Return words without markup and articles, in lower case; of "Yes, it is", only "yes"."""
    words = plain(answer).casefold().replace("prime numbers", "primes")
    return re.sub(r"^(?:on|at|in|the|an?) (?=\w)", "", re.sub(r"^(yes|no)[,.;:].*", r"\1", words))
