# SPDX-License-Identifier: Apache-2.0
"""Which of a problem's trajectories give the same answer, for majority votes."""

from collections.abc import Callable, Sequence

from recipe.treepo.answers.spelling import normalize

# More characters than this are compared as they are: normalizing takes quadratic time at worst.
MAX_NORMALIZED_CHARS = 1_000


def count_votes(
    answers: Sequence[str | None], correct: Sequence[bool], same: Callable[[str, str], bool]
) -> list[int | None]:
    """Return for each trajectory the number of its answer, equal for equal answers; None where it has none.

    Correct answers equal the ground truth and so each other, and are one; a correct and a wrong one are never the
    same. The wrong ones are compared by text first, then with ``same``, each with one of every answer found so far.

    Args:
        answers: Final answers as text, None or blank for a trajectory without one.
        correct: Whether each is correct.
        same: Whether two answers mean the same; asked for pairs of different texts only.
    """
    numbers: list[int | None] = []
    by_text: dict[tuple[bool, str], int] = {}
    firsts: list[tuple[bool, str]] = []  # of each number: whether it is correct, and the first text
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
