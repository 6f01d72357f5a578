# SPDX-License-Identifier: Apache-2.0
"""Recipe of the ledger model, trained on the long problems of ``tiny.ledgers``.

As for the tiny model, clean solutions come first and unreliable ones last. Clean problems also have few steps, from
which the model learns arithmetic and the order of the lines several times faster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tiny import ledgers, plain_recipe
from tiny.problems import problem_texts
from tiny.supervision import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Settings(plain_recipe.Settings):
    """Settings that determine the weights."""

    steps1: int = 2600
    steps2: int = 250
    sloppy_rate: float = 0.08
    """Share of the steps of phase 2 with the method that is unreliable there."""
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


def make_tokenizer(settings: Settings) -> PreTrainedTokenizerBase:
    """Train the tokenizer on problems and solutions."""
    rows = ledgers.generate_rows(1000, seed=3 * settings.seed + 1_999_999)
    return plain_recipe.tokenizer_of(rows, settings)


RECIPE = Recipe(settings=Settings(), make_tokenizer=make_tokenizer, make_data=make_rows, evaluate=plain_recipe.evaluate)
