# SPDX-License-Identifier: Apache-2.0
r"""Measure the answers that the reward scores per second, and the share decided by text comparison.

    python -m benchmarks.reward_speed

One process calls `compute_score` on solutions of 3,000 characters that end with a box, from one thread, then from 8
threads as in verl's reward workers. The mix resembles competition mathematics: mostly integers, right or wrong, then
fractions, lists, text, and some expressions that need math-verify. All pairs differ, because the reward caches
verdicts. Times are wall-clock times, so use an idle machine.
"""

import argparse
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from recipe.treepo.answers.boxes import last_boxed
from recipe.treepo.answers.compare import compare_text
from recipe.treepo.answers.question import Question
from recipe.treepo.evaluation.markdown import table
from recipe.treepo.reward import compute_score

Pair = tuple[str, str]


def expression(number: int) -> str:
    return rf"\frac{{{number}+\sqrt{{{number % 89 + 2}}}}}{{{number % 7 + 2}}}"


# Kind: share of the mix in percent, and a function from n to a pair of answer and ground truth.
KINDS: dict[str, tuple[int, Callable[[int], Pair]]] = {
    "integer, right": (30, lambda n: (f"{n:,}", f"{n}")),
    "integer or decimal, wrong": (30, lambda n: (f"{n + 1}.5", f"{n}")),
    "fraction": (
        12,
        lambda n: (rf"\dfrac{{{2 * n}}}{{{2 * n + 2}}}", rf"\frac{{{n}}}{{{n + 1}}}"),
    ),
    "list or tuple of numbers": (8, lambda n: (rf"({n}, \frac{{1}}{{2}})", f"({n},0.5)")),
    "choice or words": (5, lambda n: (rf"\textbf{{(C)}}\ {n}", "C")),
    "with a unit": (5, lambda n: (rf"{n}\text{{ cm}}^2", f"{n}")),
    "expression, right": (4, lambda n: (expression(n).replace(rf"{n}+", rf"{n - 1}+1+"), expression(n))),
    "expression, wrong": (4, lambda n: (expression(n), expression(n + 1))),
    "polynomial, right": (2, lambda n: (f"(x+{n})^2", f"x^2+{2 * n}x+{n * n}")),
}


def jobs_of(kind: str, count: int, first: int = 2) -> list[Pair]:
    return [KINDS[kind][1](number) for number in range(first, first + count)]


def mix(count: int, first: int) -> list[Pair]:
    """Return `count` pairs of all kinds by their shares, shuffled and numbered from `first`."""
    jobs = [job for kind, (share, _) in KINDS.items() for job in jobs_of(kind, count * share // 100, first)]
    random.Random(0).shuffle(jobs)
    return jobs


def score(job: Pair) -> float:
    return compute_score("speed", "x = 1. " * 420 + rf"Hence \boxed{{{job[0]}}}", job[1], timeout_s=60.0)["acc"]


def by_text(job: Pair) -> bool:
    answer = last_boxed(rf"\boxed{{{job[0]}}}")
    assert answer is not None
    return not isinstance(compare_text(answer, job[1]), Question)


def row(name: str, jobs: list[Pair], threads: int = 1) -> list[str]:
    """Score the pairs; return one row of the table."""
    started = time.monotonic()
    if threads == 1:
        scores = list(map(score, jobs))
    else:
        with ThreadPoolExecutor(threads) as pool:
            scores = list(pool.map(score, jobs))
    seconds = time.monotonic() - started
    text, right = sum(map(by_text, jobs)) / len(jobs), sum(scores) / len(jobs)
    return [name, f"{len(jobs)}", f"{right:.0%}", f"{text:.0%}", f"{len(jobs) / seconds:,.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=2_000, help="answers in the mix; a tenth of them for each kind")
    count = parser.parse_args().count
    score((r"\sqrt{4}", "2"))  # starts the first worker
    rows = [row(kind, jobs_of(kind, max(1, count // 10))) for kind in KINDS]
    rows += [row("the mix, one thread", mix(count, 100_000)), row("the mix, 8 threads", mix(count, 200_000), threads=8)]
    print(table(["answers", "number", "right", "decided by text", "answers per second"], rows))


if __name__ == "__main__":
    main()
