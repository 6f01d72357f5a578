# SPDX-License-Identifier: Apache-2.0
"""Results of the sampling benchmark: file, and numbers derived from the counts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.sampling.cases import Arm, Case, Engine


@dataclass(frozen=True)
class Result:
    """A case and the counts of its repetitions.

    Attributes:
        case: The measured case.
        repetitions: Counts of :func:`benchmarks.sampling.session.sample`, with memory; at least one repetition.
    """

    case: Case
    repetitions: Sequence[Mapping[str, float]]

    @cached_property
    def counts(self) -> dict[str, float]:
        """Medians of the repetitions."""
        return {name: median(one[name] for one in self.repetitions) for name in self.repetitions[0]}

    @property
    def spread(self) -> float:
        """Longest over shortest time of the repetitions, minus 1."""
        seconds = [one["seconds"] for one in self.repetitions]
        return max(seconds) / min(seconds) - 1

    @property
    def computed_tokens(self) -> float:
        """Computed prompt tokens plus decoded tokens."""
        return self.counts["computed_prompt_tokens"] + self.counts["decoded_tokens"]

    @property
    def waste(self) -> float:
        """Computed tokens over unique tokens, prompts included; at least 1 if no prompts share a prefix."""
        return self.computed_tokens / (self.counts["prompt_tokens"] + self.counts["unique_tokens"])

    @property
    def trajectories_per_second(self) -> float:
        """Finished trajectories per second."""
        return self.counts["trajectories"] / self.counts["seconds"]

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second, shared ones counted once per trajectory."""
        return self.counts["total_tokens"] / self.counts["seconds"]

    @property
    def idle(self) -> float:
        """Share of the time without a request in flight."""
        return self.counts["idle_seconds"] / self.counts["seconds"]

    @property
    def in_flight(self) -> float:
        """Mean number of requests in flight."""
        return self.counts["request_seconds"] / self.counts["seconds"]

    @property
    def overhead(self) -> float:
        """Share of the time spent in the searches themselves."""
        return self.counts["busy_seconds"] / self.counts["seconds"]


def partner(result: Result, results: Sequence[Result], arm: Arm) -> Result | None:
    """Return the result of another sampler with all else equal; None if it was not measured."""
    tree = arm not in (Arm.PLAIN, Arm.LOOPS)
    return find(replace(result.case, arm=arm, spread=tree and result.case.spread), results)


def find(case: Case, results: Sequence[Result]) -> Result | None:
    """Return the result of a case; None if it was not measured."""
    return next((result for result in results if result.case == case), None)


def speed_over(result: Result, results: Sequence[Result], arm: Arm) -> float | None:
    """Return the ratio of trajectories per second to another sampler; None if that was not measured."""
    other = partner(result, results, arm)
    return result.trajectories_per_second / other.trajectories_per_second if other else None


def allowed_over_plain(result: Result, results: Sequence[Result]) -> float | None:
    """Return the limit of the speed over plain samples by decoded tokens; None if those were not measured."""
    plain = partner(result, results, Arm.PLAIN)
    return plain.counts["decoded_tokens"] / result.counts["decoded_tokens"] if plain else None


def write_results(path: Path, results: Sequence[Result], about: Mapping[str, Any]) -> None:
    """Write machine, versions, settings and all repetitions as JSON."""
    rows = [{"case": asdict(result.case), "repetitions": list(result.repetitions)} for result in results]
    path.write_text(json.dumps({**about, "results": rows}, indent=1) + "\n")


def read_results(path: Path) -> tuple[list[Result], dict[str, Any]]:
    """Read a file of :func:`write_results`; return the results and the other entries."""
    about = json.loads(path.read_text())
    rows = about.pop("results")
    return [Result(case_of(row["case"]), row["repetitions"]) for row in rows], about


def case_of(fields: Mapping[str, Any]) -> Case:
    """Return a case from its fields in JSON."""
    return Case(**{**fields, "arm": Arm(fields["arm"]), "engine": Engine(**fields["engine"])})
