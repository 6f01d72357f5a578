# SPDX-License-Identifier: Apache-2.0
"""Make a tiny model, the initial policy of training runs on a CPU.

    python -m tiny.make_model --out tiny/model                    about 5 minutes on two cores
    python -m tiny.make_model --chat --out tiny/chat_model        about 10 minutes on two cores
    python -m tiny.make_model --ledger --out tiny/ledger_model    about 15 minutes on two cores

All are Qwen2 models with their own tokenizers, of 0.85 M parameters, the ledger model of 1.2 M. Supervised training has
two phases: clean solutions until the model can do the arithmetic, then solutions with some sloppy steps, which have a
marker word and are mostly wrong. The ledger model first learns to find the steps of a problem. The result can do the
arithmetic but is often sloppy: at temperature 1 it solves some of the problems. Reinforcement learning can raise that
share within a few minutes on a CPU, because the model only has to unlearn the marker. ``tiny.plain_recipe``,
``tiny.chat_recipe`` and ``tiny.ledger_recipe`` define the differences.

**A run with these models shows that learning works from end to end (sampler, reward, advantage, update, weight sync).
It is not evidence about reasoning, or about the best algorithm on real problems.**

The number of steps is fixed, not the time. Rounding differs between processors and versions of torch, and so do the
weights: with 1,280 steps of phase 1, 0.30 and 0.41 of the held-out problems were right for one seed. The directory is
written under a temporary name and renamed. Its manifest holds command, settings, versions, measurements and checksums.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tiny import chat_recipe, ledger_recipe, plain_recipe
from tiny.supervision import Recipe

logger = logging.getLogger(__name__)

RECIPES: dict[str | None, Recipe[Any]] = {
    None: plain_recipe.RECIPE,
    "chat": chat_recipe.RECIPE,
    "ledger": ledger_recipe.RECIPE,
}
MODELS = {"chat": "conversations and calculator calls", "ledger": "long problems"}
NUMBERS = {
    "seed": "seed of data, weights and evaluation",
    "steps1": "steps of the clean phase",
    "steps2": "steps of the sloppy phase",
    "eval_problems": "held-out problems; 0 skips the evaluation",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Make the model; see ``--help``."""
    parser = argparse.ArgumentParser(description="Make a tiny model for training runs on a CPU.")
    parser.add_argument("--out", type=Path, required=True, help="model directory to write")
    kind = parser.add_mutually_exclusive_group()
    for name, text in MODELS.items():
        kind.add_argument(f"--{name}", action="store_const", const=name, dest="kind", help=f"make the model for {text}")
    for name, text in NUMBERS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help=f"{text} (default: as shipped)")
    args = parser.parse_args(argv)
    given = {name: value for name in NUMBERS if (value := getattr(args, name)) is not None}
    for name in given.keys() - {"seed"}:
        if given[name] < 0:
            parser.error(f"--{name.replace('_', '-')} {given[name]}: must not be negative")
    recipe = RECIPES[args.kind]
    folder = f"--{args.kind} --out tiny/{args.kind}_model" if args.kind else "--out tiny/model"
    command = f"python -m tiny.make_model {folder}"
    measured = recipe.run(args.out.absolute(), replace(recipe.settings, **given), command)
    logger.info("wrote the model to %s", args.out)
    for key, value in measured.items():
        logger.info("%-24s %s", key, f"{value:.3f}" if isinstance(value, float) else value)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    main()
