# SPDX-License-Identifier: Apache-2.0
"""Group the trajectories of a problem by answer, for majority votes."""

from collections.abc import Callable, Sequence

from recipe.treepo.answers.spelling import normalize

# Longer answers are compared without normalization, which takes quadratic time at worst.
MAX_NORMALIZED_CHARS = 1_000


def count_votes(
    answers: Sequence[str | None], correct: Sequence[bool], same: Callable[[str, str], bool]
) -> list[int | None]:
    """Return the answer index of each trajectory, equal for equal answers; None without an answer.

    All correct answers share one index, because each equals the ground truth. A correct and a wrong answer never match.
    Wrong answers are compared by text first, then with ``same``, against one answer of each index.

    Args:
        answers: Final answers as text; None or blank for trajectories without one.
        correct: Whether each answer is correct.
        same: Whether two answers are equal; called only for answers of different text.
    """
    numbers: list[int | None] = []
    by_text: dict[tuple[bool, str], int] = {}
    firsts: list[tuple[bool, str]] = []  # correctness and first text of each index
    for answer, right in zip(answers, correct, strict=True):
        if answer is None or not answer.strip():
            numbers.append(None)
            continue
        text = normalize(answer) if len(answer) <= MAX_NORMALIZED_CHARS else answer
        number = by_text.get((right, text))
        if number is None:
            number = next(
                (
                    place
                    for place, (first_right, first) in enumerate(firsts)
                    if first_right == right and (right or same(first, answer))
                ),
                len(firsts),
            )
            if number == len(firsts):
                firsts.append((right, answer))
            by_text[right, text] = number
        numbers.append(number)
    return numbers
