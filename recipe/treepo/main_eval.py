# SPDX-License-Identifier: Apache-2.0
"""Entry point: ``python -m recipe.treepo.main_eval KEY=VALUE ...``, evaluation of a model without training.

Takes the configuration of a training run (``main_treepo``) and the group ``evaluation`` (``evaluation=NAME``, files in
``config/evaluation/``). The whole configuration is checked before Ray or a model starts. ``--dry-run`` prints the runs
and the keys that differ from the defaults, then stops. Exit status: 0 done; 1 wrong configuration, or problems that
could not be sampled; 130 interrupted. The same command resumes an interrupted evaluation.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from tqdm import tqdm

from recipe.treepo.command_line.arguments import TREEPO, read_command_line
from recipe.treepo.command_line.composition import (
    WRITE_NOTHING,
    add_overrides,
    call_with_config,
    without_importing_verl,
    without_output,
)
from recipe.treepo.command_line.differences import dry_run_report
from recipe.treepo.command_line.help_text import help_text
from recipe.treepo.command_line.pages import EVALUATION, EVALUATION_PAGE
from recipe.treepo.command_line.program import as_called
from recipe.treepo.command_line.verl_overrides import with_known_keys
from recipe.treepo.console.leftovers import cleaned_after_kill
from recipe.treepo.evaluation.fingerprint import fingerprints
from recipe.treepo.evaluation.problem_sampler import ProblemSampler
from recipe.treepo.evaluation.problems import EvaluationProblem, load_problems
from recipe.treepo.evaluation.records import ProblemResult, Records, RecordsError
from recipe.treepo.evaluation.report import write_report
from recipe.treepo.evaluation.scoring import Scorer
from recipe.treepo.evaluation.settings import EvaluationSettings, Run, load_evaluation
from recipe.treepo.evaluation.summary import errors_of, summarize
from recipe.treepo.evaluation.tree_dump import EvaluationDump
from recipe.treepo.main_treepo import print_notes, use_plugin
from recipe.treepo.settings.data_files import first_row
from recipe.treepo.settings.hub_models import hub_problems
from recipe.treepo.settings.support import never_run_note
from recipe.treepo.settings.training_rules import is_our_reward, reward_name
from recipe.treepo.settings.values import ConfigError, ConfigProblem, listed


def with_group(arguments: Sequence[str]) -> list[str]:
    """Add the group ``evaluation`` to the arguments; the training configuration does not have it."""
    chosen = [argument for argument in arguments if argument.startswith(("evaluation=", "+evaluation="))]
    rest = [argument for argument in arguments if argument not in chosen]
    return ["+" + (chosen[-1].lstrip("+") if chosen else "evaluation=compare"), *rest]


# --- samples on disk -------------------------------------------------------------------------------------------


@contextmanager
def locked(out_dir: str) -> Iterator[Path]:
    """Lock the folder against a second evaluation; yield the folder of the samples.

    Raises:
        ConfigError: if another evaluation is writing there.
    """
    import fcntl

    folder = Path(out_dir).expanduser() / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            rule, remedy = "another evaluation is writing there", "Wait for it, or use another evaluation.out_dir."
            raise ConfigError([ConfigProblem("folder_in_use", "evaluation.out_dir", out_dir, rule, remedy)]) from error
        yield folder


def open_records(
    folder: Path, settings: EvaluationSettings, made_with: Mapping[Run, Mapping[str, Any]]
) -> dict[Run, Records]:
    """Open the sample file of each run.

    Raises:
        ConfigError: listing every file with samples of another evaluation.
    """
    records, problems = {}, []
    for run in settings.runs:
        try:
            records[run] = Records(folder / run.file, made_with[run], restart=settings.restart)
        except RecordsError as error:
            problems.append(
                ConfigProblem("other_samples", "evaluation.out_dir", settings.out_dir, str(error).rstrip("."), "")
            )
    if problems:
        raise ConfigError(problems)
    return records


# --- running ---------------------------------------------------------------------------------------------------


async def sample_all(
    sampler: ProblemSampler, servers: Any, problems: Sequence[EvaluationProblem], records: Mapping[Run, Records]
) -> list[str]:
    """Sample the runs in turn, each with a progress bar; return the failures."""
    failures: list[str] = []
    for run, own in records.items():
        try:
            await servers.empty_cache()
        except Exception as error:  # the servers are gone; samples so far are still reported
            failures.append(f"{run.name}: the servers do not answer ({type(error).__name__}: {error})")
            break
        correct = Counter(trajectory.correct for result in own.results for trajectory in result.trajectories)
        with tqdm(total=len(problems), initial=len(own.results), desc=run.name, unit="problem") as bar:

            def show(result: ProblemResult, bar: tqdm = bar, correct: Counter[bool] = correct) -> None:
                correct.update(trajectory.correct for trajectory in result.trajectories)
                bar.set_postfix(mean=f"{correct[True] / correct.total():.3f}", refresh=False)
                bar.update()

            failed = await sampler.sample(run, problems, own, on_result=show)
        failures += [f"{run.name}: {failure}" for failure in failed]
    return failures


def evaluate(config: DictConfig, settings: EvaluationSettings) -> int:
    """Sample the missing problems, write the report, and return the exit status."""
    from recipe.treepo.verl_adapters.evaluation_inputs import load_model, prompt_builder, read_rows
    from recipe.treepo.verl_adapters.model_tokens import eos_token_ids, with_tags
    from recipe.treepo.verl_adapters.user_code import policy_problems

    by_arm = {run.arm: run.settings for run in settings.runs if not run.is_plain}
    row = partial(first_row, config, "data.val_files")
    if wrong := [problem for own in by_arm.values() for problem in policy_problems(own, row)]:
        raise ConfigError(wrong)
    with locked(settings.out_dir) as folder:
        model = load_model(config)
        runs = tuple(replace(run, settings=with_tags(run.settings, model.tokenizer)) for run in settings.runs)
        settings = replace(settings, runs=runs)
        problems = load_problems(
            listed(config.data.val_files),
            partial(read_rows, config, model.tokenizer),
            prompt_builder(config, model),
            max_prompt_length=config.data.max_prompt_length,
            blank_truths=not is_our_reward(config),
        )
        records = open_records(folder, settings, fingerprints(config, settings, problems))
        failures: list[str] = []
        if any(len(own.results) < len(problems) for own in records.values()):
            for own in records.values():
                own.set_aside()
            failures = _sample(config, settings, records, problems, model.tokenizer, eos_token_ids(model))
        return _report(settings, records, problems, failures, reward_name(config))


def _sample(
    config: DictConfig,
    settings: EvaluationSettings,
    records: Mapping[Run, Records],
    problems: Sequence[EvaluationProblem],
    tokenizer: Any,
    eos: frozenset[int],
) -> list[str]:
    from recipe.treepo.evaluation.servers import Servers
    from recipe.treepo.verl_adapters.evaluation_inputs import reward_function
    from recipe.treepo.verl_adapters.prefix_cache import prefix_cache_of, usable_block
    from recipe.treepo.verl_adapters.trajectory import trajectory_fields
    from recipe.treepo.verl_adapters.user_code import own_policies

    eos = frozenset() if config.actor_rollout_ref.rollout.ignore_eos else eos
    options = config.reward.custom_reward_function.get("reward_kwargs") if is_our_reward(config) else None
    servers = Servers(config, eos)
    dump = None
    if (folder := config.treepo.dump.dir) is not None:
        dump = EvaluationDump(folder, tokenizer.decode, {"model": str(config.actor_rollout_ref.model.path)})
    policies = {run.arm: own_policies(run.settings) for run in settings.runs}
    sampler = ProblemSampler(
        engine_of=partial(servers.engine, seed=settings.seed),
        scorer=Scorer(
            function=reward_function(config),
            options=dict(options or {}),
            decode=partial(tokenizer.decode, skip_special_tokens=True),
            fields_of=trajectory_fields,
            keep_responses=settings.keep_responses,
        ),
        eos_token_ids=eos,
        response_length=config.data.max_response_length,
        seed=settings.seed,
        prompts_in_flight=settings.prompts_in_flight,
        dump=dump,
        policies_of=lambda run: policies[run.arm],
    )

    async def work() -> list[str]:
        await servers.start()
        block = usable_block(await prefix_cache_of(servers.client, config.actor_rollout_ref.rollout.name))
        asked = {replace(run, settings=run.settings.with_cache_block(block)): own for run, own in records.items()}
        return await sample_all(sampler, servers, problems, asked)

    try:
        return asyncio.run(work())
    finally:
        servers.stop()


def _report(
    settings: EvaluationSettings,
    records: Mapping[Run, Records],
    problems: Sequence[EvaluationProblem],
    failures: Sequence[str],
    reward: str,
) -> int:
    resamples, confidence = settings.bootstrap, settings.confidence
    sources = list(dict.fromkeys(problem.data_source for problem in problems))
    summaries = {
        run: summarize(
            own.results,
            n=run.n,
            ks=sorted({*settings.k, run.n}),
            sources=sources,
            resamples=resamples,
            confidence=confidence,
        )
        for run, own in records.items()
        if own.results
    }
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    if not summaries:
        print("error: no problem could be sampled", file=sys.stderr)
        return 1
    folder = Path(settings.out_dir).expanduser()
    facts = {run.name: records[run].fingerprint for run in summaries}
    missing = {run.name: len(problems) - len(own.results) for run, own in records.items()}
    errors = reward_errors({run.name: records[run].results for run in summaries}, reward)
    if errors is not None:
        print(f"warning: {errors}", file=sys.stderr)
    print("\n" + write_report(folder, summaries, facts=facts, notes=notes(settings, missing, errors)))
    print(f"written: {folder}/report.md, report.json, report.png; samples: {folder}/samples")
    return 1 if failures else 0


def reward_errors(results: Mapping[str, Sequence[ProblemResult]], reward: str) -> str | None:
    """Return a sentence on trajectories without a finite score, with the first problem of each run; None without any.

    Args:
        results: Results by run.
        reward: Name of the reward function.
    """
    found = []
    for run, own in results.items():
        failed = [result for result in sorted(own, key=lambda one: (one.data_source, one.row)) if errors_of(result)]
        if failed:
            number, first = sum(len(errors_of(result)) for result in failed), failed[0]
            place = f"{first.data_source}, row {first.row}, {errors_of(first)[0]}"
            found.append(f"{number:,} of {run} (first: {place})")
    if not found:
        return None
    return (
        f"Trajectories for which {reward} gave no finite number, counted as wrong: {'; '.join(found)}. "
        "Correct it and sample again with evaluation.restart=true."
    )


def notes(settings: EvaluationSettings, missing: Mapping[str, int], errors: str | None = None) -> list[str]:
    """Return notes for readers of the tables.

    Args:
        missing: Number of missing problems by run.
        errors: Sentence on reward errors, None without any.
    """
    lines = [
        f"Accuracies with {settings.confidence:.0%} bootstrap intervals over problems; overall: the mean over the data "
        "sets. Tokens and calls are the engine's own counts, summed over the problems; prompt tokens are split into "
        "computed ones and prefix-cache hits. pass@n and maj@n of fewer trajectories (report.json) are expected values "
        "over subsets; for trees, over the leaves of the same trees."
    ]
    if missing_text := ", ".join(f"{number} of {run}" for run, number in missing.items() if number):
        lines.append(f"Missing problems, not counted in any number: {missing_text}. The same command samples them.")
    return lines if errors is None else [*lines, errors]


# --- command line ----------------------------------------------------------------------------------------------


def run(config: DictConfig, problems: list[ConfigProblem], *, dry_run: bool, full: bool = False) -> int:
    """Check the configuration and evaluate, or print the dry run; return the exit status."""
    restart = False
    try:
        try:
            settings = load_evaluation(config, check_files=not dry_run)
        except ConfigError as error:
            raise ConfigError(problems + error.problems) from error
        if problems := problems + ([] if dry_run else hub_problems(config)):
            raise ConfigError(problems)
        print_notes([never_run_note(config, trains=False)])
        if dry_run:
            runs = [f"{run.name}: {'independent samples' if run.is_plain else 'trees'}" for run in settings.runs]
            print(dry_run_report(config, full=full, comments=runs), end="")
            return 0
        restart = settings.restart
        with cleaned_after_kill():
            return evaluate(config, settings)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        command = "the same command without evaluation.restart" if restart else "the same command"
        print(f"\ninterrupted: the samples so far are kept; {command} resumes from there", file=sys.stderr)
        return 130


def main() -> None:
    """Run with the command line's arguments."""
    line = read_command_line(sys.argv[1:], (TREEPO, EVALUATION))
    if line.asks_help:
        print(as_called(help_text(EVALUATION_PAGE)))
        return
    if not line.for_hydra_only:
        line = with_known_keys(line)
    use_plugin()
    arguments = without_importing_verl(with_group(line.arguments))
    # Without this, Hydra would create a dated folder and log there; the evaluation has its own folder.
    arguments = without_output(arguments) if line.dry_run else add_overrides(arguments, WRITE_NOTHING)
    status = []

    def evaluate_config(config: DictConfig) -> None:
        status.append(run(config, line.name_problems, dry_run=line.dry_run, full=line.full))

    call_with_config(line, arguments, evaluate_config)
    sys.exit(max(status, default=0))  # empty if Hydra only shows the configuration


if __name__ == "__main__":
    main()
