# SPDX-License-Identifier: Apache-2.0
"""The sums of a run and its summary."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from recipe.treepo.console.metric_tail import StepRecord
from recipe.treepo.console.table import duration, held_out, mean_held_out

# Number of data sources that a summary lists by name.
LISTED_SOURCES = 8


@dataclass(slots=True)
class Totals:
    """Sums over the steps of a run.

    Attributes:
        steps: Number of training steps seen.
        last_step: Number of the last step; in a resumed run it includes earlier steps.
        reward_errors: Number of trajectories without a finite reward.
        lost: Number of trajectories that were drawn but not sampled.
        dump_failures: Number of lines of tree dumps that could not be written.
        first_held_out, last_held_out: Validation scores by data source.
    """

    steps: int = 0
    last_step: int = 0
    trajectories: float = 0.0
    decoded_tokens: float = 0.0
    total_tokens: float = 0.0
    has_trees: bool = False
    reward_errors: float = 0.0
    lost: float = 0.0
    dump_failures: float = 0.0
    first_held_out: dict[str, float] = field(default_factory=dict)
    last_held_out: dict[str, float] = field(default_factory=dict)
    validations: int = 0

    def add(self, record: StepRecord) -> None:
        """Count a step, or a validation before training."""
        metrics = record.metrics
        self.last_step = max(self.last_step, record.step)
        self.reward_errors += sum(metrics.get(f"{group}/reward_errors", 0.0) for group in ("treepo", "val-aux"))
        if scores := held_out(metrics):
            self.first_held_out = self.first_held_out or scores
            self.last_held_out = scores
            self.validations += 1
        if not is_training(record):
            return
        self.steps += 1
        self.lost += metrics.get("treepo/lost_trajectories", 0.0)
        self.dump_failures = metrics.get("treepo/dump_failures", self.dump_failures)  # of the run so far
        self.trajectories += metrics.get("treepo/trajectories", 0.0)
        self.decoded_tokens += metrics.get("treepo/decoded_tokens", 0.0)
        self.total_tokens += metrics.get("treepo/total_tokens", 0.0)
        self.has_trees |= "treepo/fallbacks_per_prompt" in metrics


def is_training(record: StepRecord) -> bool:
    """Distinguish a training step from a validation before training; in a resumed run the latter's number is not 0."""
    return any(not key.startswith("val-") for key in record.metrics)


def outcome(totals: Totals, seconds: float) -> str:
    """Return the result of a finished run in one line."""
    done = f"{totals.steps:,} step{'' if totals.steps == 1 else 's'}, {duration(seconds)}"
    if totals.validations:
        done = f"{held_out_change(totals)} in {done}"
    if totals.trajectories:
        done += f"; {totals.trajectories:,.0f} trajectories for {totals.decoded_tokens:,.0f} decoded tokens"
        if totals.has_trees and totals.total_tokens:
            done += f" ({totals.decoded_tokens / totals.total_tokens:.2f} of independent sampling)"
    return f"done: {done}"


def held_out_change(totals: Totals) -> str:
    """Return ``held-out 0.468 -> 0.710``, the mean over data sources."""
    first, last = _mean(totals.first_held_out), _mean(totals.last_held_out)
    return f"held-out {first:.3f} -> {last:.3f}" if totals.validations > 1 else f"held-out {last:.3f}"


def _mean(scores: Mapping[str, float]) -> float:
    return sum(scores.values()) / len(scores)


def _by_source(totals: Totals) -> str:
    first, last = totals.first_held_out, totals.last_held_out
    parts = [
        f"{source} {first[source]:.3f} -> {score:.3f}" if source in first else f"{source} {score:.3f}"
        for source, score in last.items()
    ]
    more = len(parts) - LISTED_SOURCES
    return ", ".join(parts[:LISTED_SOURCES]) + (f", and {more} more" if more > 0 else "")


def summary(totals: Totals, seconds: float, notes: Sequence[tuple[str, str]]) -> list[str]:
    """Return the lines of a summary.

    Args:
        notes: Name and text of each further line.
    """
    return [outcome(totals, seconds), *note_lines(_all_notes(totals, notes))]


def _all_notes(totals: Totals, notes: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    if len(totals.last_held_out) > 1:
        yield "held-out", _by_source(totals)
    if totals.reward_errors:
        yield "rewards", f"{totals.reward_errors:,.0f} were not finite numbers; console.log names the first"
    if totals.lost:
        yield "lost", f"{totals.lost:,.0f} trajectories of failed prompts and paths; console.log names the first"
    if totals.dump_failures:
        yield "trees", f"{totals.dump_failures:,.0f} lines could not be written; console.log names the first"
    yield from notes


def note_lines(notes: Iterable[tuple[str, str]]) -> list[str]:
    """Return note lines, shown below a summary or above an error."""
    return [f"  {name + ':':<12}{text}" for name, text in notes]


def before_training(record: StepRecord) -> str:
    """Return the line of a validation before training."""
    score = mean_held_out(record.metrics)
    return "validated before training" if score is None else f"held-out before training: {score:.3f}"
