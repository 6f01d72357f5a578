# SPDX-License-Identifier: Apache-2.0
"""Recipe of the ledger model, trained on the long problems of ``tiny.ledgers``.

As for the tiny model, clean solutions come before unreliable ones. First of all, the model learns to find a step by its
letter, in problems of a few steps: without this it solved 3 to 5 % of the problems, because it guessed steps by their
position. Half of the clean problems also have few steps, from which it learns arithmetic several times faster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tiny import ledgers, plain_recipe
from tiny.problems import problem_texts
from tiny.supervision import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


RECALL_FEW = (2, 5)
"""Numbers of steps in the first phase of recall."""


@dataclass(frozen=True, kw_only=True)
class Settings(plain_recipe.Settings):
    """Settings that determine the weights."""

    steps1: int = 1500
    steps2: int = 400
    sloppy_rate: float = 0.07
    """Share of the steps of phase 2 with a method that is unreliable there."""
    lr1: float = 2e-3
    recall_steps: tuple[int, int] = (900, 300)
    """Optimizer steps of the phases of recall, of few and of all steps."""
    eval_problems: int = 100
    eval_samples: int = 4
    max_response: int = 512
    intermediate_size: int = 448
    layers: int = 5
    short_share: float = 0.5
    """Share of clean problems with few steps."""
    short_steps: tuple[int, int] = (2, 12)


def make_rows(settings: Settings) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the clean rows, the unreliable rows and the held-out rows, which share no problem."""
    seed, count = 3 * settings.seed + 2_000_000, settings.steps1 * settings.batch_size
    short = round(settings.short_share * count)
    # No unreliable methods at first: the model learns where each one belongs.
    clean = ledgers.generate_rows(short, seed, steps_range=settings.short_steps, unreliable_rate=0.0)
    clean += ledgers.generate_rows(count - short, seed, unreliable_rate=0.0, exclude=problem_texts(clean))
    size, rate = settings.steps2 * settings.batch_size, settings.sloppy_rate
    unreliable = ledgers.generate_rows(size, seed + 1, unreliable_rate=rate, exclude=problem_texts(clean))
    seen = problem_texts(clean + unreliable)
    return clean, unreliable, ledgers.generate_rows(settings.eval_problems, seed + 2, exclude=seen)


def make_recall(settings: Settings) -> list[list[dict[str, Any]]]:
    """Return the rows of both phases of recall."""
    seed, ranges = 3 * settings.seed + 1_999_990, (RECALL_FEW, (RECALL_FEW[0], ledgers.MAX_STEPS))
    return [
        ledgers.recall_rows(steps * settings.batch_size, seed + number, steps_range=steps_range)
        for number, (steps, steps_range) in enumerate(zip(settings.recall_steps, ranges, strict=True))
    ]


def make_tokenizer(settings: Settings) -> PreTrainedTokenizerBase:
    """Train the tokenizer on problems and solutions."""
    rows = ledgers.generate_rows(1000, seed=3 * settings.seed + 1_999_999)
    return plain_recipe.tokenizer_of(rows, settings)


RECIPE = Recipe(
    settings=Settings(),
    make_tokenizer=make_tokenizer,
    make_data=make_rows,
    evaluate=plain_recipe.evaluate,
    make_recall=make_recall,
)
