# SPDX-License-Identifier: Apache-2.0
"""Pieces of the study: each runs by itself and leaves one result file."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.common.records import save
from benchmarks.study import diversity, known_world, model_values, training
from benchmarks.study.tasks import DATA, EVALUATE, TASKS, make_data, repeated, run_script
from recipe.treepo.evaluation.machine import machine


@dataclass(frozen=True)
class Piece:
    """A piece of the study.

    Attributes:
        part: Part of the study.
        name: Its name within the part.
        settings: Arguments of ``run``, which determine the result.
        run: Returns the result for a JSON file; receives a folder for logs as ``folder``, and the settings.
    """

    part: str
    name: str
    settings: Mapping[str, Any]
    run: Callable[..., Mapping[str, Any]]

    def path(self, out: Path) -> Path:
        """Return the file of the result."""
        return out / self.part / f"{re.sub(r'[^a-z0-9]+', '_', self.name.lower())}.json"

    def is_done(self, out: Path) -> bool:
        """Return whether there is a result with these settings.

        Raises:
            ValueError: if there is a result with others.
        """
        path = self.path(out)
        if not path.exists():
            return False
        before = json.loads(path.read_text())["settings"]
        if before != json.loads(json.dumps(self.settings)):
            raise ValueError(f"{path}: has other settings: {before}. Use another --out, or delete it.")
        return True

    def do(self, out: Path, logs: Path) -> None:
        """Run the piece and write its result."""
        path = self.path(out)
        result = self.run(folder=logs / self.part / path.stem, **self.settings)
        path.parent.mkdir(parents=True, exist_ok=True)
        facts = {"part": self.part, "name": self.name, "settings": self.settings, "machine": machine()}
        save(path, {**facts, **result})


def evaluate(
    *, folder: Path, task: str, problems: int, trees: int, numbers: list[int], shapes: Mapping[str, Any]
) -> dict[str, Any]:
    """Measure the diversity of tree shapes on a task's held-out problems; an interrupted evaluation is resumed."""
    make_data(task)
    own = TASKS[task]
    data = folder / "val.parquet"
    repeated(DATA / task / "val.parquet", data, problems=problems, times=trees)
    run_script(
        EVALUATE,
        own,
        folder,
        f"evaluation.n={json.dumps(numbers, separators=(',', ':'))}",
        f"evaluation.out_dir={folder}/evaluation",
        "evaluation.keep_responses=false",
        *diversity.arms(shapes, own.depth),
        time_limit=4 * 3600.0,
        VAL_FILE=str(data),
    )
    samples, found = folder / "evaluation/samples", {}
    for shape, keys in [(diversity.PLAIN, {}), *shapes.items()]:
        found[shape] = {
            n: diversity.read_shape(samples, shape, n, problems=problems, largest=max(numbers))
            for n in numbers
            if shape == diversity.PLAIN or diversity.children(keys) <= n
        }
    return {"shapes": diversity.as_json(found)}


def world_credit(*, folder: Path, rates: list[float], n: int, trees: int, roots: Mapping[str, int]) -> dict[str, Any]:
    """Measure credit in the known world."""
    del folder
    return known_world.run(rates=rates, n=n, trees=trees, roots=roots)


def model_credit(
    *, folder: Path, task: str, numbers: list[int], problems: int, samples: int, root: int
) -> dict[str, Any]:
    """Measure credit on an embedded model."""
    del folder
    make_data(task)
    own = TASKS[task]
    model, data = own.environment["MODEL_PATH"], Path(own.environment["VAL_FILE"])
    limits = {"length": own.length, "depth": own.depth, "root": root, "problems": problems, "samples": samples}
    return {"rows": model_values.run(model, data, numbers=numbers, **limits)}


def learn(
    *, folder: Path, task: str, arm: str, seed: int, steps: int, validations: int, more: list[str]
) -> dict[str, Any]:
    """Train one arm with one seed."""
    make_data(task)
    own = {**training.ARMS, **training.OPTIONS}[arm]
    limits = {"steps": steps, "validations": validations, "time_limit": 3 * 3600}
    return asdict(training.train(TASKS[task], own, folder, *more, seed=seed, **limits))


# Better shape of trees, by the diversity part; larger groups, which leave something to share; short validations.
OVERRIDES = [
    "treepo.init_divergence=4",
    "actor_rollout_ref.rollout.n=16",
    "data.train_batch_size=8",
    "actor_rollout_ref.actor.ppo_mini_batch_size=8",
    "actor_rollout_ref.rollout.val_kwargs.n=2",
]
STEPS = 24
LEARNING = {"task": "ledger", "steps": STEPS, "validations": 6}
SEEDS, OPTION_SEEDS = range(5), range(3)


def pieces() -> Iterator[Piece]:
    """Yield all pieces, in the order in which they run."""
    for task, problems, trees, numbers in (
        ("tiny", 50, 6, [8, 16, 32]),
        ("ledger", 24, 4, [8, 16]),
        ("small", 24, 4, [8, 16, 32]),
    ):
        limits = {"task": task, "problems": problems, "trees": trees, "numbers": numbers}
        settings = {**limits, "shapes": diversity.SHAPES}
        yield Piece("diversity", task, settings, evaluate)
    for n, trees in ((8, 9600), (16, 7200), (32, 4800), (64, 3600)):
        roots = {"1": 1, "2": 2, "4": 4, "n/2": n // 2}
        settings = {"rates": [0.03, 0.08, 0.16], "n": n, "trees": trees, "roots": roots}
        yield Piece("credit", f"world n {n}", settings, world_credit)
    settings = {"task": "ledger", "numbers": [8, 16, 32, 64], "problems": 8, "samples": 16, "root": 4}
    yield Piece("credit", "model", settings, model_credit)
    for seed in SEEDS:
        for arm in training.ARMS:
            yield Piece(
                "learning", f"{arm} seed {seed}", {**LEARNING, "arm": arm, "seed": seed, "more": OVERRIDES}, learn
            )
    for seed in OPTION_SEEDS:
        for arm in training.OPTIONS:
            yield Piece(
                "options", f"{arm} seed {seed}", {**LEARNING, "arm": arm, "seed": seed, "more": OVERRIDES}, learn
            )
    for arm in ("GRPO, plain samples", "treepo"):
        longer = {"task": "ledger", "steps": 4 * STEPS, "validations": 16}
        yield Piece("stability", f"{arm} seed 0", {**longer, "arm": arm, "seed": 0, "more": OVERRIDES}, learn)


PARTS = tuple(dict.fromkeys(piece.part for piece in pieces()))
