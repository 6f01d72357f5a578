# SPDX-License-Identifier: Apache-2.0
"""Settings of an evaluation and their rules; ``config/evaluation/compare.yaml`` documents the keys.

Imports no torch, Ray or vLLM, because the check precedes their start.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recipe.treepo.search.branching import Budget
from recipe.treepo.settings.files import file_problems, output_problems
from recipe.treepo.settings.schema import TOOL_AGENT, Sampler, TreePOSettings, leads_conversations, parse_settings
from recipe.treepo.settings.thinking_rules import thinking_problems
from recipe.treepo.settings.training_rules import reward_problems
from recipe.treepo.settings.tree_rules import Rollout, context_problems, read_rollout, seed_problems, tree_problems
from recipe.treepo.settings.values import (
    ConfigError,
    ConfigProblem,
    WrongValue,
    integer,
    is_number,
    keys_of,
    read_group,
    reader,
)

SEE = "recipe/treepo/config/evaluation/compare.yaml"
ARMS = "evaluation.arms"
VAL_KWARGS = "actor_rollout_ref.rollout.val_kwargs"


@dataclass(frozen=True, slots=True)
class Run:
    """Unit of sampling: an arm with a number of trajectories per problem."""

    arm: str
    settings: TreePOSettings
    n: int

    @property
    def is_plain(self) -> bool:
        """Whether the trajectories are independent."""
        return self.settings.sampler is Sampler.PLAIN

    @property
    def name(self) -> str:
        """Name in messages."""
        return f"{self.arm}, n {self.n}"

    @property
    def file(self) -> str:
        """Name of the sample file."""
        return f"{file_name(self.arm)}_n{self.n}.jsonl"


def _whole_numbers(value: Any) -> tuple[int, ...]:
    return tuple(sorted(set(value if isinstance(value, list) else [value])))


_numbers = reader(
    "integers",
    "must be a whole number of at least 1, or a list of them",
    lambda value: (
        value != [] and all(is_number(n, int) and n >= 1 for n in (value if isinstance(value, list) else [value]))
    ),
    _whole_numbers,
)


def _arms(value: Any) -> dict[str, dict[str, Any]]:
    """Read ``evaluation.arms``."""
    arms = {str(name): keys for name, keys in value.items() if keys is not None} if isinstance(value, Mapping) else {}
    if not arms or not all(isinstance(keys, Mapping) for keys in arms.values()):
        raise WrongValue(
            "no_arms", "must define at least one arm with keys of the treepo group, such as {plain: {sampler: plain}}"
        )
    wrong = [name for name in arms if not re.fullmatch(r"\w[\w .-]{0,60}", name)]
    if wrong:
        raise WrongValue(
            "arm_name", f"{', '.join(wrong)}: use letters, digits, spaces and _ . - only (it becomes a file name)"
        )
    files = Counter(file_name(name).casefold() for name in arms)
    same = [name for name in arms if files[file_name(name).casefold()] > 1]
    if same:
        raise WrongValue(
            "same_arm_names", f"{' and '.join(same)}: names must differ in more than case, spaces and underscores"
        )
    return {name: dict(keys) for name, keys in arms.items()}


def file_name(arm: str) -> str:
    """Return the name of an arm for a file name."""
    return arm.replace(" ", "_")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationGroup:
    """The ``evaluation`` group."""

    out_dir: str
    n: tuple[int, ...] | None = field(default=None, metadata={"read": _numbers})
    k: tuple[int, ...] | None = field(default=None, metadata={"read": _numbers})
    arms: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False, metadata={"read": _arms})
    seed: int | None = field(default=0, metadata={"least": 0})
    prompts_in_flight: int = 64
    bootstrap: int = field(default=1000, metadata={"least": 100, "most": 100_000})
    confidence: float = field(default=0.95, metadata={"most": 1})
    keep_responses: bool = True
    restart: bool = False


KEYS = keys_of("evaluation", EvaluationGroup)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings(EvaluationGroup):
    """Valid settings of an evaluation, with ``n`` and ``k`` filled in, and the runs from ``n`` and ``arms``."""

    n: tuple[int, ...]
    k: tuple[int, ...]
    runs: tuple[Run, ...]


def load_evaluation(config: DictConfig, *, check_files: bool = True) -> EvaluationSettings:
    """Read and check all settings of an evaluation.

    Raises:
        ConfigError: with all problems found.
    """
    problems: list[ConfigProblem] = []
    group = OmegaConf.to_container(config.evaluation, resolve=True)
    assert isinstance(group, dict)
    raw = {"out_dir": None, **group}
    values = read_group("evaluation", raw, KEYS, problems, see=SEE)
    numbers = values.get("n") or _validation_n(config, problems)
    arms = _parse_arms(config, values.get("arms") or {}, problems)
    runs = _runs(arms, numbers)
    problems += _sampling_problems(config, numbers)
    # Each run has its own n, and samples with val_kwargs, which are checked above.
    rollout = read_rollout(config, problems, n=1, temperature=1.0, validation_n=1, full_determinism=False)
    if rollout is not None:
        problems += context_problems(rollout) + _run_problems(rollout, arms, runs, numbers)
        if (seed := values.get("seed")) is not None:
            problems += seed_problems(rollout, "evaluation.seed", seed, "null")
    for k in [k for k in values.get("k") or () if numbers and k > max(numbers)]:
        rule = f"must not exceed the largest number of trajectories, {max(numbers)}"
        problems.append(ConfigProblem("k_beyond_n", "evaluation.k", k, rule, "Omit it, or use a larger evaluation.n."))
    problems += reward_problems(config)
    if check_files:
        problems += file_problems(config, ("data.val_files",)) + thinking_problems(config)
        problems += output_problems("evaluation.out_dir", os.path.expanduser(str(values.get("out_dir") or "")))
    if problems:
        raise ConfigError(list({str(problem): problem for problem in problems}.values()))
    resolved = {"n": numbers, "k": values["k"] or powers_of_two(max(numbers)), "runs": tuple(runs)}
    return EvaluationSettings(**(values | resolved))


def powers_of_two(n: int) -> tuple[int, ...]:
    """Return the powers of two up to n, and n itself."""
    return tuple(sorted({n, *(2**power for power in range(n.bit_length()))}))


# --- values ----------------------------------------------------------------------------------------------------


def _validation_n(config: DictConfig, problems: list[ConfigProblem]) -> tuple[int, ...]:
    value = OmegaConf.select(config, f"{VAL_KWARGS}.n")
    try:
        return (integer()(value),)
    except WrongValue as error:
        problems.append(ConfigProblem("validation_n", f"{VAL_KWARGS}.n", value, str(error), "Set it, or evaluation.n."))
        return ()


def _parse_arms(
    config: DictConfig, arms: Mapping[str, Mapping[str, Any]], problems: list[ConfigProblem]
) -> dict[str, TreePOSettings]:
    """Read the settings of each arm: the ``treepo`` group overridden by the keys of the arm."""
    by_arm = {}
    for name, keys in arms.items():
        group = OmegaConf.create(OmegaConf.to_container(config.treepo, resolve=True))
        settings, wrong = parse_settings(OmegaConf.create({"treepo": OmegaConf.merge(group, dict(keys))}))
        problems += _in_words_of(name, keys, wrong)
        if settings is not None:
            by_arm[name] = settings
    return by_arm


def _in_words_of(arm: str, keys: Mapping[str, Any], problems: list[ConfigProblem]) -> list[ConfigProblem]:
    """Restore the names that the user wrote for the keys of an arm."""

    def named(problem: ConfigProblem) -> ConfigProblem:
        group, _, rest = problem.key.partition(".")
        if group != "treepo" or rest.partition(".")[0] not in keys:
            return problem
        own = replace(problem, key=f"{ARMS}.{arm}.{rest}", value=str(problem.value))
        if not problem.rule_id.startswith("renamed"):
            return own
        rule, remedy = (text.replace("treepo.", f"{ARMS}.{arm}.") for text in (problem.rule, problem.remedy))
        return replace(own, rule=rule, remedy=remedy)

    return [named(problem) for problem in problems]


# --- rules -----------------------------------------------------------------------------------------------------


def _runs(arms: Mapping[str, TreePOSettings], numbers: tuple[int, ...]) -> list[Run]:
    """Return the runs: plain arms with the largest n, trees with each n of at least the root's children."""
    runs = []
    for name, settings in arms.items():
        plain = settings.sampler is Sampler.PLAIN
        fitting = numbers[-1:] if plain else [n for n in numbers if n >= settings.branching.root_children(n)[1]]
        runs += [Run(name, settings, n) for n in fitting]
    return runs


def _sampling_problems(config: DictConfig, numbers: tuple[int, ...]) -> list[ConfigProblem]:
    sampling, problems = config.actor_rollout_ref.rollout.val_kwargs, []

    def check(rule_id: str, key: str, holds: Callable[[float], bool], rule: str) -> None:
        value = sampling.get(key)
        if not is_number(value) or not holds(value):
            problems.append(ConfigProblem(rule_id, f"{VAL_KWARGS}.{key}", value, rule, f"Set {VAL_KWARGS}.{key}."))

    check("temperature", "temperature", lambda value: value >= 0, "must be a number of at least 0")
    check("top_p", "top_p", lambda value: 0 < value <= 1, "must be a number above 0 and at most 1")
    whole = "must be -1 or a whole number above 0"
    check("top_k", "top_k", lambda value: value == -1 or (value >= 1 and value % 1 == 0), whole)
    if not problems and sampling.temperature == 0 and any(n > 1 for n in numbers):
        rule, remedy = "greedy samples of a problem are all equal", "Use a temperature above 0, or evaluation.n=1."
        problems.append(
            ConfigProblem("greedy_samples", f"{VAL_KWARGS}.temperature", sampling.temperature, rule, remedy)
        )
    if OmegaConf.select(config, "reward.reward_model.enable"):
        rule, remedy = "evaluations score with a reward function only", "Use reward.reward_model.enable=false."
        problems.append(ConfigProblem("reward_model", "reward.reward_model.enable", True, rule, remedy))
    files = config.data.val_files
    if not isinstance(files, str) and not OmegaConf.is_list(files):
        problems.append(
            ConfigProblem("no_files", "data.val_files", files, "must be a file or a list of files", "Set it.")
        )
    return problems


def _run_problems(
    rollout: Rollout, arms: Mapping[str, TreePOSettings], runs: list[Run], numbers: tuple[int, ...]
) -> list[ConfigProblem]:
    """Check the arms, and the runs of trees by the rules of training with their own n."""
    problems = []
    for name, settings in arms.items():
        key = f"{ARMS}.{name}"
        if leads_conversations(settings, rollout.agent):
            rule = "evaluations sample single turns, not conversations"
            remedy = "Validate in training (trainer.val_only=true), or remove interaction and tools."
            problems.append(
                ConfigProblem("no_conversations", key, settings.interaction.name or TOOL_AGENT, rule, remedy)
            )
        if settings.sampler is Sampler.INDEPENDENT:
            rule, remedy = "samples from the same distribution as plain, but slower", "Use plain or tree."
            problems.append(ConfigProblem("no_loops", f"{key}.sampler", settings.sampler, rule, remedy))
        if settings.sampler is not Sampler.TREE:
            continue
        if settings.branching.budget is Budget.TOTAL_TOKENS:
            rule = "trajectories that the token budget leaves out would count as wrong"
            remedy = f"Use another treepo.branching.budget than {Budget.TOTAL_TOKENS}."
            problems.append(
                ConfigProblem("no_budget", "treepo.branching.budget", settings.branching.budget, rule, remedy)
            )
        if numbers and not any(run.arm == name for run in runs):
            children = settings.branching.root_children(numbers[-1])[1]
            rule = f"must not exceed the largest number of trajectories, {numbers[-1]}"
            remedy = "Use a larger evaluation.n, or a lower init_divergence."
            problems.append(ConfigProblem("root_beyond_n", f"{key}.init_divergence", children, rule, remedy))
    for run in runs:
        if run.settings.sampler is Sampler.TREE:
            problems += tree_problems(run.settings, replace(rollout, n=run.n))
    return problems
