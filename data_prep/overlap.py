# SPDX-License-Identifier: Apache-2.0
"""Find training problems that occur in held-out evaluation sets, by shared n-grams of words; pure Python.

Problems are compared as words (`words.py`). A training problem overlaps a held-out one if they are equal, or share an
n-gram (n consecutive words) that is not a stock phrase. A held-out problem of fewer than n words matches only as a
whole.

A stock phrase is an n-gram in at least STOCK_PROBLEMS different problems of one held-out file. Example: the 13 words
"where m and n are relatively prime positive integers. Find m + n" would drop unrelated competition problems. A training
copy of a held-out problem still matches by the rest of its text. Files are counted separately, because slightly
different copies of one AIME from three publishers must not turn its text into stock phrases. A context shared by that
many problems of one file is a stock phrase, too.

Building the index and looking up a text take time linear in the words; memory grows with the held-out sets only.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from .words import word_tokens

DEFAULT_NGRAM = 13  # as in the decontamination of GPT-3's data
STOCK_PROBLEMS = 3


def ngrams(words: Sequence[str], n: int) -> Iterator[str]:
    """Yield all n-grams, their words joined by blanks."""
    for start in range(len(words) - n + 1):
        yield " ".join(words[start : start + n])


class HeldOut:
    """Index of the problems of held-out files."""

    def __init__(self, problems: Iterable[tuple[str, str]], n: int = DEFAULT_NGRAM) -> None:
        """Index (file, problem text) pairs with n-grams of `n` words, at least 1."""
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
        """Return the held-out files with a problem that this text overlaps."""
        words = word_tokens(text)
        files = set(self._whole.get(" ".join(words), ()))
        for gram in ngrams(words, self.n):
            files |= self._files_of.get(gram, set())
        return files
