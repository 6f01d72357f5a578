# SPDX-License-Identifier: Apache-2.0
"""The result file of the sampling benchmark, and what follows from its counts. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.sampling.cases import Arm, Case, Engine


@dataclass(frozen=True, slots=True)
class Result:
    """A case, and the medians of its repetitions.

    Attributes:
        case: What was measured.
        counts: As ``benchmarks/sampling/session.py`` counts, for one repetition.
    """

    case: Case
    counts: Mapping[str, float]

    @property
    def waste(self) -> float:
        """Tokens that the engine computed over those of the trees, prompts included; 1 is the limit."""
        computed = self.counts["computed_prompt_tokens"] + self.counts["decoded_tokens"]
        return computed / (self.counts["prompt_tokens"] + self.counts["unique_tokens"])

    @property
    def trajectories_per_second(self) -> float:
        """Finished trajectories in each second."""
        return self.counts["trajectories"] / self.counts["seconds"]

    @property
    def tokens_per_second(self) -> float:
        """Tokens of trajectories in each second, shared ones counted for each."""
        return self.counts["total_tokens"] / self.counts["seconds"]

    @property
    def idle(self) -> float:
        """Share of the time in which no request was in flight."""
        return self.counts["idle_seconds"] / self.counts["seconds"]

    @property
    def in_flight(self) -> float:
        """Mean number of requests in flight."""
        return self.counts["request_seconds"] / self.counts["seconds"]

    @property
    def overhead(self) -> float:
        """Share of the time in which the searches themselves worked."""
        return self.counts["busy_seconds"] / self.counts["seconds"]


def result_of(case: Case, repetitions: Sequence[Mapping[str, float]]) -> Result:
    """Return the medians; a case needs at least one repetition."""
    return Result(case, {name: median(one[name] for one in repetitions) for name in repetitions[0]})


def partner(result: Result, results: Sequence[Result], arm: Arm) -> Result | None:
    """Return the result of another sampler with all else the same, None where it was not measured."""
    wanted = {**asdict(result.case), "arm": arm}
    return next((other for other in results if asdict(other.case) == wanted), None)


def write_results(path: Path, results: Sequence[Result], about: Mapping[str, Any]) -> None:
    """Write machine, versions, settings and medians as JSON."""
    rows = [{"case": asdict(result.case), "counts": dict(result.counts)} for result in results]
    path.write_text(json.dumps({**about, "results": rows}, indent=1) + "\n")


def read_results(path: Path) -> tuple[list[Result], dict[str, Any]]:
    """Return what :func:`write_results` wrote."""
    about = json.loads(path.read_text())
    rows = about.pop("results")
    return [Result(case_of(row["case"]), row["counts"]) for row in rows], about


def case_of(fields: Mapping[str, Any]) -> Case:
    """Return a case from its fields in JSON."""
    return Case(**{**fields, "arm": Arm(fields["arm"]), "engine": Engine(**fields["engine"])})
