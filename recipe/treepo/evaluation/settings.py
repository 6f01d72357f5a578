# SPDX-License-Identifier: Apache-2.0
"""Typed settings of an evaluation, and the rules that they keep. Meanings: ``config/evaluation/compare.yaml``.

Imports no torch, ray or vllm: everything is checked before any of them is started.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recipe.treepo.search.branching import Budget
from recipe.treepo.settings.schema import TOOL_AGENT, Sampler, TreePOSettings, leads_conversations, parse_settings
from recipe.treepo.settings.training_rules import reward_problems
from recipe.treepo.settings.tree_rules import context_problems, tree_problems
from recipe.treepo.settings.validate import file_problems
from recipe.treepo.settings.values import (
    ConfigError,
    Problem,
    boolean,
    fraction,
    integer,
    optional,
    parse_group,
    path,
)

SEE = "recipe/treepo/config/evaluation/compare.yaml"
VAL_KWARGS = "actor_rollout_ref.rollout.val_kwargs"


@dataclass(frozen=True, slots=True)
class Run:
    """One thing that is sampled: an arm with a number of trajectories per problem."""

    arm: str
    settings: TreePOSettings
    n: int

    @property
    def is_plain(self) -> bool:
        """Whether the trajectories are independent."""
        return self.settings.sampler is Sampler.PLAIN

    @property
    def name(self) -> str:
        """Name for messages."""
        return f"{self.arm}, n {self.n}"

    @property
    def file(self) -> str:
        """Name of the file of samples."""
        return f"{file_name(self.arm)}_n{self.n}.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """The ``evaluation`` group; ``runs`` follows from its arms and n."""

    out_dir: str
    runs: tuple[Run, ...]
    k: tuple[int, ...]
    seed: int | None
    prompts_in_flight: int
    bootstrap: int
    confidence: float
    keep_responses: bool
    restart: bool


def load_evaluation(config: DictConfig, *, check_files: bool = True) -> EvaluationSettings:
    """Read and check everything that an evaluation needs of the configuration.

    Raises:
        ConfigError: listing all problems found.
    """
    problems: list[Problem] = []
    raw = OmegaConf.to_container(config.evaluation, resolve=True)
    values = parse_group("evaluation", raw, KEYS, problems, see=SEE)
    numbers = values.get("n") or _validation_n(config, problems)
    arms = _parse_arms(config, values.get("arms") or {}, problems)
    runs = _runs(arms, numbers)
    problems += _sampling_problems(config, numbers) + _run_problems(config, arms, runs, numbers)
    for key in [k for k in values.get("k") or () if numbers and k > max(numbers)]:
        rule = f"there are no {key} trajectories: the largest evaluation.n is {max(numbers)}"
        problems.append(Problem("evaluation.k", key, rule, "Leave it out, or raise evaluation.n."))
    problems += reward_problems(config)
    if check_files:
        problems += file_problems(config, ("data.val_files",))
    if problems:
        raise ConfigError(list({str(problem): problem for problem in problems}.values()))
    settings = {key: value for key, value in values.items() if key not in ("arms", "n", "k")}
    return EvaluationSettings(**settings, runs=tuple(runs), k=values["k"] or powers_of_two(max(numbers)))


def powers_of_two(n: int) -> tuple[int, ...]:
    """Return 1, 2, 4 and so on up to n, and n."""
    return tuple(sorted({n, *(2**power for power in range(n.bit_length()))}))


# --- values ----------------------------------------------------------------------------------------------------


def _numbers(value: Any) -> tuple[int, ...]:
    listed = value if isinstance(value, list) else [value]
    if not listed or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in listed):
        raise ValueError("must be a whole number of at least 1, or a list of them")
    return tuple(sorted(set(listed)))


def _arms(value: Any) -> dict[str, dict[str, Any]]:
    arms = {str(name): keys for name, keys in value.items() if keys is not None} if isinstance(value, Mapping) else {}
    if not arms or not all(isinstance(keys, Mapping) for keys in arms.values()):
        raise ValueError("must name at least one arm, each with keys of the treepo group: {plain: {sampler: plain}}")
    wrong = [name for name in arms if not re.fullmatch(r"\w[\w .-]{0,60}", name)]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: a name is of letters, digits, spaces and _ . - (it names a file)")
    files = Counter(file_name(name).casefold() for name in arms)
    same = [name for name in arms if files[file_name(name).casefold()] > 1]
    if same:
        raise ValueError(f"{' and '.join(same)}: give names that differ in more than case, and blank against _")
    return {name: dict(keys) for name, keys in arms.items()}


def file_name(arm: str) -> str:
    """Return an arm's name as a part of a file's."""
    return arm.replace(" ", "_")


KEYS = {
    "out_dir": path,
    "n": optional(_numbers),
    "k": optional(_numbers),
    "arms": _arms,
    "seed": optional(integer(0)),
    "prompts_in_flight": integer(1),
    "bootstrap": integer(100, 100_000),
    "confidence": fraction,
    "keep_responses": boolean,
    "restart": boolean,
}


def _validation_n(config: DictConfig, problems: list[Problem]) -> tuple[int, ...]:
    value = OmegaConf.select(config, f"{VAL_KWARGS}.n")
    try:
        return (integer(1)(value),)
    except ValueError as error:
        problems.append(Problem(f"{VAL_KWARGS}.n", value, str(error), "Set it, or evaluation.n."))
        return ()


def _parse_arms(
    config: DictConfig, arms: Mapping[str, Mapping[str, Any]], problems: list[Problem]
) -> dict[str, TreePOSettings]:
    """Read the ``treepo`` group with the keys of each arm in place of its own."""
    found = {}
    for name, keys in arms.items():
        group = OmegaConf.create(OmegaConf.to_container(config.treepo, resolve=True))
        settings, wrong = parse_settings(OmegaConf.create({"treepo": OmegaConf.merge(group, dict(keys))}))
        problems += _in_words_of(name, keys, wrong)
        if settings is not None:
            found[name] = settings
    return found


def _in_words_of(arm: str, keys: Mapping[str, Any], problems: list[Problem]) -> list[Problem]:
    """Name the keys of an arm as they were written."""

    def named(problem: Problem) -> Problem:
        group, _, rest = problem.key.partition(".")
        if group != "treepo" or rest.partition(".")[0] not in keys:
            return problem
        return Problem(f"evaluation.arms.{arm}.{rest}", str(problem.value), problem.rule, problem.remedy)

    return [named(problem) for problem in problems]


# --- rules -----------------------------------------------------------------------------------------------------


def _runs(arms: Mapping[str, TreePOSettings], numbers: tuple[int, ...]) -> list[Run]:
    """Return what is sampled: plain arms with the largest n, trees with each that holds the children of the root."""
    runs = []
    for name, settings in arms.items():
        plain = settings.sampler is Sampler.PLAIN
        fitting = numbers[-1:] if plain else [n for n in numbers if n >= settings.branching.init_divergence[1]]
        runs += [Run(name, settings, n) for n in fitting]
    return runs


def _sampling_problems(config: DictConfig, numbers: tuple[int, ...]) -> list[Problem]:
    sampling, problems = config.actor_rollout_ref.rollout.val_kwargs, []
    ranges = {
        "temperature": (lambda value: value >= 0, "must be a number of at least 0"),
        "top_p": (lambda value: 0 < value <= 1, "must be a number above 0 and at most 1"),
        "top_k": (lambda value: value == -1 or (value >= 1 and value % 1 == 0), "must be -1 or a whole number above 0"),
    }
    for key, (holds, rule) in ranges.items():
        value = sampling.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not holds(value):
            problems.append(Problem(f"{VAL_KWARGS}.{key}", value, rule, f"Set {VAL_KWARGS}.{key}."))
    if not problems and sampling.temperature == 0 and any(n > 1 for n in numbers):
        rule, remedy = "greedy samples of a problem are all equal", "Use a temperature above 0, or evaluation.n=1."
        problems.append(Problem(f"{VAL_KWARGS}.temperature", sampling.temperature, rule, remedy))
    if OmegaConf.select(config, "reward.reward_model.enable"):
        rule, remedy = "evaluation asks a reward function only", "Use reward.reward_model.enable=false."
        problems.append(Problem("reward.reward_model.enable", True, rule, remedy))
    if not isinstance(config.data.val_files, str) and not OmegaConf.is_list(config.data.val_files):
        problems.append(Problem("data.val_files", config.data.val_files, "must be a file or a list", "Name some."))
    return problems + context_problems(config.actor_rollout_ref.rollout)


def _run_problems(
    config: DictConfig, arms: Mapping[str, TreePOSettings], runs: list[Run], numbers: tuple[int, ...]
) -> list[Problem]:
    """Check each tree against the rules that trees keep in training, for the numbers of trajectories of this."""
    problems = []
    for name, settings in arms.items():
        if leads_conversations(settings, config):
            rule = "an evaluation samples single turns, and this one is of conversations"
            remedy = "Validate in training (trainer.val_only=true) instead, or leave interaction and tools out."
            problems.append(Problem(f"evaluation.arms.{name}", settings.interaction.name or TOOL_AGENT, rule, remedy))
        if settings.sampler is Sampler.INDEPENDENT:
            rule = "loops that stop at every segment sample what plain does, and take longer"
            problems.append(Problem(f"evaluation.arms.{name}.sampler", settings.sampler, rule, "Use plain, or tree."))
        if settings.sampler is not Sampler.TREE:
            continue
        if settings.branching.budget is Budget.TOTAL_TOKENS:
            rule = "trajectories that a budget does not pay for would count as wrong"
            remedy = f"Use another treepo.branching.budget than {Budget.TOTAL_TOKENS}."
            problems.append(Problem("treepo.branching.budget", settings.branching.budget, rule, remedy))
        if numbers and not any(run.arm == name for run in runs):
            children = settings.branching.init_divergence[1]
            rule = f"the root has up to {children} children, and the largest number of trajectories is {numbers[-1]}"
            remedy = "Raise evaluation.n, or lower init_divergence."
            problems.append(Problem(f"evaluation.arms.{name}.init_divergence", children, rule, remedy))
    for run in runs:
        if run.settings.sampler is Sampler.TREE:
            sizes = {"n": run.n, "temperature": 1.0, "val_kwargs": {"n": run.n}}
            checked = OmegaConf.merge(config, {"actor_rollout_ref": {"rollout": sizes}})
            problems += tree_problems(run.settings, checked)
    return problems
