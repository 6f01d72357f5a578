# SPDX-License-Identifier: Apache-2.0
"""Find training problems that occur in held-out evaluation sets, by shared n-grams of words; pure Python.

The rule. Problems are compared as words (data_prep.words). A training problem overlaps a held-out one where they are
equal, or share an n-gram, a run of n words, that is not a stock phrase. Hence a held-out problem of fewer than n words
matches only as a whole. A stock phrase is an n-gram that stands in STOCK_PROBLEMS or more different problems of one
held-out file: "where m and n are relatively prime positive integers. Find m + n" is 13 words, and would drop
competition problems that have nothing else in common. A training copy of a held-out problem still shares the rest of
it. Problems of different files are not counted together: three publishers' copies of one AIME, each a little different,
make no phrase stock. Where that many problems of one file share their context, it counts as a stock phrase too.

Building the index and asking it take time linear in the words; memory grows with the held-out sets only.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from .words import word_tokens

DEFAULT_NGRAM = 13  # the length that GPT-3's data was cleaned with, and many since
STOCK_PROBLEMS = 3


def ngrams(words: Sequence[str], n: int) -> Iterator[str]:
    """Yield each run of n words, joined by blanks."""
    for start in range(len(words) - n + 1):
        yield " ".join(words[start : start + n])


class HeldOut:
    """The problems of held-out files, ready to be asked."""

    def __init__(self, problems: Iterable[tuple[str, str]], n: int = DEFAULT_NGRAM) -> None:
        """Index (file, problem text) pairs; n is the length of an n-gram in words, 1 or more."""
        self.n = n
        self._whole: dict[str, set[str]] = defaultdict(set)
        for file, text in problems:
            if words := word_tokens(text):
                self._whole[" ".join(words)].add(file)
        in_problems: Counter[tuple[str, str]] = Counter()  # by n-gram and file
        self._files_of: dict[str, set[str]] = defaultdict(set)
        for whole, files in self._whole.items():
            for gram in set(ngrams(whole.split(" "), n)):
                in_problems.update((gram, file) for file in files)
                self._files_of[gram] |= files
        for gram in {gram for (gram, _), number in in_problems.items() if number >= STOCK_PROBLEMS}:
            del self._files_of[gram]

    def files_with(self, text: str) -> set[str]:
        """Return the held-out files that have a problem which this text overlaps."""
        words = word_tokens(text)
        files = set(self._whole.get(" ".join(words), ()))
        for gram in ngrams(words, self.n):
            files |= self._files_of.get(gram, set())
        return files
