# SPDX-License-Identifier: Apache-2.0
"""Training runs of the study: samplers and estimators, from the same model on the same prompts."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.learning import read_arm
from benchmarks.study.tasks import TRAIN, Task, run_script

COMMON = (
    "treepo.packed_training=true",
    "trainer.save_freq=-1",
    "trainer.val_before_train=true",
    "trainer.logger=[console]",
)
METRICS = {
    "entropy": "actor/entropy",
    "mixed": "treepo/mixed_prompts",
    "length": "response_length/mean",
    "reward": "critic/score/mean",
    "gradient": "actor/grad_norm",
    "trajectories": "treepo/trajectories",
    "calls": "treepo/engine_calls",
}
"""Metrics of a step that a result keeps."""


@dataclass(frozen=True)
class Arm:
    """A sampler with an estimator.

    Attributes:
        overrides: Its settings.
        steps: Number of steps relative to plain samples, for about as many decoded tokens.
    """

    overrides: Sequence[str]
    steps: float = 1.25


def _tree(estimator: str, *overrides: str) -> Arm:
    return Arm((f"algorithm.adv_estimator={estimator}", *overrides))


_PLAIN = ("algorithm.adv_estimator=grpo", "treepo.sampler=plain")
ARMS: Mapping[str, Arm] = {
    "GRPO, plain samples": Arm(_PLAIN, steps=1.0),
    # As many tokens per step as trees of 16 trajectories, and so as many steps.
    "GRPO, 12 plain samples": Arm((*_PLAIN, "actor_rollout_ref.rollout.n=12")),
    "GRPO on trees": _tree("grpo"),
    "treepo": _tree("treepo"),
    "treepo_segment": _tree("treepo_segment"),
    "treerl": _tree("treerl"),
    "treerpo": _tree("treerpo"),
}
OPTIONS: Mapping[str, Arm] = {
    "treepo, group_size": _tree("treepo", "treepo.advantage.aggregation=group_size"),
    "treepo, no equal groups": _tree("treepo", "treepo.advantage.equal_groups=false"),
    "treepo, root 2": _tree("treepo", "treepo.init_divergence=2"),
    "treepo, root 8": _tree("treepo", "treepo.init_divergence=8"),
    "treepo, misaligned fallback": _tree("treepo", "treepo.fallback.point=least_likely_token"),
}
"""One option at a time: where a claim of the paper can be checked, and fewer and more children of the root."""


@dataclass(frozen=True)
class Curve:
    """Result of a run.

    Attributes:
        steps: Number of training steps before each validation.
        accuracies: Held-out accuracy of each validation.
        tokens: Decoded tokens before each validation.
        seconds: Training time before each validation.
        metrics: :data:`METRICS` of each training step, NaN as None.
    """

    steps: list[int]
    accuracies: list[float]
    tokens: list[float]
    seconds: list[float]
    metrics: dict[str, list[float | None]]

    def accuracy_at(self, cost: str, most: float) -> float:
        """Return the interpolated accuracy at so many ``tokens`` or ``seconds``; NaN beyond the last validation."""
        return float(np.interp(most, getattr(self, cost), self.accuracies, right=np.nan))

    def mean_accuracy(self, cost: str, most: float) -> float:
        """Return the mean accuracy over ``tokens`` or ``seconds``, from none to ``most``; NaN if the run is shorter."""
        points = np.array([*(spent for spent in getattr(self, cost) if spent < most), most])
        values = [self.accuracy_at(cost, spent) for spent in points]
        return float(np.trapezoid(values, points)) / most


def train(
    task: Task, arm: Arm, folder: Path, *overrides: str, seed: int, steps: int, validations: int, time_limit: float
) -> Curve:
    """Train an arm.

    Args:
        steps: Training steps of plain samples; arms with trees take more.
        validations: Number of validations after the first.
        time_limit: Seconds of the run.

    Raises:
        RuntimeError: if the run fails or exceeds its time limit.
    """
    own = round(steps * arm.steps)
    shutil.rmtree(folder, ignore_errors=True)  # of a run that failed
    run_script(
        TRAIN,
        task,
        folder,
        *COMMON,
        f"trainer.total_training_steps={own}",
        f"trainer.test_freq={own // validations}",
        f"trainer.default_local_dir={folder}/checkpoints",
        f"hydra.run.dir={folder}/hydra",
        "treepo.dump.dir=null",
        *overrides,
        *arm.overrides,
        seed=seed,
        time_limit=time_limit,
        EXPERIMENT=folder.name,
    )
    read = read_arm(folder.name, folder)
    return Curve(
        steps=[step for step, _ in read.validations],
        accuracies=read.accuracies,
        tokens=read.tokens,
        seconds=read.seconds,
        metrics={name: [_known(step.get(key)) for step in read.steps] for name, key in METRICS.items()},
    )


def _known(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else value
